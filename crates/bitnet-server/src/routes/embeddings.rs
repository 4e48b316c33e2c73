//! `POST /v1/embeddings`: vectors of texts.
//!
//! Source: OpenAI's API reference. Vectors have length 1, as there and as llama.cpp's and vLLM's servers have them. A
//! model that was made to generate has no vectors unless the operator says how its states are pooled (`--pooling`, as in
//! llama.cpp): a silent choice would be a wrong one for somebody.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitnet_inference::{GenerateOptions, Pooling, Prompt};
use serde::Serialize;
use serde_json::Value;

use crate::app::App;
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::model::LoadedModel;
use crate::prompts;
use crate::running::{Job, Prompts, Truncate};
use crate::unsupported;

/// Texts of a request, as many as OpenAI takes.
pub const MAX_INPUTS: usize = 2048;

/// Texts of it that are in the queue at once: enough for a few full batches, and others get their turns between.
const AT_ONCE: usize = 64;

/// Makes a vector of each text.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<EmbeddingList>, ApiError> {
    let model = app.model(fields.text("model")?.as_deref()).await?;
    unsupported::refuse(&mut fields, unsupported::EMBEDDINGS)?;
    // A text is a text here, whatever it contains.
    let inputs = prompts::read("input", fields.need("input")?, MAX_INPUTS, Prompt::Text)?;
    let base64 = wants_base64(&mut fields)?;
    let length = length(&mut fields, &model)?;
    let pooling = pooling(&app, &model)?;
    let terms = app.terms(&mut fields, &caller)?;
    let mut list = EmbeddingList {
        object: "list",
        data: Vec::with_capacity(inputs.len()),
        model: model.id.clone(),
        usage: EmbeddingUsage::default(),
    };
    let mut inputs = inputs.into_iter();
    loop {
        let prompts: Vec<Prompt> = inputs.by_ref().take(AT_ONCE).collect();
        if prompts.is_empty() {
            return Ok(Json(list));
        }
        let work = Job {
            prompts: Prompts::Plain(prompts),
            n: 1,
            options: GenerateOptions {
                max_tokens: Some(0),
                ..GenerateOptions::greedy()
            },
            default_max_tokens: None,
            truncate: Truncate::No,
            embed: Some(pooling),
            terms,
            permit: caller.permit.clone(),
        };
        let started = app.start(model.clone(), work).await;
        let mut running = started.map_err(about_input)?;
        let mut vectors = vec![Vec::new(); running.choices.len()];
        while let Some(piece) = running.piece().await {
            let piece = piece?;
            if let Some(vector) = piece.embedding {
                vectors[piece.choice] = unit(&vector[..length]);
            }
        }
        list.add(vectors, base64);
        list.usage.prompt_tokens += running.n_prompt();
        list.usage.total_tokens += running.n_prompt();
    }
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

/// How many numbers of each vector are wanted. Models that were trained for embeddings are trained so that a beginning of
/// a vector is one too; a model that generates is not.
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

fn pooling(app: &App, model: &LoadedModel) -> Result<Pooling, ApiError> {
    let pooling = app.limits.pooling.or(model.engine.pooling());
    pooling.ok_or_else(|| {
        let why = "this model was made to generate text and its files name no pooling; whoever runs the server can \
                   choose one, such as --pooling last";
        ApiError::unsupported("model", why)
    })
}

/// The engine speaks of prompts, and here they are inputs.
fn about_input(error: ApiError) -> ApiError {
    match error.param.as_deref() {
        Some("prompt") => ApiError {
            param: Some("input".into()),
            ..error
        },
        _ => error,
    }
}

/// The vector of length 1 in the same direction; zeros have none and stay.
fn unit(vector: &[f32]) -> Vec<f32> {
    let square: f64 = vector.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    // What the engine made a unit vector of already is left as it is, to the last bit.
    if square == 0.0 || (square - 1.0).abs() < 1e-6 {
        return vector.to_vec();
    }
    let length = square.sqrt();
    let scaled = vector.iter().map(|&v| (f64::from(v) / length) as f32);
    scaled.collect()
}

/// The answer of [`create`].
#[derive(Debug, Serialize)]
pub struct EmbeddingList {
    object: &'static str,
    data: Vec<EmbeddingEntry>,
    model: String,
    usage: EmbeddingUsage,
}

impl EmbeddingList {
    fn add(&mut self, vectors: Vec<Vec<f32>>, base64: bool) {
        for vector in vectors {
            self.data.push(EmbeddingEntry {
                object: "embedding",
                index: self.data.len(),
                embedding: if base64 {
                    let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
                    Numbers::Base64(STANDARD.encode(bytes))
                } else {
                    Numbers::Floats(vector)
                },
            });
        }
    }
}

#[derive(Debug, Serialize)]
struct EmbeddingEntry {
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Numbers {
    Floats(Vec<f32>),
    /// Little-endian f32.
    Base64(String),
}

#[derive(Debug, Default, Serialize)]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}
