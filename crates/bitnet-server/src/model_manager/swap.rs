//! Putting a new version in the place of a model that answers, and back again.
//!
//! A version is loaded, compared with the reference and has drawn a token before anybody is sent to it; whatever goes
//! wrong until then leaves the old one as it was. What happens afterwards is the strategy: `atomic` sends every new
//! request to the new version at once and lets the old one go when its last request ends; `blue_green` does so too and
//! keeps the old one in memory for a while; `rolling` sends first 10, then 50, then all of a hundred new requests. Then
//! the new version is on probation ([`probation`]).

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::entry::{Canary, EntryState, OldVersion, Rollback};
use super::job::{LoadJob, LoadStage};
use super::job_place::JobPlace;
use super::load::{Likeness, LoadMemory, LoadOrder, load};
use super::paths::load_order;
use super::policy::ModelOrigin;
use super::probation::{self, Probation};
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
    /// How it is compared with the reference; `None`: not at all.
    pub plan: Option<ValidationPlan>,
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

/// A swap under way: the only one of its model.
pub struct Swapping {
    app: Arc<App>,
    place: JobPlace,
    order: SwapOrder,
    previous_version: Option<String>,
    started: Instant,
}

/// Swaps, and counts how it went. A model that is not in memory is loaded first: there is something to hold the new
/// version against then.
///
/// # Errors
/// Those of [`App::model`], [`ErrorCode::SwapInProgress`], and why the new version was not taken; the old one then
/// answers as before.
pub async fn swap(app: &Arc<App>, order: SwapOrder) -> Result<SwapReport, ApiError> {
    let old = app.model(Some(&order.id)).await;
    let old = old.map_err(|error| without_old(&order, error));
    // It is held until it has its swap, with which it does not leave.
    let begun = old.and_then(|_old| Swapping::begin(app, order));
    let swapping = begun.inspect_err(|error| app.metrics.swapped(error.code.name()))?;
    let loaded = swapping.load().await;
    swapping.end(loaded).await
}

/// Why there is nothing that a new version could be held against. What is wrong with the file of the old one must not
/// read as if it were the new one's.
fn without_old(order: &SwapOrder, error: ApiError) -> ApiError {
    let id = &order.id;
    if error.code != ErrorCode::ModelIncompatible {
        return error;
    }
    let message = format!(
        "the model that '{id}' means now cannot be loaded, so there is nothing to hold a new one against: {}",
        error.message
    );
    let path = order.origin.source.path().unwrap_or(Path::new("PATH"));
    ApiError { message, ..error }.with_hint(format!(
        "free the name with DELETE /v1/models/{id}, then {}",
        load_order(path, id)
    ))
}

/// Goes back to the version before the last swap: at once if it is kept, else by loading it again. There is no way back
/// from that but another swap.
///
/// # Errors
/// [`ErrorCode::NoPreviousVersion`] without such a version, and why it cannot be loaded again.
pub async fn roll_back(app: &Arc<App>, id: &str) -> Result<SwapReport, ApiError> {
    // Leaving memory a model leaves its version before too.
    let outcome = match begin(app, id, no_version_before) {
        Err(error) => Err(error),
        Ok(place) => {
            let outcome = roll_back_under(app, &place.job, id).await;
            place.end(outcome.as_ref().map(|_| ()).map_err(Clone::clone));
            outcome
        }
    };
    app.metrics.swapped(match &outcome {
        Ok(_) => "rolled_back",
        Err(error) => error.code.name(),
    });
    outcome
}

impl Swapping {
    /// Takes the place of the only swap of a model.
    ///
    /// # Errors
    /// [`ErrorCode::ModelNotFound`] and [`ErrorCode::SwapInProgress`].
    pub fn begin(app: &Arc<App>, order: SwapOrder) -> Result<Swapping, ApiError> {
        let previous_version = app.models.get(Some(&order.id))?.version.clone();
        Ok(Swapping {
            place: begin(app, &order.id, |id| busy(id, "not loaded"))?,
            previous_version,
            app: app.clone(),
            order,
            started: Instant::now(),
        })
    }

    /// Loads the new version and holds it against the reference.
    async fn load(&self) -> Result<(LoadedModel, LoadMemory), ApiError> {
        let order = LoadOrder {
            id: self.order.id.clone(),
            origin: self.order.origin.clone(),
            plan: self.order.plan,
            // Nothing of the old one is held meanwhile: idle models are those that nobody holds.
            like: Some(Likeness::of(&*self.app.models.get(Some(&self.order.id))?)),
            version: None,
            keeps_old: self.order.strategy == SwapStrategy::BlueGreen,
        };
        let turn = self.app.manager.turn().await;
        load(&self.app, &self.place.job, order, turn).await
    }

    /// Puts what was loaded in its place as the order says, frees the place of the only swap, and counts how it went.
    ///
    /// # Errors
    /// Those of loading, and of a new version that failed while it had a share of the requests.
    pub async fn end(
        self,
        loaded: Result<(LoadedModel, LoadMemory), ApiError>,
    ) -> Result<SwapReport, ApiError> {
        let (outcome, counted) = match loaded {
            Err(error) => {
                let code = error.code.name();
                (Err(error), code)
            }
            Ok((model, memory)) => match self.publish(model, memory).await {
                Ok(report) => (Ok(report), "swapped"),
                // Requests had been sent to it: this is a way back, not a model that was not taken.
                Err(error) if error.code == ErrorCode::ValidationFailed => {
                    (Err(error), "rolled_back")
                }
                Err(error) => {
                    let code = error.code.name();
                    (Err(error), code)
                }
            },
        };
        let end = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
        self.place.end(end);
        self.app.metrics.swapped(counted);
        outcome
    }

    async fn publish(
        &self,
        model: LoadedModel,
        memory: LoadMemory,
    ) -> Result<SwapReport, ApiError> {
        self.place.job.enter(LoadStage::Publishing);
        let report = SwapReport {
            model_id: self.order.id.clone(),
            status: "swapped",
            swap_strategy: Some(self.order.strategy),
            previous_version: self.previous_version.clone(),
            version: model.version.clone(),
            validation: model.validation.clone(),
            seconds: 0.0,
            memory,
            temporary_bytes: memory.temporary(),
        };
        publish(&self.app, &self.order, Arc::new(model)).await?;
        if let Some(bytes) = report.temporary_bytes {
            self.app.metrics.swap_memory(bytes);
        }
        Ok(SwapReport {
            seconds: self.started.elapsed().as_secs_f64(),
            ..report
        })
    }
}

async fn publish(
    app: &Arc<App>,
    order: &SwapOrder,
    model: Arc<LoadedModel>,
) -> Result<(), ApiError> {
    let policy = &app.manager.policy;
    let keeps_old = order.strategy == SwapStrategy::BlueGreen;
    if order.strategy == SwapStrategy::Rolling {
        roll(app, order, &model).await?;
    }
    let origin = Some(order.origin.clone());
    let old_version = match keeps_old {
        true => OldVersion::Kept,
        false => OldVersion::Known,
    };
    app.models.publish(model.clone(), origin, old_version);
    let probation = Probation {
        period: match keeps_old {
            true => policy.keep_previous,
            false => policy.rollback_period,
        },
        gives_back: order.rollback_on_failure,
    };
    probation.begin(app, model);
    Ok(())
}

/// Sends more and more requests to `model`, as long as it is sound.
async fn roll(app: &Arc<App>, order: &SwapOrder, model: &Arc<LoadedModel>) -> Result<(), ApiError> {
    for percent in ROLLING_PERCENT {
        let share = Canary {
            model: model.clone(),
            percent,
        };
        app.models.write().entry(&order.id)?.canary = Some(share);
        let step = app.manager.policy.rolling_step;
        if let Err(reason) = probation::sound_for(app, model, step).await
            && order.rollback_on_failure
        {
            let message = format!(
                "the new version failed under {percent} of a hundred requests ({reason}); all go to the old one again"
            );
            if let Some(entry) = app.models.write().entries.get_mut(&order.id) {
                entry.canary = None;
                entry.rollback = Some(Rollback::of(model, reason));
            }
            return Err(ApiError::new(ErrorCode::ValidationFailed, message));
        }
    }
    Ok(())
}

/// Gives the kept version its place back, from which there is no way forward again; `false` without one. `failed`: only
/// if that has the place now, and what is remembered of it.
///
/// All under one lock: who deletes or swaps the model comes before it or after it.
pub(super) fn restore(app: &App, id: &str, failed: Option<(&Arc<LoadedModel>, &Rollback)>) -> bool {
    let mut table = app.models.write();
    let Some(entry) = table.entries.get_mut(id) else {
        return false;
    };
    let is_in_place = |failed| entry.current().is_some_and(|now| Arc::ptr_eq(now, failed));
    if !failed.is_none_or(|(failed, _)| is_in_place(failed)) {
        return false;
    }
    let kept = entry.previous.as_mut().and_then(|previous| {
        let kept = previous.kept.take()?;
        Some((kept, previous.origin.clone()))
    });
    let Some((model, origin)) = kept else {
        return false;
    };
    let left = entry.put(model, origin, OldVersion::Forgotten);
    if let Some((_, rollback)) = failed {
        entry.rollback = Some(rollback.clone());
    }
    drop(table);
    drop(left); // gigabytes, and nobody should wait for the table meanwhile
    true
}

async fn roll_back_under(
    app: &Arc<App>,
    job: &Arc<LoadJob>,
    id: &str,
) -> Result<SwapReport, ApiError> {
    let started = Instant::now();
    let none = || no_version_before(id);
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
    if !restore(app, id, None) {
        let origin = origin.ok_or_else(none)?;
        let turn = app.manager.turn().await;
        let order = LoadOrder {
            id: id.to_owned(),
            origin: origin.clone(),
            plan: None,
            like: None,
            version: version.clone(),
            keeps_old: false,
        };
        let (model, taken) = load(app, job, order, turn).await?;
        memory = taken;
        // The version that is left is not one to go back to: an order that is sent twice must not bring it back.
        (app.models).publish(Arc::new(model), Some(origin), OldVersion::Forgotten);
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

fn no_version_before(id: &str) -> ApiError {
    let message = format!("there is no version of '{id}' to go back to");
    ApiError::new(ErrorCode::NoPreviousVersion, message)
}

/// The model of this name is in a state that ends.
fn busy(id: &str, being: &str) -> ApiError {
    let message = format!("the model '{id}' is {being}");
    ApiError::new(ErrorCode::ModelBusy, message)
}

/// Takes the place of the only swap of a model; `absent` says what is wrong where it is not in memory.
fn begin(
    app: &Arc<App>,
    id: &str,
    absent: impl Fn(&str) -> ApiError,
) -> Result<JobPlace, ApiError> {
    let mut table = app.models.write();
    match &mut table.entry(id)?.state {
        EntryState::Loaded { swap: Some(_), .. } => {
            let message = format!("the model '{id}' is being swapped already");
            Err(ApiError::new(ErrorCode::SwapInProgress, message))
        }
        EntryState::Loaded { swap, .. } => {
            let job = Arc::new(LoadJob::new(app.new_id("job-"), true));
            Ok(JobPlace::of(app, id, swap.insert(job).clone()))
        }
        EntryState::Loading(_) => Err(busy(id, "being loaded")),
        EntryState::Unloading(_) => Err(busy(id, "being unloaded")),
        EntryState::Unloaded | EntryState::Sleeping(_) | EntryState::Failed { .. } => {
            Err(absent(id))
        }
    }
}
