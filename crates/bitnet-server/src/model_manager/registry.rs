//! The models of a server by name: the one that answers now, and what is kept beside it.
//!
//! A request takes an [`Arc`] of its model and holds it to its end, so putting another one in its place is one write
//! under the lock: who has come before runs on in the old weights, who comes after in the new ones, and nobody sees
//! both.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use super::job::LoadJob;
use super::policy::ModelOrigin;
use crate::error::{ApiError, ErrorCode};
use crate::model::{DEFAULT_ALIAS, LoadedModel, unix_seconds};

/// The models of a server.
#[derive(Default)]
pub struct ModelRegistry {
    table: RwLock<Table>,
}

#[derive(Default)]
pub(super) struct Table {
    pub entries: BTreeMap<String, Entry>,
    pub default: Option<String>,
}

/// A model that the server knows, loaded or not.
#[derive(Default)]
pub(super) struct Entry {
    /// What to load; `None` for one that was put here loaded.
    pub origin: Option<ModelOrigin>,
    /// What answers.
    pub current: Option<Arc<LoadedModel>>,
    /// What answers some requests during a rolling swap.
    pub canary: Option<Canary>,
    /// What answered before the last swap.
    pub previous: Option<Previous>,
    /// The last time that a new version failed and gave its place back.
    pub rollback: Option<Rollback>,
    /// Loading under way.
    pub job: Option<Arc<LoadJob>>,
    /// Why loading it failed the last time, and when.
    pub failure: Option<(Instant, ApiError)>,
    last_used: AtomicU64,
    n_found: AtomicU64,
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
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
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

/// What a name stands for.
pub enum Found {
    /// A model that answers.
    Loaded(Arc<LoadedModel>),
    /// One that has to be loaded first, by its id.
    Unloaded(String),
}

/// An entry as it was at one moment.
pub struct Seen {
    /// Its id.
    pub id: String,
    /// What answers.
    pub current: Option<Arc<LoadedModel>>,
    /// Loading under way.
    pub job: Option<Arc<LoadJob>>,
    /// Why loading it failed the last time.
    pub failure: Option<ApiError>,
    /// What answered before the last swap.
    pub previous_version: Option<String>,
    /// The share of new requests that a new version gets, of a hundred, during a rolling swap.
    pub rolling_percent: Option<u64>,
    /// The last time that a new version failed and gave its place back.
    pub rollback: Option<Rollback>,
}

/// Orders uses of models: the clock of "longest ago".
static USES: AtomicU64 = AtomicU64::new(1);

impl ModelRegistry {
    /// Adds a model; the first one is the default.
    pub fn insert(&self, model: LoadedModel) {
        self.publish(model, None, false);
    }

    /// Adds a model that can be loaded again, or puts it in the place of another version; returns what it replaced,
    /// which lives as long as somebody holds it. `keep`: hold the old version for a rollback.
    pub(super) fn publish(&self, model: LoadedModel, origin: Option<ModelOrigin>, keep: bool) {
        self.publish_shared(Arc::new(model), origin, keep);
    }

    /// [`ModelRegistry::publish`] of a model that is known already.
    pub(super) fn publish_shared(
        &self,
        model: Arc<LoadedModel>,
        origin: Option<ModelOrigin>,
        keep: bool,
    ) {
        let mut table = self.write();
        let id = model.id.clone();
        table.default.get_or_insert_with(|| id.clone());
        let entry = table.entries.entry(id).or_default();
        entry.used();
        entry.canary = None;
        entry.failure = None;
        model.announce();
        let old = entry.current.replace(model);
        let old_origin = std::mem::replace(&mut entry.origin, origin);
        if let Some(old) = old {
            entry.previous = Some(Previous {
                origin: old_origin,
                version: old.version.clone(),
                kept: keep.then_some(old),
            });
        }
    }

    /// Makes a model known that is loaded when somebody asks for it.
    pub(super) fn know(&self, id: &str, origin: ModelOrigin) {
        let mut table = self.write();
        table.default.get_or_insert_with(|| id.to_owned());
        table.entries.entry(id.to_owned()).or_default().origin = Some(origin);
    }

    /// Says where a model comes from that was [inserted](ModelRegistry::insert), so that it can be loaded again.
    pub fn set_origin(&self, id: &str, origin: ModelOrigin) {
        if let Some(entry) = self.write().entries.get_mut(id) {
            entry.origin = Some(origin);
        }
    }

    /// What a name stands for; without a name the default model.
    ///
    /// # Errors
    /// [`ErrorCode::ModelNotFound`], and [`ErrorCode::NotReady`] when there is none at all.
    pub fn find(&self, name: Option<&str>) -> Result<Found, ApiError> {
        let table = self.read();
        let id = match name {
            None | Some("" | DEFAULT_ALIAS) => match table.default.as_deref() {
                Some(default) => default,
                None => return Err(ApiError::new(ErrorCode::NotReady, "no model is loaded")),
            },
            Some(name) => name,
        };
        let Some(entry) = table.entries.get(id) else {
            let known: Vec<&str> = table.entries.keys().map(String::as_str).collect();
            return Err(not_found(id, &known));
        };
        entry.used();
        Ok(match entry.pick() {
            Some(model) => Found::Loaded(model),
            None => Found::Unloaded(id.to_owned()),
        })
    }

    /// The loaded model of this name; without a name the default one.
    ///
    /// # Errors
    /// As [`ModelRegistry::find`], and [`ErrorCode::ModelLoading`] for one that is not loaded.
    pub fn get(&self, name: Option<&str>) -> Result<Arc<LoadedModel>, ApiError> {
        match self.find(name)? {
            Found::Loaded(model) => Ok(model),
            Found::Unloaded(id) => Err(not_loaded(&id)),
        }
    }

    /// Looks at a model, loaded or not.
    ///
    /// # Errors
    /// As [`ModelRegistry::find`].
    pub fn look(&self, name: &str) -> Result<Seen, ApiError> {
        let table = self.read();
        let id = match (name, table.default.as_deref()) {
            (DEFAULT_ALIAS, Some(default)) => default,
            _ => name,
        };
        let Some(entry) = table.entries.get(id) else {
            let known: Vec<&str> = table.entries.keys().map(String::as_str).collect();
            return Err(not_found(id, &known));
        };
        Ok(Seen {
            id: id.to_owned(),
            current: entry.current.clone(),
            job: entry.job.clone(),
            failure: entry.failure.as_ref().map(|(_, error)| error.clone()),
            previous_version: entry
                .previous
                .as_ref()
                .and_then(|previous| previous.version.clone()),
            rolling_percent: entry.canary.as_ref().map(|canary| canary.percent),
            rollback: entry.rollback.clone(),
        })
    }

    /// All loaded models, by name.
    pub fn all(&self) -> Vec<Arc<LoadedModel>> {
        let table = self.read();
        let current = |entry: &Entry| entry.current.clone();
        table.entries.values().filter_map(current).collect()
    }

    /// All models that requests are sent to, versions that get a share of them included.
    pub fn answering(&self) -> Vec<Arc<LoadedModel>> {
        let table = self.read();
        let of_entry = |entry: &Entry| {
            let canary = entry.canary.as_ref().map(|canary| canary.model.clone());
            entry.current.clone().into_iter().chain(canary)
        };
        table.entries.values().flat_map(of_entry).collect()
    }

    /// Ids of all models that are known.
    pub fn ids(&self) -> Vec<String> {
        self.read().entries.keys().cloned().collect()
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// What answers the next request.
    fn pick(&self) -> Option<Arc<LoadedModel>> {
        let current = self.current.as_ref()?;
        if let Some(canary) = &self.canary {
            // 37 and 100 have no common divisor: of a hundred requests in a row each share gets its part, well mixed.
            let turn = self.n_found.fetch_add(1, Ordering::Relaxed);
            if turn.wrapping_mul(37) % 100 < canary.percent {
                return Some(canary.model.clone());
            }
        }
        Some(current.clone())
    }

    /// Somebody asked for it.
    fn used(&self) {
        let now = USES.fetch_add(1, Ordering::Relaxed);
        self.last_used.store(now, Ordering::Relaxed);
    }

    /// When somebody last asked for it; larger is later.
    pub fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// Whether it is loaded and no request holds it: nobody can take it while the table is locked for writing.
    pub fn is_idle(&self) -> bool {
        let idle = |model: &Arc<LoadedModel>| Arc::strong_count(model) == 1;
        self.job.is_none() && self.canary.is_none() && self.current.as_ref().is_some_and(idle)
    }
}

/// There is no model of this name.
pub(super) fn not_found(id: &str, known: &[&str]) -> ApiError {
    let id: String = id.chars().take(80).collect();
    let message = format!("there is no model '{id}'; there is {}", known.join(", "));
    ApiError::about("model", ErrorCode::ModelNotFound, message)
}

/// The model of this name is not in memory.
pub(super) fn not_loaded(id: &str) -> ApiError {
    ApiError::about(
        "model",
        ErrorCode::ModelLoading,
        format!("the model '{id}' is not loaded yet"),
    )
    .retry_after(std::time::Duration::from_secs(1))
}
