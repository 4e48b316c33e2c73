//! Signals that end a process: the first drains, the second ends the draining, and while the model is being loaded the
//! first one ends everything.

use std::io;

use crate::log::LIFE;

/// The signals of a process, each heard from the moment of listening on.
pub(super) struct Signals {
    pub first: Termination,
    pub second: Termination, // hears the first one too
    #[cfg(unix)]
    pub hangups: tokio::signal::unix::Signal,
}

impl Signals {
    /// Hears them from now on.
    pub fn listen() -> io::Result<Signals> {
        Ok(Signals {
            first: Termination::listen()?,
            second: Termination::listen()?,
            // Last of all: whoever sees its handler knows that every signal is heard.
            #[cfg(unix)]
            hangups: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?,
        })
    }
}

impl Termination {
    /// Ends the process at the first signal, with the exit code that shells give to one that a signal ended.
    pub async fn end_early(mut self) {
        let code = self.signal().await;
        tracing::info!(target: LIFE, "ended before it served");
        std::process::exit(code);
    }
}

#[cfg(unix)]
pub(super) struct Termination {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Termination {
    /// Hears them from now on.
    pub fn listen() -> io::Result<Termination> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Termination {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one of the two, and says with which exit code it would end a process: 128 and its number.
    pub async fn signal(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

#[cfg(windows)]
pub(super) struct Termination {
    interrupt: tokio::signal::windows::CtrlC,
}

#[cfg(windows)]
impl Termination {
    /// Hears them from now on.
    pub fn listen() -> io::Result<Termination> {
        Ok(Termination {
            interrupt: tokio::signal::windows::ctrl_c()?,
        })
    }

    pub async fn signal(&mut self) -> i32 {
        let _ = self.interrupt.recv().await;
        130
    }
}
