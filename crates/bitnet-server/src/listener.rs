//! The listening socket: bound here, or given by whoever started or came before the process.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// Whether somebody else keeps it when this process ends, so that clients who come later are not lost.
    pub outlives_us: bool,
}

impl Listener {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
        Ok(Listener {
            socket: TcpListener::bind(address).await?,
            outlives_us: false,
        })
    }

    /// A socket of another process, that listens already. It must be called inside the runtime.
    ///
    /// # Errors
    /// When the operating system refuses it.
    pub fn given(socket: std::net::TcpListener, outlives_us: bool) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        Ok(Listener {
            socket: TcpListener::from_std(socket)?,
            outlives_us,
        })
    }
}

/// An address that is ours and not listened on yet: who comes early is refused, as where nobody is. Nobody who listens
/// has it; another one may have reserved it in the same way, and the second of the two to listen is told that it is
/// taken.
#[derive(Debug)]
pub struct ReservedAddress(Socket);

impl ReservedAddress {
    /// Takes `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub fn take(address: SocketAddr) -> io::Result<ReservedAddress> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // What is left of connections of a server before this one is no obstacle. Windows means another thing by it.
        #[cfg(not(windows))]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(ReservedAddress(socket))
    }

    /// Listens from now on. It must be called inside the runtime.
    ///
    /// # Errors
    /// When the operating system refuses it.
    pub fn listen(self) -> io::Result<Listener> {
        self.0.listen(BACKLOG)?;
        Listener::given(self.0.into(), false)
    }
}

/// Connections that wait to be accepted, as many as tokio's sockets have.
const BACKLOG: i32 = 1024;

/// The name by which a unit tells our socket from others (`FileDescriptorName=`).
pub const ACTIVATION_NAME: &str = "http";

/// The socket that systemd has opened for this process (`LISTEN_FDS`, `LISTEN_PID`), if it has: the only one, or of
/// several the one named [`ACTIVATION_NAME`].
///
/// # Errors
/// When there are several and none or many have that name, or it is no listening TCP socket.
#[cfg(unix)]
pub fn activated() -> io::Result<Option<std::net::TcpListener>> {
    // Taking the sockets removes the variables, and this one is not looked at by the crate.
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut given = listenfd::ListenFd::from_env();
    let index = match given.len() {
        0 => return Ok(None),
        1 => 0,
        n => the_one_named(&names, n)?,
    };
    let socket = given.take_tcp_listener(index).map_err(|error| {
        let message =
            format!("the socket that LISTEN_FDS gives is no listening TCP socket: {error}");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    Ok(socket)
}

#[cfg(unix)]
fn the_one_named(names: &str, n_sockets: usize) -> io::Result<usize> {
    let mut found = names
        .split(':')
        .take(n_sockets)
        .enumerate()
        .filter(|(_, name)| *name == ACTIVATION_NAME);
    match (found.next(), found.next()) {
        (Some((index, _)), None) => Ok(index),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "LISTEN_FDS gives {n_sockets} sockets: exactly one must have FileDescriptorName={ACTIVATION_NAME}, \
                 and LISTEN_FDNAMES is {names:?}"
            ),
        )),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn of_several_sockets_one_must_have_the_name() {
        assert_eq!(the_one_named("admin:http", 2).unwrap(), 1);
        for names in ["", "admin:metrics", "http:http", "x:y:http"] {
            let refused = the_one_named(names, 2).unwrap_err().to_string();
            assert!(refused.contains("FileDescriptorName=http"), "{refused}");
        }
    }
}
