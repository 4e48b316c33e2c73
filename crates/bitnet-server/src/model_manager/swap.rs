//! Putting a new version in the place of a model that answers, and back again.
//!
//! A version is loaded, compared with the reference and has drawn a token before anybody is sent to it; whatever goes
//! wrong until then leaves the old one as it was. What happens afterwards is the strategy: `atomic` sends every new
//! request to the new version at once and lets the old one go when its last request ends; `blue_green` does so too and
//! keeps the old one in memory for a while; `rolling` sends first 10, then 50, then all of a hundred new requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::job::{LoadJob, LoadStage};
use super::load::{Likeness, LoadMemory, LoadOrder, load};
use super::policy::ModelOrigin;
use super::registry::{Canary, EntryState};
use super::validate::{Validation, ValidationPlan};
use crate::app::App;
use crate::error::{ApiError, ErrorCode};
use crate::model::LoadedModel;

/// How requests come from the old version to the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapStrategy {
    /// All at once.
    Atomic,
    /// All at once, and the old one is kept for a while.
    BlueGreen,
    /// Some first.
    Rolling,
}

/// What is put in whose place, and how.
#[derive(Debug, Clone)]
pub struct SwapOrder {
    /// The name that stays.
    pub id: String,
    /// The new version.
    pub origin: ModelOrigin,
    /// How it is compared with the reference.
    pub plan: ValidationPlan,
    /// How requests come to it.
    pub strategy: SwapStrategy,
    /// Whether a version that fails after it was published gives its place back, where the old one is still there.
    pub rollback_on_failure: bool,
}

/// What a swap did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SwapReport {
    /// The name that stayed.
    pub model_id: String,
    /// `swapped` or `rolled_back`.
    pub status: &'static str,
    /// How.
    pub swap_strategy: Option<SwapStrategy>,
    /// The version that answered before.
    pub previous_version: Option<String>,
    /// The version that answers now.
    pub version: Option<String>,
    /// What its validation found.
    pub validation: Option<Validation>,
    /// From the request to the last step.
    pub seconds: f64,
    /// The process's memory meanwhile.
    pub memory: LoadMemory,
    /// The most that was taken beyond what there was before.
    pub temporary_bytes: Option<u64>,
}

/// Shares of new requests, of a hundred, before all of them.
const ROLLING_PERCENT: [u64; 2] = [10, 50];

/// How often a new version is looked after while the old one is kept.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Swaps, and counts how it went.
///
/// # Errors
/// [`ErrorCode::ModelNotFound`], [`ErrorCode::SwapInProgress`], and why the new version was not taken; the old one then
/// answers as before.
pub async fn swap(app: &Arc<App>, order: SwapOrder) -> Result<SwapReport, ApiError> {
    let job = begin(app, &order.id)?;
    let id = order.id.clone();
    let swapped = swap_under(app, &job, order).await;
    let end = swapped.as_ref().map(|_| ()).map_err(Clone::clone);
    finish(app, &job, &id, end);
    count(app, swapped.as_ref().err());
    swapped
}

/// Goes back to the version before the last swap: at once if it is kept, else by loading it again.
///
/// # Errors
/// [`ErrorCode::ModelBusy`] without such a version, and why it cannot be loaded again.
pub async fn roll_back(app: &Arc<App>, id: &str) -> Result<SwapReport, ApiError> {
    let job = begin(app, id)?;
    let outcome = roll_back_under(app, &job, id).await;
    let end = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
    finish(app, &job, id, end);
    if outcome.is_ok() {
        app.metrics.swapped("rolled_back");
    }
    outcome
}

async fn swap_under(
    app: &Arc<App>,
    job: &Arc<LoadJob>,
    order: SwapOrder,
) -> Result<SwapReport, ApiError> {
    let started = Instant::now();
    let old = app.models.get(Some(&order.id))?;
    let (like, previous_version) = (Likeness::of(&old), old.version.clone());
    drop(old); // idle models are those that nobody holds
    let turn = app.manager.turn().await;
    let (model, memory) = load(
        app,
        job,
        LoadOrder {
            id: order.id.clone(),
            origin: order.origin.clone(),
            plan: Some(order.plan),
            like: Some(like),
            version: None,
        },
        turn,
    )
    .await?;
    let report = SwapReport {
        model_id: order.id.clone(),
        status: "swapped",
        swap_strategy: Some(order.strategy),
        previous_version,
        version: model.version.clone(),
        validation: model.validation.clone(),
        seconds: 0.0,
        memory,
        temporary_bytes: memory.temporary(),
    };
    job.enter(LoadStage::Publishing);
    publish(app, &order, Arc::new(model)).await?;
    if let Some(bytes) = report.temporary_bytes {
        app.metrics.swap_memory(bytes);
    }
    Ok(SwapReport {
        seconds: started.elapsed().as_secs_f64(),
        ..report
    })
}

async fn publish(
    app: &Arc<App>,
    order: &SwapOrder,
    model: Arc<LoadedModel>,
) -> Result<(), ApiError> {
    let origin = Some(order.origin.clone());
    match order.strategy {
        SwapStrategy::Atomic => app.models.publish_shared(model, origin, false),
        SwapStrategy::BlueGreen => {
            app.models.publish_shared(model.clone(), origin, true);
            tokio::spawn(keep(
                app.clone(),
                model,
                app.manager.policy.keep_previous,
                order.rollback_on_failure,
            ));
        }
        SwapStrategy::Rolling => {
            for percent in ROLLING_PERCENT {
                let share = Canary {
                    model: model.clone(),
                    percent,
                };
                app.models.write().entry(&order.id)?.canary = Some(share);
                tokio::time::sleep(app.manager.policy.rolling_step).await;
                if model.handle.health().failed && order.rollback_on_failure {
                    if let Some(entry) = app.models.write().entries.get_mut(&order.id) {
                        entry.canary = None;
                    }
                    let message = format!(
                        "the engine of the new version failed under {percent} of a hundred requests; all go to the old \
                         one again"
                    );
                    return Err(ApiError::new(ErrorCode::ValidationFailed, message));
                }
            }
            app.models.publish_shared(model, origin, false);
        }
    }
    Ok(())
}

/// Keeps the version before `model` for a while; gives it its place back when `model` fails.
async fn keep(app: Arc<App>, model: Arc<LoadedModel>, time: Duration, give_back: bool) {
    let id = model.id.clone();
    let watched = Arc::downgrade(&model);
    drop(model);
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(WATCH_INTERVAL)).await;
        let Some(model) = watched.upgrade() else {
            return; // another one has taken its place
        };
        let failed = model.handle.health().failed;
        if failed && give_back {
            tracing::error!(
                model = id,
                "a new version failed: the old one answers again"
            );
            app.metrics.swapped("rolled_back");
            restore(&app, &id);
            return;
        }
        if left.is_zero() {
            let mut table = app.models.write();
            if let Some(entry) = table.entries.get_mut(&id)
                && entry.current().is_some_and(|now| Arc::ptr_eq(now, &model))
                && let Some(previous) = &mut entry.previous
            {
                previous.kept = None;
            }
            return;
        }
    }
}

/// Gives the kept version its place back; `false` without one.
fn restore(app: &App, id: &str) -> bool {
    let kept = app.models.write().entries.get_mut(id).and_then(|entry| {
        let previous = entry.previous.as_mut()?;
        Some((previous.kept.take()?, previous.origin.clone()))
    });
    match kept {
        Some((model, origin)) => {
            app.models.publish_shared(model, origin, false);
            true
        }
        None => false,
    }
}

async fn roll_back_under(
    app: &Arc<App>,
    job: &Arc<LoadJob>,
    id: &str,
) -> Result<SwapReport, ApiError> {
    let started = Instant::now();
    let none = || {
        let message = format!("there is no version of '{id}' to go back to");
        ApiError::new(ErrorCode::ModelBusy, message)
            .with_hint("swap to the model that is wanted, by its path")
    };
    let previous_version = app.models.get(Some(id))?.version.clone();
    let before = {
        let table = app.models.read();
        let previous = table
            .entries
            .get(id)
            .and_then(|entry| entry.previous.as_ref());
        previous.map(|previous| (previous.origin.clone(), previous.version.clone()))
    };
    let (origin, version) = before.ok_or_else(none)?;
    let mut memory = LoadMemory::default();
    if !restore(app, id) {
        let origin = origin.ok_or_else(none)?;
        let turn = app.manager.turn().await;
        let order = LoadOrder {
            id: id.to_owned(),
            origin: origin.clone(),
            plan: None,
            like: None,
            version: version.clone(),
        };
        let (model, taken) = load(app, job, order, turn).await?;
        memory = taken;
        app.models.publish(model, Some(origin), false);
    }
    let current = app.models.get(Some(id))?;
    Ok(SwapReport {
        model_id: id.to_owned(),
        status: "rolled_back",
        swap_strategy: None,
        previous_version,
        version: current.version.clone(),
        validation: current.validation.clone(),
        seconds: started.elapsed().as_secs_f64(),
        temporary_bytes: memory.temporary(),
        memory,
    })
}

impl LoadMemory {
    /// The most that was taken beyond what there was before.
    fn temporary(self) -> Option<u64> {
        Some(self.peak_bytes?.saturating_sub(self.before_bytes?))
    }
}

/// Takes the place of the only swap of a model.
fn begin(app: &App, id: &str) -> Result<Arc<LoadJob>, ApiError> {
    let mut table = app.models.write();
    let busy = |being: &str| {
        let message = format!("the model '{id}' is {being}");
        Err(ApiError::new(ErrorCode::ModelBusy, message))
    };
    match &mut table.entry(id)?.state {
        EntryState::Loaded { swap: Some(_), .. } => {
            let message = format!("the model '{id}' is being swapped already");
            Err(ApiError::new(ErrorCode::SwapInProgress, message))
        }
        EntryState::Loaded { swap, .. } => {
            let job = Arc::new(LoadJob::new(app.new_id("job-"), true));
            Ok(swap.insert(job).clone())
        }
        EntryState::Loading(_) => busy("being loaded"),
        EntryState::Unloading(_) => busy("being unloaded"),
        EntryState::Unloaded | EntryState::Failed { .. } => busy("not loaded"),
    }
}

/// Gives the place free again.
pub(super) fn finish(app: &App, job: &Arc<LoadJob>, id: &str, outcome: Result<(), ApiError>) {
    if let Ok(entry) = app.models.write().entry(id)
        && entry.job().is_some_and(|own| Arc::ptr_eq(own, job))
    {
        match &mut entry.state {
            // A swap that failed has left its model as it was.
            EntryState::Loaded { swap, .. } => *swap = None,
            state => {
                *state = match &outcome {
                    Ok(()) => EntryState::Unloaded,
                    Err(error) => EntryState::Failed {
                        at: Instant::now(),
                        error: error.clone(),
                    },
                }
            }
        }
    }
    job.end(outcome);
}

fn count(app: &App, error: Option<&ApiError>) {
    app.metrics.swapped(match error.map(|error| error.code) {
        None => "swapped",
        Some(code) => code.row().2,
    });
}
