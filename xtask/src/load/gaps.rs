//! How evenly the tokens of a stream come: its largest gap over its median one, as it was and without what the machine
//! took.
//!
//! A gap is the machine's as far as a [`Stall`] covers it: while a thread that only sleeps is not run, nobody who waits
//! for its processor is.

use std::time::{Duration, Instant};

/// Gaps of a stream that are kept with their times. Of the others it is enough that none is larger.
const KEPT: usize = 4;

/// A time in which a processor of the machine ran nobody who waited.
#[derive(Debug, Clone, Copy)]
pub struct Stall {
    /// When a thread should have been woken.
    pub from: Instant,
    /// When it was.
    pub to: Instant,
}

impl Stall {
    /// Times in which any processor stood still, in their order and none over another.
    pub fn union(mut stalls: Vec<Stall>) -> Vec<Stall> {
        stalls.sort_unstable_by_key(|stall| stall.from);
        stalls.dedup_by(|next, kept| {
            let meets = next.from <= kept.to;
            if meets {
                kept.to = kept.to.max(next.to);
            }
            meets
        });
        stalls
    }
}

/// The gaps of one stream.
#[derive(Debug, Clone)]
pub struct StreamGaps {
    median: Duration,
    largest: Vec<(Instant, Duration)>, // [<= KEPT]: when each ended, the largest first
    next: Duration,                    // the largest of the others
}

impl StreamGaps {
    /// Of a stream whose gaps these are, with the times at which they ended, in any order; `None` of none.
    pub fn new(gaps: &mut [(Instant, Duration)]) -> Option<StreamGaps> {
        gaps.sort_unstable_by_key(|&(_, gap)| std::cmp::Reverse(gap));
        let median = gaps.get(gaps.len().saturating_sub(1) / 2)?.1;
        let (largest, others) = gaps.split_at(gaps.len().min(KEPT));
        Some(StreamGaps {
            median: median.max(Duration::from_micros(1)),
            largest: largest.to_vec(),
            next: others.first().map_or(Duration::ZERO, |&(_, gap)| gap),
        })
    }

    /// The largest gap over the median one.
    pub fn ratio(&self) -> f64 {
        self.over_median(self.largest[0].1)
    }

    /// The same where `stalls`, in the order of their times and none over another, are no part of a gap.
    pub fn ratio_without(&self, stalls: &[Stall]) -> f64 {
        let own = |&(end, gap): &(Instant, Duration)| {
            let begin = end.checked_sub(gap).unwrap_or(end);
            let first = stalls.partition_point(|stall| stall.to <= begin);
            let within = stalls[first..].iter().take_while(|stall| stall.from < end);
            let taken = within
                .map(|stall| (stall.to.min(end)).saturating_duration_since(stall.from.max(begin)));
            gap.saturating_sub(taken.sum())
        };
        let largest = self.largest.iter().map(own).max();
        self.over_median(largest.unwrap_or_default().max(self.next))
    }

    fn over_median(&self, gap: Duration) -> f64 {
        gap.as_secs_f64() / self.median.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// The gaps of a stream that began at `start`.
    fn stream(start: Instant, gaps: &[u64]) -> StreamGaps {
        let mut at = start;
        let mut gaps: Vec<(Instant, Duration)> = (gaps.iter())
            .map(|&gap| {
                at += ms(gap);
                (at, ms(gap))
            })
            .collect();
        StreamGaps::new(&mut gaps).unwrap()
    }

    #[test]
    fn a_stream_without_gaps_has_no_ratio() {
        assert!(StreamGaps::new(&mut []).is_none());
    }

    #[test]
    fn what_the_machine_took_is_no_part_of_a_gap() {
        let start = Instant::now();
        let stall = |from, to| Stall {
            from: start + ms(from),
            to: start + ms(to),
        };
        // Gaps end at 10, 20, 80, 90, 130, 140, 150.
        let stream = stream(start, &[10, 10, 60, 10, 40, 10, 10]);
        assert_eq!(stream.ratio(), 6.0);
        assert_eq!(stream.ratio_without(&[]), 6.0);
        // Before, after, and up to the edges.
        assert_eq!(stream.ratio_without(&[stall(0, 20), stall(80, 88)]), 6.0);
        // In it, and over its beginning.
        assert_eq!(stream.ratio_without(&[stall(30, 45)]), 4.5);
        assert_eq!(stream.ratio_without(&[stall(10, 35)]), 4.5);
        // The second largest is then the largest.
        assert_eq!(stream.ratio_without(&[stall(22, 52), stall(55, 60)]), 4.0);
        // Two stalls in two gaps.
        assert_eq!(stream.ratio_without(&[stall(22, 62), stall(90, 110)]), 2.0);
    }

    #[test]
    fn stalls_of_several_processors_count_once() {
        let start = Instant::now();
        let stall = |(from, to)| Stall {
            from: start + ms(from),
            to: start + ms(to),
        };
        let union = Stall::union(
            [(30, 60), (0, 10), (40, 50), (10, 12), (55, 70)]
                .map(stall)
                .into(),
        );
        let union: Vec<_> = (union.iter())
            .map(|stall| (stall.from - start, stall.to - start))
            .collect();
        assert_eq!(union, [(ms(0), ms(12)), (ms(30), ms(70))]);
    }

    #[test]
    fn a_gap_that_was_not_kept_counts_whole() {
        let start = Instant::now();
        let stream = stream(start, &[50, 50, 50, 50, 50, 10, 10, 10, 10, 10, 10]);
        let all = Stall {
            from: start,
            to: start + ms(500),
        };
        assert_eq!((stream.ratio(), stream.ratio_without(&[all])), (5.0, 5.0));
    }
}
