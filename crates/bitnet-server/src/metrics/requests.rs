//! What is counted of requests: how they came, waited, ran and ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::recent::RequestRecord;
use super::table::Id;
use super::{ENGINE, Metrics, unix_time};

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
    /// Tokens were run for somebody: `key:ID`, `jwt:SUBJECT`, or `None` for those that showed nothing.
    pub fn tokens_of(&self, tenant: Option<&str>, tokens: usize) {
        let tenant = tenant.unwrap_or("anonymous");
        self.registry
            .add(Id::TenantTokens, &[tenant], tokens as f64);
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
        registry.observe(Id::VllmLatency, vllm, request.latency.as_secs_f64());
        registry.observe(Id::VllmQueueTime, vllm, queue.as_secs_f64());
        // Theirs have buckets from 0.3 s on, in the first of which a small model would be altogether.
        for (theirs, twin, time) in [
            (
                Id::VllmInferenceTime,
                Id::InferenceTime,
                request.latency.saturating_sub(queue),
            ),
            (
                Id::VllmPrefillTime,
                Id::PrefillTime,
                first.saturating_sub(queue),
            ),
            (
                Id::VllmDecodeTime,
                Id::DecodeTime,
                request.latency.saturating_sub(first),
            ),
        ] {
            registry.observe(theirs, vllm, time.as_secs_f64());
            registry.observe(twin, own, time.as_secs_f64());
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
}
