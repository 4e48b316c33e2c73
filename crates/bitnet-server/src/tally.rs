//! Counting what is under way, and waiting for it to end.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;

/// A count of things under way; its clones count together.
#[derive(Debug, Clone, Default)]
pub struct Tally(watch::Sender<usize>);

/// One thing under way; dropping it ends it.
#[derive(Debug)]
pub struct Entered(watch::Sender<usize>);

/// Several things that count as one as long as any of them is under way, such as a request and a write of its answer;
/// its clones are the same.
#[derive(Debug, Clone)]
pub struct CountedOnce {
    tally: Tally,
    held: Arc<Mutex<Weak<Entered>>>,
}

impl CountedOnce {
    /// One that counts in `tally`.
    pub fn of(tally: &Tally) -> CountedOnce {
        CountedOnce {
            tally: tally.clone(),
            held: Arc::default(),
        }
    }

    /// Counts if nothing of it is under way yet; what is returned is to be held until it is not.
    pub fn enter(&self) -> Arc<Entered> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.upgrade().unwrap_or_else(|| {
            let entered = Arc::new(self.tally.enter());
            *held = Arc::downgrade(&entered);
            entered
        })
    }
}

impl Tally {
    /// Counts one more.
    pub fn enter(&self) -> Entered {
        self.0.send_modify(|n| *n += 1);
        Entered(self.0.clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until there are none.
    pub async fn empty(&self) {
        // The channel cannot close: `self` has a sender.
        let _ = self.0.subscribe().wait_for(|&n| n == 0).await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_that_count_as_one_count_until_the_last_of_them_ends() {
        let tally = Tally::default();
        let (one, other) = (CountedOnce::of(&tally), CountedOnce::of(&tally));
        let (first, second) = (one.enter(), one.clone().enter());
        let third = other.enter();
        assert_eq!(tally.count(), 2);
        drop(first);
        assert_eq!(tally.count(), 2);
        drop(second);
        assert_eq!(tally.count(), 1);
        let again = one.enter();
        assert_eq!(tally.count(), 2);
        drop((again, third));
        assert_eq!(tally.count(), 0);
    }
}
