//! `POST /v1/completions`: texts continued as they are.
//!
//! Source: OpenAI's API reference (the route is called legacy there; evaluation harnesses need its `echo` and `logprobs`).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bitnet_inference::logprobs::MAX_TOP_LOGPROBS;
use bitnet_inference::{FinishReason, Prompt};
use serde::Serialize;
use serde_json::Value;

use crate::app::App;
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::error::{ApiError, ErrorCode};
use crate::fields::Fields;
use crate::limits::ServerLimits;
use crate::model::unix_seconds;
use crate::routes::chat::include_usage;
use crate::running::{Job, Piece, Prompts, Running};
use crate::sampling;
use crate::sse::{self, Events, Wire};
use crate::token_text::CompletionLogprobs;
use crate::usage::{TimingReport, Usage, finish_reason};

/// Tokens when the request does not say, OpenAI's number.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Continues texts.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut fields): JsonBody,
) -> Result<Response, ApiError> {
    let model = app.model(fields.text("model")?.as_deref()).await?;
    let prompts = prompts(fields.need("prompt")?, &app.limits)?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let include_usage = include_usage(&mut fields)?;
    let n = choices_of_each(&mut fields, prompts.len(), &app.limits)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    let mut options = sampling::read(&mut fields, &app.limits, &model.engine)?;
    let max_tokens = fields.count("max_tokens", 0..=usize::MAX)?;
    options.max_tokens = Some(max_tokens.unwrap_or(DEFAULT_MAX_TOKENS));
    if let Some(top) = logprobs(&mut fields)? {
        options.logprobs = true;
        options.top_logprobs = top;
        options.prompt_logprobs = echo;
    }
    sampling::refuse_unsupported(&mut fields)?;
    let suffix = "this server only continues texts";
    fields.refuse("suffix", suffix, |value| value == "")?;
    fields.refuse("response_format", "texts are not constrained", |value| {
        value["type"] == "text"
    })?;
    let echoed = echo.then(|| prompts.clone());
    let work = Job {
        prompts: Prompts::Plain(prompts),
        n,
        options,
        terms: app.terms(&mut fields, &caller)?,
        permit: caller.permit,
    };
    let running = app.start(model, work).await?;
    let writer = Writer {
        id: app.new_id("cmpl-"),
        created: unix_seconds(),
        texts: vec![TextState::default(); running.choices.len()],
        echoed,
        include_usage,
    };
    if stream {
        return Ok(sse::response(running, writer, app.limits.ping_interval));
    }
    writer.collect(running).await
}

/// A text, ids, or a list of either.
fn prompts(value: Value, limits: &ServerLimits) -> Result<Vec<Prompt>, ApiError> {
    let expected = "a string, a list of strings, a list of token ids, or a list of such lists";
    let values = match value {
        // Names of special tokens are read as such: whoever uses this route lays out the text themselves.
        Value::String(text) => return Ok(vec![Prompt::Markup(text)]),
        Value::Array(values) if !values.is_empty() => values,
        other => return Err(ApiError::invalid("prompt", &other, expected)),
    };
    if values[0].is_number() {
        return Ok(vec![Prompt::Ids(ids("prompt", &values)?)]);
    }
    if values.len() > limits.max_choices {
        let expected = format!("at most {} prompts", limits.max_choices);
        return Err(ApiError::invalid("prompt", &Value::Array(values), expected));
    }
    values
        .into_iter()
        .enumerate()
        .map(|(index, value)| match value {
            Value::String(text) => Ok(Prompt::Markup(text)),
            Value::Array(values) => Ok(Prompt::Ids(ids(&format!("prompt[{index}]"), &values)?)),
            other => Err(ApiError::invalid(
                format!("prompt[{index}]"),
                &other,
                expected,
            )),
        })
        .collect()
}

fn ids(path: &str, values: &[Value]) -> Result<Vec<u32>, ApiError> {
    let id = |(index, value): (usize, &Value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| ApiError::invalid(format!("{path}[{index}]"), value, "a token id"))
    };
    values.iter().enumerate().map(id).collect()
}

fn choices_of_each(
    fields: &mut Fields,
    n_prompts: usize,
    limits: &ServerLimits,
) -> Result<usize, ApiError> {
    let n = fields.count("n", 1..=limits.max_choices)?.unwrap_or(1);
    if n * n_prompts > limits.max_choices {
        let message = format!(
            "{n_prompts} prompts with n {n} make {} choices, at most {} are allowed",
            n * n_prompts,
            limits.max_choices
        );
        return Err(ApiError::about("n", ErrorCode::InvalidValue, message));
    }
    // `best_of` choices are drawn and `n` returned; without more than `n` that is nothing else.
    let of_all = "every choice that is drawn is returned";
    fields.refuse("best_of", of_all, |value| value.as_u64() == Some(n as u64))?;
    Ok(n)
}

/// How many alternatives are wanted; OpenAI's number, or the `true` that some clients send.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    match fields.take("logprobs") {
        None | Some(Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(0)),
        Some(value) => match value.as_u64().filter(|&top| top <= MAX_TOP_LOGPROBS as u64) {
            Some(top) => Ok(Some(top as usize)),
            None => {
                let expected = format!("a whole number from 0 to {MAX_TOP_LOGPROBS}");
                Err(ApiError::invalid("logprobs", &value, expected))
            }
        },
    }
}

/// Writes the answer, whole or in chunks, which have the same shape.
struct Writer {
    id: String,
    created: u64,
    texts: Vec<TextState>,
    echoed: Option<Vec<Prompt>>,
    include_usage: bool,
}

/// How far the text of a choice is.
#[derive(Debug, Clone, Default)]
struct TextState {
    has_begun: bool,
    n_chars: usize,
}

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: &'a [TextChoice],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<TimingReport>,
}

#[derive(Serialize, Default)]
struct TextChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}

impl Writer {
    /// The text that a piece adds and the probabilities of its tokens, the echoed prompt's with the first.
    fn add(
        &mut self,
        piece: Piece,
        running: &Running,
        out: &mut TextChoice,
    ) -> Result<(), ApiError> {
        let engine = &running.model.engine;
        let state = &mut self.texts[piece.choice];
        if !state.has_begun {
            state.has_begun = true;
            if let Some(prompts) = &self.echoed {
                let index = running.choices[piece.choice].prompt;
                let ids = &running.prompts[index];
                let text = match &prompts[index] {
                    Prompt::Text(text) | Prompt::Markup(text) => text.clone(),
                    Prompt::Ids(ids) => engine
                        .tokenizer()?
                        .decode(ids, true)
                        .map_err(bitnet_inference::Error::from)?,
                };
                if let Some(prompt) = &piece.prompt {
                    let logprobs = out.logprobs.get_or_insert_default();
                    let mut pieces = engine
                        .tokenizer()?
                        .decode_stream(&[], true)
                        .map_err(bitnet_inference::Error::from)?;
                    let mut offset = 0;
                    for (&id, found) in ids.iter().zip(&**prompt) {
                        let found = found.as_ref().map(|found| (found.logprob, &*found.top));
                        logprobs.push(engine, offset, id, found);
                        let piece = pieces.push(id).map_err(bitnet_inference::Error::from)?;
                        offset += piece.map_or(0, |piece| piece.chars().count());
                    }
                }
                state.n_chars += text.chars().count();
                out.text.push_str(&text);
            }
        }
        if let Some(token) = piece.token {
            if let Some(logprob) = token.logprob
                && piece.finish != Some(FinishReason::EndOfText)
            {
                let found = Some((logprob, &*token.top_logprobs));
                let logprobs = out.logprobs.get_or_insert_default();
                logprobs.push(engine, state.n_chars, token.id, found);
            }
            state.n_chars += token.text.chars().count();
            out.text.push_str(&token.text);
        }
        if let Some(finish) = piece.finish {
            out.finish_reason = Some(finish_reason(finish));
        }
        Ok(())
    }

    fn answer<'a>(&'a self, running: &'a Running, choices: &'a [TextChoice]) -> Answer<'a> {
        Answer {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &running.model.id,
            system_fingerprint: &running.model.fingerprint,
            choices,
            usage: None,
            timings: None,
        }
    }

    async fn collect(mut self, mut running: Running) -> Result<Response, ApiError> {
        let mut choices: Vec<TextChoice> = (0..running.choices.len())
            .map(|index| TextChoice {
                index,
                ..TextChoice::default()
            })
            .collect();
        while let Some(piece) = running.piece().await {
            let piece = piece?;
            let index = piece.choice;
            self.add(piece, &running, &mut choices[index])?;
        }
        let answer = Answer {
            usage: Some(Some(Usage::of(&running))),
            timings: Some(TimingReport::of(&running)),
            ..self.answer(&running, &choices)
        };
        Ok(Json(answer).into_response())
    }
}

impl Wire for Writer {
    fn begin(&mut self, _running: &Running, _events: &mut Events) {}

    fn piece(
        &mut self,
        piece: Piece,
        running: &Running,
        events: &mut Events,
    ) -> Result<(), ApiError> {
        let mut choice = TextChoice {
            index: piece.choice,
            ..TextChoice::default()
        };
        self.add(piece, running, &mut choice)?;
        if choice.text.is_empty() && choice.logprobs.is_none() && choice.finish_reason.is_none() {
            return Ok(());
        }
        let choices = [choice];
        events.data(&Answer {
            usage: self.include_usage.then_some(None),
            ..self.answer(running, &choices)
        });
        Ok(())
    }

    fn end(&mut self, running: &Running, events: &mut Events) {
        if self.include_usage {
            events.data(&Answer {
                usage: Some(Some(Usage::of(running))),
                timings: Some(TimingReport::of(running)),
                ..self.answer(running, &[])
            });
        }
        events.done();
    }
}
