//! Requests one by one: how long the oldest has waited, and which of the last ones were slow.
//!
//! Both lists are bounded, the first by admission, the second by [`KEPT`]; neither holds a word of a prompt or an
//! answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Metrics;

/// Ended requests that are remembered: minutes of a busy server, at some 300 bytes each.
pub const KEPT: usize = 512;

/// A request that has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestRecord {
    /// Its `x-request-id`; empty when it came by no route.
    pub request_id: String,
    /// Its model.
    pub model: String,
    /// `stop`, `length` or `abort`.
    pub ended: &'static str,
    /// When it ended, in seconds since 1970.
    pub ended_at: f64,
    /// From its arrival to its end.
    pub total_seconds: f64,
    /// From its arrival to its first token; `null` when it had none.
    pub first_token_seconds: Option<f64>,
    /// Waiting for a place.
    pub queue_seconds: f64,
    /// Forward passes over its prompt.
    pub prefill_seconds: f64,
    /// Forward passes over what it drew.
    pub decode_seconds: f64,
    /// Tokens of its prompts.
    pub prompt_tokens: usize,
    /// Tokens drawn.
    pub generated_tokens: usize,
}

/// A request that waits for its first token, until this is dropped.
#[derive(Debug)]
pub struct WaitingRequest {
    metrics: Arc<Metrics>,
    number: u64,
}

#[derive(Debug, Default)]
pub(super) struct Recent {
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    waiting: BTreeMap<u64, (String, Instant)>,
    last_number: u64,
    ended: VecDeque<RequestRecord>,
}

impl Recent {
    pub(super) fn ended(&self, record: RequestRecord) {
        let mut lists = self.lists();
        if lists.ended.len() == KEPT {
            lists.ended.pop_front();
        }
        lists.ended.push_back(record);
    }

    /// The `n` that took longest of those remembered, slowest first.
    pub(super) fn slowest(&self, n: usize) -> Vec<RequestRecord> {
        let mut records: Vec<RequestRecord> = self.lists().ended.iter().cloned().collect();
        records.sort_by(|a, b| b.total_seconds.total_cmp(&a.total_seconds));
        records.truncate(n);
        records
    }

    /// How long the oldest request of `model` has waited.
    pub(super) fn oldest(&self, model: &str) -> Option<Duration> {
        let lists = self.lists();
        let waiting = lists.waiting.values();
        let of_model = waiting.filter(|(of, _)| of == model);
        of_model.map(|(_, since)| since.elapsed()).max()
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingRequest {
    /// A request of `model` that arrived at `since`.
    pub fn new(metrics: Arc<Metrics>, model: &str, since: Instant) -> WaitingRequest {
        let mut lists = metrics.recent.lists();
        lists.last_number += 1;
        let number = lists.last_number;
        lists.waiting.insert(number, (model.to_owned(), since));
        drop(lists);
        WaitingRequest { metrics, number }
    }
}

impl Drop for WaitingRequest {
    fn drop(&mut self) {
        self.metrics.recent.lists().waiting.remove(&self.number);
    }
}
