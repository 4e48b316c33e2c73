//! The end of a pull that has failed: one file's error ends the work on all the others, wherever they wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::HubError;

/// Whether the work goes on, for all who do it.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    first: Mutex<Option<HubError>>,
    told: Condvar,
}

impl Stop {
    fn first(&self) -> MutexGuard<'_, Option<HubError>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the work because of `error`, unless another one has ended it before.
    pub(crate) fn because(&self, error: HubError) {
        self.first().get_or_insert(error);
        self.told.notify_all();
    }

    /// Whether the work is over.
    pub(crate) fn is_set(&self) -> bool {
        self.first().is_some()
    }

    /// Waits so long, or until the work is over.
    pub(crate) fn wait(&self, wait: Duration) {
        let end = Instant::now().checked_add(wait);
        let mut first = self.first();
        while first.is_none() {
            let left = end.map_or(wait, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            let woken = self.told.wait_timeout(first, left);
            first = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// [`HubError::Stopped`] where the work is over.
    pub(crate) fn check(&self) -> Result<(), HubError> {
        match self.is_set() {
            true => Err(HubError::Stopped),
            false => Ok(()),
        }
    }

    /// What has ended the work.
    pub(crate) fn into_first(self) -> Option<HubError> {
        self.first
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time before something that failed is tried again.
#[derive(Debug)]
pub struct Pause<'a> {
    /// How long it is.
    pub wait: Duration,
    pub(crate) stop: &'a Stop,
}

impl Pause<'_> {
    /// Passes it, up to where nothing is to be tried again any more.
    pub fn pass(&self) {
        self.stop.wait(self.wait);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_pause_ends_with_the_work_and_the_first_error_is_kept() {
        let stop = Stop::default();
        stop.wait(Duration::from_millis(1));
        assert!(stop.check().is_ok());
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                tell.send(()).unwrap();
                let wait = Duration::MAX;
                Pause { wait, stop: &stop }.pass();
            });
            told.recv().unwrap();
            stop.because(HubError::Token {
                host: "first".into(),
            });
            stop.because(HubError::Token {
                host: "second".into(),
            });
            waiting.join().unwrap();
        });
        assert!(matches!(stop.check(), Err(HubError::Stopped)));
        assert!(matches!(stop.into_first(), Some(HubError::Token { host }) if host == "first"));
    }
}
