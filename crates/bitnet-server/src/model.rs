//! Loaded models by name.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitnet_inference::{Engine, EngineLoad, Error, KV_BLOCK, Message, Prompt};

use crate::admission::Admission;
use crate::app::App;
use crate::engine_thread::{EngineHandle, Turns};
use crate::error::{ApiError, ErrorCode};
use crate::metrics::LoadedInfo;

/// The name that always stands for the default model.
pub const DEFAULT_ALIAS: &str = "default";

/// A model that answers requests.
pub struct LoadedModel {
    /// What clients call it.
    pub id: String,
    /// For what needs no turn: checking, tokenising, figures.
    pub engine: Arc<Engine>,
    /// For what does.
    pub handle: EngineHandle,
    /// Who may wait for it.
    pub admission: Arc<Admission>,
    /// Names what an answer depends on: the engine's version and the model's bytes; and the kernel, on which it does not.
    pub fingerprint: String,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
}

impl LoadedModel {
    /// Starts the thread of an engine for a server, under its limits and in its metrics; `version` names the model's bytes.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn start(
        id: impl Into<String>,
        engine: Arc<Engine>,
        version: Option<&str>,
        app: &App,
    ) -> io::Result<LoadedModel> {
        LoadedModel::start_with(id, engine.clone(), engine, version, app)
    }

    /// The same, taking the turns of `turns`, which stands around `engine`.
    ///
    /// # Errors
    /// As [`LoadedModel::start`].
    pub fn start_with(
        id: impl Into<String>,
        engine: Arc<Engine>,
        turns: Arc<impl Turns>,
        version: Option<&str>,
        app: &App,
    ) -> io::Result<LoadedModel> {
        let id = id.into();
        let (limits, metrics) = (&app.limits, app.metrics.clone());
        let load = engine.current_load();
        let kernel = &engine.info().kernel;
        metrics.model_loaded(&LoadedInfo {
            model: &id,
            hash: version.unwrap_or_default(),
            quantization: layout(kernel),
            kernel,
            load: engine.info().load,
            kv_block_size: KV_BLOCK,
            kv_blocks: load.kv_blocks,
        });
        metrics.engine(&id, &load);
        let (name, mut rows_before) = (id.clone(), load.rows);
        let watch = move |load: &EngineLoad, step: Option<Duration>| {
            metrics.engine(&name, load);
            if let Some(time) = step {
                metrics.step(&name, load.rows - rows_before, time);
            }
            rows_before = load.rows;
        };
        let fingerprint = [
            Some(concat!("bitnet-", env!("CARGO_PKG_VERSION"))),
            version,
            Some(kernel.as_str()),
        ];
        Ok(LoadedModel {
            id,
            handle: EngineHandle::start(turns, watch)?,
            admission: Arc::new(Admission::new(
                load.max_running,
                limits.max_queued_requests,
                limits.max_queued_tokens,
            )),
            fingerprint: fingerprint
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("-"),
            created: unix_seconds(),
            engine,
        })
    }

    /// The prompt of a conversation: by the chat template, or, for a model without one, the texts one after the other,
    /// as `bitnet chat` has it.
    ///
    /// # Errors
    /// What the template reports.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<Prompt, Error> {
        if self.engine.chat_template().is_some() {
            return self.engine.chat_prompt(messages);
        }
        let texts: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
        Ok(Prompt::Text(texts.join("\n")))
    }
}

/// The models of a server.
#[derive(Default)]
pub struct ModelRegistry {
    models: RwLock<Models>,
}

#[derive(Default, Clone)]
struct Models {
    by_id: BTreeMap<String, Arc<LoadedModel>>,
    default: Option<String>,
}

impl ModelRegistry {
    /// Adds a model; the first one is the default.
    pub fn insert(&self, model: LoadedModel) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let id = model.id.clone();
        models.default.get_or_insert_with(|| id.clone());
        models.by_id.insert(id, Arc::new(model));
    }

    /// The model of this name; without a name the default one.
    ///
    /// # Errors
    /// [`ErrorCode::ModelNotFound`], and [`ErrorCode::NotReady`] when there is none at all.
    pub fn get(&self, name: Option<&str>) -> Result<Arc<LoadedModel>, ApiError> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let Some(default) = models.default.as_deref() else {
            return Err(ApiError::new(ErrorCode::NotReady, "no model is loaded"));
        };
        let id = match name {
            None | Some("" | DEFAULT_ALIAS) => default,
            Some(name) => name,
        };
        models.by_id.get(id).cloned().ok_or_else(|| {
            let known: Vec<&str> = models.by_id.keys().map(String::as_str).collect();
            let id: String = id.chars().take(80).collect();
            let message = format!("there is no model '{id}'; there is {}", known.join(", "));
            ApiError::about("model", ErrorCode::ModelNotFound, message)
        })
    }

    /// All models, by name.
    pub fn all(&self) -> Vec<Arc<LoadedModel>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models.by_id.values().cloned().collect()
    }
}

/// Now, in seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The layout of weights that a kernel multiplies: the middle of its name, `{arch}-{format}-{isa}`.
pub fn layout(kernel: &str) -> &str {
    kernel.split('-').nth(1).unwrap_or(kernel)
}
