//! What a monitoring system sees of the server, under the names that others' dashboards use.
//!
//! Routes and the engine's thread report facts by typed functions; names, labels and buckets are in [`table`] alone.
//! What was not measured is absent, never zero.
//!
//! # Layout
//! - [`table`]: every metric
//! - [`registry`]: values and their text
//! - [`stats`]: the same values for people
//! - [`latencies`]: how long things took; [`rolling`]: that and more in the last five minutes; [`recent`]: single requests
//! - [`process`]: memory, processor time and files of this process

pub mod latencies;
pub mod process;
pub mod recent;
pub mod registry;
pub mod rolling;
pub mod stats;
pub mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bitnet_inference::{EngineLoad, Traffic};

use self::process::{CpuMeter, ProcessSample};
use self::recent::{Recent, RequestRecord};
use self::registry::Registry;
use self::rolling::Notes;
use self::table::Id;

pub use self::registry::Exposition;

/// The label `engine` of vLLM's metrics: models have one engine each.
const ENGINE: &str = "0";

/// Gauges whose first label is a model.
const MODEL_GAUGES: [Id; 14] = [
    Id::TokensPerSecond,
    Id::QuantizationAccuracy,
    Id::ActiveRequests,
    Id::LastStep,
    Id::KvBlocks,
    Id::WaitingTokens,
    Id::QueueOldest,
    Id::Memory,
    Id::Bandwidth,
    Id::ModelInfo,
    Id::VllmRunning,
    Id::VllmWaiting,
    Id::VllmKvUsage,
    Id::VllmCacheConfig,
];

/// Those of them that are the sum of a model's engines: none when it has none.
const ENGINE_GAUGES: [Id; 6] = [
    Id::ActiveRequests,
    Id::KvBlocks,
    Id::WaitingTokens,
    Id::VllmRunning,
    Id::VllmWaiting,
    Id::VllmKvUsage,
];

/// Counters that are told before anything is counted.
const BEGINNINGS: [(Id, &str); 9] = [
    (Id::RequestFailures, "internal_error"),
    (Id::RequestsRejected, "queue_full"),
    (Id::RequestsRejected, "rate_limit_exceeded"),
    (Id::RequestsRejected, "shutting_down"),
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

/// Tells the engines of a model apart: during a swap there are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EngineKey(u64);

impl EngineKey {
    /// One that no other engine has.
    pub fn new() -> EngineKey {
        static LAST: AtomicU64 = AtomicU64::new(0);
        EngineKey(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for EngineKey {
    fn default() -> EngineKey {
        EngineKey::new()
    }
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

/// A forward pass that has ended.
#[derive(Debug, Clone, Copy)]
pub struct StepFigures<'a> {
    /// What the engine had done before it.
    pub before: &'a EngineLoad,
    /// And after it.
    pub after: &'a EngineLoad,
    /// What it read, if it was of one row.
    pub read: Traffic,
    /// How long it took.
    pub time: Duration,
}

/// How a request ended that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestEnd {
    /// By a stop token or text.
    Stop,
    /// At its longest.
    Length,
    /// By its client or an error.
    Abort,
}

impl RequestEnd {
    /// As vLLM's label has it.
    pub fn name(self) -> &'static str {
        match self {
            RequestEnd::Stop => "stop",
            RequestEnd::Length => "length",
            RequestEnd::Abort => "abort",
        }
    }
}

/// Where a request was when its client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelPhase {
    /// Waiting for its model to be loaded.
    Load,
    /// Waiting for its text to be tokenised, or in it.
    Check,
    /// Waiting for a place.
    Queue,
    /// Running its prompt, or waiting to run it again.
    Prefill,
    /// Drawing.
    Decode,
}

impl CancelPhase {
    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            CancelPhase::Load => "load",
            CancelPhase::Check => "check",
            CancelPhase::Queue => "queue",
            CancelPhase::Prefill => "prefill",
            CancelPhase::Decode => "decode",
        }
    }
}

/// What happens to a request before the engine has it: a client that leaves meanwhile drops this.
#[derive(Debug)]
pub struct Attended {
    metrics: Arc<Metrics>,
    phase: Option<CancelPhase>,
}

impl Attended {
    /// The client is still there.
    pub fn ended(mut self) {
        self.phase = None;
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        if let Some(phase) = self.phase {
            self.metrics.request_cancelled(phase);
        }
    }
}

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    /// Its `x-request-id`; empty when it came by no route.
    pub request_id: &'a str,
    /// Its model's id.
    pub model: &'a str,
    /// How it ended.
    pub ended: RequestEnd,
    /// Of one that was aborted, the code of its error; `client_closed` of one whose client left.
    pub failure: Option<&'static str>,
    /// From its arrival to its end.
    pub latency: Duration,
    /// From its arrival to its first token, if it had one.
    pub first_token: Option<Duration>,
    /// Time that it waited.
    pub queue: Duration,
    /// Time of forward passes over its prompt.
    pub prefill: Duration,
    /// Time of forward passes over what it drew.
    pub decode: Duration,
    /// Tokens of its prompts.
    pub n_prompt: usize,
    /// Tokens drawn for all its choices.
    pub n_generated: usize,
    /// Tokens drawn for the longest choice.
    pub n_generated_longest: usize,
    /// Its `max_tokens`, if it gave one.
    pub max_tokens: Option<usize>,
    /// Its `n`.
    pub n: usize,
    /// Tokens guessed ahead.
    pub n_drafted: usize,
    /// Those of them that were drawn.
    pub n_accepted: usize,
}

impl Metrics {
    /// Without any request yet. `longest_context` bounds the buckets that count tokens.
    pub fn new(longest_context: usize) -> Metrics {
        let registry = Registry::new(longest_context);
        registry.set(Id::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1.0);
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
        for id in MODEL_GAUGES {
            self.registry.forget(id, model);
        }
        self.notes.end(model);
    }

    /// Tokens were run for somebody: `key:ID`, `jwt:SUBJECT`, or `None` for those that showed nothing.
    pub fn tokens_of(&self, tenant: Option<&str>, tokens: usize) {
        let tenant = tenant.unwrap_or("anonymous");
        self.registry
            .add(Id::TenantTokens, &[tenant], tokens as f64);
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

    /// A request was answered with an error.
    pub fn request_failed(&self, code: &str) {
        self.registry.add(Id::RequestFailures, &[code], 1.0);
    }

    /// A request was refused before any work was done: `queue_full`, `rate_limit`, ...
    pub fn request_rejected(&self, reason: &str) {
        self.registry.add(Id::RequestsRejected, &[reason], 1.0);
    }

    /// A client left.
    pub fn request_cancelled(&self, phase: CancelPhase) {
        self.registry
            .add(Id::RequestsCancelled, &[phase.name()], 1.0);
    }

    /// A request begins what the engine does not see; a client that leaves before [`Attended::ended`] is counted.
    pub fn attended(self: &Arc<Self>, phase: CancelPhase) -> Attended {
        Attended {
            metrics: self.clone(),
            phase: Some(phase),
        }
    }

    /// Requests were told of tokens, as `usage` counts them: prompts once whatever ran them, with what was found in the
    /// prefix cache; nothing that was drawn for nobody.
    pub fn tokens_told(&self, model: &str, prompt: usize, drawn: usize) {
        let vllm = &[model, ENGINE][..];
        self.registry.add(Id::VllmPromptTokens, vllm, prompt as f64);
        self.registry
            .add(Id::VllmGenerationTokens, vllm, drawn as f64);
    }

    /// A token came this long after the one before it.
    pub fn token_gap(&self, model: &str, gap: Duration) {
        self.registry
            .observe(Id::TokenGap, &[model], gap.as_secs_f64());
        for id in [Id::VllmTokenGap, Id::VllmTokenGapOld] {
            self.registry
                .observe(id, &[model, ENGINE], gap.as_secs_f64());
        }
    }

    /// A request has ended.
    pub fn request_finished(&self, request: &Finished<'_>) {
        let registry = &self.registry;
        let own = &[request.model][..];
        let vllm = &[request.model, ENGINE][..];
        let reason = request.ended.name();
        registry.add(Id::VllmSuccess, &[request.model, ENGINE, reason], 1.0);
        registry.observe(Id::InferenceDuration, own, request.latency.as_secs_f64());
        registry.observe(Id::QueueTime, own, request.queue.as_secs_f64());
        if let Some(first) = request.first_token {
            registry.observe(Id::FirstTokenTime, own, first.as_secs_f64());
            registry.observe(Id::VllmFirstToken, vllm, first.as_secs_f64());
            if request.n_generated_longest > 1 {
                let gaps = (request.n_generated_longest - 1) as f64;
                let mean = request.latency.saturating_sub(first).as_secs_f64() / gaps;
                registry.observe(Id::VllmTimePerToken, vllm, mean);
            }
        }
        // vLLM's three are one after the other on the clock, so that they add up to the whole; boards stack them.
        let queue = request.queue.min(request.latency);
        let first = request.first_token.unwrap_or(request.latency);
        for (id, time) in [
            (Id::VllmLatency, request.latency),
            (Id::VllmQueueTime, queue),
            (Id::VllmInferenceTime, request.latency.saturating_sub(queue)),
            (Id::VllmPrefillTime, first.saturating_sub(queue)),
            (Id::VllmDecodeTime, request.latency.saturating_sub(first)),
        ] {
            registry.observe(id, vllm, time.as_secs_f64());
        }
        for (id, count) in [
            (Id::VllmRequestPrompt, request.n_prompt),
            (Id::VllmRequestGeneration, request.n_generated),
            (Id::VllmMaxGeneration, request.n_generated_longest),
            (Id::VllmN, request.n),
        ] {
            registry.observe(id, vllm, count as f64);
        }
        if let Some(max_tokens) = request.max_tokens {
            registry.observe(Id::VllmMaxTokens, vllm, max_tokens as f64);
        }
        if request.n_drafted > 0 {
            registry.add(Id::VllmDraftTokens, vllm, request.n_drafted as f64);
            registry.add(Id::VllmAcceptedTokens, vllm, request.n_accepted as f64);
        }
        self.recent.ended(RequestRecord {
            request_id: request.request_id.to_owned(),
            model: request.model.to_owned(),
            ended: reason,
            ended_at: unix_time(),
            total_seconds: request.latency.as_secs_f64(),
            first_token_seconds: request.first_token.map(|time| time.as_secs_f64()),
            queue_seconds: request.queue.as_secs_f64(),
            prefill_seconds: request.prefill.as_secs_f64(),
            decode_seconds: request.decode.as_secs_f64(),
            prompt_tokens: request.n_prompt,
            generated_tokens: request.n_generated,
        });
        // However rarely the process is measured.
        self.notes.write(registry, request.model, Instant::now());
    }

    /// A forward pass has ended.
    pub fn step(&self, model: &str, step: &StepFigures<'_>) {
        let (before, after) = (step.before, step.after);
        let rows = after.rows.saturating_sub(before.rows) as f64;
        let ran_prompts = after.prompt_tokens > before.prompt_tokens
            || after.recomputed_tokens > before.recomputed_tokens;
        let phase = if ran_prompts { "prefill" } else { "decode" };
        let registry = &self.registry;
        registry.observe(Id::VllmIterationTokens, &[model, ENGINE], rows);
        registry.observe(Id::BatchRows, &[model], rows);
        registry.observe(Id::StepTime, &[model, phase], step.time.as_secs_f64());
        registry.set(Id::LastStep, &[model], unix_time());
        if step.read.passes > 0 {
            let mut meter = self.meter();
            if !meter.read.contains_key(model) {
                meter.read.insert(model.to_owned(), Default::default());
            }
            if let Some((bytes, time)) = meter.read.get_mut(model) {
                *bytes += step.read.ternary_bytes;
                *time += step.time;
            }
        }
    }

    /// What an engine has to do, and has done since `before`. It is to be told before and after each step, so that a hung
    /// step shows. Gauges are sums over the engines of a model, of which a swap has two; counts are differences, since a
    /// new engine begins at 0.
    pub fn engine(&self, model: &str, key: EngineKey, before: &EngineLoad, load: &EngineLoad) {
        {
            let mut engines = self.engines();
            match engines.get_mut(&key) {
                Some((_, known)) => *known = *load,
                None => {
                    engines.insert(key, (model.to_owned(), *load));
                }
            }
            self.engine_gauges(model, &engines);
        }
        let registry = &self.registry;
        let own = &[model][..];
        let vllm = &[model, ENGINE][..];
        let done = |count: fn(&EngineLoad) -> u64| count(load).saturating_sub(count(before)) as f64;
        for (id, count) in [
            (Id::PromptTokens, done(|load| load.prompt_tokens)),
            (Id::GeneratedTokens, done(|load| load.generated_tokens)),
            (Id::EngineSteps, done(|load| load.steps)),
            (Id::FailedSteps, done(|load| load.failed_steps)),
            (Id::EngineRows, done(|load| load.rows)),
            (Id::RecomputedTokens, done(|load| load.recomputed_tokens)),
            (Id::DeadlinesExceeded, done(|load| load.deadlines_exceeded)),
            (Id::DeviceFailures, done(|load| load.device_failures)),
        ] {
            registry.add(id, own, count);
        }
        for (id, count) in [
            (Id::VllmPrefixQueries, done(|load| load.prefix_queries)),
            (Id::VllmPrefixHits, done(|load| load.prefix_hits)),
            (Id::VllmPreemptions, done(|load| load.preemptions)),
        ] {
            registry.add(id, vllm, count);
        }
    }

    /// An engine is gone.
    pub fn engine_ended(&self, key: EngineKey) {
        let mut engines = self.engines();
        if let Some((model, _)) = engines.remove(&key) {
            self.engine_gauges(&model, &engines);
        }
    }

    fn engine_gauges(&self, model: &str, engines: &BTreeMap<EngineKey, (String, EngineLoad)>) {
        let of_model = || engines.values().filter(|(name, _)| name == model);
        let registry = &self.registry;
        if of_model().next().is_none() {
            for id in ENGINE_GAUGES {
                registry.forget(id, model);
            }
            return;
        }
        let sum = |count: fn(&EngineLoad) -> usize| {
            let counts = of_model().map(|(_, load)| count(load));
            counts.sum::<usize>()
        };
        let own = &[model][..];
        let vllm = &[model, ENGINE][..];
        let (running, waiting) = (sum(|load| load.running), sum(|load| load.waiting));
        let blocks = sum(|load| load.kv_blocks);
        let (used, cached) = (
            sum(|load| load.kv_blocks_used),
            sum(|load| load.kv_blocks_cached),
        );
        registry.set(Id::ActiveRequests, own, (running + waiting) as f64);
        let tokens = sum(|load| load.waiting_prompt_tokens);
        registry.set(Id::WaitingTokens, own, tokens as f64);
        registry.set(Id::VllmRunning, vllm, running as f64);
        registry.set(Id::VllmWaiting, vllm, waiting as f64);
        if blocks > 0 {
            registry.set(Id::VllmKvUsage, vllm, used as f64 / blocks as f64);
        }
        for (state, blocks) in [
            ("used", used),
            ("cached", cached),
            ("free", blocks.saturating_sub(used + cached)),
        ] {
            registry.set(Id::KvBlocks, &[model, state], blocks as f64);
        }
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
    fn engines(&self) -> MutexGuard<'_, BTreeMap<EngineKey, (String, EngineLoad)>> {
        // Plain numbers, replaced in one go.
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
