//! Loading under way: how far it is, and how it ended. Everybody may look, whoever waits is told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bitnet_inference::LoadProgress;
use serde::Serialize;
use tokio::sync::watch;

use super::policy::{ModelOrigin, OriginSource};
use super::validate::ValidationPlan;
use crate::error::{ApiError, ErrorCode};

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadStage {
    /// For its turn: one model is loaded at a time.
    Waiting,
    /// Reading, hashing and repacking the file.
    Loading,
    /// Comparing it with the reference.
    Validating,
    /// Drawing a first token.
    Starting,
    /// Being given requests.
    Publishing,
    /// Over.
    Ended,
}

/// How far a loading is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobProgress {
    /// The job's name.
    pub job_id: String,
    /// Whether it puts a model in another one's place.
    pub is_swap: bool,
    /// Where it is.
    pub stage: LoadStage,
    /// Layers that are there; 0 before the file is open.
    pub layers_done: u64,
    /// All of them; 0 before the file is open.
    pub n_layers: u64,
    /// Since it began.
    pub seconds: f64,
}

/// One loading of a model.
#[derive(Debug)]
pub struct LoadJob {
    /// Its name, which the answer to its request tells.
    pub id: String,
    /// Whether it puts a model in another one's place.
    pub is_swap: bool,
    /// When it began.
    pub started: Instant,
    /// What a load is to make; `None` of what takes another one's place.
    pub(super) ordered: Option<Ordered>,
    stage: watch::Sender<LoadStage>,
    layers_done: AtomicU64,
    n_layers: AtomicU64,
    cancelled: AtomicBool,
    outcome: watch::Sender<Option<Result<(), ApiError>>>,
}

/// What a load is to make, as far as orders tell loads apart.
#[derive(Debug, Clone)]
pub(super) struct Ordered {
    /// Its files.
    pub source: OriginSource,
    kernel: Option<String>,
    plan: Option<ValidationPlan>,
}

impl Ordered {
    /// What `origin` makes, validated by `plan`.
    pub fn of(origin: &ModelOrigin, plan: Option<ValidationPlan>) -> Ordered {
        Ordered {
            source: origin.source.clone(),
            kernel: origin.options.kernel.clone(),
            plan,
        }
    }

    /// Whether what this makes is what `other` wants: the same of the same files, validated as that would be or, where
    /// that asks for no validation, in any way.
    pub fn serves(&self, other: &Ordered) -> bool {
        let is_same_source = match (&self.source, &other.source) {
            (OriginSource::Path(own), OriginSource::Path(other)) => own == other,
            (OriginSource::Bytes { name: own, .. }, OriginSource::Bytes { name, .. }) => {
                own == name
            }
            _ => false,
        };
        let is_validated = other.plan.is_none() || other.plan == self.plan;
        is_same_source && is_validated && self.kernel == other.kernel
    }
}

impl LoadJob {
    /// A load of what is ordered, which waits for its turn.
    pub(super) fn of(id: String, ordered: Ordered) -> LoadJob {
        LoadJob {
            ordered: Some(ordered),
            ..LoadJob::new(id, false)
        }
    }

    /// One that waits for its turn.
    pub fn new(id: String, is_swap: bool) -> LoadJob {
        LoadJob {
            id,
            is_swap,
            started: Instant::now(),
            ordered: None,
            stage: watch::Sender::new(LoadStage::Waiting),
            layers_done: AtomicU64::new(0),
            n_layers: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            outcome: watch::Sender::new(None),
        }
    }

    /// Where it is.
    pub fn stage(&self) -> LoadStage {
        *self.stage.borrow()
    }

    /// Says where it is.
    pub fn enter(&self, stage: LoadStage) {
        self.stage.send_replace(stage);
    }

    /// Resolves when it is in `stage`.
    pub async fn comes_to(&self, stage: LoadStage) {
        let mut watcher = self.stage.subscribe();
        // The sender lives as long as `self`.
        let _ = watcher.wait_for(|now| *now == stage).await;
    }

    /// Resolves when it is in another one than `stage`.
    pub async fn leaves(&self, stage: LoadStage) {
        let mut watcher = self.stage.subscribe();
        // The sender lives as long as `self`.
        let _ = watcher.wait_for(|now| *now != stage).await;
    }

    /// Says how many layers are there.
    pub fn progress(&self, progress: LoadProgress) {
        self.layers_done
            .store(progress.layers_done as u64, Ordering::Relaxed);
        self.n_layers
            .store(progress.n_layers as u64, Ordering::Relaxed);
    }

    /// How far it is.
    pub fn progress_now(&self) -> JobProgress {
        JobProgress {
            job_id: self.id.clone(),
            is_swap: self.is_swap,
            stage: self.stage(),
            layers_done: self.layers_done.load(Ordering::Relaxed),
            n_layers: self.n_layers.load(Ordering::Relaxed),
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }

    /// Nobody wants it any more: it ends at its next look.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// # Errors
    /// When nobody wants it any more.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.cancelled.load(Ordering::Acquire) {
            let message = "the model is not wanted any more";
            return Err(ApiError::new(ErrorCode::ModelBusy, message));
        }
        Ok(())
    }

    /// Says how it ended.
    pub fn end(&self, outcome: Result<(), ApiError>) {
        self.stage.send_replace(LoadStage::Ended);
        self.outcome.send_replace(Some(outcome));
    }

    /// How it ended; `None` while it runs.
    pub fn outcome(&self) -> Option<Result<(), ApiError>> {
        self.outcome.borrow().clone()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Why there is no model.
    pub async fn ended(&self) -> Result<(), ApiError> {
        let mut watcher = self.outcome.subscribe();
        match watcher.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("it was waited for"),
            Err(_) => Ok(()), // the sender lives as long as `self`
        }
    }
}
