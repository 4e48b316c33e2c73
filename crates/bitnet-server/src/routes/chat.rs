//! `POST /v1/chat/completions`.
//!
//! Source: OpenAI's API reference; the order of a stream's chunks is what its SDKs were written against.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bitnet_inference::Message;
use bitnet_inference::logprobs::MAX_TOP_LOGPROBS;
use serde::Serialize;
use serde_json::Value;

use crate::app::App;
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::error::{ApiError, ErrorCode, shortened};
use crate::fields::{Fields, missing};
use crate::limits::ServerLimits;
use crate::model::unix_seconds;
use crate::running::{Job, Piece, Prompts, Running};
use crate::sampling;
use crate::sse::{self, Events, Wire};
use crate::token_text::{TokenLogprob, chat_logprob};
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
    let model = app.model(fields.text("model")?.as_deref()).await?;
    let messages = messages(fields.need("messages")?, &app.limits)?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let include_usage = include_usage(&mut fields)?;
    let n = fields.count("n", 1..=app.limits.max_choices)?.unwrap_or(1);
    let mut options = sampling::read(&mut fields, &app.limits, &model.engine)?;
    options.max_tokens = match fields.count("max_completion_tokens", 0..=usize::MAX)? {
        None => fields.count("max_tokens", 0..=usize::MAX)?,
        given => given,
    };
    options.logprobs = fields.flag("logprobs")?.unwrap_or(false);
    if let Some(top) = fields.count("top_logprobs", 0..=MAX_TOP_LOGPROBS)? {
        if !options.logprobs {
            let message = "top_logprobs needs logprobs to be true";
            return Err(ApiError::about(
                "top_logprobs",
                ErrorCode::InvalidValue,
                message,
            ));
        }
        options.top_logprobs = top;
    }
    refuse_unsupported(&mut fields)?;
    let work = Job {
        prompts: Prompts::Chat(messages),
        n,
        options,
        terms: app.terms(&mut fields, &caller)?,
        permit: caller.permit,
    };
    let running = app.start(model, work).await?;
    let head = Head {
        id: app.new_id("chatcmpl-"),
        created: unix_seconds(),
    };
    if stream {
        let wire = ChatWire {
            head,
            include_usage,
        };
        return Ok(sse::response(running, wire, app.limits.ping_interval));
    }
    collect(running, head).await
}

/// Whether the last chunk of a stream tells the usage.
///
/// # Errors
/// A `stream_options` that is no object.
pub fn include_usage(fields: &mut Fields) -> Result<bool, ApiError> {
    let Some(mut options) = fields.object("stream_options")? else {
        return Ok(false);
    };
    let continuous = "usage comes once, with the last chunk";
    options.refuse("continuous_usage_stats", continuous, |value| {
        *value == Value::Bool(false)
    })?;
    Ok(options.flag("include_usage")?.unwrap_or(false))
}

fn refuse_unsupported(fields: &mut Fields) -> Result<(), ApiError> {
    sampling::refuse_unsupported(fields)?;
    let tools = "this server does not call tools yet";
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.refuse("tools", tools, empty)?;
    fields.refuse("functions", tools, empty)?;
    let none = |value: &Value| matches!(value.as_str(), Some("none" | "auto"));
    fields.refuse("tool_choice", tools, none)?;
    fields.refuse("function_call", tools, none)?;
    let grammar = "this server does not constrain what a model writes";
    fields.refuse("response_format", grammar, |value| value["type"] == "text")?;
    fields.refuse("prediction", "this server takes no predictions", |_| false)?;
    fields.refuse("audio", "this server speaks text only", |_| false)?;
    fields.refuse("modalities", "this server speaks text only", |value| {
        value
            .as_array()
            .is_some_and(|all| all.iter().all(|one| one == "text"))
    })?;
    fields.refuse(
        "web_search_options",
        "this server has no network access",
        |_| false,
    )?;
    let reasoning = "these models do not reason apart from their answer";
    fields.refuse("reasoning_effort", reasoning, |value| value == "none")?;
    fields.refuse(
        "verbosity",
        "answers are as the model writes them",
        |value| value == "medium",
    )?;
    fields.refuse("store", "this server keeps no answers", |value| {
        *value == Value::Bool(false)
    })?;
    fields.refuse("service_tier", "there is one", |value| {
        matches!(value.as_str(), Some("auto" | "default"))
    })?;
    fields.refuse("echo", "only /v1/completions repeats its prompt", |value| {
        *value == Value::Bool(false)
    })
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
    let kind = value.get("type").and_then(Value::as_str).unwrap_or("text");
    if kind != "text" {
        let kind = shortened(&Value::from(kind));
        let why = format!("{kind} parts cannot be read, only \"text\"");
        return Err(ApiError::unsupported(format!("{path}.type"), why));
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
}

#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<AnswerChoice>,
    usage: Usage,
    timings: TimingReport,
}

#[derive(Serialize)]
struct AnswerChoice {
    index: usize,
    message: AnswerMessage,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
    seed: u64,
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

async fn collect(mut running: Running, head: Head) -> Result<Response, ApiError> {
    let mut texts = vec![(String::new(), None::<Vec<TokenLogprob>>); running.choices.len()];
    while let Some(piece) = running.piece().await {
        let piece = piece?;
        let (text, logprobs) = &mut texts[piece.choice];
        if let Some(token) = &piece.token {
            text.push_str(&token.text);
        }
        if let Some(logprob) = logprob(&running, &piece) {
            logprobs.get_or_insert_default().push(logprob);
        }
    }
    let choices = texts
        .into_iter()
        .zip(&running.choices)
        .enumerate()
        .map(|(index, ((content, logprobs), choice))| AnswerChoice {
            index,
            message: AnswerMessage {
                role: "assistant",
                content,
                refusal: None,
            },
            logprobs: logprobs.map(Logprobs::new),
            finish_reason: choice.finish.map_or("stop", finish_reason),
            seed: choice.seed,
        })
        .collect();
    let answer = Answer {
        id: &head.id,
        object: "chat.completion",
        created: head.created,
        model: &running.model.id,
        system_fingerprint: &running.model.fingerprint,
        choices,
        usage: Usage::of(&running),
        timings: TimingReport::of(&running),
    };
    Ok(Json(answer).into_response())
}

/// The log probability of a piece that is part of the text.
fn logprob(running: &Running, piece: &Piece) -> Option<TokenLogprob> {
    if piece.finish == Some(bitnet_inference::FinishReason::EndOfText) {
        return None;
    }
    chat_logprob(&running.model.engine, piece.token.as_ref()?)
}

/// Writes `chat.completion.chunk` events.
struct ChatWire {
    head: Head,
    include_usage: bool,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: &'a [ChunkChoice],
    /// Absent unless it is asked for; `null` in all chunks but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<TimingReport>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
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
        self.write(running, &[choice], None, events);
    }

    fn write(
        &self,
        running: &Running,
        choices: &[ChunkChoice],
        end: Option<(Option<Usage>, TimingReport)>,
        events: &mut Events,
    ) {
        events.data(&Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &running.model.id,
            system_fingerprint: &running.model.fingerprint,
            choices,
            usage: self.include_usage.then(|| end.and_then(|(usage, _)| usage)),
            timings: end.map(|(_, timings)| timings),
        });
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
                logprobs: None,
                finish_reason: None,
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
        let logprobs = logprob(running, &piece).map(|logprob| Logprobs::new(vec![logprob]));
        let text = piece.token.map(|token| token.text).unwrap_or_default();
        if !text.is_empty() || logprobs.is_some() {
            let choice = ChunkChoice {
                index: piece.choice,
                delta: Delta {
                    role: None,
                    content: Some(text),
                },
                logprobs,
                finish_reason: None,
            };
            self.chunk(running, choice, events);
        }
        if let Some(finish) = piece.finish {
            let choice = ChunkChoice {
                index: piece.choice,
                delta: Delta::default(),
                logprobs: None,
                finish_reason: Some(finish_reason(finish)),
            };
            self.chunk(running, choice, events);
        }
        Ok(())
    }

    fn end(&mut self, running: &Running, events: &mut Events) {
        if self.include_usage {
            let end = (Some(Usage::of(running)), TimingReport::of(running));
            self.write(running, &[], Some(end), events);
        }
        events.done();
    }
}
