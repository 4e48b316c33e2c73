//! What a model did in the last five minutes, for `performance_metrics` of `/v1/models`.
//!
//! Nothing is counted for it: now and then the counters that `/metrics` prints are written down, and the figures are
//! differences between now and then. A model that was just loaded, also by a swap, begins anew.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Metrics;
use super::registry::{Observed, Registry};
use super::table::Id;

/// How far back is looked.
pub const WINDOW: Duration = Duration::from_secs(300);

/// Least time between two notes: the window is right to this, and a model's notes take some ten kilobytes.
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
    requests: f64,
    tokens: f64,
    first_token: Option<Observed>,
}

/// The notes of each model, oldest first.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<BTreeMap<String, VecDeque<Note>>>);

impl Counters {
    fn of(registry: &Registry, model: &str) -> Counters {
        let all = registry.observed(Id::InferenceDuration, &[model]);
        Counters {
            requests: all.map_or(0.0, |all| all.count() as f64),
            tokens: registry.get(Id::GeneratedTokens, &[model]).unwrap_or(0.0),
            first_token: registry.observed(Id::FirstTokenTime, &[model]),
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
        let counters = Counters::of(&self.registry, model);
        let all = self.notes.lock();
        let notes = all.get(model)?;
        let mut old = notes.iter().rev();
        let then = old
            .find(|note| now.saturating_duration_since(note.at) >= WINDOW)
            .or(notes.front())?;
        let window = now.saturating_duration_since(then.at).as_secs_f64();
        let requests = counters.requests - then.counters.requests;
        let tokens = counters.tokens - then.counters.tokens;
        if window == 0.0 || (requests == 0.0 && tokens == 0.0) {
            return None;
        }
        let first_token = match (counters.first_token, &then.counters.first_token) {
            (Some(now), Some(then)) => Some(now.since(then)),
            (now, _) => now,
        };
        let quantile = |q| first_token.as_ref().and_then(|times| times.quantile(q));
        Some(RollingFigures {
            window_seconds: window,
            requests,
            tokens_per_second: tokens / window,
            first_token_p50_seconds: quantile(0.5),
            first_token_p95_seconds: quantile(0.95),
        })
    }
}
