//! `GET /v1/models` and `GET /v1/models/{id}`: one body for OpenAI's clients (`data`) and for ours (`models`).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::app::App;
use crate::error::ApiError;
use crate::model::{LoadedModel, layout};

/// Lists the models.
pub async fn list(State(app): State<Arc<App>>) -> Json<ModelList> {
    let models = app.models.all();
    Json(ModelList {
        object: "list",
        data: models.iter().map(|model| ModelCard::of(model)).collect(),
        models: models.iter().map(|model| ModelStatus::of(model)).collect(),
    })
}

/// Shows one.
///
/// # Errors
/// [`crate::error::ErrorCode::ModelNotFound`].
pub async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<ModelCard>, ApiError> {
    let model = app.models.get(Some(&id))?;
    Ok(Json(ModelCard::of(&model)))
}

/// The answer of [`list`].
#[derive(Debug, Serialize)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
    models: Vec<ModelStatus>,
}

/// A model as OpenAI shows one.
#[derive(Debug, Serialize)]
pub struct ModelCard {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Under vLLM's name.
    max_model_len: usize,
}

impl ModelCard {
    fn of(model: &LoadedModel) -> ModelCard {
        ModelCard {
            id: model.id.clone(),
            object: "model",
            created: model.created,
            owned_by: "bitnet",
            max_model_len: model.engine.context(),
        }
    }
}

/// A model as operators want to see one. Its path is nobody's business but the server's.
#[derive(Debug, Serialize)]
pub struct ModelStatus {
    id: String,
    status: &'static str,
    quantization_format: String,
    device: &'static str,
    load_time: u64,
    kernel: String,
    context: usize,
    weight_bytes: usize,
    kv_cache_bytes: usize,
    /// `null`: nothing is kept over the last minutes yet.
    performance_metrics: Option<()>,
}

impl ModelStatus {
    fn of(model: &LoadedModel) -> ModelStatus {
        let info = model.engine.info();
        ModelStatus {
            id: model.id.clone(),
            status: if model.handle.health().failed {
                "failed"
            } else {
                "loaded"
            },
            quantization_format: layout(&info.kernel).to_owned(),
            device: "cpu",
            load_time: model.created,
            kernel: info.kernel.clone(),
            context: info.context,
            weight_bytes: info.layer_bytes
                + info.layer_copy_bytes
                + info.head_bytes
                + info.head_copy_bytes,
            kv_cache_bytes: info.kv_cache_bytes,
            performance_metrics: None,
        }
    }
}
