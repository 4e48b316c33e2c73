//! `GET /v1/models` and `GET /v1/models/{id}`: one body for OpenAI's clients (`data`) and for ours (`models`).

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use bitnet_inference::WeightsPlace;
use serde::Serialize;
use serde_json::Value;

use crate::app::App;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::metrics::rolling::RollingFigures;
use crate::model::layout;
use crate::model_manager::entry::ModelState;
use crate::model_manager::job::JobProgress;
use crate::model_manager::registry::Seen;

/// Lists the models. Administrators see among `models` also names whose first load has failed, with the reason.
pub async fn list(State(app): State<Arc<App>>, caller: Caller) -> Json<ModelList> {
    let look = |ids: Vec<String>| -> Vec<Seen> {
        // One that was deleted in this moment is left out.
        let allowed = ids.iter().filter(|id| caller.models.has(id));
        allowed.filter_map(|id| app.models.look(id).ok()).collect()
    };
    let known = look(app.models.ids());
    let failed = match caller.is_admin {
        true => look(app.models.failures()),
        false => Vec::new(),
    };
    Json(ModelList {
        object: "list",
        data: known.iter().map(ListedModel::of).collect(),
        models: known
            .iter()
            .chain(&failed)
            .map(|seen| ModelStatus::of(&app, seen, caller.is_admin))
            .collect(),
        draining: app.is_draining(),
    })
}

/// Shows one.
///
/// # Errors
/// [`crate::error::ErrorCode::ModelNotFound`].
pub async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<ListedModel>, ApiError> {
    app.models.allowed_name(Some(id.clone()), &caller.models)?;
    let seen = app.models.look(&id)?;
    Ok(Json(ListedModel::of(&seen)))
}

/// The answer of [`list`].
#[derive(Debug, Serialize)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ListedModel>,
    models: Vec<ModelStatus>,
    /// Whether the server ends, and takes no request any more.
    draining: bool,
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

/// A model as operators want to see one. What only a model in memory has is `null` of the others.
#[derive(Debug, Serialize)]
pub struct ModelStatus {
    id: String,
    /// For administrators only.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    status: ModelState,
    /// How far loading is, if it is under way.
    progress: Option<JobProgress>,
    /// Why it could not be loaded.
    error: Option<Value>,
    version: Option<String>,
    /// What a rollback brings back.
    previous_version: Option<String>,
    quantization_format: Option<String>,
    device: Option<&'static str>,
    load_time: Option<u64>,
    kernel: Option<String>,
    context: Option<usize>,
    weight_bytes: Option<usize>,
    weights_in: Option<WeightsPlace>,
    kv_cache_bytes: Option<usize>,
    /// `null` when nothing was done in the last five minutes.
    performance_metrics: Option<RollingFigures>,
}

impl ModelStatus {
    fn of(app: &App, seen: &Seen, with_path: bool) -> ModelStatus {
        let model = seen.current.as_ref();
        let info = model.map(|model| model.engine.info());
        // Of one that is not in memory: where it would be loaded from.
        let path = || match model {
            Some(model) => model.path.clone(),
            None => match app.models.origin_of(&seen.id) {
                Some(origin) => origin.source.path().map(FilePath::to_owned),
                None => seen.failed_path.clone(),
            },
        };
        let slept = seen.asleep.as_ref();
        ModelStatus {
            id: seen.id.clone(),
            path: with_path.then(path).flatten(),
            status: seen.state_now(),
            progress: seen.progress(),
            error: seen.error(),
            version: match model {
                Some(model) => model.version.clone(),
                None => slept.and_then(|asleep| asleep.version.clone()),
            },
            previous_version: seen.previous_version.clone(),
            quantization_format: info.map(|info| layout(&info.kernel).to_owned()),
            device: model.map(|model| model.device()),
            load_time: model.map(|model| model.created),
            kernel: info.map(|info| info.kernel.clone()),
            context: info.map(|info| info.context),
            weight_bytes: info.map(|info| info.weight_bytes()),
            weights_in: info.map(|info| info.weights_in),
            kv_cache_bytes: info.map(|info| info.kv_cache_bytes),
            performance_metrics: model.and_then(|model| model.rolling()),
        }
    }
}
