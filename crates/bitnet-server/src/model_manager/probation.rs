//! The time after a swap in which the new version has to hold what its validation promised.
//!
//! A model can pass every comparison and fail under real requests: its engine panics, a step hangs, or pass after pass
//! ends in an error. For a while it is looked after, and when it fails the old version gets its place back. Where that
//! was kept in memory (`blue_green`) this is one write; else its file is loaded again, must have the same version, and
//! requests wait for it meanwhile, as they do for every model that is being loaded. It happens once: the failed version
//! is not gone back to.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::entry::{Entry, EntryState, OldVersion, Rollback};
use super::job::LoadJob;
use super::job_place::JobPlace;
use super::load::{LoadOrder, load};
use super::policy::ModelOrigin;
use super::swap::restore;
use crate::app::App;
use crate::error::{ApiError, ErrorCode};
use crate::log::LIFE;
use crate::model::LoadedModel;
use crate::routes::health;

/// How often a version on probation is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Passes in a row that have to fail: one may be its request's fault, the next request is another one.
pub const FAILED_STEPS: u64 = 3;

/// What a new version has to hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probation {
    /// For how long.
    pub period: Duration,
    /// Whether it gives its place back when it fails.
    pub gives_back: bool,
}

impl Probation {
    /// Looks after `model`, which has just been published, from now on.
    pub(super) fn begin(self, app: &Arc<App>, model: Arc<LoadedModel>) {
        let (id, model) = (model.id.clone(), Arc::downgrade(&model));
        tokio::spawn(self.watch(app.clone(), id, model));
    }

    async fn watch(self, app: Arc<App>, id: String, model: Weak<LoadedModel>) {
        let end = Instant::now() + self.period;
        let mut has_failed = false;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let look = if has_failed {
                WATCH_INTERVAL
            } else {
                left.min(WATCH_INTERVAL)
            };
            tokio::time::sleep(look).await;
            // Another one may have taken its place, with requests that still hold this one.
            let Some(model) = model.upgrade().filter(|model| answers(&app, &id, model)) else {
                return;
            };
            let failure = failure(&app, &model).filter(|_| self.gives_back);
            has_failed = failure.is_some();
            if let Some(reason) = failure {
                if give_back(&app, &id, model, reason).await {
                    return;
                }
                continue; // the period does not end before something was done about it
            }
            if left.is_zero() {
                let mut table = app.models.write();
                // Another version that came this moment has a period of its own for what it keeps.
                let entry = table
                    .entries
                    .get_mut(&id)
                    .filter(|e| is_in_memory(e, &model));
                let previous = entry.and_then(|entry| entry.previous.as_mut());
                let kept = previous.and_then(|previous| previous.kept.take());
                drop(table);
                drop(kept); // gigabytes, and nobody should wait for the table meanwhile
                return;
            }
        }
    }
}

/// Waits for `time`, or until `model` fails: the reason.
pub(super) async fn sound_for(
    app: &App,
    model: &LoadedModel,
    time: Duration,
) -> Result<(), String> {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(WATCH_INTERVAL)).await;
        if let Some(reason) = failure(app, model) {
            return Err(reason);
        }
        if left.is_zero() {
            return Ok(());
        }
    }
}

/// Why a model cannot be relied on.
fn failure(app: &App, model: &LoadedModel) -> Option<String> {
    let n_failed = model.handle.health().failed_in_a_row;
    let fails = || {
        let fails = n_failed >= FAILED_STEPS;
        fails.then(|| format!("{n_failed} forward passes of {} in a row failed", model.id))
    };
    health::trouble(app, model).or_else(fails)
}

/// Whether it is `model` that answers under `id`, or is leaving: that may be given up.
fn answers(app: &App, id: &str, model: &Arc<LoadedModel>) -> bool {
    let table = app.models.read();
    let entry = table.entries.get(id);
    entry.is_some_and(|entry| is_in_memory(entry, model))
}

fn is_in_memory(entry: &Entry, model: &Arc<LoadedModel>) -> bool {
    let found = entry.in_memory();
    found.is_some_and(|found| Arc::ptr_eq(found, model))
}

/// Puts the version before `model` in its place again. `false` when something else is being done to the model, which
/// comes first.
async fn give_back(app: &Arc<App>, id: &str, model: Arc<LoadedModel>, reason: String) -> bool {
    let rollback = Rollback::of(&model, reason);
    // Not before it is so: it is tried again and again while something else is being done.
    let tell = || {
        let reason = &rollback.reason;
        tracing::error!(target: LIFE, model = id, reason, "a new version failed: going back");
    };
    let outcome = match restore(app, id, Some((&model, &rollback))) {
        true => {
            tell();
            Ok(())
        }
        false => match take_out(app, id, &model) {
            Ok(Some((place, earlier))) => {
                tell();
                let outcome = load_again(app, id, &place.job, earlier, &rollback).await;
                if outcome.is_err() {
                    put_back(app, id, model);
                }
                place.end(outcome.clone());
                outcome
            }
            Ok(None) => return false,
            Err(error) => {
                tell();
                Err(error)
            }
        },
    };
    match outcome {
        Ok(()) => {
            tracing::info!(target: LIFE, model = id, "the version before it answers again");
            app.metrics.swapped("rolled_back");
        }
        Err(error) => {
            tracing::error!(target: LIFE, model = id, "the version before it does not come back: {error}");
            app.metrics.swapped(error.code.name());
        }
    }
    true
}

/// What is loaded in the place of a version that failed.
type Earlier = (ModelOrigin, Option<String>);

/// Takes `model` out of its place, where requests wait from now on, and says what to put there; `None` when something
/// else is being done to it.
fn take_out(
    app: &Arc<App>,
    id: &str,
    model: &Arc<LoadedModel>,
) -> Result<Option<(JobPlace, Earlier)>, ApiError> {
    let mut table = app.models.write();
    let Some(entry) = table.entries.get_mut(id) else {
        return Ok(None);
    };
    let is_free = entry.job().is_none();
    if !is_free || !entry.current().is_some_and(|now| Arc::ptr_eq(now, model)) {
        return Ok(None);
    }
    let previous = entry.previous.as_ref();
    let earlier = previous.and_then(|p| Some((p.origin.clone()?, p.version.clone())));
    let Some(earlier) = earlier else {
        let message = "nobody knows where the version before came from";
        return Err(ApiError::new(ErrorCode::NotReady, message));
    };
    let job = Arc::new(LoadJob::new(app.new_id("job-"), true));
    entry.state = EntryState::Loading(job.clone());
    Ok(Some((JobPlace::of(app, id, job), earlier)))
}

async fn load_again(
    app: &Arc<App>,
    id: &str,
    job: &Arc<LoadJob>,
    (origin, version): Earlier,
    rollback: &Rollback,
) -> Result<(), ApiError> {
    let turn = app.manager.turn().await;
    let order = LoadOrder {
        id: id.to_owned(),
        origin: origin.clone(),
        plan: None,
        like: None,
        version,
        keeps_old: false,
    };
    let (model, _) = load(app, job, order, turn).await?;
    let mut table = app.models.write();
    let Some(entry) = table.entries.get_mut(id) else {
        return Ok(()); // nobody wants it any more
    };
    let left = entry.put(Arc::new(model), Some(origin), OldVersion::Forgotten);
    entry.rollback = Some(rollback.clone());
    drop(table);
    drop(left); // gigabytes, and nobody should wait for the table meanwhile
    Ok(())
}

/// Shows a failed version again, since there is no other: probes and requests are told what is wrong.
fn put_back(app: &App, id: &str, model: Arc<LoadedModel>) {
    if let Some(entry) = app.models.write().entries.get_mut(id)
        && entry.current().is_none()
    {
        entry.state = EntryState::Loaded { model, swap: None };
    }
}
