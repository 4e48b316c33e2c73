//! The log: one line to standard error for each event, for people or as JSON, filtered by what the operator asks for,
//! and changed while the server runs.
//!
//! Lines about the life of the server (start, reload, drain, end) have a target of their own and come whatever the
//! level: whoever sends a signal wants to see what came of it. A log that cannot be written (a full disk, a pipe that
//! nobody reads) is lost, never the server. As JSON ([`LogFormat::Json`]) it has everything that the server says on
//! standard error, notices at the start, errors and panics included ([`say`], [`say_error`]), so that a program can
//! read all of it.

mod json_lines;

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io;
use std::panic::{self, PanicHookInfo};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt as lines};

use crate::config::value::LogFormat;
use json_lines::{JsonSpans, line_of};

/// The target of lines about the life of the server.
pub const LIFE: &str = "lifecycle";

/// Whether lines are JSON: the log is the process's, and so is its format.
static IS_JSON: AtomicBool = AtomicBool::new(false);

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
        let lines = lines::layer()
            .with_writer(io::stderr)
            .with_ansi(colour)
            // It would be told to standard error, and panic there.
            .log_internal_errors(false)
            .event_format(EitherLine(Format::default()));
        tracing_subscriber::registry()
            .with(filter)
            .with(JsonSpans)
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

    /// Writes lines in this format from now on, panics too.
    pub fn set_format(&self, format: LogFormat) {
        static HOOK: Once = Once::new();
        if self.0.is_none() {
            return;
        }
        IS_JSON.store(format == LogFormat::Json, Ordering::Relaxed);
        HOOK.call_once(|| {
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |panic| match is_json() {
                true => log_panic(panic),
                false => usual(panic),
            }));
        });
    }
}

/// `text` as a filter: a level, or a list of `target=level`. It may turn [`LIFE`] off by name.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("{LIFE}=info,{text}"))
}

/// Whether each part of a filter without a target is a level: a word that is none counts as the name of a target, and
/// whoever misspelt a level would log nothing.
pub fn has_levels(text: &str) -> bool {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty() && !part.contains(['=', '[']))
        .all(|part| part.parse::<LevelFilter>().is_ok())
}

/// Whether lines are JSON; then nothing else is to be written to standard error.
pub fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// Says in the log what people are told in words of their own.
pub fn say(text: &str) {
    tracing::info!(target: LIFE, "{text}");
}

/// Says in the log why the process ends, and what to do about it.
pub fn say_error(text: &str, hint: &str) {
    match hint {
        "" => tracing::error!(target: LIFE, "{text}"),
        hint => tracing::error!(target: LIFE, hint, "{text}"),
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        target: LIFE,
        thread = thread.name(),
        place,
        backtrace,
        "panicked: {}",
        reason(panic.payload())
    );
}

/// What a panic says.
fn reason(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("for a reason that is no text")
}

/// Lines for people, or for programs.
struct EitherLine(Format);

impl<S, N> FormatEvent<S, N> for EitherLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if is_json() {
            return writeln!(writer, "{}", line_of(event, context.event_scope()));
        }
        self.0.format_event(context, writer, event)
    }
}
