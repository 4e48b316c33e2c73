//! The metrics for people and programs that read no Prometheus: `GET /v1/stats`.
//!
//! Nothing is counted for it: every number is a value of the registry that `/metrics` prints, or is computed from such
//! values alone. What was not measured is `null`, which counters that never counted are not: they are 0.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::latencies::{Latencies, LatencyStats};
use super::registry::Registry;
use super::table::Id;
use super::{ENGINE, Metrics, RequestRecord, unix_time};

/// Everything at a glance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerStats {
    /// When this was written, in seconds since 1970.
    pub timestamp: f64,
    /// Time since the server started.
    pub uptime_seconds: f64,
    /// The process.
    pub process: ProcessStats,
    /// Requests to all models.
    pub requests: RequestStats,
    /// Each loaded model.
    pub models: Vec<ModelStats>,
    /// The requests that took longest, of the last ones; `null` for those who may not see the requests of others.
    pub slowest_requests: Option<Vec<RequestRecord>>,
}

/// The process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessStats {
    /// Memory in RAM.
    pub resident_memory_bytes: Option<f64>,
    /// Processor time used.
    pub cpu_seconds: Option<f64>,
    /// Share of the processor time available that was used lately.
    pub cpu_utilization_ratio: Option<f64>,
    /// Open files and connections.
    pub open_files: Option<f64>,
    /// When it started, in seconds since 1970.
    pub start_time: Option<f64>,
}

/// Requests to all models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestStats {
    /// Requests that ran and ended, by how: `stop`, `length`, `abort`.
    pub finished: BTreeMap<String, f64>,
    /// Requests answered with an error, by its code.
    pub failures: BTreeMap<String, f64>,
    /// Requests refused before any work was done, by reason.
    pub rejected: BTreeMap<String, f64>,
    /// Requests whose client left, or that were cancelled by name, by what was under way.
    pub cancelled: BTreeMap<String, f64>,
    /// Swaps of models, by result.
    pub swaps: BTreeMap<String, f64>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelStats {
    /// Its id.
    pub id: String,
    /// Hash of its weights; empty when it is not known.
    pub hash: String,
    /// How they are stored.
    pub quantization: String,
    /// What multiplies them.
    pub kernel: String,
    /// Memory of its weights.
    pub weight_bytes: Option<f64>,
    /// Share of tokens that the validation found equal to the reference.
    pub quantization_accuracy_ratio: Option<f64>,
    /// Requests that ran and ended, by how.
    pub finished: BTreeMap<String, f64>,
    /// Tokens.
    pub tokens: TokenStats,
    /// Who waits and runs.
    pub queue: QueueStats,
    /// The KV cache.
    pub kv_cache: KvStats,
    /// Prompts found again.
    pub prefix_cache: PrefixStats,
    /// Forward passes.
    pub engine: StepStats,
    /// Distributions of times since the server started, in seconds.
    pub latency: LatencyStats,
    /// The last five minutes; `null` of a model that was loaded this moment.
    pub recent: Option<RecentStats>,
}

/// Tokens of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenStats {
    /// Prompt tokens run.
    pub prompt: f64,
    /// Tokens drawn.
    pub generated: f64,
    /// Tokens run again after a pre-emption.
    pub recomputed: f64,
    /// Tokens drawn per second of the last interval.
    pub per_second: Option<f64>,
}

/// Who waits and runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueStats {
    /// Requests that run.
    pub running: Option<f64>,
    /// Requests that wait for a place.
    pub waiting: Option<f64>,
    /// Tokens that those have to run before they draw.
    pub waiting_prompt_tokens: Option<f64>,
    /// How long the oldest request without a first token has waited.
    pub oldest_seconds: Option<f64>,
    /// Times a running request gave up its place.
    pub preemptions: f64,
    /// Requests that ran past their deadline.
    pub deadlines_exceeded: f64,
}

/// Blocks of the KV cache.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KvStats {
    /// Held by requests.
    pub used_blocks: Option<f64>,
    /// Held by nobody, and found again or handed out.
    pub cached_blocks: Option<f64>,
    /// Neither.
    pub free_blocks: Option<f64>,
    /// Share of the blocks that requests hold.
    pub usage_ratio: Option<f64>,
    /// Memory set aside for it.
    pub bytes: Option<f64>,
}

/// Prompt tokens found again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrefixStats {
    /// Tokens looked up.
    pub query_tokens: f64,
    /// Tokens found.
    pub hit_tokens: f64,
    /// Share of the tokens looked up that were found.
    pub hit_ratio: Option<f64>,
}

/// Forward passes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepStats {
    /// How many.
    pub steps: f64,
    /// Rows that they carried.
    pub rows: f64,
    /// When the last one ended, in seconds since 1970.
    pub last_step_at: Option<f64>,
    /// Bytes of ternary weights that passes of one row read, per second of theirs.
    pub bandwidth_bytes_per_second: Option<f64>,
}

/// What a model did in the last five minutes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecentStats {
    /// How far back was looked: five minutes and up to the time between two looks, less after the model was loaded.
    pub window_seconds: f64,
    /// Distributions of times, in seconds; `null` of what nobody did.
    pub latency: LatencyStats,
}

impl Metrics {
    /// All values, for people. The slowest requests are left for the caller to add.
    pub fn stats(&self) -> ServerStats {
        self.refresh();
        let registry = self.registry();
        let now = unix_time();
        let start = registry.get(Id::StartTime, &[]);
        ServerStats {
            timestamp: now,
            uptime_seconds: start.map_or(0.0, |start| (now - start).max(0.0)),
            process: ProcessStats {
                resident_memory_bytes: registry.get(Id::ResidentMemory, &[]),
                cpu_seconds: registry.get(Id::CpuSeconds, &[]),
                cpu_utilization_ratio: registry.get(Id::CpuUtilization, &[]),
                open_files: registry.get(Id::OpenFiles, &[]),
                start_time: start,
            },
            requests: RequestStats {
                finished: by_last_label(registry, Id::VllmSuccess, |_| true),
                failures: by_last_label(registry, Id::RequestFailures, |_| true),
                rejected: by_last_label(registry, Id::RequestsRejected, |_| true),
                cancelled: by_last_label(registry, Id::RequestsCancelled, |_| true),
                swaps: by_last_label(registry, Id::Swaps, |_| true),
            },
            models: registry
                .values(Id::ModelInfo)
                .into_iter()
                .filter_map(|(labels, _)| model(self, labels, Instant::now()))
                .collect(),
            slowest_requests: None,
        }
    }
}

/// A model by the labels of its `bitnet_model_info`.
fn model(metrics: &Metrics, labels: Vec<String>, now: Instant) -> Option<ModelStats> {
    let registry = metrics.registry();
    let [id, hash, quantization, kernel] = labels.try_into().ok()?;
    let own = |metric| registry.get(metric, &[&id]);
    let vllm = |metric| registry.get(metric, &[&id, ENGINE]);
    let blocks = |state| registry.get(Id::KvBlocks, &[&id, state]);
    let queries = vllm(Id::VllmPrefixQueries).unwrap_or(0.0);
    let hits = vllm(Id::VllmPrefixHits).unwrap_or(0.0);
    Some(ModelStats {
        weight_bytes: registry.get(Id::Memory, &[&id, "weights"]),
        quantization_accuracy_ratio: own(Id::QuantizationAccuracy),
        finished: by_last_label(registry, Id::VllmSuccess, |labels| labels[0] == id),
        tokens: TokenStats {
            prompt: own(Id::PromptTokens).unwrap_or(0.0),
            generated: own(Id::GeneratedTokens).unwrap_or(0.0),
            recomputed: own(Id::RecomputedTokens).unwrap_or(0.0),
            per_second: own(Id::TokensPerSecond),
        },
        queue: QueueStats {
            running: vllm(Id::VllmRunning),
            waiting: vllm(Id::VllmWaiting),
            waiting_prompt_tokens: own(Id::WaitingTokens),
            oldest_seconds: own(Id::QueueOldest),
            preemptions: vllm(Id::VllmPreemptions).unwrap_or(0.0),
            deadlines_exceeded: own(Id::DeadlinesExceeded).unwrap_or(0.0),
        },
        kv_cache: KvStats {
            used_blocks: blocks("used"),
            cached_blocks: blocks("cached"),
            free_blocks: blocks("free"),
            usage_ratio: vllm(Id::VllmKvUsage),
            bytes: registry.get(Id::Memory, &[&id, "kv_cache"]),
        },
        prefix_cache: PrefixStats {
            query_tokens: queries,
            hit_tokens: hits,
            hit_ratio: (queries > 0.0).then_some(hits / queries),
        },
        engine: StepStats {
            steps: own(Id::EngineSteps).unwrap_or(0.0),
            rows: own(Id::EngineRows).unwrap_or(0.0),
            last_step_at: own(Id::LastStep),
            bandwidth_bytes_per_second: own(Id::Bandwidth),
        },
        latency: Latencies::of(registry, &id).stats(),
        recent: metrics.recent_stats(&id, now),
        id,
        hash,
        quantization,
        kernel,
    })
}

/// Sums of a counter by its last label.
fn by_last_label(
    registry: &Registry,
    id: Id,
    wanted: impl Fn(&[String]) -> bool,
) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for (mut labels, value) in registry.values(id) {
        if wanted(&labels)
            && let Some(last) = labels.pop()
        {
            *sums.entry(last).or_insert(0.0) += value;
        }
    }
    sums
}
