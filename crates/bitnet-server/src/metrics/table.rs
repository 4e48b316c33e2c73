//! Every metric: its name on the wire, type, labels, buckets and meaning, once.
//!
//! `vllm:*` names, labels and buckets are those of vLLM, so that its dashboards, autoscalers and the Gateway API
//! Inference Extension work unchanged; their buckets are coarse where a small model is fast, so times have `bitnet_*`
//! twins that start at a millisecond. `docs/metrics.md` is held against this table by a test.

/// What a metric counts like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; the name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often values fell below bounds.
    Histogram(Buckets),
}

/// Upper bounds of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buckets {
    /// Time to the first token.
    FirstToken,
    /// Time between tokens.
    BetweenTokens,
    /// Time of a whole request or a phase of it.
    Request,
    /// Any time, from a millisecond to ten minutes.
    Fine,
    /// Tokens of one step.
    StepTokens,
    /// 1, 2, 5, 10, ... up to the longest context.
    Tokens,
    /// Choices of a request.
    Choices,
}

impl Kind {
    /// As the wire has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

impl Buckets {
    /// The bounds, without the last one, which is infinite.
    pub fn bounds(self, longest_context: usize) -> Vec<f64> {
        match self {
            Self::FirstToken => vec![
                0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0,
                7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
            ],
            Self::BetweenTokens => vec![
                0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
                10.0, 20.0, 40.0, 80.0,
            ],
            Self::Request => vec![
                0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
                120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
            ],
            Self::Fine => vec![
                0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0,
                60.0, 120.0, 300.0, 600.0,
            ],
            Self::StepTokens => vec![
                1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0,
                16384.0,
            ],
            Self::Tokens => {
                let longest = longest_context.max(1) as f64;
                (0..9)
                    .flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)))
                    .take_while(|bound| *bound <= longest)
                    .collect()
            }
            Self::Choices => vec![1.0, 2.0, 5.0, 10.0, 20.0],
        }
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Metric {
    /// The name of its samples; for a histogram without `_bucket`, `_sum` and `_count`.
    pub name: &'static str,
    /// What it counts like.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident: $kind:expr, $name:literal, [$($label:literal),*], $help:literal;)+) => {
        /// A row of [`METRICS`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Id {
            $(#[doc = $help] $id,)+
        }

        /// Every metric, in the order of the documents.
        pub static METRICS: &[Metric] = &[
            $(Metric { name: $name, kind: $kind, labels: &[$($label),*], help: $help },)+
        ];
    };
}

use Buckets::{BetweenTokens, Choices, Fine, FirstToken, Request, StepTokens, Tokens};
use Kind::{Counter, Gauge, Histogram};

metrics! {
    InferenceDuration: Histogram(Fine), "bitnet_inference_duration_seconds", ["model"],
        "Time from a request's arrival to its last token.";
    TokensPerSecond: Gauge, "bitnet_tokens_per_second", ["model"],
        "Tokens drawn per second since the last measurement; rates are taken of bitnet_generated_tokens_total.";
    QuantizationAccuracy: Gauge, "bitnet_quantization_accuracy_ratio", ["model"],
        "Share of tokens that the validation at load found equal to the reference; absent when it did not run.";
    GpuUtilization: Gauge, "bitnet_gpu_utilization_ratio", [],
        "Share of time that the graphics processor was busy; absent without one.";
    ActiveRequests: Gauge, "bitnet_active_inference_requests", ["model"],
        "Requests that run or wait.";
    ModelLoadDuration: Histogram(Fine), "bitnet_model_load_duration_seconds", ["model"],
        "Time to load a model.";
    CpuUtilization: Gauge, "bitnet_cpu_utilization_ratio", [],
        "Share of the processor time available to this process that it used since the last measurement.";
    PromptTokens: Counter, "bitnet_prompt_tokens_total", ["model"],
        "Prompt tokens run; those found in the prefix cache did not have to.";
    GeneratedTokens: Counter, "bitnet_generated_tokens_total", ["model"],
        "Tokens drawn, also those that nobody is told: of a request for 0 tokens, and of a model's first look at itself.";
    FirstTokenTime: Histogram(Fine), "bitnet_time_to_first_token_seconds", ["model"],
        "Time from a request's arrival to its first token.";
    TokenGap: Histogram(Fine), "bitnet_inter_token_latency_seconds", ["model"],
        "Time between two tokens of a request.";
    QueueTime: Histogram(Fine), "bitnet_request_queue_time_seconds", ["model"],
        "Time that a request waited.";
    PrefillTime: Histogram(Fine), "bitnet_request_prefill_time_seconds", ["model"],
        "Time from a request's place to its first token.";
    DecodeTime: Histogram(Fine), "bitnet_request_decode_time_seconds", ["model"],
        "Time from a request's first token to its last.";
    InferenceTime: Histogram(Fine), "bitnet_request_inference_time_seconds", ["model"],
        "Time from a request's place to its last token.";
    RequestFailures: Counter, "bitnet_request_failures_total", ["code"],
        "Requests answered with an error, by its code.";
    RequestsRejected: Counter, "bitnet_requests_rejected_total", ["reason"],
        "Requests that were refused before any work was done.";
    RequestsCancelled: Counter, "bitnet_requests_cancelled_total", ["phase"],
        "Requests whose client left, or that were cancelled by name, by what was under way: load, check, queue, prefill or decode.";
    EngineSteps: Counter, "bitnet_engine_steps_total", ["model"],
        "Forward passes.";
    FailedSteps: Counter, "bitnet_engine_failed_steps_total", ["model"],
        "Forward passes that failed and ended the requests in them.";
    EngineRows: Counter, "bitnet_engine_rows_total", ["model"],
        "Rows (tokens) that forward passes carried.";
    LastStep: Gauge, "bitnet_engine_last_step_timestamp_seconds", ["model"],
        "When the last forward pass ended, in seconds since 1970.";
    StepTime: Histogram(Fine), "bitnet_engine_step_seconds", ["model", "phase"],
        "Time of a forward pass: prefill if it carried prompt tokens, else decode.";
    BatchRows: Histogram(StepTokens), "bitnet_batch_rows", ["model"],
        "Rows (tokens) of a forward pass.";
    KvBlocks: Gauge, "bitnet_kv_blocks", ["model", "state"],
        "Blocks of the KV cache that are used, cached (found again or handed out) or free.";
    WaitingTokens: Gauge, "bitnet_waiting_prompt_tokens", ["model"],
        "Tokens that waiting requests have to run before they draw.";
    QueueOldest: Gauge, "bitnet_queue_oldest_seconds", ["model"],
        "How long the oldest request without a first token has waited for it; 0 when there is none.";
    TenantTokens: Counter, "bitnet_tenant_tokens_total", ["tenant"],
        "Tokens of prompts and answers, by key; anonymous for those that showed none.";
    RecomputedTokens: Counter, "bitnet_recomputed_tokens_total", ["model"],
        "Tokens run again after a pre-emption.";
    DeadlinesExceeded: Counter, "bitnet_deadlines_exceeded_total", ["model"],
        "Requests that ran past their deadline.";
    ModelInfo: Gauge, "bitnet_model_info", ["model", "hash", "quant", "kernel"],
        "1 for each loaded model.";
    Swaps: Counter, "bitnet_swap_total", ["result"],
        "Swaps and rollbacks of models, by how they ended: swapped, rolled_back, or the error's code.";
    SwapMemory: Gauge, "bitnet_swap_temporary_bytes", [],
        "Memory that the last swap took beyond what the process had before; absent where the system does not tell.";
    Unloads: Counter, "bitnet_model_unloads_total", ["reason"],
        "Models taken out of memory: by a request, to make room, or because nobody asked for them (idle).";
    Sleeping: Gauge, "bitnet_model_sleeping", ["model"],
        "1 for a model that nobody asks for and that has left memory until somebody does; absent for others.";
    Memory: Gauge, "bitnet_memory_bytes", ["model", "kind"],
        "Memory of a loaded model: weights, and kv_cache, which the system hands out as it fills.";
    Bandwidth: Gauge, "bitnet_achieved_bandwidth_bytes_per_second", ["model"],
        "Bytes of ternary weights that passes of one row read, per second of theirs, since the last measurement; absent without any.";
    DeviceFailures: Counter, "bitnet_device_failures_total", ["model"],
        "Times that a device failed in a pass, which the CPU then ran again.";
    BuildInfo: Gauge, "bitnet_build_info", ["version", "commit", "target", "rustc", "features"],
        "1; the labels tell what was built.";
    ResidentMemory: Gauge, "process_resident_memory_bytes", [],
        "Memory of the process that is in RAM.";
    CpuSeconds: Counter, "process_cpu_seconds_total", [],
        "Processor time used.";
    OpenFiles: Gauge, "process_open_fds", [],
        "Open files and connections.";
    StartTime: Gauge, "process_start_time_seconds", [],
        "When the server started, in seconds since 1970.";
    VllmRunning: Gauge, "vllm:num_requests_running", ["model_name", "engine"],
        "Requests that run.";
    VllmWaiting: Gauge, "vllm:num_requests_waiting", ["model_name", "engine"],
        "Requests that wait.";
    VllmKvUsage: Gauge, "vllm:kv_cache_usage_perc", ["model_name", "engine"],
        "Share of the KV cache in use, from 0 to 1; cached blocks count as free.";
    VllmPrefixQueries: Counter, "vllm:prefix_cache_queries_total", ["model_name", "engine"],
        "Prompt tokens looked up in the prefix cache.";
    VllmPrefixHits: Counter, "vllm:prefix_cache_hits_total", ["model_name", "engine"],
        "Prompt tokens found in the prefix cache.";
    VllmPreemptions: Counter, "vllm:num_preemptions_total", ["model_name", "engine"],
        "Times a running request gave up its place.";
    VllmPromptTokens: Counter, "vllm:prompt_tokens_total", ["model_name", "engine"],
        "Prompt tokens of requests, as their usage tells them: those found in the prefix cache too.";
    VllmGenerationTokens: Counter, "vllm:generation_tokens_total", ["model_name", "engine"],
        "Tokens drawn for requests, as their usage tells them.";
    VllmSuccess: Counter, "vllm:request_success_total", ["model_name", "engine", "finished_reason"],
        "Requests that ended, by how.";
    VllmIterationTokens: Histogram(StepTokens), "vllm:iteration_tokens_total", ["model_name", "engine"],
        "Tokens of a forward pass; a histogram in spite of its name.";
    VllmFirstToken: Histogram(FirstToken), "vllm:time_to_first_token_seconds", ["model_name", "engine"],
        "Time from a request's arrival to its first token.";
    VllmTokenGap: Histogram(BetweenTokens), "vllm:inter_token_latency_seconds", ["model_name", "engine"],
        "Time between two tokens of a request.";
    VllmTokenGapOld: Histogram(BetweenTokens), "vllm:time_per_output_token_seconds", ["model_name", "engine"],
        "vllm:inter_token_latency_seconds under its old name.";
    VllmTimePerToken: Histogram(BetweenTokens), "vllm:request_time_per_output_token_seconds", ["model_name", "engine"],
        "A request's mean time between tokens.";
    VllmLatency: Histogram(Request), "vllm:e2e_request_latency_seconds", ["model_name", "engine"],
        "Time from a request's arrival to its last token.";
    VllmQueueTime: Histogram(Request), "vllm:request_queue_time_seconds", ["model_name", "engine"],
        "Time that a request waited.";
    VllmInferenceTime: Histogram(Request), "vllm:request_inference_time_seconds", ["model_name", "engine"],
        "Time from a request's place to its last token.";
    VllmPrefillTime: Histogram(Request), "vllm:request_prefill_time_seconds", ["model_name", "engine"],
        "Time from a request's place to its first token.";
    VllmDecodeTime: Histogram(Request), "vllm:request_decode_time_seconds", ["model_name", "engine"],
        "Time from a request's first token to its last.";
    VllmRequestPrompt: Histogram(Tokens), "vllm:request_prompt_tokens", ["model_name", "engine"],
        "Prompt tokens of a request.";
    VllmRequestGeneration: Histogram(Tokens), "vllm:request_generation_tokens", ["model_name", "engine"],
        "Tokens drawn for a request.";
    VllmMaxGeneration: Histogram(Tokens), "vllm:request_max_num_generation_tokens", ["model_name", "engine"],
        "Tokens drawn for the longest choice of a request.";
    VllmMaxTokens: Histogram(Tokens), "vllm:request_params_max_tokens", ["model_name", "engine"],
        "max_tokens of a request that gives one.";
    VllmN: Histogram(Choices), "vllm:request_params_n", ["model_name", "engine"],
        "n of a request.";
    VllmCacheConfig: Gauge, "vllm:cache_config_info", ["model_name", "engine", "block_size", "num_gpu_blocks"],
        "1; the labels tell the size of the KV cache.";
    VllmDraftTokens: Counter, "vllm:spec_decode_num_draft_tokens_total", ["model_name", "engine"],
        "Tokens guessed ahead.";
    VllmAcceptedTokens: Counter, "vllm:spec_decode_num_accepted_tokens_total", ["model_name", "engine"],
        "Tokens guessed ahead that were then drawn.";
}
