//! What is counted of engines: their passes, and who waits and runs in them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bitnet_inference::{EngineLoad, Traffic};

use super::table::Id;
use super::{ENGINE, Metrics, unix_time};

/// Gauges that are the sum of a model's engines: none when it has none.
const ENGINE_GAUGES: [Id; 6] = [
    Id::ActiveRequests,
    Id::KvBlocks,
    Id::WaitingTokens,
    Id::VllmRunning,
    Id::VllmWaiting,
    Id::VllmKvUsage,
];

/// Tells the engines of a model apart: during a swap there are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EngineKey(pub(super) u64);

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

impl Metrics {
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

    /// What an engine has to do, and has done since `before`. It is to be told before and after each step, so that a
    /// hung step shows. Gauges are sums over the engines of a model, of which a swap has two; counts are differences,
    /// since a new engine begins at 0.
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

    fn engines(&self) -> MutexGuard<'_, BTreeMap<EngineKey, (String, EngineLoad)>> {
        // Plain numbers, replaced in one go.
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
