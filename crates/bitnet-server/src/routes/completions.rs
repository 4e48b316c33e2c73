//! `POST /v1/completions`: texts continued as they are.
//!
//! Source: OpenAI's API reference (the route is called legacy there; evaluation harnesses need its `echo` and
//! `logprobs`).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bitnet_inference::Prompt;
use bitnet_inference::logprobs::MAX_TOP_LOGPROBS;
use serde::Serialize;
use serde_json::Value;
use tokio::task::block_in_place;

use crate::app::App;
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::checking::Prompts;
use crate::error::{ApiError, ErrorCode};
use crate::fields::{Fields, unsigned};
use crate::generation_request::{GenerationRequest, Shown, StreamUsage};
use crate::limits::ServerLimits;
use crate::model::unix_seconds;
use crate::prompts;
use crate::running::{Piece, Running};
use crate::service_tier::ServiceTier;
use crate::sse::{self, Events, Wire};
use crate::token_text::{CompletionLogprobs, PromptLogprobs};
use crate::unsupported;
use crate::usage::{TimingReport, Usage, finish_reason};

/// Tokens when the request does not say, OpenAI's number.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Prompt tokens whose log probabilities take a millisecond or more to write: as long as going aside pays.
const LONG_PROMPT: usize = 1024;

/// Continues texts.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut fields): JsonBody,
) -> Result<Response, ApiError> {
    let mut request =
        GenerationRequest::read(&app, &caller, &mut fields, unsupported::COMPLETIONS).await?;
    let prompts = prompts::read(
        "prompt",
        fields.need("prompt")?,
        app.limits.max_choices,
        // Names of special tokens are read as such: whoever uses this route lays out the text themselves.
        Prompt::Markup,
    )?;
    let n = request.n;
    request.n = n_drawn(&mut fields, &request, prompts.len(), &app.limits)?;
    let best = (request.n > n).then_some(n);
    let echo = fields.flag("echo")?.unwrap_or(false);
    request.options.max_tokens = fields.count("max_tokens", 0..=usize::MAX)?;
    request.default_max_tokens = Some(DEFAULT_MAX_TOKENS);
    request.shown.logprobs = logprobs(&mut fields)?;
    request.options.prompt_logprobs = echo && request.shown.logprobs.is_some();
    // By which the choices are ranked.
    request.options.logprobs = best.is_some();
    let echoed = echo.then(|| prompts.clone());
    let (stream, usage, shown) = (request.stream, request.usage, request.shown);
    let running = request.start(&app, Prompts::Plain(prompts)).await?;
    let writer = Writer {
        id: app.new_id("cmpl-"),
        created: unix_seconds(),
        texts: vec![TextState::default(); running.choices.len()],
        echoed,
        best,
        usage,
        shown,
    };
    if stream {
        return Ok(sse::response(running, writer, app.limits.ping_interval));
    }
    writer.collect(running).await
}

/// How many choices are drawn for each prompt: `best_of`, of which the `n` likeliest are returned.
fn n_drawn(
    fields: &mut Fields,
    request: &GenerationRequest,
    n_prompts: usize,
    limits: &ServerLimits,
) -> Result<usize, ApiError> {
    const BEST_OF: &str = "best_of";
    let n = request.n;
    let asked = fields.count(BEST_OF, 1..=limits.max_n)?;
    let (field, drawn) = match asked {
        None => ("n", n),
        Some(best_of) => (BEST_OF, best_of),
    };
    if drawn < n {
        let message =
            format!("{BEST_OF} is {drawn} and n {n}: so many cannot be the best of fewer");
        return Err(ApiError::about(field, ErrorCode::InvalidValue, message));
    }
    if drawn > n && request.stream {
        let why = "which choices are the best is known at their end; ask without stream";
        return Err(ApiError::unsupported(field, why));
    }
    if drawn * n_prompts > limits.max_choices {
        let message = format!(
            "{n_prompts} prompts with {field} {drawn} make {} choices, at most {} are allowed",
            drawn * n_prompts,
            limits.max_choices
        );
        return Err(ApiError::about(field, ErrorCode::InvalidValue, message));
    }
    Ok(drawn)
}

/// How many alternatives are wanted; OpenAI's number, or the `true` that some clients send.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    match fields.take("logprobs") {
        None | Some(Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(0)),
        Some(value) => match unsigned(&value).filter(|&top| top <= MAX_TOP_LOGPROBS as u64) {
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
    /// How many choices of each prompt are returned, where more are drawn.
    best: Option<usize>,
    usage: StreamUsage,
    shown: Shown,
}

/// How far the text of a choice is.
#[derive(Debug, Clone, Default)]
struct TextState {
    has_begun: bool,
    n_chars: usize,
}

/// How probable the tokens of a choice were.
#[derive(Debug, Clone, Copy, Default)]
struct Likelihood {
    sum: f64,
    n_tokens: usize,
}

impl Likelihood {
    fn add(&mut self, piece: &Piece) {
        if let Some(logprob) = piece.token.as_ref().and_then(|token| token.logprob) {
            self.sum += f64::from(logprob);
            self.n_tokens += 1;
        }
    }

    /// The mean log probability of a token, by which OpenAI ranks: a long text is no worse for its length.
    fn mean(&self) -> f64 {
        self.sum / self.n_tokens.max(1) as f64
    }
}

/// The `n` likeliest of each `drawn` choices, which are those of one prompt; the best first, the one that was drawn
/// first on ties.
fn likeliest(
    choices: Vec<TextChoice>,
    likelihoods: &[Likelihood],
    drawn: usize,
    n: usize,
) -> Vec<TextChoice> {
    let mut ranked: Vec<(usize, TextChoice)> = choices.into_iter().enumerate().collect();
    for of_prompt in ranked.chunks_mut(drawn) {
        of_prompt.sort_by(|(a, _), (b, _)| {
            let mean = |index: usize| likelihoods[index].mean();
            mean(*b).total_cmp(&mean(*a))
        });
    }
    let kept = ranked
        .into_iter()
        .enumerate()
        .filter(|(place, _)| place % drawn < n);
    let numbered = kept
        .enumerate()
        .map(|(index, (_, (_, choice)))| TextChoice { index, ..choice });
    numbered.collect()
}

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<ServiceTier>,
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
    /// Told with the finish reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

impl Writer {
    /// What a piece adds to its choice; the first one brings the prompt along where that is shown.
    fn add(
        &mut self,
        piece: Piece,
        running: &Running,
        out: &mut TextChoice,
    ) -> Result<(), ApiError> {
        let engine = &running.model.engine;
        let choice = &running.choices[piece.choice];
        if !self.texts[piece.choice].has_begun {
            self.texts[piece.choice].has_begun = true;
            self.add_prompt(&piece, choice.prompt, running, out)?;
        }
        let state = &mut self.texts[piece.choice];
        if let Some(token) = piece.token {
            // The token that ends the text too, as OpenAI has it: harnesses count on one entry for each drawn token.
            if let (Some(logprob), Some(n_top)) = (token.logprob, self.shown.logprobs) {
                let top = &token.top_logprobs[..n_top.min(token.top_logprobs.len())];
                let logprobs = out.logprobs.get_or_insert_default();
                logprobs.push(engine, state.n_chars, token.id, Some((logprob, top)));
            }
            if self.shown.token_ids {
                out.token_ids.get_or_insert_default().push(token.id);
            }
            state.n_chars += token.text.chars().count();
            out.text.push_str(&token.text);
        }
        if let Some(finish) = piece.finish {
            out.finish_reason = Some(finish_reason(finish));
            out.seed = Some(choice.seed);
        }
        Ok(())
    }

    fn add_prompt(
        &mut self,
        piece: &Piece,
        index: usize,
        running: &Running,
        out: &mut TextChoice,
    ) -> Result<(), ApiError> {
        let engine = &running.model.engine;
        let ids = &running.prompts[index];
        if let (Some(n_top), Some(found)) = (self.shown.prompt_logprobs, &piece.prompt) {
            out.prompt_logprobs = Some(PromptLogprobs::new(engine, found, n_top));
        }
        if self.shown.token_ids {
            out.prompt_token_ids = Some(ids.clone());
            out.token_ids.get_or_insert_default();
        }
        let Some(prompts) = &self.echoed else {
            return Ok(());
        };
        let text = match &prompts[index] {
            Prompt::Text(text) | Prompt::Markup(text) => text.clone(),
            Prompt::Ids(ids) => engine
                .tokenizer()?
                .decode(ids, true)
                .map_err(bitnet_inference::Error::from)?,
        };
        if let (Some(n_top), Some(prompt)) = (self.shown.logprobs, &piece.prompt) {
            let logprobs = out.logprobs.get_or_insert_default();
            let mut pieces = engine
                .tokenizer()?
                .decode_stream(&[], true)
                .map_err(bitnet_inference::Error::from)?;
            let mut offset = 0;
            for (&id, found) in ids.iter().zip(&**prompt) {
                let found = found
                    .as_ref()
                    .map(|found| (found.logprob, &found.top[..n_top.min(found.top.len())]));
                logprobs.push(engine, offset, id, found);
                let piece = pieces.push(id).map_err(bitnet_inference::Error::from)?;
                offset += piece.map_or(0, |piece| piece.chars().count());
            }
        }
        self.texts[piece.choice].n_chars += text.chars().count();
        out.text.push_str(&text);
        Ok(())
    }

    fn answer<'a>(&'a self, running: &'a Running, choices: &'a [TextChoice]) -> Answer<'a> {
        Answer {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &running.model.id,
            system_fingerprint: &running.model.fingerprint,
            service_tier: self.shown.tier,
            choices,
            usage: None,
            timings: None,
        }
    }

    async fn collect(mut self, mut running: Running) -> Result<Response, ApiError> {
        let mut choices: Vec<TextChoice> = (0..running.choices.len())
            .map(|index| TextChoice {
                index,
                // Also of an answer without a token: four empty lists.
                logprobs: (self.shown.logprobs).map(|_| CompletionLogprobs::default()),
                ..TextChoice::default()
            })
            .collect();
        let mut likelihoods = vec![Likelihood::default(); choices.len()];
        while let Some(piece) = running.piece().await {
            let piece = piece?;
            likelihoods[piece.choice].add(&piece);
            let to = &mut choices[piece.choice];
            let is_long = piece.prompt.as_ref().is_some_and(|p| p.len() > LONG_PROMPT);
            if let Err(error) = aside_if(is_long, || self.add(piece, &running, to)) {
                running.give_up(&error);
                return Err(error);
            }
        }
        if let Some(n) = self.best {
            let drawn = running.choices.len() / running.prompts.len();
            choices = likeliest(choices, &likelihoods, drawn, n);
        }
        let answer = Answer {
            usage: Some(Some(Usage::of(&running))),
            timings: Some(TimingReport::of(&running)),
            ..self.answer(&running, &choices)
        };
        let is_long = running.n_prompt() > LONG_PROMPT;
        Ok(aside_if(is_long, || Json(answer).into_response()))
    }
}

/// Runs `work`; if it is long, other connections of this thread go on elsewhere meanwhile.
fn aside_if<T>(is_long: bool, work: impl FnOnce() -> T) -> T {
    match is_long {
        true => block_in_place(work),
        false => work(),
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
        if choice.text.is_empty()
            && choice.logprobs.is_none()
            && choice.token_ids.is_none()
            && choice.finish_reason.is_none()
        {
            return Ok(());
        }
        // Whoever asks for usage has them with it, in the last chunk.
        let last = running.is_over() && choice.finish_reason.is_some();
        let timings = (last && self.usage == StreamUsage::Never).then(|| TimingReport::of(running));
        let choices = [choice];
        events.data(&Answer {
            timings,
            usage: match self.usage {
                StreamUsage::Never => None,
                StreamUsage::Last => Some(None),
                StreamUsage::Every => Some(Some(Usage::of(running))),
            },
            ..self.answer(running, &choices)
        });
        Ok(())
    }

    fn end(&mut self, running: &Running, events: &mut Events) {
        if self.usage != StreamUsage::Never {
            events.data(&Answer {
                usage: Some(Some(Usage::of(running))),
                timings: Some(TimingReport::of(running)),
                ..self.answer(running, &[])
            });
        }
        events.done();
    }
}
