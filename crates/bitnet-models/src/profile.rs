//! Where the time of forward passes goes, by operation.
//!
//! An [`Observer`] that takes times and no values, so a profiled pass computes what any other does; reading the clock
//! twice for each of a few hundred operations costs some microseconds a pass.

use std::time::Duration;

use crate::observer::{Observer, Operation, Site, Work};

/// Sums over all passes since it was made.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    totals: [Total; Operation::ALL.len()],
}

/// What one kind of operation took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Total {
    /// How often it ran.
    pub calls: u64,
    /// How long, together.
    pub time: Duration,
    /// What it had to do, together.
    pub work: Work,
}

impl Profile {
    /// Operations that ran, in the order of the computation.
    pub fn totals(&self) -> impl Iterator<Item = (Operation, Total)> + '_ {
        let totals = Operation::ALL.into_iter().zip(self.totals);
        totals.filter(|(_, total)| total.calls > 0)
    }

    /// Time of all operations.
    pub fn time(&self) -> Duration {
        self.totals.iter().map(|total| total.time).sum()
    }
}

impl Observer for Profile {
    fn observe(&mut self, _: Site, _: &[f32], _: usize) {}

    fn wants_values(&self) -> bool {
        false
    }

    fn wants_times(&self) -> bool {
        true
    }

    fn timed(&mut self, operation: Operation, work: Work, time: Duration) {
        // `ALL` lists the operations in the order that they are declared in.
        let total = &mut self.totals[operation as usize];
        total.calls += 1;
        total.time += time;
        total.work.bytes += work.bytes;
        total.work.operations += work.operations;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_own_total() {
        let mut profile = Profile::default();
        for (i, operation) in Operation::ALL.into_iter().enumerate() {
            let work = Work {
                bytes: i as u64,
                operations: 2,
            };
            profile.timed(operation, work, Duration::from_micros(1 + i as u64));
            profile.timed(operation, work, Duration::from_micros(1));
        }
        for (i, (operation, total)) in profile.totals().enumerate() {
            assert_eq!(operation, Operation::ALL[i]);
            assert_eq!((total.calls, total.work.operations), (2, 4));
            assert_eq!(total.work.bytes, 2 * i as u64);
            assert_eq!(total.time, Duration::from_micros(2 + i as u64));
        }
        assert_eq!(
            profile.time(),
            Duration::from_micros((2..2 + Operation::ALL.len() as u64).sum())
        );
    }
}
