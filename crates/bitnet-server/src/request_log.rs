//! Lines about requests: the access log, one for each request that ended, and the audit log, one for each action of an
//! administrator, and one more for each order about models that was begun, when it has ended.
//!
//! No line has anything of a prompt, an answer, or a credential; whoever asked appears as the guard calls them. Each
//! line is one line whatever clients send. Lines are written by a thread of their own: a terminal or a disk that does
//! not take them loses lines and holds up no request; how many were lost is told by the next one that is written. What
//! the audit log cannot take goes to the server's own log, so that it is somewhere.

mod line;
mod order;

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::config::settings::MonitoringSettings;
use crate::config::value::{AccessLogFormat, LogFormat};
use crate::fields::Fields;
use crate::log::LIFE;

pub(crate) use line::rfc3339;
pub use line::{AccessLine, AuditEvent, AuditLine};
pub use order::{OrderAudit, OrderUnderWay};

/// Where lines about requests go. `Default` writes none.
#[derive(Default)]
pub struct RequestLog {
    format: Option<LogFormat>,
    access: Option<LineWriter>,
    audit: Option<LineWriter>,
}

/// What the logs want to know of a request beside its answer: laid by with the request, for the guard to fill in. It
/// outlives the request's handling, so what an administrator began is told also when nobody waited for the answer.
#[derive(Debug, Clone, Default)]
pub struct RequestNotes(Arc<NoteSlots>);

#[derive(Debug, Default)]
struct NoteSlots {
    who: OnceLock<String>,
    action: OnceLock<AdminAction>,
}

impl RequestNotes {
    /// Notes who asks.
    pub fn set_who(&self, who: &str) {
        // There is one guard.
        let _ = self.0.who.set(who.to_owned());
    }

    /// Notes that it is an administrator's action.
    pub fn set_action(&self, action: AdminAction) {
        let _ = self.0.action.set(action);
    }

    /// Who asks, once that is known.
    pub fn who(&self) -> Option<&str> {
        self.0.who.get().map(String::as_str)
    }

    /// The administrator's action, if it is one.
    pub fn action(&self) -> Option<&AdminAction> {
        self.0.action.get()
    }
}

/// An action of an administrator, granted or refused.
#[derive(Debug, Clone)]
pub struct AdminAction {
    /// Where it came from.
    pub peer: Option<IpAddr>,
    /// What it is about.
    pub note: AuditNote,
}

/// What an action is about, where the path does not say it: the guard lays it by, the handler fills it in.
#[derive(Debug, Clone, Default)]
pub struct AuditNote(Arc<OnceLock<String>>);

impl AuditNote {
    /// Notes those of `names` that the request's body has as texts.
    pub fn fill(&self, fields: &Fields, names: &[&str]) {
        let named = |name: &&str| Some(format!("{name}={}", fields.peek(name)?.as_str()?));
        let about: Vec<String> = names.iter().filter_map(named).collect();
        // A handler says it once.
        let _ = self.0.set(about.join(" "));
    }

    /// What the handler has noted.
    pub fn about(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

impl<S: Sync> FromRequestParts<S> for AuditNote {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<AuditNote, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// Lines that wait to be written; they have some 300 bytes.
const LINES_WAITING: usize = 4096;

/// A thread that writes lines.
struct LineWriter {
    sender: Mutex<Option<SyncSender<String>>>, // None: closed
    lost: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Which log a line is of: what becomes of it when it cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is lost.
    Access,
    /// The server's own log gets it.
    Audit,
}

/// Where a thread writes its lines.
struct Sink {
    to: Box<dyn Write + Send>,
    kind: Kind,
    lost: u64,     // since a line was last written
    is_torn: bool, // the last line was written in part
}

/// How lines of the access log are written beside a log of the format `log`; `None`: there are none.
fn access_format(access: AccessLogFormat, log: LogFormat) -> Option<LogFormat> {
    match access {
        AccessLogFormat::None => None,
        AccessLogFormat::On => Some(log),
        AccessLogFormat::Text => Some(LogFormat::Text),
        AccessLogFormat::Json => Some(LogFormat::Json),
    }
}

impl RequestLog {
    /// The logs that the settings ask for.
    ///
    /// # Errors
    /// When a file cannot be opened, or there is no thread to write it.
    pub fn open(settings: &MonitoringSettings) -> io::Result<RequestLog> {
        let audit: Box<dyn Write + Send> = match &settings.audit_log_file {
            None => Box::new(io::stderr()),
            Some(path) => {
                let mut options = OpenOptions::new();
                options.create(true).append(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                Box::new(options.open(path)?)
            }
        };
        let format = access_format(settings.access_log, settings.log_format);
        RequestLog::to(format, Box::new(io::stderr()), audit)
    }

    /// Tells why [`RequestLog::open`] would fail, and makes no file.
    ///
    /// # Errors
    /// When the file cannot be written, or there is no folder to make it in.
    pub fn check(settings: &MonitoringSettings) -> io::Result<()> {
        let Some(path) = &settings.audit_log_file else {
            return Ok(());
        };
        if path.exists() {
            return OpenOptions::new().append(true).open(path).map(drop);
        }
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        match folder.unwrap_or(Path::new(".")).metadata()?.is_dir() {
            true => Ok(()),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// Logs that go to these writers.
    ///
    /// # Errors
    /// When there is no thread to write them.
    pub fn to(
        format: Option<LogFormat>,
        access: Box<dyn Write + Send>,
        audit: Box<dyn Write + Send>,
    ) -> io::Result<RequestLog> {
        Ok(RequestLog {
            format,
            access: format
                .map(|_| LineWriter::start(access, Kind::Access))
                .transpose()?,
            audit: Some(LineWriter::start(audit, Kind::Audit)?),
        })
    }

    /// Whether lines about requests are written.
    pub fn has_access_log(&self) -> bool {
        self.access.is_some()
    }

    /// Writes a line about a request that ended.
    pub fn access(&self, line: &AccessLine) {
        if let (Some(writer), Some(format)) = (&self.access, self.format) {
            writer.write(match format {
                LogFormat::Text => line.text(),
                LogFormat::Json => line.json(),
            });
        }
    }

    /// Waits until every line so far is written, for `limit` at the most; later ones are not written any more.
    pub fn close(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let writers = || self.access.iter().chain(&self.audit);
        writers().for_each(LineWriter::hang_up);
        while !writers().all(LineWriter::has_ended) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Writes a line about an administrator's action.
    pub fn audit(&self, line: &AuditLine) {
        match &self.audit {
            Some(writer) => writer.write(line.json()),
            None => tracing::warn!(line = line.json(), "audit"),
        }
    }
}

impl LineWriter {
    fn start(to: Box<dyn Write + Send>, kind: Kind) -> io::Result<LineWriter> {
        let (sender, lines) = sync_channel::<String>(LINES_WAITING);
        let mut sink = Sink {
            to,
            kind,
            lost: 0,
            is_torn: false,
        };
        let thread = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || lines.into_iter().for_each(|line| sink.put(&line)))?;
        Ok(LineWriter {
            sender: Mutex::new(Some(sender)),
            lost: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        })
    }

    fn write(&self, line: String) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = sender.as_ref() else {
            return;
        };
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let line = match lost {
            0 => format!("{line}\n"),
            lost => format!("{}{line}\n", lost_lines(lost)),
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sender.try_send(line) {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

impl Sink {
    /// Writes what was handed over, a line or two, or says that it cannot be.
    fn put(&mut self, lines: &str) {
        let mut text = String::new();
        if self.is_torn {
            text.push('\n');
        }
        if self.lost > 0 {
            text.push_str(&lost_lines(self.lost));
        }
        let n_before = text.len();
        text.push_str(lines);
        let (n_written, outcome) = write_most(&mut self.to, text.as_bytes());
        if let Some(last) = text.as_bytes()[..n_written].last() {
            self.is_torn = *last != b'\n';
        }
        if n_written >= n_before {
            self.lost = 0;
        }
        let Err(error) = outcome else {
            return;
        };
        // A full disk is told once, and again after it had room.
        if self.lost == 0 {
            tracing::error!(%error, log = ?self.kind, "lines of a log cannot be written");
        }
        self.lost += 1;
        if self.kind == Kind::Audit {
            tracing::error!(target: LIFE, line = lines.trim_end(), "audit");
        }
    }
}

/// Tells a loss, in a line of its own.
fn lost_lines(n: u64) -> String {
    format!("{{\"lost_lines\":{n}}}\n")
}

/// Writes as much as can be written: so many bytes, and why not all of them.
fn write_most(to: &mut dyn Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut n_written = 0;
    while n_written < bytes.len() {
        match to.write(&bytes[n_written..]) {
            Ok(0) => return (n_written, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => n_written += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (n_written, Err(error)),
        }
    }
    (n_written, to.flush())
}

impl LineWriter {
    /// The thread ends when it has written what it has.
    fn hang_up(&self) {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        *sender = None;
    }

    fn has_ended(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for LineWriter {
    /// Waits for what was handed over to be written.
    fn drop(&mut self) {
        self.hang_up();
        let thread = self.thread.get_mut().map(Option::take);
        if let Ok(Some(thread)) = thread {
            // Writing does not panic; if it did there is nothing left to write.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
