//! Counting what is under way, and waiting for it to end.

use tokio::sync::watch;

/// A count of things under way; its clones count together.
#[derive(Debug, Clone, Default)]
pub struct Tally(watch::Sender<usize>);

/// One thing under way; dropping it ends it.
#[derive(Debug)]
pub struct Entered(watch::Sender<usize>);

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
