//! This machine's limits, measured at both ends of a run.
//!
//! What a virtual machine may read in a second depends on its neighbours and drifts by half within minutes. A share of
//! a limit that was measured at a bad moment would be too good, so the best figure of the run counts.

use bitnet_kernels::{cpu_features, measure};
use serde::Serialize;

use crate::exit::CliError;

/// What a number of threads can do at most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limit {
    /// Threads that took part.
    pub threads: usize,
    /// Streaming read, 10^9 bytes a second.
    pub read_gb_s: f64,
    /// 10^9 operations a second; a multiply-add is two.
    pub int8_gops: f64,
}

/// The limits of one thread, of all, and of every number of threads that is benched; by number of threads.
#[derive(Debug)]
pub struct Limits(Vec<Limit>);

impl Limits {
    /// Not measured yet.
    pub fn new(threads: &[usize]) -> Limits {
        let mut numbers = [threads, &[1, cpu_features().cores]].concat();
        numbers.sort_unstable();
        numbers.dedup();
        let unmeasured = |threads| Limit {
            threads,
            read_gb_s: 0.0,
            int8_gops: 0.0,
        };
        Limits(numbers.into_iter().map(unmeasured).collect())
    }

    /// Measures all, and keeps what is better than before.
    ///
    /// # Errors
    /// No memory, no threads.
    pub fn measure(&mut self) -> Result<(), CliError> {
        for limit in &mut self.0 {
            let read = measure::read_bandwidth(limit.threads)?;
            let int8 = measure::int8_peak(limit.threads)?;
            limit.read_gb_s = limit.read_gb_s.max(read);
            limit.int8_gops = limit.int8_gops.max(int8);
        }
        Ok(())
    }

    /// All of them.
    pub fn all(&self) -> &[Limit] {
        &self.0
    }

    /// That of `threads`, one of those that were measured.
    pub fn of(&self, threads: usize) -> Option<Limit> {
        self.0.iter().copied().find(|l| l.threads == threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_and_all_are_always_among_them() {
        let limits = Limits::new(&[3, 1, 3]);
        let threads: Vec<usize> = limits.all().iter().map(|l| l.threads).collect();
        assert!(threads.contains(&1) && threads.contains(&3));
        assert!(threads.contains(&cpu_features().cores));
        assert!(threads.is_sorted_by(|a, b| a < b));
        assert!(limits.of(4096).is_none());
    }
}
