//! Handing the listening sockets to the next process, so that a restart loses no request.
//!
//! Both processes have the same setting, a path. The running one waits there for the next one. The next one loads its
//! model, and only then connects: it is sent the listening socket as a descriptor (SCM_RIGHTS), behind it that of the
//! port for administrators where there is one, answers that it has them, and from then on accepts, while the older one
//! ends its connections. Clients that come in between wait in the queues of the sockets, which both have. A next process
//! that fails before its answer has changed nothing.
//!
//! Only the same user can connect, and is asked for by the kernel's word, not by its own.

use std::fs::Permissions;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::geteuid;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// What comes with the descriptor: another protocol would say something else.
const GREETING: &[u8] = b"bitnet listening socket 1\n";

/// Sockets at the most.
const MOST_SOCKETS: usize = 2;

/// What the next process answers when it has them.
const TAKEN: u8 = b'T';

/// What the older one answers to that, and accepts no more.
const GIVEN: u8 = b'G';

/// How long each may wait for the other: both have nothing else to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits at a path for the next process.
#[derive(Debug)]
pub struct Offer {
    socket: UnixListener,
    path: PathBuf,
    is_given: bool,
}

/// A socket that will wait at a path: everything that can fail has been done.
#[derive(Debug)]
pub struct PreparedOffer {
    /// Where it will wait.
    pub path: PathBuf,
    socket: Option<UnixListener>,
    fresh: PathBuf,
}

/// Sockets that the older process has offered and still accepts on.
#[derive(Debug)]
pub struct Offered {
    /// The listening socket.
    pub listener: TcpListener,
    /// That of the port for administrators, if the older process has one.
    pub admin: Option<TcpListener>,
    /// Who has offered them.
    pub older: OlderProcess,
}

/// A process that waits to be told that its sockets are taken.
#[derive(Debug)]
pub struct OlderProcess(BlockingStream);

/// Asks the process that waits at `path` for its sockets; `None` when there is none.
///
/// # Errors
/// When whoever waits there gives something else, or something else than a socket is at the path.
pub fn ask(path: &Path) -> io::Result<Option<Offered>> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(other("there is something else than a socket at that path"));
        }
        Ok(_) => {}
    }
    let older = match BlockingStream::connect(path) {
        // Left behind by a process that was killed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        connected => connected?,
    };
    older.set_read_timeout(Some(PATIENCE))?;
    older.set_write_timeout(Some(PATIENCE))?;
    let mut sockets = receive(&older)?.into_iter().map(TcpListener::from);
    let listener = sockets.next().ok_or_else(of_another_kind)?;
    let admin = sockets.next();
    for socket in std::iter::once(&listener).chain(&admin) {
        socket.local_addr()?;
    }
    Ok(Some(Offered {
        listener,
        admin,
        older: OlderProcess(older),
    }))
}

impl OlderProcess {
    /// Takes what it has offered: it stops accepting.
    ///
    /// # Errors
    /// When it does not answer; it may still be accepting then.
    pub fn agree(mut self) -> io::Result<()> {
        use std::io::{Read, Write};
        self.0.write_all(&[TAKEN])?;
        let mut answer = [0];
        self.0.read_exact(&mut answer)?;
        match answer[0] {
            GIVEN => Ok(()),
            _ => Err(other("the running process did not agree")),
        }
    }
}

fn receive(stream: &BlockingStream) -> io::Result<Vec<OwnedFd>> {
    let mut bytes = [0; GREETING.len()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    match bytes[..received.bytes] == *GREETING {
        true => Ok(descriptors),
        false => Err(of_another_kind()),
    }
}

fn of_another_kind() -> io::Error {
    other("whoever waits there is no server of this kind, or refuses this user")
}

impl PreparedOffer {
    /// Makes a socket beside `path`. It must be called inside the runtime.
    ///
    /// # Errors
    /// When the directory cannot be written to.
    pub fn at(path: &Path) -> io::Result<PreparedOffer> {
        // Under another name until nobody else can connect; the exchange is one step.
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(name);
        // Left behind by a killed process of the same number: in containers most have the same.
        let is_socket = |found: std::fs::Metadata| found.file_type().is_socket();
        if std::fs::symlink_metadata(&fresh).is_ok_and(is_socket) {
            std::fs::remove_file(&fresh)?;
        }
        let prepared = PreparedOffer {
            path: path.to_owned(),
            socket: Some(UnixListener::bind(&fresh)?),
            fresh,
        };
        std::fs::set_permissions(&prepared.fresh, Permissions::from_mode(0o600))?;
        Ok(prepared)
    }

    /// Waits at its path from now on, in place of whoever waited there before.
    ///
    /// # Errors
    /// When something has come to be there that cannot be replaced.
    pub fn place(mut self) -> io::Result<Offer> {
        std::fs::rename(&self.fresh, &self.path)?;
        Ok(Offer {
            socket: self.socket.take().expect("it is taken once"),
            path: std::mem::take(&mut self.path),
            is_given: false,
        })
    }
}

impl Drop for PreparedOffer {
    fn drop(&mut self) {
        if self.socket.is_some() {
            // It is ours, or is gone.
            let _ = std::fs::remove_file(&self.fresh);
        }
    }
}

impl Offer {
    /// Gives `sockets`, at most two, to the first process that asks for them and takes them. That process is accepting
    /// already: the caller stops.
    pub async fn give(&mut self, sockets: &[OwnedFd]) {
        loop {
            let asked = match self.socket.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a process that asks for the socket cannot be heard");
                    tokio::time::sleep(PATIENCE).await;
                    continue;
                }
            };
            let taken = timeout(PATIENCE, offer(asked, sockets)).await;
            match taken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(mut stream) => {
                    self.is_given = true;
                    // Without the answer it only does not know that it is alone.
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &[GIVEN]).await;
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "a process asked for the socket and did not take it")
                }
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if !self.is_given {
            // It is ours, or is gone.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Sends the descriptors, and returns the connection when they were taken.
async fn offer(mut stream: UnixStream, sockets: &[OwnedFd]) -> io::Result<UnixStream> {
    if stream.peer_cred()?.uid() != geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it belongs to another user",
        ));
    }
    stream
        .async_io(Interest::WRITABLE, || {
            let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            let sent = sendmsg(
                &stream,
                &[IoSlice::new(GREETING)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            );
            Ok(sent?)
        })
        .await?;
    match stream.read_u8().await? {
        TAKEN => Ok(stream),
        _ => Err(other("it answered something else")),
    }
}

fn other(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
