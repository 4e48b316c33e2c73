//! Ctrl-C.
//!
//! Outside of long work Ctrl-C ends the process at once with code 130. Work that can stop in good order (an answer, a
//! file being written, a measurement) holds a [`Cooperative`] guard: the first Ctrl-C then only raises a flag, which
//! the work looks at between steps; a second one ends the process, and files in the making are removed first.
//!
//! Work that may end at any moment, because what is done of it stays and is gone on with, holds [`LastWords`] instead:
//! Ctrl-C ends the process at once, and the user is told what there is. So does SIGTERM, which ends a process that
//! has begun no such work without a word, as the system has it.
//!
//! The `ctrlc` crate runs the handler on a thread of its own, so it may take locks and print; doing that in a real
//! signal handler would need `unsafe` and a list of allowed calls, and Windows has no signals.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::exit::{CliError, Exit};
use crate::output::notice;
use crate::pending;

/// Raised by the first Ctrl-C of cooperative work.
static REQUESTED: AtomicBool = AtomicBool::new(false);
/// How many guards are alive.
static GUARDS: AtomicUsize = AtomicUsize::new(0);

/// While it lives, the first Ctrl-C raises the flag instead of ending the process.
#[derive(Debug)]
pub struct Cooperative(());

impl Cooperative {
    /// Starts cooperative work with the flag lowered.
    pub fn begin() -> Cooperative {
        if GUARDS.fetch_add(1, Ordering::SeqCst) == 0 {
            REQUESTED.store(false, Ordering::SeqCst);
        }
        Cooperative(())
    }

    /// Whether Ctrl-C was pressed since the work began.
    pub fn requested(&self) -> bool {
        REQUESTED.load(Ordering::SeqCst)
    }

    /// The error that ends a command after Ctrl-C, `what` being what was cut short.
    pub fn error(&self, what: &str) -> CliError {
        CliError::new(Exit::Interrupted, format!("interrupted: {what}"), "")
    }
}

impl Drop for Cooperative {
    fn drop(&mut self) {
        GUARDS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a Ctrl-C that ends the process says.
static LAST_WORDS: Mutex<Option<Words>> = Mutex::new(None);

/// Makes a line of what is known at the end.
type Words = Box<dyn Fn() -> String + Send>;

fn last_words() -> MutexGuard<'static, Option<Words>> {
    LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, a Ctrl-C that ends the process says a line about what is unfinished.
#[derive(Debug)]
pub struct LastWords(());

impl LastWords {
    /// Has `words` make the line, on another thread, while the work goes on.
    pub fn are(words: impl Fn() -> String + Send + 'static) -> LastWords {
        #[cfg(unix)]
        termination::heard();
        *last_words() = Some(Box::new(words));
        LastWords(())
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        *last_words() = None;
    }
}

/// Ends the process with this code: the last words, and no files in the making.
fn end(code: i32) -> ! {
    let words = last_words().as_ref().map(|words| words());
    // A newline first, so that neither the shell's prompt nor the words follow "^C" on the same line.
    if words.is_none() || std::io::stderr().is_terminal() {
        let _ = writeln!(std::io::stderr());
    }
    if let Some(words) = words {
        notice(&words);
    }
    pending::remove_partials();
    std::process::exit(code)
}

/// SIGTERM, as service managers and `timeout` send it.
#[cfg(unix)]
mod termination {
    use std::sync::Once;
    use std::{io, thread};

    use tokio::runtime::Builder;
    use tokio::signal::unix::{SignalKind, signal};

    /// Exit code: 128 + SIGTERM, as shells report it.
    const TERMINATED: i32 = 143;

    /// From the first call on it ends the process as Ctrl-C does, with its own code.
    pub fn heard() {
        static ONCE: Once = Once::new();
        // Where it cannot be heard it ends the process anyway, only without a word.
        ONCE.call_once(|| drop(listen()));
    }

    fn listen() -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let mut signals = {
            let _runtime = runtime.enter();
            signal(SignalKind::terminate())?
        };
        let thread = thread::Builder::new().name("termination".into());
        thread.spawn(move || {
            if runtime.block_on(signals.recv()).is_some() {
                super::end(TERMINATED);
            }
        })?;
        Ok(())
    }
}

/// Makes Ctrl-C mean what the module says. Called once, at the start.
///
/// # Errors
/// When the operating system refuses a handler.
pub fn install() -> Result<(), CliError> {
    ctrlc::set_handler(|| {
        let cooperative = GUARDS.load(Ordering::SeqCst) > 0;
        let first = !REQUESTED.swap(true, Ordering::SeqCst);
        if !(cooperative && first) {
            end(Exit::Interrupted as i32);
        }
    })
    .map_err(|e| CliError::runtime(format!("cannot watch for Ctrl-C: {e}"), ""))
}
