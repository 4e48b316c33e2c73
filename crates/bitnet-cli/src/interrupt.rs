//! Ctrl-C.
//!
//! Outside of long work Ctrl-C ends the process at once with code 130. Work that can stop in good order (an answer, a
//! file being written, a measurement) holds a [`Cooperative`] guard: the first Ctrl-C then only raises a flag, which
//! the work looks at between steps; a second one ends the process, and files in the making are removed first.
//!
//! The `ctrlc` crate runs the handler on a thread of its own, so it may take locks and print; doing that in a real
//! signal handler would need `unsafe` and a list of allowed calls, and Windows has no signals.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::exit::{CliError, Exit};
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

/// Makes Ctrl-C mean what the module says. Called once, at the start.
///
/// # Errors
/// When the operating system refuses a handler.
pub fn install() -> Result<(), CliError> {
    ctrlc::set_handler(|| {
        let cooperative = GUARDS.load(Ordering::SeqCst) > 0;
        let first = !REQUESTED.swap(true, Ordering::SeqCst);
        if !(cooperative && first) {
            // A bare newline, so that the shell's prompt does not follow "^C" on the same line.
            let _ = writeln!(std::io::stderr());
            pending::remove_partials();
            std::process::exit(Exit::Interrupted as i32);
        }
    })
    .map_err(|e| CliError::runtime(format!("cannot watch for Ctrl-C: {e}"), ""))
}
