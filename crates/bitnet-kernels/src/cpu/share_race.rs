//! Below which share of its rows or columns a weight is read faster one by one than as one stream: found while decoding.
//!
//! Memory gives pieces that lie apart more slowly than a stream, by a factor that differs between processors and with the
//! number of threads and the layout of the stream. Both ways give the same bytes, so the first products of a backend for
//! which it matters take turns and are timed, and what they say holds from then on.

use std::time::{Duration, Instant};

/// The share before anything was measured, with one thread and with more. Zen 4: a thread streams 26 GB/s and got 12 GB/s
/// of chosen pieces of 640 bytes that were asked for line by line; two threads together stream 31 GB/s of 1.6-bit weights
/// and got 17. With whole pieces more would pay, which the race finds out.
const ALONE: f32 = 0.42;
const TOGETHER: f32 = 0.45;

/// Shares for which some processor may choose otherwise: others are not raced for, nor believed.
const OPEN: std::ops::Range<f32> = 0.15..0.7;

/// Bytes of a weight below which time says more about barriers than about memory.
const LEAST_BYTES: usize = 1 << 20;

/// Products of each side, of rows and of columns: two tokens of a model with 32 layers.
const TURNS: usize = 32;

/// The turn that counts, from the fastest: half of them may be of a first token, which finds no page mapped, or beside
/// other work.
const COUNTS: usize = TURNS / 4;

/// How a weight is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// As one stream.
    Whole,
    /// Row by row, or column by column.
    Chosen,
}

/// One product: how its weight is read, and when it began if it is timed.
#[derive(Debug)]
pub struct Heat {
    /// How the weight is read.
    pub side: Side,
    start: Option<Instant>,
}

/// The turns so far, and the share that is believed.
#[derive(Debug)]
pub struct ShareRace {
    share: f32,
    seconds: [[f32; TURNS]; 2], // of a row or column that is read
    turns: [usize; 2],
}

impl ShareRace {
    /// Nothing measured with so many threads.
    pub fn new(threads: usize) -> ShareRace {
        ShareRace {
            share: if threads == 1 { ALONE } else { TOGETHER },
            seconds: [[0.0; TURNS]; 2],
            turns: [0; 2],
        }
    }

    /// How to read a weight of so many bytes (0: it shall not be timed) of which `n` of `all` rows or columns count.
    pub fn begin(&self, n: usize, all: usize, bytes: usize) -> Heat {
        let turn = self.turn(n, all, bytes);
        let pays = match self.pays(n, all) {
            true => Side::Chosen,
            false => Side::Whole,
        };
        Heat {
            side: turn.unwrap_or(pays),
            start: turn.map(|_| Instant::now()),
        }
    }

    /// The product has ended and read `n` rows or columns.
    pub fn end(&mut self, heat: &Heat, n: usize) {
        if let Some(start) = heat.start {
            self.finish(heat.side, n, start.elapsed());
        }
    }

    /// Whether reading `n` chosen of `all` rows or columns pays.
    fn pays(&self, n: usize, all: usize) -> bool {
        (n as f32) < self.share * all as f32
    }

    /// Whose turn it is, if the product of `n` of `all` rows or columns of a weight of so many bytes shall be timed.
    fn turn(&self, n: usize, all: usize, bytes: usize) -> Option<Side> {
        let [whole, chosen] = self.turns;
        let matters = bytes >= LEAST_BYTES && OPEN.contains(&(n as f32 / all as f32));
        match (matters, whole <= chosen) {
            (true, true) if whole < TURNS => Some(Side::Whole),
            (true, false) => Some(Side::Chosen),
            _ => None,
        }
    }

    /// Takes down what a turn that read `n` rows or columns took; the last one decides.
    fn finish(&mut self, side: Side, n: usize, time: Duration) {
        let turn = &mut self.turns[side as usize];
        if n == 0 || *turn == TURNS {
            return;
        }
        self.seconds[side as usize][*turn] = time.as_secs_f32() / n as f32;
        *turn += 1;
        if self.turns != [TURNS; 2] {
            return;
        }
        let [whole, chosen] = self.seconds.each_mut().map(|seconds| {
            seconds.sort_unstable_by(f32::total_cmp);
            seconds[COUNTS]
        });
        if chosen > 0.0 {
            self.share = (whole / chosen).clamp(OPEN.start, OPEN.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 4 << 20;

    /// Runs all turns for 300 of 1000 columns, of which one takes so many nanoseconds.
    fn race(whole: u64, chosen: u64) -> ShareRace {
        let mut race = ShareRace::new(1);
        let mut sides = Vec::new();
        while let Some(side) = race.turn(300, 1000, BYTES) {
            let (n, nanos) = match side {
                Side::Whole => (1000, whole),
                Side::Chosen => (300, chosen),
            };
            // Every eighth turn is disturbed.
            let slow = if sides.len() % 8 == 0 { 50 } else { 1 };
            race.finish(side, n, Duration::from_nanos(n as u64 * nanos * slow));
            sides.push(side);
        }
        assert_eq!(sides.len(), 2 * TURNS);
        assert!(sides.windows(2).all(|pair| pair[0] != pair[1]), "in turns");
        race
    }

    #[test]
    fn what_was_faster_is_chosen_from_then_on() {
        let slow_pieces = race(100, 400);
        assert!(slow_pieces.pays(240, 1000) && !slow_pieces.pays(260, 1000));
        let quick_pieces = race(100, 160);
        assert!(quick_pieces.pays(600, 1000) && !quick_pieces.pays(650, 1000));
        // However slow streams seem, all columns are no choice.
        assert!(!race(1000, 100).pays(1000, 1000));
    }

    #[test]
    fn what_cannot_matter_is_not_raced_for() {
        let race = ShareRace::new(2);
        assert_eq!(race.turn(300, 1000, LEAST_BYTES - 1), None);
        assert_eq!(race.turn(100, 1000, BYTES), None);
        assert_eq!(race.turn(800, 1000, BYTES), None);
        assert!(race.pays(440, 1000) && !race.pays(460, 1000));
    }

    #[test]
    fn a_clock_that_stands_still_changes_nothing() {
        let mut race = ShareRace::new(1);
        for _ in 0..2 * TURNS {
            race.finish(Side::Whole, 10, Duration::ZERO);
            race.finish(Side::Chosen, 10, Duration::ZERO);
        }
        assert!(race.pays(410, 1000) && !race.pays(430, 1000));
    }
}
