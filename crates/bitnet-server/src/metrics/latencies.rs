//! The times of a model by what they are of: as its histograms count them, and as people read them.
//!
//! One definition for `latency` of `/v1/stats`, which is since the start, and for what the last minutes were like,
//! which is the difference of two such states.

use serde::Serialize;

use super::registry::{Observed, Registry};
use super::table::Id;

/// What a model's histograms of times have counted; `None` of what never happened.
#[derive(Debug, Clone)]
pub(super) struct Latencies {
    total: Option<Observed>,
    first_token: Option<Observed>,
    inter_token: Option<Observed>,
    queue: Option<Observed>,
    prefill_step: Option<Observed>,
    decode_step: Option<Observed>,
}

/// Distributions of times.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LatencyStats {
    /// From a request's arrival to its end.
    pub total: Option<Distribution>,
    /// From a request's arrival to its first token.
    pub first_token: Option<Distribution>,
    /// Between two tokens of a request.
    pub inter_token: Option<Distribution>,
    /// Waiting for a place.
    pub queue: Option<Distribution>,
    /// A forward pass with prompt tokens.
    pub prefill_step: Option<Distribution>,
    /// A forward pass without.
    pub decode_step: Option<Distribution>,
}

/// What a histogram says: percentiles are as exact as its buckets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distribution {
    /// How many were measured.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// Their mean.
    pub mean: f64,
    /// Half of them took no longer.
    pub p50: f64,
    /// 90 of 100.
    pub p90: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
}

impl Latencies {
    /// Those of `model` as they stand.
    pub fn of(registry: &Registry, model: &str) -> Latencies {
        let times = |metric| registry.observed(metric, &[model]);
        let steps = |phase| registry.observed(Id::StepTime, &[model, phase]);
        Latencies {
            total: times(Id::InferenceDuration),
            first_token: times(Id::FirstTokenTime),
            inter_token: times(Id::TokenGap),
            queue: times(Id::QueueTime),
            prefill_step: steps("prefill"),
            decode_step: steps("decode"),
        }
    }

    /// What was counted since they stood as `earlier`.
    #[must_use]
    pub fn since(self, earlier: &Latencies) -> Latencies {
        let since = |now: Option<Observed>, then: &Option<Observed>| match (now, then) {
            (Some(now), Some(then)) => Some(now.since(then)),
            (now, _) => now,
        };
        Latencies {
            total: since(self.total, &earlier.total),
            first_token: since(self.first_token, &earlier.first_token),
            inter_token: since(self.inter_token, &earlier.inter_token),
            queue: since(self.queue, &earlier.queue),
            prefill_step: since(self.prefill_step, &earlier.prefill_step),
            decode_step: since(self.decode_step, &earlier.decode_step),
        }
    }

    /// Requests that ended.
    pub fn n_requests(&self) -> u64 {
        self.total.as_ref().map_or(0, Observed::count)
    }

    /// The time that the share `q` of the first tokens took at most.
    pub fn first_token(&self, q: f64) -> Option<f64> {
        self.first_token.as_ref()?.quantile(q)
    }

    /// For people.
    pub fn stats(&self) -> LatencyStats {
        LatencyStats {
            total: distribution(&self.total),
            first_token: distribution(&self.first_token),
            inter_token: distribution(&self.inter_token),
            queue: distribution(&self.queue),
            prefill_step: distribution(&self.prefill_step),
            decode_step: distribution(&self.decode_step),
        }
    }
}

fn distribution(observed: &Option<Observed>) -> Option<Distribution> {
    let observed = observed.as_ref()?;
    Some(Distribution {
        count: observed.count(),
        sum: observed.sum,
        mean: observed.mean()?,
        p50: observed.quantile(0.5)?,
        p90: observed.quantile(0.9)?,
        p95: observed.quantile(0.95)?,
        p99: observed.quantile(0.99)?,
    })
}
