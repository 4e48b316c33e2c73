//! `POST /v1/embeddings`: vectors of texts.
//!
//! Source: OpenAI's API reference. Vectors have length 1, as there and as llama.cpp's and vLLM's servers have them.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitnet_inference::Prompt;
use serde::Serialize;
use serde_json::Value;

use crate::app::App;
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::model::LoadedModel;
use crate::prompts;
use crate::unsupported;
use crate::usage::TimingReport;
use crate::vectors::VectorRequest;

/// Texts of a request, as many as OpenAI takes.
pub const MAX_INPUTS: usize = 2048;

/// Makes a vector of each text.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<EmbeddingList>, ApiError> {
    let model = app.model_in_time(&mut fields, &caller).await?;
    unsupported::refuse(&mut fields, unsupported::EMBEDDINGS)?;
    let input = fields.need("input")?;
    let field = match &input {
        Value::Array(values) if values.first().is_some_and(|first| !first.is_number()) => one_of,
        _ => whole,
    };
    // A text is a text here, whatever it contains.
    let inputs = prompts::read("input", input, MAX_INPUTS, Prompt::Text)?;
    let base64 = wants_base64(&mut fields)?;
    let length = length(&mut fields, &model)?;
    let mut data = Vec::with_capacity(inputs.len());
    let request = VectorRequest::read(&app, &caller, &mut fields, model)?;
    let running = request
        .run(&app, inputs, length, field, |vector| {
            data.push(EmbeddingEntry::new(data.len(), vector, base64));
        })
        .await?;
    Ok(Json(EmbeddingList {
        object: "list",
        data,
        model: running.model.id.clone(),
        system_fingerprint: running.model.fingerprint.clone(),
        usage: EmbeddingUsage::of(running.n_prompt()),
        timings: TimingReport::of(&running),
    }))
}

/// What a text of several is called.
fn one_of(place: usize) -> Cow<'static, str> {
    format!("input[{place}]").into()
}

/// What the only text is called.
fn whole(_place: usize) -> Cow<'static, str> {
    "input".into()
}

fn wants_base64(fields: &mut Fields) -> Result<bool, ApiError> {
    const NAME: &str = "encoding_format";
    match fields.text(NAME)?.as_deref() {
        None | Some("float") => Ok(false),
        Some("base64") => Ok(true),
        Some(other) => Err(ApiError::invalid(
            NAME,
            &Value::from(other),
            "float or base64",
        )),
    }
}

/// How many numbers of each vector are wanted. Models that were trained for embeddings are trained so that a beginning
/// of a vector is one too; a model that generates is not.
fn length(fields: &mut Fields, model: &LoadedModel) -> Result<usize, ApiError> {
    const NAME: &str = "dimensions";
    let own = model.engine.config().hidden_size;
    match fields.count(NAME, 1..=own)? {
        None => Ok(own),
        Some(length) if length == own || model.engine.pooling().is_some() => Ok(length),
        Some(_) => {
            let why = format!("this model was not trained for vectors shorter than its own {own}");
            Err(ApiError::unsupported(NAME, why))
        }
    }
}

/// The answer of [`create`].
#[derive(Debug, Serialize)]
pub struct EmbeddingList {
    object: &'static str,
    data: Vec<EmbeddingEntry>,
    model: String,
    system_fingerprint: String,
    usage: EmbeddingUsage,
    timings: TimingReport,
}

#[derive(Debug, Serialize)]
struct EmbeddingEntry {
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

impl EmbeddingEntry {
    fn new(index: usize, vector: Vec<f32>, base64: bool) -> EmbeddingEntry {
        EmbeddingEntry {
            object: "embedding",
            index,
            embedding: if base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
                Numbers::Base64(STANDARD.encode(bytes))
            } else {
                Numbers::Floats(vector)
            },
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Numbers {
    Floats(Vec<f32>),
    /// Little-endian f32.
    Base64(String),
}

/// Tokens of a request that draws none.
#[derive(Debug, Serialize)]
pub struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl EmbeddingUsage {
    /// Of this many tokens of texts.
    pub fn of(n_tokens: usize) -> EmbeddingUsage {
        EmbeddingUsage {
            prompt_tokens: n_tokens,
            total_tokens: n_tokens,
        }
    }
}
