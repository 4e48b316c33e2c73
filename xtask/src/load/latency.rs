//! Times of many events in little memory: counts in buckets whose width is about 1 % of the time.

use std::time::Duration;

/// Buckets a power of two.
const STEPS: u64 = 64;

/// How often which time was seen.
#[derive(Debug, Clone, Default)]
pub struct LatencyHistogram {
    counts: Vec<u64>,
    n: u64,
    longest: Duration,
}

impl LatencyHistogram {
    /// Counts a time.
    pub fn add(&mut self, time: Duration) {
        let bucket = bucket_of(time.as_micros() as u64);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.n += 1;
        self.longest = self.longest.max(time);
    }

    /// How many were counted.
    pub fn len(&self) -> u64 {
        self.n
    }

    /// The time that the share `p` of them did not pass; `None` of none.
    pub fn percentile(&self, p: f64) -> Option<Duration> {
        let wanted = ((self.n as f64 * p).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(Duration::from_micros(longest_of(bucket)).min(self.longest))
    }

    /// The longest; `None` of none.
    pub fn longest(&self) -> Option<Duration> {
        (self.n > 0).then_some(self.longest)
    }
}

/// Times below two `STEPS` have a bucket each; above, a power of two has `STEPS`.
fn bucket_of(micros: u64) -> usize {
    let shift = micros
        .checked_ilog2()
        .unwrap_or(0)
        .saturating_sub(STEPS.ilog2());
    (u64::from(shift) * STEPS + (micros >> shift)) as usize
}

/// The longest time of a bucket.
fn longest_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / STEPS).saturating_sub(1);
    ((bucket - shift * STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_narrow() {
        let mut last = 0;
        for micros in (0..100_000).chain((100_000..900_000_000).step_by(7_777_777)) {
            let bucket = bucket_of(micros);
            assert!(bucket >= last, "{micros}");
            last = bucket;
            let longest = longest_of(bucket);
            assert!(
                longest >= micros && longest <= micros + micros / 64,
                "{micros} {longest}"
            );
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let mut histogram = LatencyHistogram::default();
        assert_eq!(
            (histogram.percentile(0.5), histogram.longest()),
            (None, None)
        );
        for millis in 1..=100 {
            histogram.add(Duration::from_millis(millis));
        }
        for (p, millis) in [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0)] {
            let found = histogram.percentile(p).unwrap().as_secs_f64() * 1e3;
            assert!((found - millis).abs() <= millis / 64.0, "{p}: {found}");
        }
        assert_eq!(histogram.longest(), Some(Duration::from_millis(100)));
        assert_eq!(histogram.len(), 100);
    }
}
