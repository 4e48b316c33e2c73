//! `POST /tokenize`, `/detokenize` and `/apply-template`, with llama.cpp's and vLLM's names for fields.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use bitnet_inference::{Engine, Error, Message, Prompt};
use serde_json::{Value, json};

use crate::app::{App, with_room};
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::checking;
use crate::error::{ApiError, ErrorCode};
use crate::model::LoadedModel;
use crate::routes::chat::messages;
use crate::sampling::token_id;
use crate::token_text;

/// Text, or a conversation, to ids. BOS is added where the tokenizer does so, unless `add_special` is false.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn tokenize(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = app.model_for(&mut fields, &caller).await?;
    let body_len = fields.body_len;
    let conversation = fields.take("messages");
    let conversation = conversation
        .map(|value| messages(value, &app.limits))
        .transpose()?;
    // llama.cpp's name for each, and vLLM's.
    let (text, other_text) = (fields.text("content")?, fields.text("prompt")?);
    let text = text.or(other_text);
    let special = fields.flag("add_special")?;
    let special = special
        .or(fields.flag("add_special_tokens")?)
        .unwrap_or(true);
    let parse_special = fields.flag("parse_special")?.unwrap_or(true);
    let with_pieces = fields.flag("with_pieces")?.unwrap_or(false);
    let said = |messages: &Vec<Message>| messages.iter().map(|m| m.content.len()).sum();
    let len = match (&conversation, &text) {
        (Some(messages), _) => said(messages),
        (None, text) => text.as_ref().map_or(0, String::len),
    };
    blocking(&app, (len, body_len), move || {
        let engine = &model.engine;
        let mut ids = match (conversation, text) {
            (Some(messages), None) => engine.encode_prompt(&model.chat_prompt(&messages)?)?,
            (None, Some(text)) => {
                let prompt = if parse_special {
                    Prompt::Markup(text)
                } else {
                    Prompt::Text(text)
                };
                engine.encode_prompt(&prompt)?
            }
            _ => {
                let message = "give either content (a text) or messages";
                return Err(ApiError::about("content", ErrorCode::MissingField, message));
            }
        };
        if !special
            && engine.tokenizer()?.adds_bos()
            && ids.first().copied() == engine.tokenizer()?.bos()
        {
            ids.remove(0);
        }
        let tokens = if with_pieces {
            ids.iter().map(|&id| piece(engine, id)).collect()
        } else {
            json!(ids)
        };
        Ok(json!({ "tokens": tokens, "count": ids.len(), "max_model_len": engine.context() }))
    })
    .await
}

fn piece(engine: &Engine, id: u32) -> Value {
    let bytes = token_text::bytes(engine, id);
    match String::from_utf8(bytes) {
        Ok(text) => json!({ "id": id, "piece": text }),
        Err(error) => json!({ "id": id, "piece": error.into_bytes() }),
    }
}

/// Ids to text, special tokens included.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn detokenize(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = app.model_for(&mut fields, &caller).await?;
    let body_len = fields.body_len;
    let value = fields.need("tokens")?;
    let ids: Option<Vec<u32>> = value
        .as_array()
        .and_then(|values| values.iter().map(token_id).collect());
    let ids = ids.ok_or_else(|| ApiError::invalid("tokens", &value, "a list of token ids"))?;
    // Ids are looked up, not searched for.
    blocking(&app, (0, body_len), move || {
        let tokenizer = model.engine.tokenizer()?;
        let text = tokenizer.decode(&ids, false).map_err(|error| ApiError {
            param: Some("tokens".into()),
            ..ApiError::from(Error::from(error))
        })?;
        Ok(json!({ "content": text, "prompt": text }))
    })
    .await
}

/// A conversation to the text that the model sees.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn apply_template(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let model = app.model_for(&mut fields, &caller).await?;
    let body_len = fields.body_len;
    let messages = messages(fields.need("messages")?, &app.limits)?;
    let len = messages.iter().map(|m| m.content.len()).sum();
    let work = move || Ok(json!({ "prompt": chat_text(&model, &messages)? }));
    blocking(&app, (len, body_len), work).await
}

fn chat_text(model: &LoadedModel, messages: &[Message]) -> Result<String, ApiError> {
    match model.chat_prompt(messages)? {
        Prompt::Text(text) | Prompt::Markup(text) => Ok(text),
        // Special tokens have their names in the text, so it says what the ids say.
        Prompt::Ids(ids) => Ok(model
            .engine
            .tokenizer()?
            .decode(&ids, false)
            .map_err(Error::from)?),
    }
}

/// What harnesses ask of a tokenizer that they have no copy of, as vLLM tells it.
///
/// # Errors
/// A model without a tokenizer.
pub async fn tokenizer_info(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    let name = app.models.allowed_name(None, &caller.models)?;
    let model = app.model(name.as_deref()).await?;
    let engine = &model.engine;
    let tokenizer = engine.tokenizer()?;
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.token_text(id));
    Ok(Json(json!({
        "vocab_size": tokenizer.vocab_size(),
        "bos_token": text(tokenizer.bos()),
        "eos_token": text(tokenizer.eos()),
        "add_bos_token": tokenizer.adds_bos(),
        "model_max_length": engine.context(),
        "chat_template": engine.chat_template(),
    })))
}

/// Runs `work`, which may take a while on a text of `len` bytes that came in a body of `body_len`, where no connection
/// waits for it, if there is room.
///
/// # Errors
/// [`ErrorCode::QueueFull`], and what `work` reports.
async fn blocking(
    app: &App,
    (len, body_len): (usize, usize),
    work: impl FnOnce() -> Result<Value, ApiError> + Send + 'static,
) -> Result<Json<Value>, ApiError> {
    let Ok(place) = app.tokenising.clone().try_acquire_owned() else {
        let message = "too many texts are being tokenised at once";
        let refused = ApiError::new(ErrorCode::QueueFull, message).with_limit("tokenising");
        return Err(refused.retry_after(Duration::from_secs(1)));
    };
    let turn = checking::turn(&app.long_checks, len);
    let turn = with_room(&app.held_bodies, body_len, turn).await??;
    // The place goes along: a client that leaves meanwhile takes up the thread until it is done.
    let work = move || (work(), (place, turn)).0;
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ApiError::new(ErrorCode::InternalError, "the request failed"))?
        .map(Json)
}
