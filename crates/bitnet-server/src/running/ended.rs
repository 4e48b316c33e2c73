//! The end of a request, however it comes: the engine is told, places are given back, and metrics, log and trace learn
//! how it went.

use std::time::Duration;

use bitnet_inference::{FinishReason, Timings};

use super::{CLIENT_CLOSED, Choice, Running};
use crate::error::ErrorCode;
use crate::metrics::{CancelPhase, Finished, RequestEnd};
use crate::request_id::PhaseTimes;
use crate::usage::milliseconds;

impl Drop for Running {
    fn drop(&mut self) {
        let hold = &self.account.context.hold;
        // One that was cancelled by its name was counted when it was.
        let counts = self.n_open > 0 && !hold.is_cancelled();
        let left = self.n_open > 0 || self.cancelled;
        // First of all: whoever sees the place free, or the model given back, finds the engine told already.
        if counts && self.first_token.is_none() {
            hold.leave(); // only the engine knows whether it waits or runs its prompt
        } else {
            hold.release();
        }
        let tokens = self.n_prompt() + self.n_drawn();
        let metrics = &self.account.metrics;
        let shown = self.account.permit.as_ref();
        metrics.tokens_of(shown.and_then(|permit| permit.credential()), tokens);
        metrics.tokens_told(&self.model.id, 0, self.n_untold);
        if counts && self.first_token.is_some() {
            metrics.request_cancelled(CancelPhase::Decode);
        }
        let at_length = |choice: &Choice| {
            matches!(
                choice.finish,
                Some(FinishReason::Length | FinishReason::ContextFull)
            )
        };
        let latency = match self.last_update {
            Some(last) if !left && self.failure.is_none() => {
                last.saturating_duration_since(self.started)
            }
            _ => self.started.elapsed(),
        };
        let failure = match self.failure {
            None if self.cancelled => Some(ErrorCode::RequestCancelled.name()),
            None if left => Some(CLIENT_CLOSED),
            failure => failure.map(ErrorCode::name),
        };
        let ended = if failure.is_some() {
            RequestEnd::Abort
        } else if self.account.embeds {
            RequestEnd::Stop // a vector is whole
        } else if self.choices.iter().any(at_length) {
            RequestEnd::Length
        } else {
            RequestEnd::Stop
        };
        let longest = |time: fn(&Timings) -> Duration| {
            let times = self.choices.iter().map(|choice| time(&choice.timings));
            times.max().unwrap_or_default()
        };
        let total = |count: fn(&Timings) -> usize| {
            let counts = self.choices.iter().map(|choice| count(&choice.timings));
            counts.sum()
        };
        let drawn = self.choices.iter().map(|choice| choice.n_tokens);
        let finished = Finished {
            request_id: &self.account.context.id,
            model: &self.model.id,
            ended,
            failure,
            latency,
            first_token: self.first_token,
            queue: match self.first_token {
                // It never got a place, or lost it again: all of its time was waiting.
                None => latency,
                Some(_) => longest(|timings| timings.queue),
            },
            prefill: longest(|timings| timings.prefill),
            decode: longest(|timings| timings.decode),
            n_prompt: self.n_prompt(),
            n_generated: self.n_drawn(),
            n_generated_longest: drawn.max().unwrap_or(0),
            max_tokens: self.account.max_tokens,
            n: self.account.n,
            n_drafted: total(|timings| timings.n_drafted),
            n_accepted: total(|timings| timings.n_accepted),
        };
        metrics.request_finished(&finished);
        self.account.context.timed(PhaseTimes {
            check: match self.queued {
                Some(queued) => queued.saturating_duration_since(self.started),
                None => latency, // the scheduler never had it
            },
            queue: finished.queue,
            prefill: finished.prefill,
            decode: finished.decode,
        });
        if let Some(trace) = &self.account.context.trace {
            trace.finished(&finished);
        }
        let _entered = self.account.span.enter();
        tracing::info!(
            model = finished.model,
            ended = finished.ended.name(),
            prompt_tokens = finished.n_prompt,
            generated_tokens = finished.n_generated,
            queue_ms = milliseconds(finished.queue),
            prefill_ms = milliseconds(finished.prefill),
            decode_ms = milliseconds(finished.decode),
            first_token_ms = finished.first_token.map(milliseconds),
            total_ms = milliseconds(finished.latency),
            "finished"
        );
    }
}
