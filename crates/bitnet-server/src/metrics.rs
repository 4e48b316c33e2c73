//! What a monitoring system sees of the server, under the names that others' dashboards use.
//!
//! Routes and the engine's thread report facts by typed functions; names, labels and buckets are in [`table`] alone.
//! What was not measured is absent, never zero.
//!
//! # Layout
//! - [`table`]: every metric
//! - [`registry`]: values and their text
//! - [`requests`] and [`engines`]: what is counted of them
//! - [`stats`]: the same values for people
//! - [`latencies`]: how long things took; [`rolling`]: that and more in the last five minutes; [`recent`]: single
//!   requests
//! - [`process`]: memory, processor time and files of this process

pub mod engines;
pub mod latencies;
pub mod process;
pub mod recent;
pub mod registry;
pub mod requests;
pub mod rolling;
pub mod stats;
pub mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bitnet_inference::EngineLoad;

use self::process::{CpuMeter, ProcessSample};
use self::recent::{Recent, RequestRecord};
use self::registry::Registry;
use self::rolling::Notes;
use self::table::Id;
use crate::build_info::BuildInfo;

pub use self::engines::{EngineKey, StepFigures};
pub use self::registry::Exposition;
pub use self::requests::{Attended, CancelPhase, Finished, RequestEnd};

/// The label `engine` of vLLM's metrics: models have one engine each.
const ENGINE: &str = "0";

/// Counters that are told before anything is counted.
const BEGINNINGS: [(Id, &str); 10] = [
    (Id::RequestFailures, "internal_error"),
    (Id::RequestsRejected, "queue_full"),
    (Id::RequestsRejected, "rate_limit_exceeded"),
    (Id::RequestsRejected, "shutting_down"),
    (Id::Swaps, "rolled_back"), // of a counter that begins at 1, Prometheus sees no increase
    (Id::RequestsCancelled, CancelPhase::Load.name()),
    (Id::RequestsCancelled, CancelPhase::Check.name()),
    (Id::RequestsCancelled, CancelPhase::Queue.name()),
    (Id::RequestsCancelled, CancelPhase::Prefill.name()),
    (Id::RequestsCancelled, CancelPhase::Decode.name()),
];

/// The metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    meter: Mutex<Meter>,
    engines: Mutex<BTreeMap<EngineKey, (String, EngineLoad)>>,
    recent: Recent,
    notes: Notes,
}

/// What rates are computed from.
#[derive(Debug, Default)]
struct Meter {
    cpu: CpuMeter,
    /// Tokens drawn by each model, and when that was looked at.
    generated: BTreeMap<String, (Instant, f64)>,
    /// Bytes that each model's passes of one row read since then, and the time of these passes.
    read: BTreeMap<String, (u64, Duration)>,
}

/// A model that was loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadedInfo<'a> {
    /// Its id.
    pub model: &'a str,
    /// The hash of its file.
    pub hash: &'a str,
    /// How its weights are stored.
    pub quantization: &'a str,
    /// The kernel that multiplies them.
    pub kernel: &'a str,
    /// Time to load it; `None` when that has been told already.
    pub load: Option<Duration>,
    /// Positions in a block of its KV cache.
    pub kv_block_size: usize,
    /// Blocks of its KV cache.
    pub kv_blocks: usize,
    /// Bytes of its weights.
    pub weight_bytes: usize,
    /// Bytes of its KV cache.
    pub kv_cache_bytes: usize,
}

impl Metrics {
    /// Without any request yet. `longest_context` bounds the buckets that count tokens.
    pub fn new(longest_context: usize) -> Metrics {
        let registry = Registry::new(longest_context);
        let build = BuildInfo::of_this();
        let labels = [
            build.version,
            build.commit,
            build.target,
            build.rustc,
            &build.features.join(","),
        ];
        registry.set(Id::BuildInfo, &labels, 1.0);
        registry.set(Id::StartTime, &[], unix_time());
        // What alerts look at begins at 0: a rate is taken between two values, and would miss the first event.
        for (id, label) in BEGINNINGS {
            registry.add(id, &[label], 0.0);
        }
        Metrics {
            registry,
            meter: Mutex::default(),
            engines: Mutex::default(),
            recent: Recent::default(),
            notes: Notes::default(),
        }
    }

    /// The text of all metrics.
    pub fn text(&self, exposition: Exposition) -> String {
        self.refresh();
        self.registry.text(exposition, &[])
    }

    /// The same without what tells who asks.
    pub fn text_without_tenants(&self, exposition: Exposition) -> String {
        self.refresh();
        self.registry.text(exposition, &[Id::TenantTokens])
    }

    /// The values, for `/v1/stats`: it must not count for itself.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The requests that took longest, of the last [`recent::KEPT`].
    pub fn slowest(&self, n: usize) -> Vec<RequestRecord> {
        self.recent.slowest(n)
    }

    /// Measures what changes while nothing happens.
    fn refresh(&self) {
        for model in self.models() {
            let oldest = self.recent.oldest(&model).unwrap_or_default();
            self.registry
                .set(Id::QueueOldest, &[&model], oldest.as_secs_f64());
        }
    }

    /// The models that are loaded, by name.
    fn models(&self) -> Vec<String> {
        let infos = self.registry.values(Id::ModelInfo).into_iter();
        let mut models: Vec<String> = infos
            .filter_map(|(labels, _)| labels.into_iter().next())
            .collect();
        models.dedup();
        models
    }

    /// A model can be asked.
    pub fn model_loaded(&self, info: &LoadedInfo<'_>) {
        let LoadedInfo {
            model,
            hash,
            quantization,
            kernel,
            ..
        } = *info;
        // Another version under the same name has other labels.
        for id in [Id::ModelInfo, Id::VllmCacheConfig] {
            self.registry.forget(id, model);
        }
        self.registry
            .set(Id::ModelInfo, &[model, hash, quantization, kernel], 1.0);
        if let Some(load) = info.load {
            self.registry
                .observe(Id::ModelLoadDuration, &[model], load.as_secs_f64());
        }
        for (kind, bytes) in [
            ("weights", info.weight_bytes),
            ("kv_cache", info.kv_cache_bytes),
        ] {
            self.registry.set(Id::Memory, &[model, kind], bytes as f64);
        }
        let (size, blocks) = (info.kv_block_size.to_string(), info.kv_blocks.to_string());
        self.registry
            .set(Id::VllmCacheConfig, &[model, ENGINE, &size, &blocks], 1.0);
        self.tokens_told(model, 0, 0); // counters begin at 0
        self.notes.begin(&self.registry, model, Instant::now());
    }

    /// A model is gone: what it is and does is no longer told, what it did stays counted.
    pub fn model_unloaded(&self, model: &str) {
        self.registry.forget_gauges_of(model);
        self.notes.end(model);
    }

    /// A model was compared with its reference: the share of equal tokens.
    pub fn validated(&self, model: &str, accuracy: f64) {
        self.registry
            .set(Id::QuantizationAccuracy, &[model], accuracy);
    }

    /// The model that answers now was not compared with its reference.
    pub fn not_validated(&self, model: &str) {
        self.registry.forget(Id::QuantizationAccuracy, model);
    }

    /// A swap or rollback has ended: `swapped`, `rolled_back`, or the code of its error.
    pub fn swapped(&self, result: &str) {
        self.registry.add(Id::Swaps, &[result], 1.0);
    }

    /// A swap took this much memory beyond what there was before.
    pub fn swap_memory(&self, bytes: u64) {
        self.registry.set(Id::SwapMemory, &[], bytes as f64);
    }

    /// A model fell asleep, or sleeps no more.
    pub fn sleeping(&self, model: &str, asleep: bool) {
        match asleep {
            true => self.registry.set(Id::Sleeping, &[model], 1.0),
            false => self.registry.forget(Id::Sleeping, model),
        }
    }

    /// A model was taken out of memory: by a `request`, to make `room`, or because it was `idle`.
    pub fn unloaded(&self, reason: &str) {
        self.registry.add(Id::Unloads, &[reason], 1.0);
    }

    /// The graphics processor's busy share was measured.
    pub fn gpu_utilization(&self, share: f64) {
        self.registry.set(Id::GpuUtilization, &[], share);
    }

    /// Measures the process and the models' rates. Call it every `monitoring.metrics_interval`.
    pub fn measure(&self, models: &[&str], now: Instant) {
        let sample = ProcessSample::take();
        let mut meter = self.meter();
        if let Some(bytes) = sample.resident_bytes {
            self.registry.set(Id::ResidentMemory, &[], bytes as f64);
        }
        if let Some(files) = sample.open_files {
            self.registry.set(Id::OpenFiles, &[], files as f64);
        }
        if let Some(seconds) = sample.cpu_seconds {
            self.registry.set_total(Id::CpuSeconds, &[], seconds);
            // The quota of a container is seen by it too.
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
            if let Some(share) = meter.cpu.share(now, seconds, cores) {
                self.registry.set(Id::CpuUtilization, &[], share);
            }
        }
        for model in models {
            match meter.read.remove(*model) {
                Some((bytes, time)) if time > Duration::ZERO => {
                    let rate = bytes as f64 / time.as_secs_f64();
                    self.registry.set(Id::Bandwidth, &[model], rate);
                }
                _ => self.registry.forget(Id::Bandwidth, model),
            }
            self.notes.write(&self.registry, model, now);
        }
        meter
            .generated
            .retain(|model, _| models.contains(&model.as_str()));
        for model in models {
            let Some(total) = self.registry.get(Id::GeneratedTokens, &[model]) else {
                continue;
            };
            let before = meter.generated.insert((*model).to_owned(), (now, total));
            let passed = before
                .map(|(then, before)| (now.saturating_duration_since(then).as_secs_f64(), before));
            if let Some((seconds, before)) = passed.filter(|(seconds, _)| *seconds > 0.0) {
                self.registry
                    .set(Id::TokensPerSecond, &[model], (total - before) / seconds);
            }
        }
    }
}

impl Metrics {
    fn meter(&self) -> MutexGuard<'_, Meter> {
        // Sums that are off by one pass are better than none.
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_time() -> f64 {
    // A clock before 1970 is a broken one, and 0 shows it.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |time| time.as_secs_f64())
}
