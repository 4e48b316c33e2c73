//! Ends the process when a step of an engine hangs, so that whoever watches over it starts another one.
//!
//! A thread cannot be stopped from outside: one that hangs in a step keeps its model for ever, and every request to it
//! waits. Probes tell orchestrators; where nobody probes, `monitoring.watchdog` is the way out. The end is an abort: an
//! orderly one would wait for the thread that hangs.
//!
//! Only time in which the watchdog itself ran counts. A process that was stopped (SIGSTOP, a debugger, a machine that
//! slept) finds its steps old when it goes on, and nothing hangs.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::log::LIFE;

/// How often it looks, as a part of its patience.
const LOOKS: u32 = 20;

/// Longest time between two looks: a look costs nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Time that the last words may take. A log that nobody reads would hold the watchdog as well.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Looks at the steps of `app`'s engines for as long as it lives; calls `on_hang`, once, with the reason when one takes
/// longer than `patience`.
///
/// # Errors
/// When the operating system has no thread to give.
pub fn start(
    app: &Arc<App>,
    patience: Duration,
    on_hang: impl FnOnce(&str) + Send + 'static,
) -> io::Result<()> {
    let app = Arc::downgrade(app);
    let pause = (patience / LOOKS).min(LONGEST_PAUSE);
    let watch = move || {
        let mut seen = SeenSteps::default();
        let mut last_look = Instant::now();
        loop {
            thread::sleep(pause);
            let Some(app) = app.upgrade() else {
                return;
            };
            let models = app.models.answering();
            let steps = models.iter().filter_map(|model| {
                let health = model.handle.health();
                let step = (Arc::as_ptr(model) as usize, health.turns);
                Some((step, health.in_step?))
            });
            let ran = last_look.elapsed().min(2 * pause);
            last_look = Instant::now();
            let longest = seen.look(steps.collect(), ran);
            if let Some(((model, _), time)) = longest.filter(|&(_, time)| time > patience) {
                let name = models.iter().find(|m| Arc::as_ptr(m) as usize == model);
                let name = name.map_or("a model", |model| &model.id);
                on_hang(&format!(
                    "a step of {name} has taken {:.1} seconds",
                    time.as_secs_f64()
                ));
                return;
            }
        }
    };
    thread::Builder::new()
        .name("watchdog".into())
        .spawn(watch)?;
    Ok(())
}

/// Says why, and aborts the process: SIGABRT on Unix, which shells tell as 134.
pub fn abort(reason: &str) -> ! {
    let (said, heard) = channel();
    let words = format!("{reason}: aborted by the watchdog (monitoring.watchdog)");
    let saying = thread::Builder::new().spawn(move || {
        tracing::error!(target: LIFE, "{words}");
        let _ = said.send(()); // nobody waits any more
    });
    if saying.is_ok() {
        // Said, or not to be said.
        let _ = heard.recv_timeout(LAST_WORDS);
    }
    std::process::abort();
}

/// A step: of which model, and which in order.
type StepId = (usize, u64);

/// Steps under way, and for how long they were seen to be.
#[derive(Debug, Default)]
struct SeenSteps(HashMap<StepId, Duration>);

impl SeenSteps {
    /// Looks at the steps under way, with their ages by the clock; the watchdog has run for `ran` since it looked last.
    /// The one that was seen longest.
    fn look(
        &mut self,
        steps: Vec<(StepId, Duration)>,
        ran: Duration,
    ) -> Option<(StepId, Duration)> {
        let before = std::mem::take(&mut self.0);
        let seen = |(step, age): (StepId, Duration)| {
            let before = before.get(&step).copied().unwrap_or_default();
            (step, age.min(before + ran))
        };
        self.0 = steps.into_iter().map(seen).collect();
        let longest = self.0.iter().max_by_key(|(_, time)| **time);
        longest.map(|(step, time)| (*step, *time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_step_grows_older_by_the_time_that_it_was_watched() {
        let mut seen = SeenSteps::default();
        let mut look = |age: u32, ran: u32| seen.look(vec![((1, 7), age * SECOND)], ran * SECOND);
        assert_eq!(look(1, 2), Some(((1, 7), SECOND)), "younger than the look");
        assert_eq!(look(2, 1), Some(((1, 7), 2 * SECOND)));
        // Stopped for an hour in between: the clock went on, the watchdog did not.
        assert_eq!(look(3600, 2), Some(((1, 7), 4 * SECOND)));
    }

    #[test]
    fn another_step_is_another_matter() {
        let mut seen = SeenSteps::default();
        for turn in 0..100 {
            let longest = seen.look(vec![((1, turn), SECOND)], SECOND);
            assert_eq!(longest, Some(((1, turn), SECOND)));
        }
        assert_eq!(seen.look(Vec::new(), SECOND), None);
        let two = vec![((1, 100), SECOND), ((2, 100), SECOND / 2)];
        assert_eq!(seen.look(two, SECOND), Some(((1, 100), SECOND)));
    }
}
