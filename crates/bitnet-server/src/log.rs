//! The log: one line to standard error for each event, filtered by what the operator asks for, and changed while the
//! server runs.
//!
//! Lines about the life of the server (start, reload, drain, end) have a target of their own and come whatever the level:
//! whoever sends a signal wants to see what came of it. A log that cannot be written (a full disk, a pipe that nobody
//! reads) is lost, never the server.

use std::io;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

/// The target of lines about the life of the server.
pub const LIFE: &str = "lifecycle";

/// The filter of the log, to be changed. Clones are the same filter.
#[derive(Debug, Clone)]
pub struct LogFilter(Option<reload::Handle<EnvFilter, Registry>>);

impl LogFilter {
    /// Starts logging to standard error by `filter`, for the whole process.
    ///
    /// # Errors
    /// When `filter` is none.
    ///
    /// # Panics
    /// When the process logs already.
    pub fn install(filter: &str, colour: bool) -> Result<LogFilter, ParseError> {
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        let lines = fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(colour)
            // It would be told to standard error, and panic there.
            .log_internal_errors(false);
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .init();
        Ok(LogFilter(Some(handle)))
    }

    /// The filter of a process whose log is somebody else's: changing it does nothing.
    pub fn foreign() -> LogFilter {
        LogFilter(None)
    }

    /// Filters by `filter` from now on.
    ///
    /// # Errors
    /// When it is none; the log goes on as it was.
    pub fn set(&self, filter: &str) -> Result<(), ParseError> {
        let filter = parse(filter)?;
        if let Some(handle) = &self.0 {
            // It fails when the subscriber is gone: then there is no log.
            let _ = handle.reload(filter);
        }
        Ok(())
    }
}

/// `text` as a filter: a level, or a list of `target=level`. It may turn [`LIFE`] off by name.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("{LIFE}=info,{text}"))
}
