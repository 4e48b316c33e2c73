//! `POST /v1/inference` and `/v1/inference/stream`: a text continued, in this project's own words.
//!
//! The same request to the engine as `/v1/completions`, so the same text; only the fields differ.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use bitnet_inference::Prompt;
use serde::Serialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::checking::Prompts;
use crate::error::{ApiError, ErrorCode};
use crate::fields::Fields;
use crate::generation_request::GenerationRequest;
use crate::model::layout;
use crate::running::{Piece, Running};
use crate::sse::{self, Events, Wire};
use crate::unsupported;
use crate::usage::{TimingReport, Usage, finish_reason, milliseconds};

/// Tokens between two `metrics` events of a stream.
const METRICS_EVERY: usize = 16;

/// Continues a text and answers when it is complete.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Inference>, ApiError> {
    unsupported::refuse(&mut fields, unsupported::WHOLE_INFERENCE)?;
    let mut running = start(&app, &caller, &mut fields).await?;
    let mut text = String::new();
    while let Some(piece) = running.piece().await {
        text.extend(piece?.token.map(|token| token.text));
    }
    Ok(Json(Inference {
        text,
        system_fingerprint: running.model.fingerprint.clone(),
        outcome: Outcome::of(&running),
        usage: Usage::of(&running),
        timings: TimingReport::of(&running),
    }))
}

/// Continues a text and sends `token` and `metrics` events, then `complete` or `error`.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn stream(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut fields): JsonBody,
) -> Result<Response, ApiError> {
    unsupported::refuse(&mut fields, unsupported::STREAMED_INFERENCE)?;
    let running = start(&app, &caller, &mut fields).await?;
    let wire = InferenceWire { position: 0 };
    Ok(sse::response(running, wire, app.limits.ping_interval))
}

async fn start(app: &Arc<App>, caller: &Caller, fields: &mut Fields) -> Result<Running, ApiError> {
    let mut request = GenerationRequest::read(app, caller, fields, unsupported::INFERENCE).await?;
    let prompt = match fields.need("prompt")? {
        Value::String(text) => Prompt::Markup(text),
        other => return Err(ApiError::invalid("prompt", &other, "a string")),
    };
    let used = layout(&request.model.engine.info().kernel);
    if let Some(wanted) = fields.text("quantization_preference")?
        && !["auto", used].contains(&&*wanted)
    {
        let message = format!("the model is loaded as {used} only");
        let code = ErrorCode::QuantizationUnavailable;
        return Err(ApiError::about("quantization_preference", code, message));
    }
    request.options.max_tokens = fields.count("max_tokens", 0..=usize::MAX)?;
    request.start(app, Prompts::Plain(vec![prompt])).await
}

/// The answer of [`create`].
#[derive(Debug, Serialize)]
pub struct Inference {
    text: String,
    system_fingerprint: String,
    #[serde(flatten)]
    outcome: Outcome,
    usage: Usage,
    timings: TimingReport,
}

/// What came of a request, without its text.
#[derive(Debug, Serialize)]
struct Outcome {
    model_id: String,
    tokens_generated: usize,
    finish_reason: Option<&'static str>,
    seed: u64,
    inference_time_ms: f64,
    tokens_per_second: Option<f64>,
    quantization_used: String,
    device_used: &'static str,
    /// Measured of a file when it is validated, never of a request; `null` without a validation.
    accuracy_metrics: Option<AccuracyMetrics>,
}

/// What the validation of the model found that answered.
#[derive(Debug, Serialize)]
struct AccuracyMetrics {
    /// Share of prompts whose likeliest token was the reference's.
    quantization_accuracy: f64,
    /// Mean cosine of the logits with the reference's.
    cross_validation_score: Option<f64>,
    measured_at: u64,
}

impl Outcome {
    fn of(running: &Running) -> Outcome {
        let choice = &running.choices[0];
        Outcome {
            model_id: running.model.id.clone(),
            tokens_generated: choice.n_tokens,
            finish_reason: choice.finish.map(finish_reason),
            seed: choice.seed,
            inference_time_ms: milliseconds(running.started.elapsed()),
            tokens_per_second: choice.timings.decode_tok_s(),
            quantization_used: layout(&running.model.engine.info().kernel).to_owned(),
            device_used: running.model.device(),
            accuracy_metrics: running
                .model
                .validation
                .as_ref()
                .map(|found| AccuracyMetrics {
                    quantization_accuracy: found.top1_agreement,
                    cross_validation_score: found.mean_cosine,
                    measured_at: found.measured_at,
                }),
        }
    }
}

struct InferenceWire {
    position: usize,
}

impl Wire for InferenceWire {
    fn begin(&mut self, _running: &Running, _events: &mut Events) {}

    fn piece(
        &mut self,
        piece: Piece,
        running: &Running,
        events: &mut Events,
    ) -> Result<(), ApiError> {
        let Some(token) = piece.token else {
            return Ok(());
        };
        // Text that may still become a stop string is held back, and the end of a text has none.
        if !token.text.is_empty() {
            events.named(
                "token",
                &json!({ "text": token.text, "position": self.position }),
            );
        }
        self.position += 1;
        // The last one too: a short answer has its metrics.
        if self.position.is_multiple_of(METRICS_EVERY) || piece.finish.is_some() {
            let rate = running.choices[piece.choice].timings.decode_tok_s();
            events.named(
                "metrics",
                &json!({ "tokens_per_second": rate, "device": running.model.device() }),
            );
        }
        Ok(())
    }

    fn end(&mut self, running: &Running, events: &mut Events) {
        let outcome = Outcome::of(running);
        let body = json!({
            "total_tokens": outcome.tokens_generated,
            "inference_time_ms": outcome.inference_time_ms,
            "finish_reason": outcome.finish_reason,
            "seed": outcome.seed,
            "model_id": outcome.model_id,
            "system_fingerprint": running.model.fingerprint,
            "usage": Usage::of(running),
            "timings": TimingReport::of(running),
        });
        events.named("complete", &body);
    }

    fn fail(&mut self, error: &ApiError, events: &mut Events) {
        let code = error.code.name();
        events.named(
            "error",
            &json!({ "code": code, "message": error.message, "request_id": error.request_id }),
        );
    }
}
