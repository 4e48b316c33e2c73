//! What is known of one model: whether it is in memory, what is being done about it, and what is kept beside it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::job::LoadJob;
use super::policy::{ModelOrigin, OriginSource};
use super::validate::Validation;
use crate::error::ApiError;
use crate::model::{LoadedModel, unix_seconds};

/// A model that the server knows, loaded or not.
#[derive(Default)]
pub(super) struct Entry {
    /// What to load when it is asked for; `None` for one that was put here loaded, and for one that has never been
    /// loaded and that nobody has configured.
    pub origin: Option<ModelOrigin>,
    /// Whether it is in memory, and what is being done about it.
    pub state: EntryState,
    /// What answers some requests during a rolling swap.
    pub canary: Option<Canary>,
    /// What answered before the last swap.
    pub previous: Option<Previous>,
    /// The last time that a new version failed and gave its place back.
    pub rollback: Option<Rollback>,
    awaited: Awaited,
    last_used: AtomicU64,
    used_at: AtomicU64, // milliseconds since START
    n_found: AtomicU64,
}

/// Held by whoever waits for a model to be loaded. As long as somebody holds one of a name, its model is in use: else
/// it could leave between its coming and the moment in which they take it, and they would wait again.
#[derive(Debug, Clone, Default)]
pub struct Awaited(Arc<()>);

/// What becomes of the version that answered until another one gets its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OldVersion {
    /// It stays in memory, so that going back to it takes no time.
    Kept,
    /// It leaves when its last request ends, and going back to it loads it again.
    Known,
    /// It leaves, and nobody goes back to it.
    Forgotten,
}

/// What has left an entry: gigabytes, to be dropped where nobody waits for the table.
#[must_use]
pub(super) struct Left {
    _old: Option<Arc<LoadedModel>>,
    _previous: Option<Previous>,
}

/// Whether a model is in memory. Only one thing at a time is done about it: whoever wants to do another one finds it in
/// a state that excludes this.
#[derive(Default)]
pub(super) enum EntryState {
    /// It is not.
    #[default]
    Unloaded,
    /// It is not because nobody has asked for it for long; who asks wakes it.
    Sleeping(Asleep),
    /// It is on its way into memory, where there is none of its name.
    Loading(Arc<LoadJob>),
    /// It answers.
    Loaded {
        /// What answers.
        model: Arc<LoadedModel>,
        /// The loading of what is to take its place, if something is.
        swap: Option<Arc<LoadJob>>,
    },
    /// It takes no requests any more and leaves memory when the last one ends.
    Unloading(Arc<LoadedModel>),
    /// It could not be loaded.
    Failed {
        /// When.
        at: Instant,
        /// Why.
        error: ApiError,
        /// What was to be loaded.
        source: Option<OriginSource>,
    },
}

/// Whether a model is in memory, as its status tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// It is not; who asks for it has it loaded.
    Unloaded,
    /// It is not because nobody has asked for it for long; who asks wakes it.
    Sleeping,
    /// It is on its way.
    Loading,
    /// It answers.
    Loaded,
    /// It takes no requests any more and leaves when the last one ends.
    Unloading,
    /// It could not be loaded, or its engine has failed.
    Failed,
}

/// A model that has left memory until somebody asks for it.
#[derive(Debug, Clone)]
pub struct Asleep {
    /// Its version then.
    pub version: Option<String>,
    /// What its validation had found.
    pub validation: Option<Validation>,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

/// A version that is given a share of new requests.
pub(super) struct Canary {
    pub model: Arc<LoadedModel>,
    /// Of a hundred requests.
    pub percent: u64,
}

/// What answered before a swap.
pub(super) struct Previous {
    pub origin: Option<ModelOrigin>,
    pub version: Option<String>,
    /// Still in memory: a rollback takes no time.
    pub kept: Option<Arc<LoadedModel>>,
}

/// A version that failed after requests had been sent to it, and gave its place back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rollback {
    /// The version that failed.
    pub failed_version: Option<String>,
    /// What went wrong.
    pub reason: String,
    /// When it was noticed, in seconds since 1970.
    pub at: u64,
}

impl Rollback {
    /// That of `model`, which has just been seen to fail.
    pub(super) fn of(model: &LoadedModel, reason: String) -> Rollback {
        Rollback {
            failed_version: model.version.clone(),
            reason,
            at: unix_seconds(),
        }
    }
}

/// Orders uses of models: the clock of "longest ago".
static USES: AtomicU64 = AtomicU64::new(1);

/// What times of use are counted from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl EntryState {
    /// What the status tells of it.
    pub fn told(&self) -> ModelState {
        match self {
            EntryState::Unloaded => ModelState::Unloaded,
            EntryState::Sleeping(_) => ModelState::Sleeping,
            EntryState::Loading(_) => ModelState::Loading,
            EntryState::Loaded { .. } => ModelState::Loaded,
            EntryState::Unloading(_) => ModelState::Unloading,
            EntryState::Failed { .. } => ModelState::Failed,
        }
    }
}

impl Entry {
    /// What answers.
    pub fn current(&self) -> Option<&Arc<LoadedModel>> {
        match &self.state {
            EntryState::Loaded { model, .. } => Some(model),
            _ => None,
        }
    }

    /// What answers, or did until now and is leaving.
    pub fn in_memory(&self) -> Option<&Arc<LoadedModel>> {
        match &self.state {
            EntryState::Loaded { model, .. } | EntryState::Unloading(model) => Some(model),
            _ => None,
        }
    }

    /// Loading under way.
    pub fn job(&self) -> Option<&Arc<LoadJob>> {
        match &self.state {
            EntryState::Loading(job) => Some(job),
            EntryState::Loaded { swap, .. } => swap.as_ref(),
            _ => None,
        }
    }

    /// Whether requests may name it: not if it is only remembered for the failure of its first load.
    pub fn is_known(&self) -> bool {
        let has_failed = matches!(self.state, EntryState::Failed { .. } | EntryState::Unloaded);
        self.origin.is_some() || !has_failed
    }

    /// From now on somebody waits for it.
    pub fn wait(&self) -> Awaited {
        self.awaited.clone()
    }

    /// Puts `model`, which comes from `origin`, in its place.
    pub fn put(
        &mut self,
        model: Arc<LoadedModel>,
        origin: Option<ModelOrigin>,
        old_version: OldVersion,
    ) -> Left {
        self.used();
        self.canary = None;
        model.announce();
        model.handle.retire(false);
        let (old, swap) = match std::mem::take(&mut self.state) {
            EntryState::Loaded { model, swap } => (Some(model), swap),
            EntryState::Unloading(model) => (Some(model), None),
            _ => (None, None),
        };
        self.state = EntryState::Loaded { model, swap };
        let old_origin = std::mem::replace(&mut self.origin, origin);
        if let Some(old) = &old {
            // The new version needs its memory, and nobody will find the beginning of a prompt there again.
            old.handle.retire(true);
        }
        let previous = match (old_version, &old) {
            (OldVersion::Forgotten, _) => self.previous.take(),
            (_, Some(old)) => self.previous.replace(Previous {
                origin: old_origin,
                version: old.version.clone(),
                kept: (old_version == OldVersion::Kept).then(|| old.clone()),
            }),
            (_, None) => None,
        };
        Left {
            _old: old,
            _previous: previous,
        }
    }

    /// What answers the next request, `current` being loaded.
    pub fn pick(&self, current: &Arc<LoadedModel>) -> Arc<LoadedModel> {
        if let Some(canary) = &self.canary {
            // 37 and 100 have no common divisor: of a hundred requests in a row each share gets its part, well mixed.
            let turn = self.n_found.fetch_add(1, Ordering::Relaxed);
            if turn.wrapping_mul(37) % 100 < canary.percent {
                return canary.model.clone();
            }
        }
        current.clone()
    }

    /// Somebody asked for it.
    pub fn used(&self) {
        let now = USES.fetch_add(1, Ordering::Relaxed);
        self.last_used.store(now, Ordering::Relaxed);
        self.in_use();
    }

    /// Somebody uses it now.
    pub fn in_use(&self) {
        let now = START.elapsed().as_millis() as u64;
        self.used_at.store(now, Ordering::Relaxed);
    }

    /// Time since somebody asked for it, or was seen to use it.
    pub fn unused_for(&self) -> Duration {
        let used_at = Duration::from_millis(self.used_at.load(Ordering::Relaxed));
        START.elapsed().saturating_sub(used_at)
    }

    /// When somebody last asked for it; larger is later.
    pub fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// Whether it is loaded, no request holds it and none waits for it: nobody can take it while the table is locked
    /// for writing.
    pub fn is_idle(&self) -> bool {
        match &self.state {
            EntryState::Loaded { model, swap: None } => {
                let is_awaited = Arc::strong_count(&self.awaited.0) > 1;
                self.canary.is_none() && Arc::strong_count(model) == 1 && !is_awaited
            }
            _ => false,
        }
    }
}
