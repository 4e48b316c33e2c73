//! `POST /v1/chat/completions`.
//!
//! Source: OpenAI's API reference; the order of a stream's chunks is what its SDKs were written against.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bitnet_inference::logprobs::MAX_TOP_LOGPROBS;
use bitnet_inference::{FinishReason, Message};
use serde::Serialize;
use serde_json::Value;

use crate::app::App;
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::checking::Prompts;
use crate::error::{ApiError, ErrorCode, shortened};
use crate::fields::{Fields, missing};
use crate::generation_request::{GenerationRequest, Shown, StreamUsage};
use crate::limits::ServerLimits;
use crate::model::unix_seconds;
use crate::running::{Piece, Running};
use crate::service_tier::ServiceTier;
use crate::sse::{self, Events, Wire};
use crate::token_text::{PromptLogprobs, TokenLogprob, chat_logprob};
use crate::unsupported;
use crate::usage::{TimingReport, Usage, finish_reason};

/// Answers a conversation.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut fields): JsonBody,
) -> Result<Response, ApiError> {
    let mut request =
        GenerationRequest::read(&app, &caller, &mut fields, unsupported::CHAT).await?;
    let messages = messages(fields.need("messages")?, &app.limits)?;
    let older_name = fields.count("max_tokens", 0..=usize::MAX)?;
    let newer_name = fields.count("max_completion_tokens", 0..=usize::MAX)?;
    request.options.max_tokens = newer_name.or(older_name);
    request.shown.logprobs = logprobs(&mut fields)?;
    let (stream, usage, shown) = (request.stream, request.usage, request.shown);
    let running = request.start(&app, Prompts::Chat(messages)).await?;
    let head = Head {
        id: app.new_id("chatcmpl-"),
        created: unix_seconds(),
        shown,
    };
    if stream {
        let wire = ChatWire { head, usage };
        return Ok(sse::response(running, wire, app.limits.ping_interval));
    }
    collect(running, head).await
}

/// How many alternatives to each token are shown; `None` without `logprobs`.
fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    if top.is_some_and(|top| top > 0) && !wanted {
        let message = "top_logprobs needs logprobs to be true";
        let code = ErrorCode::InvalidValue;
        return Err(ApiError::about("top_logprobs", code, message));
    }
    Ok(wanted.then_some(top.unwrap_or(0)))
}

/// Reads `messages`.
///
/// # Errors
/// Whatever is wrong, by the path to it.
pub fn messages(value: Value, limits: &ServerLimits) -> Result<Vec<Message>, ApiError> {
    let Value::Array(values) = value else {
        return Err(ApiError::invalid("messages", &value, "a list of messages"));
    };
    if values.is_empty() || values.len() > limits.max_messages {
        let expected = format!("1 to {} messages", limits.max_messages);
        return Err(ApiError::invalid(
            "messages",
            &Value::Array(values),
            expected,
        ));
    }
    values
        .into_iter()
        .enumerate()
        .map(|(index, value)| message(index, value))
        .collect()
}

fn message(index: usize, value: Value) -> Result<Message, ApiError> {
    let path = |field: &str| format!("messages[{index}]{field}");
    let Value::Object(map) = value else {
        return Err(ApiError::invalid(
            path(""),
            &value,
            "an object with role and content",
        ));
    };
    let mut fields = Fields::from(map);
    let role = match fields.take("role") {
        Some(Value::String(role)) => role,
        Some(other) => return Err(ApiError::invalid(path(".role"), &other, "a string")),
        None => return Err(missing(path(".role"))),
    };
    let role = match role.as_str() {
        "developer" => "system".to_owned(), // OpenAI's newer name
        "system" | "user" | "assistant" => role,
        "tool" | "function" => {
            let why = "this server does not call tools yet";
            return Err(ApiError::unsupported(path(".role"), why));
        }
        _ => {
            let expected = "system, developer, user or assistant";
            return Err(ApiError::invalid(
                path(".role"),
                &Value::String(role),
                expected,
            ));
        }
    };
    for field in ["tool_calls", "function_call", "audio"] {
        if fields
            .take(field)
            .is_some_and(|value| value.as_array().is_none_or(|all| !all.is_empty()))
        {
            let why = "messages of this server are text";
            return Err(ApiError::unsupported(path(&format!(".{field}")), why));
        }
    }
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => parts
            .into_iter()
            .enumerate()
            .map(|(part, value)| text_part(&path(&format!(".content[{part}]")), value))
            .collect::<Result<Vec<_>, _>>()?
            .join("\n"),
        Some(other) => {
            let expected = "a string or a list of text parts";
            return Err(ApiError::invalid(path(".content"), &other, expected));
        }
        None if role == "assistant" => String::new(),
        None => return Err(missing(path(".content"))),
    };
    Ok(Message::new(role, content))
}

fn text_part(path: &str, value: Value) -> Result<String, ApiError> {
    match value.get("type") {
        None | Some(Value::Null) => {}
        Some(Value::String(kind)) if kind == "text" => {}
        Some(kind) => {
            let why = format!("{} parts cannot be read, only \"text\"", shortened(kind));
            return Err(ApiError::unsupported(format!("{path}.type"), why));
        }
    }
    match value.get("text").and_then(Value::as_str) {
        Some(text) => Ok(text.to_owned()),
        None => Err(missing(format!("{path}.text"))),
    }
}

/// What all chunks of an answer have in common.
struct Head {
    id: String,
    created: u64,
    shown: Shown,
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
    choices: Vec<AnswerChoice>,
    usage: Usage,
    timings: TimingReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Serialize)]
struct AnswerChoice {
    index: usize,
    message: AnswerMessage,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct AnswerMessage {
    role: &'static str,
    content: String,
    refusal: Option<String>,
}

#[derive(Serialize)]
struct Logprobs {
    content: Vec<TokenLogprob>,
    refusal: Option<Vec<TokenLogprob>>,
}

impl Logprobs {
    fn new(content: Vec<TokenLogprob>) -> Logprobs {
        Logprobs {
            content,
            refusal: None,
        }
    }
}

/// What has come of a choice.
#[derive(Default, Clone)]
struct Written {
    content: String,
    logprobs: Option<Vec<TokenLogprob>>,
    ids: Vec<u32>,
}

async fn collect(mut running: Running, head: Head) -> Result<Response, ApiError> {
    let nothing = Written {
        logprobs: head.shown.logprobs.map(|_| Vec::new()), // also of a text that ends at once
        ..Written::default()
    };
    let mut written = vec![nothing; running.choices.len()];
    let mut prompt_logprobs = None;
    while let Some(piece) = running.piece().await {
        let mut piece = piece?;
        if let (Some(n_top), Some(found)) = (head.shown.prompt_logprobs, piece.prompt.take()) {
            let engine = &running.model.engine;
            prompt_logprobs.get_or_insert_with(|| PromptLogprobs::new(engine, &found, n_top));
        }
        let logprob = head.logprob(&running, &piece);
        let to = &mut written[piece.choice];
        if let Some(token) = piece.token {
            to.content.push_str(&token.text);
            to.ids.push(token.id);
        }
        if let Some(logprob) = logprob {
            to.logprobs.get_or_insert_default().push(logprob);
        }
    }
    let choices = written
        .into_iter()
        .zip(&running.choices)
        .enumerate()
        .map(|(index, (written, choice))| AnswerChoice {
            index,
            message: AnswerMessage {
                role: "assistant",
                content: written.content,
                refusal: None,
            },
            logprobs: written.logprobs.map(Logprobs::new),
            finish_reason: choice.finish.map_or("stop", finish_reason),
            seed: choice.seed,
            token_ids: head.shown.token_ids.then_some(written.ids),
        })
        .collect();
    let answer = Answer {
        id: &head.id,
        object: "chat.completion",
        created: head.created,
        model: &running.model.id,
        system_fingerprint: &running.model.fingerprint,
        service_tier: head.shown.tier,
        choices,
        usage: Usage::of(&running),
        timings: TimingReport::of(&running),
        prompt_logprobs,
        prompt_token_ids: head.prompt_ids(&running),
    };
    Ok(Json(answer).into_response())
}

impl Head {
    /// The log probability of a piece that is part of the text.
    fn logprob(&self, running: &Running, piece: &Piece) -> Option<TokenLogprob> {
        if piece.finish == Some(FinishReason::EndOfText) {
            return None;
        }
        let n_top = self.shown.logprobs?;
        chat_logprob(&running.model.engine, piece.token.as_ref()?, n_top)
    }

    fn prompt_ids<'a>(&self, running: &'a Running) -> Option<&'a [u32]> {
        self.shown.token_ids.then_some(&*running.prompts[0])
    }
}

/// Writes `chat.completion.chunk` events.
struct ChatWire {
    head: Head,
    usage: StreamUsage,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<ServiceTier>,
    choices: &'a [ChunkChoice],
    /// Absent unless it is asked for; `null` in all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<TimingReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Serialize, Default)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize, Default)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl ChatWire {
    fn chunk(&self, running: &Running, choice: ChunkChoice, events: &mut Events) {
        let usage = match self.usage {
            StreamUsage::Never => None,
            StreamUsage::Last => Some(None),
            StreamUsage::Every => Some(Some(Usage::of(running))),
        };
        let first = choice.delta.role.is_some();
        // Whoever asks for usage has them with it, in the last chunk.
        let last = running.is_over() && choice.finish_reason.is_some();
        let timings = (last && self.usage == StreamUsage::Never).then(|| TimingReport::of(running));
        events.data(&Chunk {
            usage,
            timings,
            prompt_token_ids: self.head.prompt_ids(running).filter(|_| first),
            ..self.empty(running, &[choice])
        });
    }

    fn empty<'a>(&'a self, running: &'a Running, choices: &'a [ChunkChoice]) -> Chunk<'a> {
        Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &running.model.id,
            system_fingerprint: &running.model.fingerprint,
            service_tier: self.head.shown.tier,
            choices,
            usage: None,
            timings: None,
            prompt_token_ids: None,
        }
    }
}

impl Wire for ChatWire {
    fn begin(&mut self, running: &Running, events: &mut Events) {
        for index in 0..running.choices.len() {
            let choice = ChunkChoice {
                index,
                delta: Delta {
                    role: Some("assistant"),
                    content: Some(String::new()),
                },
                ..ChunkChoice::default()
            };
            self.chunk(running, choice, events);
        }
    }

    fn piece(
        &mut self,
        piece: Piece,
        running: &Running,
        events: &mut Events,
    ) -> Result<(), ApiError> {
        let logprobs = self.head.logprob(running, &piece);
        let token_ids = piece.token.as_ref().map(|token| vec![token.id]);
        let token_ids = token_ids.filter(|_| self.head.shown.token_ids);
        let text = piece.token.map(|token| token.text).unwrap_or_default();
        if !text.is_empty() || logprobs.is_some() || token_ids.is_some() {
            let choice = ChunkChoice {
                index: piece.choice,
                delta: Delta {
                    role: None,
                    content: Some(text),
                },
                logprobs: logprobs.map(|logprob| Logprobs::new(vec![logprob])),
                token_ids,
                ..ChunkChoice::default()
            };
            self.chunk(running, choice, events);
        }
        if let Some(finish) = piece.finish {
            let choice = ChunkChoice {
                index: piece.choice,
                finish_reason: Some(finish_reason(finish)),
                seed: Some(running.choices[piece.choice].seed),
                ..ChunkChoice::default()
            };
            self.chunk(running, choice, events);
        }
        Ok(())
    }

    fn end(&mut self, running: &Running, events: &mut Events) {
        if self.usage != StreamUsage::Never {
            events.data(&Chunk {
                usage: Some(Some(Usage::of(running))),
                timings: Some(TimingReport::of(running)),
                ..self.empty(running, &[])
            });
        }
        events.done();
    }
}
