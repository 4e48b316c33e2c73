//! `GET /v1/models` and `GET /v1/models/{id}`: one body for OpenAI's clients (`data`) and for ours (`models`).

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use bitnet_inference::WeightsPlace;
use serde::Serialize;

use crate::app::App;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::metrics::rolling::RollingFigures;
use crate::model::layout;
use crate::model_manager::entry::ModelState;
use crate::model_manager::registry::Seen;

/// Lists the models.
pub async fn list(State(app): State<Arc<App>>, caller: Caller) -> Json<ModelList> {
    let ids = app.models.ids();
    // One that was deleted in this moment is left out.
    let known: Vec<Seen> = ids
        .iter()
        .filter_map(|id| app.models.look(id).ok())
        .collect();
    Json(ModelList {
        object: "list",
        data: known.iter().map(ListedModel::of).collect(),
        models: known
            .iter()
            .filter_map(|seen| ModelStatus::of(seen, caller.is_admin))
            .collect(),
    })
}

/// Shows one.
///
/// # Errors
/// [`crate::error::ErrorCode::ModelNotFound`].
pub async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<ListedModel>, ApiError> {
    let seen = app.models.look(&id)?;
    Ok(Json(ListedModel::of(&seen)))
}

/// The answer of [`list`].
#[derive(Debug, Serialize)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ListedModel>,
    models: Vec<ModelStatus>,
}

/// A model as OpenAI shows one.
#[derive(Debug, Serialize)]
pub struct ListedModel {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Under vLLM's name; `null` while the model is not loaded.
    max_model_len: Option<usize>,
}

impl ListedModel {
    fn of(seen: &Seen) -> ListedModel {
        let model = seen.current.as_ref();
        ListedModel {
            id: seen.id.clone(),
            object: "model",
            created: model.map_or(0, |model| model.created),
            owned_by: "bitnet",
            max_model_len: model.map(|model| model.engine.context()),
        }
    }
}

/// A model as operators want to see one.
#[derive(Debug, Serialize)]
pub struct ModelStatus {
    id: String,
    /// For administrators only.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    status: ModelState,
    version: Option<String>,
    quantization_format: String,
    device: &'static str,
    load_time: u64,
    kernel: String,
    context: usize,
    weight_bytes: usize,
    weights_in: WeightsPlace,
    kv_cache_bytes: usize,
    /// `null` when nothing was done in the last five minutes.
    performance_metrics: Option<RollingFigures>,
}

impl ModelStatus {
    /// `None` for one that is not in memory.
    fn of(seen: &Seen, with_path: bool) -> Option<ModelStatus> {
        let model = seen.current.as_ref()?;
        let info = model.engine.info();
        Some(ModelStatus {
            id: model.id.clone(),
            path: model.path.clone().filter(|_| with_path),
            version: model.version.clone(),
            status: seen.state_now(),
            quantization_format: layout(&info.kernel).to_owned(),
            device: model.device(),
            load_time: model.created,
            kernel: info.kernel.clone(),
            context: info.context,
            weight_bytes: info.weight_bytes(),
            weights_in: info.weights_in,
            kv_cache_bytes: info.kv_cache_bytes,
            performance_metrics: model.rolling(),
        })
    }
}
