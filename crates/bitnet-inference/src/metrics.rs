//! Where the time of one request went, and the clock that is asked.
//!
//! A step owns no clock, [`crate::step::Step::step`] is handed one; the engine has one. Browsers' WebAssembly has no
//! `std::time::Instant` (reading it panics), so there [`SystemClock`] stands still and a host that wants timings passes
//! a clock of its own.

use std::time::Duration;

/// A monotonic clock.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment of the past.
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock, counted from its making. On wasm32 it stands still at zero.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    #[cfg(not(target_arch = "wasm32"))]
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock that reads about zero now.
    pub fn start() -> SystemClock {
        SystemClock {
            #[cfg(not(target_arch = "wasm32"))]
            start: std::time::Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        #[cfg(not(target_arch = "wasm32"))]
        return self.start.elapsed();
        #[cfg(target_arch = "wasm32")]
        return Duration::ZERO;
    }
}

/// The timing of one request, broken down by phase.
///
/// A forward pass may carry several requests; each of them is charged its whole wall time, because that is how long
/// it waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Timings {
    /// Loading the model, once per engine.
    pub load: Duration,
    /// Prompt text to ids.
    pub tokenize: Duration,
    /// Forward passes over prompt tokens; the last of them yields the first token.
    pub prefill: Duration,
    /// Forward passes over generated tokens: one token each, and more where drafts proved right.
    pub decode: Duration,
    /// Filters, draw, text decoding and stop strings.
    pub sample: Duration,
    /// Waiting for a place, at first and whenever it had given up its own for others.
    pub queue: Duration,
    /// Forward passes over what had been computed before it gave up its place.
    pub recompute: Duration,
    /// Prompt tokens run so far, each counted once.
    pub n_prompt: usize,
    /// Prompt tokens that did not have to run: their keys and values were in the prefix cache.
    pub n_cached: usize,
    /// Prompt tokens that were written to the prefix cache for others to find: whole blocks of those that ran.
    pub n_cache_written: usize,
    /// Tokens drawn so far, the one that ended the text included.
    pub n_generated: usize,
    /// Forward passes that `decode` is made of.
    pub n_decode_steps: usize,
    /// Tokens guessed ahead, see [`speculative`](crate::speculative).
    pub n_drafted: usize,
    /// Those of them that were then drawn.
    pub n_accepted: usize,
    /// Times it gave up its place for others.
    pub n_preempted: usize,
}

impl Timings {
    /// Prompt tokens per second; `None` before any time has passed.
    pub fn prefill_tok_s(&self) -> Option<f64> {
        rate(self.n_prompt, self.prefill)
    }

    /// Tokens drawn after the first: one of each decode pass, and those that were guessed rightly.
    pub fn n_decoded(&self) -> usize {
        self.n_decode_steps + self.n_accepted
    }

    /// Generated tokens per second of decode passes (sampling not included); `None` before any time has passed.
    pub fn decode_tok_s(&self) -> Option<f64> {
        rate(self.n_decoded(), self.decode)
    }
}

fn rate(count: usize, time: Duration) -> Option<f64> {
    (count > 0 && !time.is_zero()).then(|| count as f64 / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_both_tokens_and_time() {
        let mut timings = Timings::default();
        assert_eq!(timings.prefill_tok_s(), None);
        timings.n_prompt = 30;
        assert_eq!(timings.prefill_tok_s(), None);
        timings.prefill = Duration::from_millis(500);
        assert_eq!(timings.prefill_tok_s(), Some(60.0));
        timings.n_decode_steps = 10;
        timings.decode = Duration::from_secs(4);
        assert_eq!(timings.decode_tok_s(), Some(2.5));
        (timings.n_drafted, timings.n_accepted) = (20, 10);
        assert_eq!(timings.decode_tok_s(), Some(5.0));
    }

    #[test]
    fn the_system_clock_never_goes_back() {
        let clock = SystemClock::start();
        let first = clock.now();
        assert!(clock.now() >= first);
    }
}
