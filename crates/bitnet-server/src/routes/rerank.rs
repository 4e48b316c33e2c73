//! `POST /v1/rerank`: documents in the order in which they belong to a query, by the cosine of their vectors.
//!
//! Source: Cohere's and Jina's API references and vLLM's server, whose requests and answers have one shape; a document
//! is shown unless `return_documents` is false, as with the latter two. Query and documents are turned to the vectors
//! that `/v1/embeddings` answers with: a model that wants an instruction before a query is sent it as part of the
//! query.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bitnet_inference::Prompt;
use serde::Serialize;
use serde_json::{Value, json};

use super::embeddings::EmbeddingUsage;
use crate::app::App;
use crate::body::JsonBody;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::fields::missing;
use crate::unsupported;
use crate::usage::TimingReport;
use crate::vectors::VectorRequest;

/// Documents of a request, as many as `/v1/embeddings` takes texts.
pub const MAX_DOCUMENTS: usize = super::embeddings::MAX_INPUTS;

/// Ranks documents.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<Ranking>, ApiError> {
    let model = app.model_in_time(&mut fields, &caller).await?;
    unsupported::refuse(&mut fields, unsupported::RERANK)?;
    let query = text("query", fields.need("query")?)?;
    let documents = documents(fields.need("documents")?)?;
    // 0 is what vLLM's clients send for all of them.
    let top_n = match fields.count("top_n", 0..=usize::MAX)? {
        None | Some(0) => documents.len(),
        Some(top_n) => top_n,
    };
    let shown = fields.flag("return_documents")?.unwrap_or(true);
    let mut shown = shown.then(|| documents.clone());
    let own = model.engine.config().hidden_size;
    let request = VectorRequest::read(&app, &caller, &mut fields, model)?;
    let texts = std::iter::once(query).chain(documents).map(Prompt::Text);
    let (mut of_query, mut scores) = (None, Vec::new());
    let running = request
        .run(
            &app,
            texts.collect(),
            own,
            field,
            |vector| match &of_query {
                None => of_query = Some(vector),
                Some(of_query) => scores.push(cosine(of_query, &vector)),
            },
        )
        .await?;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // The sort is stable: of equal documents the one that was sent first comes first.
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate(top_n);
    let results = order.into_iter().map(|index| RankedDocument {
        index,
        relevance_score: scores[index],
        document: shown.as_mut().map(|texts| ShownDocument {
            text: std::mem::take(&mut texts[index]),
        }),
    });
    let n_tokens = running.n_prompt();
    Ok(Json(Ranking {
        id: app.new_id("rerank-"),
        object: "list",
        model: running.model.id.clone(),
        system_fingerprint: running.model.fingerprint.clone(),
        timings: TimingReport::of(&running),
        results: results.collect(),
        usage: EmbeddingUsage::of(n_tokens),
        meta: json!({ "tokens": { "input_tokens": n_tokens, "output_tokens": 0 } }),
    }))
}

/// The field that has the text of a place: the query is the first.
fn field(place: usize) -> Cow<'static, str> {
    match place.checked_sub(1) {
        None => "query".into(),
        Some(index) => format!("documents[{index}]").into(),
    }
}

fn documents(value: Value) -> Result<Vec<String>, ApiError> {
    const NAME: &str = "documents";
    match value {
        Value::Array(values) if (1..=MAX_DOCUMENTS).contains(&values.len()) => {
            let one = |(index, value)| text(format!("{NAME}[{index}]"), value);
            values.into_iter().enumerate().map(one).collect()
        }
        other => {
            let expected = format!("a list of 1 to {MAX_DOCUMENTS} texts");
            Err(ApiError::invalid(NAME, &other, expected))
        }
    }
}

/// A text as it is, or as the `text` of an object.
fn text(path: impl Into<Cow<'static, str>>, value: Value) -> Result<String, ApiError> {
    let path = path.into();
    let (path, value) = match value {
        Value::Object(mut object) => {
            let path = format!("{path}.text");
            match object.remove("text") {
                None => return Err(missing(path)),
                Some(value) => (path.into(), value),
            }
        }
        value => (path, value),
    };
    match value {
        Value::String(text) => Ok(text),
        other => Err(ApiError::invalid(
            path,
            &other,
            "a string, or an object with one as its text",
        )),
    }
}

/// The cosine of the angle between two vectors, from -1 to 1; 0 where one has no direction.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        products.sum()
    };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths == 0.0 {
        return 0.0;
    }
    (dot(a, b) / lengths).clamp(-1.0, 1.0)
}

/// The answer of [`create`].
#[derive(Debug, Serialize)]
pub struct Ranking {
    id: String,
    object: &'static str,
    model: String,
    system_fingerprint: String,
    timings: TimingReport,
    /// The best first.
    results: Vec<RankedDocument>,
    usage: EmbeddingUsage,
    /// Where Cohere's clients look for the tokens.
    meta: Value,
}

#[derive(Debug, Serialize)]
struct RankedDocument {
    /// Its place in the request, from 0.
    index: usize,
    relevance_score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<ShownDocument>,
}

#[derive(Debug, Serialize)]
struct ShownDocument {
    text: String,
}
