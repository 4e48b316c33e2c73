//! What a model did in the last five minutes, for `performance_metrics` of `/v1/models` and `recent` of `/v1/stats`.
//!
//! Nothing is counted for it: now and then the counters that `/metrics` prints are written down, and the figures are
//! differences between now and then. A model that was just loaded, also by a swap, begins anew.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Metrics;
use super::latencies::Latencies;
use super::registry::Registry;
use super::stats::RecentStats;
use super::table::Id;

/// How far back is looked.
pub const WINDOW: Duration = Duration::from_secs(300);

/// Least time between two notes: the window is right to this, and a model's notes take some hundred kilobytes.
const SPACING: Duration = Duration::from_secs(5);

/// What a model did lately.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RollingFigures {
    /// How far back was looked: five minutes and up to the time between two looks, less after the model was loaded.
    pub window_seconds: f64,
    /// Requests that ended.
    pub requests: f64,
    /// Tokens drawn, per second of the window; idle time counts.
    pub tokens_per_second: f64,
    /// Half of the requests had their first token in this time; `null` when none had one. As exact as the buckets of
    /// `bitnet_time_to_first_token_seconds`.
    pub first_token_p50_seconds: Option<f64>,
    /// 95 of 100 had.
    pub first_token_p95_seconds: Option<f64>,
}

/// Counters as they stood.
#[derive(Debug)]
struct Note {
    at: Instant,
    counters: Counters,
}

#[derive(Debug)]
struct Counters {
    tokens: f64,
    times: Latencies,
}

/// The notes of each model, oldest first.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<BTreeMap<String, VecDeque<Note>>>);

impl Counters {
    fn of(registry: &Registry, model: &str) -> Counters {
        Counters {
            tokens: registry.get(Id::GeneratedTokens, &[model]).unwrap_or(0.0),
            times: Latencies::of(registry, model),
        }
    }
}

impl Notes {
    #[cfg(test)]
    pub(super) fn len(&self, model: &str) -> usize {
        self.lock().get(model).map_or(0, VecDeque::len)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, VecDeque<Note>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model begins, with whatever others did under its name.
    pub(super) fn begin(&self, registry: &Registry, model: &str, now: Instant) {
        let counters = Counters::of(registry, model);
        let note = Note { at: now, counters };
        self.lock().insert(model.to_owned(), [note].into());
    }

    /// The model is gone.
    pub(super) fn end(&self, model: &str) {
        self.lock().remove(model);
    }

    /// Writes a note if it is time for one, and forgets what no window needs any more.
    pub(super) fn write(&self, registry: &Registry, model: &str, now: Instant) {
        let is_due = |notes: &VecDeque<Note>| {
            let last = notes.back();
            last.is_some_and(|last| now.saturating_duration_since(last.at) >= SPACING)
        };
        if !self.lock().get(model).is_some_and(is_due) {
            return;
        }
        let counters = Counters::of(registry, model);
        let mut all = self.lock();
        if let Some(notes) = all.get_mut(model) {
            notes.push_back(Note { at: now, counters });
            let is_old = |note: &Note| now.saturating_duration_since(note.at) >= WINDOW;
            while notes.get(1).is_some_and(is_old) {
                notes.pop_front();
            }
        }
    }
}

impl Metrics {
    /// What a model did in the last five minutes; `None` when that is nothing.
    pub fn rolling(&self, model: &str, now: Instant) -> Option<RollingFigures> {
        let (window, counters) = self.lately(model, now)?;
        let requests = counters.times.n_requests() as f64;
        if requests == 0.0 && counters.tokens == 0.0 {
            return None;
        }
        Some(RollingFigures {
            window_seconds: window,
            requests,
            tokens_per_second: counters.tokens / window,
            first_token_p50_seconds: counters.times.first_token(0.5),
            first_token_p95_seconds: counters.times.first_token(0.95),
        })
    }

    /// How long things took in the last five minutes; `None` for a model that was loaded this moment.
    pub fn recent_stats(&self, model: &str, now: Instant) -> Option<RecentStats> {
        let (window_seconds, counters) = self.lately(model, now)?;
        Some(RecentStats {
            window_seconds,
            latency: counters.times.stats(),
        })
    }

    /// What was counted in the last five minutes, and how many seconds that was.
    fn lately(&self, model: &str, now: Instant) -> Option<(f64, Counters)> {
        let counters = Counters::of(&self.registry, model);
        let all = self.notes.lock();
        let notes = all.get(model)?;
        let mut old = notes.iter().rev();
        let then = old
            .find(|note| now.saturating_duration_since(note.at) >= WINDOW)
            .or(notes.front())?;
        let window = now.saturating_duration_since(then.at).as_secs_f64();
        let since = Counters {
            tokens: counters.tokens - then.counters.tokens,
            times: counters.times.since(&then.counters.times),
        };
        (window > 0.0).then_some((window, since))
    }
}
