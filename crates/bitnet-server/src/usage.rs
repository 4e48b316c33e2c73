//! Tokens and times of a request, as answers report them.

use std::time::Duration;

use bitnet_inference::FinishReason;
use serde::Serialize;

use crate::running::Running;

/// OpenAI's token counts. Tokens that were found in the prefix cache count as prompt tokens too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Of all prompts, each once.
    pub prompt_tokens: usize,
    /// Of all choices.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// Parts of the first.
    pub prompt_tokens_details: PromptDetails,
    /// Parts of the second.
    pub completion_tokens_details: CompletionDetails,
}

/// Parts of the prompts' tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PromptDetails {
    /// Those that did not have to run.
    pub cached_tokens: usize,
    /// Those that ran and that the prefix cache has now: whole blocks of them.
    pub cache_write_tokens: usize,
}

/// Parts of the answers' tokens: this server has no hidden reasoning and takes no predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CompletionDetails {
    /// 0.
    pub reasoning_tokens: usize,
    /// 0.
    pub accepted_prediction_tokens: usize,
    /// 0.
    pub rejected_prediction_tokens: usize,
}

impl Usage {
    /// Of what has run so far.
    pub fn of(running: &Running) -> Usage {
        let (prompt, drawn) = (running.n_prompt(), running.n_drawn());
        let n = running.choices.len() / running.prompts.len().max(1);
        let first_choices = || running.choices.iter().step_by(n.max(1));
        let written = running
            .choices
            .iter()
            .map(|choice| choice.timings.n_cache_written);
        Usage {
            prompt_tokens: prompt,
            completion_tokens: drawn,
            total_tokens: prompt + drawn,
            prompt_tokens_details: PromptDetails {
                cached_tokens: first_choices().map(|choice| choice.timings.n_cached).sum(),
                // By whichever choice of a prompt came first: the others find it.
                cache_write_tokens: written.sum(),
            },
            completion_tokens_details: CompletionDetails::default(),
        }
    }
}

/// Where the time went, under llama.cpp's names; of several choices, the times of the slowest in each phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TimingReport {
    /// Waiting for a place.
    pub queue_ms: f64,
    /// Prompt tokens found in the prefix cache.
    pub cache_n: usize,
    /// Prompt tokens run.
    pub prompt_n: usize,
    /// Forward passes over them.
    pub prompt_ms: f64,
    /// Tokens drawn.
    pub predicted_n: usize,
    /// Forward passes over those.
    pub predicted_ms: f64,
    /// Tokens of a choice per second of these passes, all choices together; `null` without any.
    pub predicted_per_second: Option<f64>,
    /// From the request's arrival to its first token; `null` before.
    pub ttft_ms: Option<f64>,
    /// From the request's arrival to now.
    pub total_ms: f64,
}

impl TimingReport {
    /// Of what has run so far.
    pub fn of(running: &Running) -> TimingReport {
        let timings = || running.choices.iter().map(|choice| &choice.timings);
        let longest = |phase: fn(&bitnet_inference::Timings) -> Duration| {
            milliseconds(timings().map(phase).max().unwrap_or_default())
        };
        let rates: f64 = timings().filter_map(|timings| timings.decode_tok_s()).sum();
        TimingReport {
            queue_ms: longest(|timings| timings.queue),
            cache_n: timings().map(|timings| timings.n_cached).sum(),
            prompt_n: timings().map(|timings| timings.n_prompt).sum(),
            prompt_ms: longest(|timings| timings.prefill),
            predicted_n: running.n_drawn(),
            predicted_ms: longest(|timings| timings.decode),
            predicted_per_second: (rates > 0.0).then_some(rates),
            ttft_ms: running.first_token.map(milliseconds),
            total_ms: milliseconds(running.started.elapsed()),
        }
    }
}

/// A duration as answers report it: in milliseconds, to a microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// OpenAI's word for why a text ended.
pub fn finish_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::EndOfText | FinishReason::StopString => "stop",
        FinishReason::Length | FinishReason::ContextFull => "length",
    }
}
