//! One file, whole and right: begun where an earlier download broke off, and taken over only when its checksum is
//! right.
//!
//! What has arrived is in `CHECKSUM.incomplete` beside the blobs, where huggingface_hub has it too, so a download
//! that one tool began is ended by another. Its length is how much is there. Nothing else is kept: whatever was wrong
//! with the beginning (another version of the file, a disk that lost its last seconds, another tool's gaps) shows in
//! the checksum at the end, and the file is fetched once more from its first byte. Within a download the server's own
//! word for the version is compared as well, so that a file which changes on the way is noticed at once.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::checksum::Summing;
use crate::error::HubError;
use crate::http::{From, Http, NoReply, Refusal, Reply, Version};
use crate::hub::PullObserver;
use crate::patience::{Fault, Patience, Tries};
use crate::repository::HubFile;
use crate::stop::{Pause, Stop};
use crate::url::Origin;

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// A file to be had.
pub(crate) struct Download<'a> {
    /// Who is asked.
    pub(crate) http: &'a Http,
    /// For what, below the endpoint.
    pub(crate) path: &'a str,
    /// What it is.
    pub(crate) file: &'a HubFile,
    /// Who is told.
    pub(crate) observer: &'a dyn PullObserver,
    /// What a refusal means.
    pub(crate) refused: &'a dyn Fn(Refusal) -> Fault,
    /// When it is no longer wanted.
    pub(crate) stop: &'a Stop,
}

/// What has arrived.
struct Arrived {
    out: File,
    sum: Summing,
    n_bytes: u64,
    /// Those of them that an earlier download brought.
    n_earlier: u64,
    version: Option<Version>,
}

/// What ended an attempt before the file was whole.
enum Broken {
    /// What is there stays.
    Fault(Fault),
    /// What is there is not the beginning of what the server has: it goes.
    Changed(HubError),
}

impl Download<'_> {
    /// Completes `incomplete`, on which nobody else works, and gives it the name `blob`.
    ///
    /// # Errors
    /// What the server, the network or the disk says; what has arrived stays but for wrong content.
    pub(crate) fn run(&self, incomplete: &Path, blob: &Path) -> Result<(), HubError> {
        let wrap = |doing| HubError::io(doing, incomplete);
        let mut arrived = self.open(incomplete).map_err(wrap("write"))?;
        self.observer.begins(self.file, arrived.n_bytes);
        let mut patience = Patience::default();
        let mut has_been_wrong = false;
        let mut buffer = vec![0; BUFFER];
        loop {
            self.stop.check()?;
            let before = arrived.n_bytes;
            let broken = match arrived.n_bytes == self.file.size {
                true => {
                    let found = arrived.sum.clone().end();
                    if found == self.file.checksum.hex() {
                        break;
                    }
                    Broken::Changed(HubError::Checksum {
                        file: self.file.name.clone(),
                        expected: self.file.checksum.hex().into(),
                        found,
                        n_earlier: arrived.n_earlier,
                    })
                }
                false => match self.attempt(&mut arrived, &mut buffer) {
                    Ok(()) => continue,
                    Err(broken) => broken,
                },
            };
            let fault = match broken {
                Broken::Fault(fault) => fault,
                Broken::Changed(error) => {
                    arrived
                        .restart(self.file.size, self)
                        .map_err(wrap("write"))?;
                    // Wrong once may be what was there before; wrong twice is the server's.
                    let is_wrong = !matches!(error, HubError::Answer { .. });
                    if is_wrong && has_been_wrong {
                        let _ = fs::remove_file(incomplete); // it is empty
                        return Err(error);
                    }
                    self.observer.starts_over(self.file, &error.to_string());
                    has_been_wrong |= is_wrong;
                    match is_wrong {
                        true => continue,
                        false => Fault::passing(error),
                    }
                }
            };
            if arrived.n_bytes > before {
                patience.gained();
            }
            let why = reason(&fault);
            let wait = patience.after(fault)?;
            let stop = self.stop;
            self.observer.waits(&why, &Pause { wait, stop });
        }
        arrived.out.sync_all().map_err(wrap("write"))?;
        fs::rename(incomplete, blob).map_err(HubError::io("write", blob))
    }

    /// What is there already, summed up.
    fn open(&self, incomplete: &Path) -> io::Result<Arrived> {
        let options = || {
            let mut options = File::options();
            options.read(true).write(true);
            options
        };
        // Never through a link that somebody has put there.
        let mut out = match fs::symlink_metadata(incomplete) {
            Ok(found) if found.is_file() => options().open(incomplete)?,
            Ok(_) => return Err(io::Error::other("it is no ordinary file")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                options().create_new(true).open(incomplete)?
            }
            Err(e) => return Err(e),
        };
        let mut sum = self.file.checksum.begin(self.file.size);
        let mut n_bytes = out.metadata()?.len();
        if n_bytes > self.file.size {
            out.set_len(0)?;
            n_bytes = 0;
        }
        let mut left = n_bytes;
        let mut buffer = vec![0; BUFFER];
        while left > 0 {
            let n = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            out.read_exact(&mut buffer[..n])?;
            sum.add(&buffer[..n]);
            left -= n as u64;
        }
        Ok(Arrived {
            out,
            sum,
            n_bytes,
            n_earlier: n_bytes,
            version: None,
        })
    }

    /// Asks for what is missing and keeps what comes.
    fn attempt(&self, arrived: &mut Arrived, buffer: &mut [u8]) -> Result<(), Broken> {
        let from = (arrived.n_bytes > 0).then(|| From {
            offset: arrived.n_bytes,
            version: arrived.version.clone(),
        });
        let reply = match self.http.get(self.path, from.as_ref()) {
            Ok(reply) => reply,
            // There is less of it there than here.
            Err(NoReply::Refused(refusal)) if refusal.status == 416 && from.is_some() => {
                return Err(Broken::Changed(
                    self.odd(&refusal.host, "it has no bytes where the file goes on"),
                ));
            }
            Err(NoReply::Refused(refusal)) => return Err(Broken::Fault((self.refused)(refusal))),
            Err(NoReply::Fault(fault)) => return Err(Broken::Fault(fault)),
        };
        self.check(&reply, from.as_ref())?;
        if reply.status == 200 && from.is_some() {
            // The server starts over: it knows no ranges, or has another version than the one begun.
            arrived
                .restart(self.file.size, self)
                .map_err(|e| self.not_written(e))?;
            let why = format!(
                "{} sends {} from its beginning",
                reply.origin.host(),
                self.file.name
            );
            self.observer.starts_over(self.file, &why);
        }
        arrived.version = reply.version();
        let origin = reply.origin.clone();
        self.receive(reply.into_body(), &origin, arrived, buffer)
    }

    /// Whether what the headers announce can be the rest of the file.
    fn check(&self, reply: &Reply, from: Option<&From>) -> Result<(), Broken> {
        let host = reply.origin.host();
        if reply.is_web_page() && !self.file.name.as_str().ends_with(".html") {
            return Err(Broken::Fault(Fault::Lasting(HubError::WebPage { host })));
        }
        if !reply.is_plain() {
            let error = self.odd(&host, "the bytes are packed, which nobody asked for");
            return Err(Broken::Fault(Fault::Lasting(error)));
        }
        let size = self.file.size;
        let offset = match (reply.status, from) {
            (200, _) => 0,
            (_, None) => {
                let error = self.odd(&host, "it sends a part of a file that was asked for whole");
                return Err(Broken::Fault(Fault::Lasting(error)));
            }
            (_, Some(from)) => {
                let is_ours = |(first, whole): (u64, Option<u64>)| {
                    first == from.offset && whole.is_none_or(|whole| whole == size)
                };
                if !reply.range().is_some_and(is_ours) {
                    return Err(Broken::Changed(
                        self.odd(&host, "it sends another part than the one asked for"),
                    ));
                }
                let (begun, now) = (from.version.as_ref(), reply.version());
                if begun.is_some_and(|begun| now.as_ref().is_some_and(|now| now != begun)) {
                    return Err(Broken::Changed(
                        self.odd(&host, "the file has changed on the way"),
                    ));
                }
                from.offset
            }
        };
        // Less is a connection that breaks early; more is another file.
        match reply.length() {
            Some(length) if length > size - offset => Err(Broken::Changed(HubError::Length {
                file: self.file.name.clone(),
                host,
                expected: size,
                found: offset.saturating_add(length).to_string(),
            })),
            _ => Ok(()),
        }
    }

    fn receive(
        &self,
        mut body: impl Read,
        origin: &Origin,
        arrived: &mut Arrived,
        buffer: &mut [u8],
    ) -> Result<(), Broken> {
        let size = self.file.size;
        loop {
            self.stop
                .check()
                .map_err(|e| Broken::Fault(Fault::Lasting(e)))?;
            let n = match body.read(buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // Whatever breaks after the last byte breaks nothing.
                Err(_) if arrived.n_bytes == size => return Ok(()),
                Err(e) => return Err(Broken::Fault(broke_off(origin, &e))),
            };
            if n == 0 {
                return match arrived.n_bytes == size {
                    true => Ok(()),
                    false => Err(Broken::Fault(broke_off(
                        origin,
                        &io::ErrorKind::UnexpectedEof.into(),
                    ))),
                };
            }
            if n as u64 > size - arrived.n_bytes {
                return Err(Broken::Changed(HubError::Length {
                    file: self.file.name.clone(),
                    host: origin.host(),
                    expected: size,
                    found: "more".into(),
                }));
            }
            arrived
                .out
                .write_all(&buffer[..n])
                .map_err(|e| self.not_written(e))?;
            arrived.sum.add(&buffer[..n]);
            arrived.n_bytes += n as u64;
            self.observer.received(self.file, n as u64);
        }
    }

    fn odd(&self, host: &str, why: &str) -> HubError {
        HubError::Answer {
            host: host.into(),
            why: format!("{}: {why}", self.file.name),
        }
    }

    fn not_written(&self, error: io::Error) -> Broken {
        let error = HubError::io("write", self.file.name.as_str())(error);
        Broken::Fault(Fault::Lasting(error))
    }
}

impl Arrived {
    fn restart(&mut self, size: u64, download: &Download<'_>) -> io::Result<()> {
        self.out.set_len(0)?;
        self.out.seek(SeekFrom::Start(0))?;
        self.sum = download.file.checksum.begin(size);
        self.n_bytes = 0;
        self.n_earlier = 0;
        self.version = None;
        Ok(())
    }
}

fn broke_off(origin: &Origin, error: &io::Error) -> Fault {
    let why = match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "it sends nothing any more".into(),
        io::ErrorKind::UnexpectedEof => "it hangs up before the end".into(),
        _ => error.to_string(),
    };
    Fault::passing(HubError::Unreachable {
        host: origin.host(),
        why,
    })
}

/// A fault's words, for whoever waits.
pub(crate) fn reason(fault: &Fault) -> String {
    match fault {
        Fault::Passing { error, .. } | Fault::Lasting(error) => error.to_string(),
    }
}

/// Asks for the first time until there is an answer, waiting as long as `observer` is told.
pub(crate) fn patiently<T>(
    observer: &dyn PullObserver,
    tries: Tries,
    mut ask: impl FnMut() -> Result<T, Fault>,
) -> Result<T, HubError> {
    let mut patience = Patience::at_first(tries);
    let stop = &Stop::default();
    loop {
        let fault = match ask() {
            Ok(answer) => return Ok(answer),
            Err(fault) => fault,
        };
        let why = reason(&fault);
        let wait = patience.after(fault)?;
        observer.waits(&why, &Pause { wait, stop });
    }
}
