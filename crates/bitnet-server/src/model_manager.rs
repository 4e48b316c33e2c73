//! Loading, checking, exchanging and unloading models while requests run.
//!
//! # Layout
//! - [`registry`]: models by name, and which one answers
//! - [`policy`]: what the operator allows; [`paths`]: which files a request may name
//! - [`version`]: what a model's bytes are called
//! - [`job`] and [`load`]: from a file to a model; [`validate`]: whether it says what its file says;
//!   [`incompatible`]: why a file is none
//! - [`swap`]: new versions and back, [`probation`]: by themselves; [`unload`]: room for others

pub mod incompatible;
pub mod job;
pub mod load;
pub mod paths;
pub mod policy;
pub mod probation;
pub mod registry;
pub mod swap;
pub mod unload;
pub mod validate;
pub mod version;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::job::LoadJob;
use self::load::LoadOrder;
use self::policy::{ModelOrigin, ModelPolicy};
use self::registry::{Found, not_found, not_loaded};
use self::validate::ValidationPlan;
use crate::app::App;
use crate::error::{ApiError, ErrorCode};
use crate::model::LoadedModel;

/// Loads models one after the other, within what the operator allows.
pub struct ModelManager {
    /// What the operator allows.
    pub policy: ModelPolicy,
    turn: Arc<Semaphore>,
}

/// Time for which a model that could not be loaded is not tried again by ordinary requests.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

impl ModelManager {
    /// One that does what `policy` says.
    pub fn new(policy: ModelPolicy) -> ModelManager {
        ModelManager {
            policy,
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// Waits until no other model is being loaded.
    async fn turn(&self) -> OwnedSemaphorePermit {
        let turn = self.turn.clone().acquire_owned().await;
        turn.expect("nobody closes the semaphore")
    }
}

/// Loads a model under a name that has none loaded, and goes on when the caller leaves.
///
/// # Errors
/// [`ErrorCode::ModelBusy`] when the name has a model, or is getting one.
pub fn start_load(
    app: &Arc<App>,
    id: &str,
    origin: ModelOrigin,
    plan: Option<ValidationPlan>,
) -> Result<Arc<LoadJob>, ApiError> {
    let job = {
        let mut table = app.models.write();
        let entry = table.entries.entry(id.to_owned()).or_default();
        if entry.current.is_some() {
            let message = format!("the model '{id}' is loaded already");
            return Err(ApiError::new(ErrorCode::ModelBusy, message)
                .with_hint("POST /v1/models/swap puts another one in its place"));
        }
        if entry.job.is_some() {
            let message = format!("the model '{id}' is being loaded already");
            return Err(ApiError::new(ErrorCode::ModelBusy, message));
        }
        let job = Arc::new(LoadJob::new(app.new_id("job-"), false));
        entry.job = Some(job.clone());
        job
    };
    let (app, id, running) = (app.clone(), id.to_owned(), job.clone());
    tokio::spawn(async move {
        let outcome = run_load(&app, &running, &id, origin, plan).await;
        if let Err(error) = &outcome {
            tracing::warn!(
                model = id,
                code = error.code.row().2,
                "a model could not be loaded: {error}"
            );
        }
        swap::finish(&app, &running, &id, outcome);
    });
    Ok(job)
}

async fn run_load(
    app: &Arc<App>,
    job: &Arc<LoadJob>,
    id: &str,
    origin: ModelOrigin,
    plan: Option<ValidationPlan>,
) -> Result<(), ApiError> {
    let turn = app.manager.turn().await;
    unload::make_room(app, &origin)?;
    let order = LoadOrder {
        id: id.to_owned(),
        origin: origin.clone(),
        plan,
        like: None,
        version: None,
    };
    let (model, _) = load::load(app, job, order, turn).await?;
    if !app.models.read().entries.contains_key(id) {
        return Err(not_found(id, &[])); // deleted meanwhile
    }
    app.models.publish(model, Some(origin), false);
    Ok(())
}

impl App {
    /// Makes the models of the configuration known, which requests load when they ask for them.
    pub fn know_configured(&self) {
        let policy = &self.manager.policy;
        for (id, path) in &policy.configured {
            self.models.know(id, policy.origin(path.clone()));
        }
    }

    /// The model of this name, loaded if it has to be; without a name the default one.
    ///
    /// # Errors
    /// [`ErrorCode::ModelNotFound`]; [`ErrorCode::ModelLoading`] when loading takes longer than requests wait for it;
    /// why it cannot be loaded.
    pub async fn model(self: &Arc<App>, name: Option<&str>) -> Result<Arc<LoadedModel>, ApiError> {
        let id = match self.models.find(name)? {
            Found::Loaded(model) => return Ok(model),
            Found::Unloaded(id) => id,
        };
        let wait = self.manager.policy.load_wait;
        let loading = async {
            // A job that was found may be that of an earlier, failed attempt's end: two rounds are enough.
            let job = self.load_on_demand(&id)?;
            job.ended().await?;
            match self.models.find(Some(&id))? {
                Found::Loaded(model) => Ok(model),
                Found::Unloaded(id) => Err(not_loaded(&id)), // unloaded again at once
            }
        };
        match tokio::time::timeout(wait, loading).await {
            Ok(found) => found,
            Err(_) => Err(not_loaded(&id)),
        }
    }

    /// Starts loading a known model, or finds the loading under way.
    fn load_on_demand(self: &Arc<App>, id: &str) -> Result<Arc<LoadJob>, ApiError> {
        let origin = {
            let table = self.models.read();
            let Some(entry) = table.entries.get(id) else {
                return Err(not_found(id, &[]));
            };
            if let Some(job) = &entry.job {
                return Ok(job.clone());
            }
            if let Some((when, error)) = &entry.failure
                && when.elapsed() < AFTER_FAILURE
            {
                return Err(error.clone());
            }
            entry.origin.clone().ok_or_else(|| not_loaded(id))?
        };
        match start_load(self, id, origin, None) {
            // Another request was first: its job, or its model, is there by now.
            Err(error) if error.code == ErrorCode::ModelBusy => {
                let table = self.models.read();
                let job = table.entries.get(id).and_then(|entry| entry.job.clone());
                job.map_or_else(
                    || {
                        let done = Arc::new(LoadJob::new(String::new(), false));
                        done.end(Ok(()));
                        Ok(done)
                    },
                    Ok,
                )
            }
            started => started,
        }
    }
}
