//! Loading, checking, exchanging and unloading models while requests run.
//!
//! # Layout
//! - [`registry`]: models by name, and which one answers; [`entry`]: what is known of one
//! - [`policy`]: what the operator allows; [`paths`]: which files a request may name; [`files`]: which there are
//! - [`version`]: what a model's bytes are called
//! - [`job`] and [`load`]: from a file to a model; [`validate`]: whether it says what its file says;
//!   [`incompatible`]: why a file is none; `job_place`: where one thing at a time is done
//! - [`swap`]: new versions and back, [`probation`]: by themselves; [`unload`]: out of memory; [`room`]: who leaves for
//!   others, [`sleep`]: because nobody asks

pub mod entry;
pub mod files;
pub mod incompatible;
pub mod job;
mod job_place;
pub mod load;
pub mod paths;
pub mod policy;
pub mod probation;
pub mod registry;
pub mod room;
pub mod sleep;
pub mod swap;
pub mod unload;
pub mod validate;
pub mod version;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::entry::{Asleep, Awaited, EntryState, OldVersion};
use self::job::{LoadJob, Ordered};
use self::job_place::JobPlace;
use self::load::LoadOrder;
use self::policy::{ModelOrigin, ModelPolicy};
use self::registry::{Found, not_loaded};
use self::room::{Arriving, ToldTooLarge};
use self::validate::ValidationPlan;
use crate::app::{App, shutting_down};
use crate::error::{ApiError, ErrorCode};
use crate::model::LoadedModel;

/// Loads models one after the other, within what the operator allows.
pub struct ModelManager {
    /// What the operator allows.
    pub policy: ModelPolicy,
    /// What is on its way into memory.
    arriving: Arriving,
    told_too_large: ToldTooLarge,
    turn: Arc<Semaphore>,
}

impl ModelManager {
    /// One that does what `policy` says.
    pub fn new(policy: ModelPolicy) -> ModelManager {
        ModelManager {
            policy,
            arriving: Arriving::default(),
            told_too_large: ToldTooLarge::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// What the settings have as the model of this name.
    pub fn configured(&self, id: &str) -> Option<ModelOrigin> {
        let mut configured = self.policy.configured.iter();
        let (_, path) = configured.find(|(name, _)| name == id)?;
        Some(self.policy.origin(path.clone()))
    }

    /// Waits until no other model is being loaded; none is until what this returns is dropped.
    pub async fn turn(&self) -> OwnedSemaphorePermit {
        let turn = self.turn.clone().acquire_owned().await;
        turn.expect("nobody closes the semaphore")
    }
}

/// Loads a model under a name that has none loaded, and goes on when the caller leaves. Who orders what is being loaded
/// under the name already is given that loading. Who wants to use it holds the [`Awaited`] until then.
///
/// # Errors
/// [`ErrorCode::ModelAlreadyLoaded`] when the name has a model, [`ErrorCode::ModelBusy`] when it is getting another one,
/// or one is leaving.
pub fn start_load(
    app: &Arc<App>,
    id: &str,
    origin: ModelOrigin,
    plan: Option<ValidationPlan>,
) -> Result<(Arc<LoadJob>, Awaited), ApiError> {
    let ordered = Ordered::of(&origin, plan);
    let (job, asleep, awaited) = {
        let mut table = app.models.write();
        table.forget_failures();
        let entry = table.entries.entry(id.to_owned()).or_default();
        let why_not = match &entry.state {
            EntryState::Unloaded | EntryState::Sleeping(_) | EntryState::Failed { .. } => None,
            EntryState::Loading(job) => {
                let under_way = job.ordered.as_ref();
                if under_way.is_some_and(|own| own.serves(&ordered)) {
                    return Ok((job.clone(), entry.wait()));
                }
                let state = "being loaded already, from another file or in another way";
                Some((ErrorCode::ModelBusy, state))
            }
            EntryState::Loaded { .. } => Some((ErrorCode::ModelAlreadyLoaded, "loaded already")),
            EntryState::Unloading(_) => Some((ErrorCode::ModelBusy, "being unloaded already")),
        };
        if let Some((code, state)) = why_not {
            let message = format!("the model '{id}' is {state}");
            return Err(ApiError::new(code, message));
        }
        let job = Arc::new(LoadJob::of(app.new_id("job-"), ordered));
        let loading = EntryState::Loading(job.clone());
        let asleep = match std::mem::replace(&mut entry.state, loading) {
            EntryState::Sleeping(asleep) => Some(asleep),
            _ => None,
        };
        app.metrics.sleeping(id, false);
        (job, asleep, entry.wait())
    };
    let place = JobPlace::of(app, id, job.clone());
    let (app, id) = (app.clone(), id.to_owned());
    tokio::spawn(async move {
        let outcome = run_load(&app, &place.job, &id, origin, plan, asleep).await;
        if let Err(error) = &outcome {
            tracing::warn!(
                model = id,
                code = error.code.name(),
                hint = error.hint(),
                "a model could not be loaded: {error}"
            );
        }
        place.end(outcome);
    });
    Ok((job, awaited))
}

async fn run_load(
    app: &Arc<App>,
    job: &Arc<LoadJob>,
    id: &str,
    origin: ModelOrigin,
    plan: Option<ValidationPlan>,
    asleep: Option<Asleep>,
) -> Result<(), ApiError> {
    let turn = app.manager.turn().await;
    let order = LoadOrder {
        id: id.to_owned(),
        origin: origin.clone(),
        plan,
        like: None,
        version: None,
        keeps_old: false,
    };
    let (mut model, _) = load::load(app, job, order, turn).await?;
    if let Some(asleep) = asleep.filter(|asleep| asleep.version == model.version) {
        model.validation = model.validation.or(asleep.validation);
    }
    let model = Arc::new(model);
    app.models.publish(model, Some(origin), OldVersion::Known);
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
    /// [`ErrorCode::ShuttingDown`] when it has to be loaded and the server is ending; why it cannot be loaded.
    pub async fn model(self: &Arc<App>, name: Option<&str>) -> Result<Arc<LoadedModel>, ApiError> {
        let end = Instant::now() + self.manager.policy.load_wait;
        // Again for one that left memory, or fell asleep, before this request came to take it.
        loop {
            let (id, job, _awaited) = match self.on_demand(name)? {
                OnDemand::Loaded(model) => return Ok(model),
                OnDemand::Loading { id, job, awaited } => (id, job, awaited),
            };
            let left = end.saturating_duration_since(Instant::now());
            tokio::select! {
                biased;
                () = self.drain_begun() => return Err(shutting_down()),
                ended = tokio::time::timeout(left, job.ended()) => match ended {
                    Ok(ended) => ended?,
                    Err(_) => return Err(not_loaded(&id)),
                },
            }
            if let Found::Loaded(model) = self.models.find(Some(&id))? {
                return Ok(model);
            }
            if Instant::now() >= end {
                return Err(not_loaded(&id));
            }
        }
    }

    /// The model of this name, or its loading, which begins if it has not.
    fn on_demand(self: &Arc<App>, name: Option<&str>) -> Result<OnDemand, ApiError> {
        let (id, origin) = match self.models.find(name)? {
            Found::Loaded(model) => return Ok(OnDemand::Loaded(model)),
            Found::Loading { id, job, awaited } => {
                return Ok(OnDemand::Loading { id, job, awaited });
            }
            Found::Unloaded { id, origin } => (id, origin),
        };
        // Gigabytes would be read for a request that is refused.
        self.check_serving()?;
        match start_load(self, &id, *origin, None) {
            Ok((job, awaited)) => Ok(OnDemand::Loading { id, job, awaited }),
            // Another request was first: its job, or its model, is there by now.
            Err(ApiError {
                code: ErrorCode::ModelBusy | ErrorCode::ModelAlreadyLoaded,
                ..
            }) => match self.models.find(Some(&id))? {
                Found::Loaded(model) => Ok(OnDemand::Loaded(model)),
                Found::Loading { id, job, awaited } => Ok(OnDemand::Loading { id, job, awaited }),
                Found::Unloaded { id, .. } => Err(not_loaded(&id)),
            },
            Err(error) => Err(error),
        }
    }
}

/// A model that somebody asked for.
enum OnDemand {
    /// It is there.
    Loaded(Arc<LoadedModel>),
    /// It will be.
    Loading {
        id: String,
        job: Arc<LoadJob>,
        awaited: Awaited,
    },
}
