//! The models of a server by name: the one that answers now, and what is kept beside it.
//!
//! A request takes an [`Arc`] of its model and holds it to its end, so putting another one in its place is one write
//! under the lock: who has come before runs on in the old weights, who comes after in the new ones, and nobody sees
//! both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde_json::Value;

use super::entry::{
    Asleep, Awaited, Entry, EntryState, ModelState, OldVersion, Previous, Rollback,
};
use super::job::{JobProgress, LoadJob};
use super::policy::{ModelOrigin, OriginSource};
use crate::auth::allowed_models::AllowedModels;
use crate::error::{ApiError, ErrorCode};
use crate::model::{DEFAULT_ALIAS, LoadedModel};

/// The models of a server.
#[derive(Default)]
pub struct ModelRegistry {
    table: RwLock<Table>,
    has_answered: AtomicBool,
}

#[derive(Default)]
pub(super) struct Table {
    pub entries: BTreeMap<String, Entry>,
    pub default: Option<String>,
}

/// What a name stands for.
pub enum Found {
    /// A model that answers.
    Loaded(Arc<LoadedModel>),
    /// One that is being loaded.
    Loading {
        /// Its id.
        id: String,
        /// Ends when the model is there.
        job: Arc<LoadJob>,
        /// Keeps it there until it is taken.
        awaited: Awaited,
    },
    /// One that has to be loaded first.
    Unloaded {
        /// Its id.
        id: String,
        /// What to load.
        origin: Box<ModelOrigin>,
    },
}

/// An entry as it was at one moment.
pub struct Seen {
    /// Its id.
    pub id: String,
    /// Whether it is in memory.
    pub state: ModelState,
    /// What is in memory: what answers, or what is leaving.
    pub current: Option<Arc<LoadedModel>>,
    /// Loading under way.
    pub job: Option<Arc<LoadJob>>,
    /// Why it could not be loaded.
    pub failure: Option<ApiError>,
    /// The file, or directory, that could not be.
    pub failed_path: Option<PathBuf>,
    /// What it was before it fell asleep, if it sleeps.
    pub asleep: Option<Asleep>,
    /// Time since somebody asked for it, or was seen to use it.
    pub unused_for: Duration,
    /// What answered before the last swap.
    pub previous_version: Option<String>,
    /// The share of new requests that a new version gets, of a hundred, during a rolling swap.
    pub rolling_percent: Option<u64>,
    /// The last time that a new version failed and gave its place back.
    pub rollback: Option<Rollback>,
}

impl Seen {
    /// [`Seen::state`], or that its engine has failed.
    pub fn state_now(&self) -> ModelState {
        let failed = |model: &Arc<LoadedModel>| model.handle.health().failed;
        match self.state {
            ModelState::Loaded if self.current.as_ref().is_some_and(failed) => ModelState::Failed,
            state => state,
        }
    }

    /// How far loading is, if it is under way.
    pub fn progress(&self) -> Option<JobProgress> {
        self.job.as_deref().map(LoadJob::progress_now)
    }

    /// Why it could not be loaded, as an answer's `error` has it.
    pub fn error(&self) -> Option<Value> {
        let failure = self.failure.as_ref()?;
        Some(failure.body()["error"].clone())
    }
}

/// Time for which a model that could not be loaded is not tried again by ordinary requests: reading a broken file takes
/// seconds of disk and processor, and who asks may ask without a pause.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// Time for which the status tells why a load failed whose name means nothing else.
const FAILURE_TOLD: Duration = Duration::from_secs(600);

impl ModelRegistry {
    /// Adds a model; the first one is the default.
    pub fn insert(&self, model: LoadedModel) {
        self.publish(Arc::new(model), None, OldVersion::Known);
    }

    /// Adds a model that can be loaded again, or puts it in the place of another version, which lives as long as
    /// somebody holds it.
    pub(super) fn publish(
        &self,
        model: Arc<LoadedModel>,
        origin: Option<ModelOrigin>,
        old_version: OldVersion,
    ) {
        let mut table = self.write();
        let id = model.id.clone();
        table.default.get_or_insert_with(|| id.clone());
        let left = (table.entries.entry(id).or_default()).put(model, origin, old_version);
        self.has_answered.store(true, Ordering::Relaxed);
        drop(table);
        drop(left);
    }

    /// Whether any model has ever been there to answer.
    pub fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
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

    /// Where a model comes from, by its id, if it can be loaded again.
    pub fn origin_of(&self, id: &str) -> Option<ModelOrigin> {
        let table = self.read();
        table.entries.get(id)?.origin.clone()
    }

    /// What a name stands for; without a name the default model.
    ///
    /// # Errors
    /// [`ErrorCode::ModelNotFound`]; [`ErrorCode::NotReady`] when there is none at all; [`ErrorCode::ModelLoading`] for
    /// one that is leaving memory; why one could not be loaded, for a while.
    pub fn find(&self, name: Option<&str>) -> Result<Found, ApiError> {
        let table = self.read();
        let (id, entry) = table.resolve(name)?;
        if !entry.is_known() {
            return Err(table.not_found(id));
        }
        entry.used();
        match &entry.state {
            EntryState::Loaded { model, .. } => return Ok(Found::Loaded(entry.pick(model))),
            EntryState::Loading(job) => {
                return Ok(Found::Loading {
                    id: id.to_owned(),
                    job: job.clone(),
                    awaited: entry.wait(),
                });
            }
            EntryState::Unloading(_) => return Err(unloading(id)),
            EntryState::Failed { at, error, .. } if at.elapsed() < AFTER_FAILURE => {
                return Err(error.clone());
            }
            EntryState::Unloaded | EntryState::Sleeping(_) | EntryState::Failed { .. } => {}
        }
        match &entry.origin {
            Some(origin) => Ok(Found::Unloaded {
                id: id.to_owned(),
                origin: Box::new(origin.clone()),
            }),
            None => Err(table.not_found(id)),
        }
    }

    /// The loaded model of this name; without a name the default one.
    ///
    /// # Errors
    /// As [`ModelRegistry::find`], and [`ErrorCode::ModelLoading`] for one that is not loaded.
    pub fn get(&self, name: Option<&str>) -> Result<Arc<LoadedModel>, ApiError> {
        match self.find(name)? {
            Found::Loaded(model) => Ok(model),
            Found::Loading { id, .. } | Found::Unloaded { id, .. } => Err(not_loaded(&id)),
        }
    }

    /// The id of the model of this name.
    ///
    /// # Errors
    /// [`ErrorCode::ModelNotFound`]; [`ErrorCode::NotReady`] where the default model is asked for and there is none.
    pub fn id_of(&self, name: &str) -> Result<String, ApiError> {
        let table = self.read();
        let (id, _) = table.resolve(Some(name))?;
        Ok(id.to_owned())
    }

    /// The id of what a name stands for, as far as it is among `allowed`. What is not, there or not, is told alike:
    /// nobody learns of others' models.
    ///
    /// # Errors
    /// [`ErrorCode::ModelNotFound`]; [`ErrorCode::NotReady`] where the default model is asked for and there is none.
    pub fn allowed_name(
        &self,
        name: Option<String>,
        allowed: &AllowedModels,
    ) -> Result<Option<String>, ApiError> {
        let AllowedModels::These(ids) = allowed else {
            return Ok(name);
        };
        match self.read().resolve(name.as_deref()) {
            Ok((id, _)) if allowed.has(id) => Ok(Some(id.to_owned())),
            Err(error) if error.code == ErrorCode::NotReady => Err(error),
            Ok(_) | Err(_) => {
                let asked: String = name.unwrap_or_default().chars().take(80).collect();
                let what = match asked.as_str() {
                    "" => "the default model is not one".to_owned(),
                    name => format!("there is no model '{name}', or it is not one"),
                };
                let message = format!("{what} that this key may use");
                let hint = format!("this key may use: {}", ids.join(", "));
                Err(ApiError::about("model", ErrorCode::ModelNotFound, message).with_hint(hint))
            }
        }
    }

    /// Looks at a model, loaded or not.
    ///
    /// # Errors
    /// As [`ModelRegistry::id_of`].
    pub fn look(&self, name: &str) -> Result<Seen, ApiError> {
        let table = self.read();
        let (id, entry) = table.resolve(Some(name))?;
        let (failure, failed_source) = match &entry.state {
            EntryState::Failed { error, source, .. } => (Some(error.clone()), source.as_ref()),
            _ => (None, None),
        };
        let asleep = match &entry.state {
            EntryState::Sleeping(asleep) => Some(asleep.clone()),
            _ => None,
        };
        Ok(Seen {
            id: id.to_owned(),
            state: entry.state.told(),
            current: entry.in_memory().cloned(),
            job: entry.job().cloned(),
            failure,
            failed_path: failed_source
                .and_then(OriginSource::path)
                .map(Path::to_owned),
            asleep,
            unused_for: entry.unused_for(),
            previous_version: entry
                .previous
                .as_ref()
                .and_then(|previous| previous.version.clone()),
            rolling_percent: entry.canary.as_ref().map(|canary| canary.percent),
            rollback: entry.rollback.clone(),
        })
    }

    /// All models in memory that have a name, by name; those that are leaving included.
    pub fn all(&self) -> Vec<Arc<LoadedModel>> {
        let table = self.read();
        let models = table.entries.values().filter_map(Entry::in_memory);
        models.cloned().collect()
    }

    /// All models that requests are sent to, versions that get a share of them included.
    pub fn answering(&self) -> Vec<Arc<LoadedModel>> {
        let table = self.read();
        let of_entry = |entry: &Entry| {
            let canary = entry.canary.as_ref().map(|canary| canary.model.clone());
            entry.current().cloned().into_iter().chain(canary)
        };
        table.entries.values().flat_map(of_entry).collect()
    }

    /// All versions in memory that may have requests, also those that answer no new ones.
    pub fn everywhere(&self) -> Vec<Arc<LoadedModel>> {
        let table = self.read();
        let mut models = Vec::new();
        for entry in table.entries.values() {
            models.extend(entry.in_memory().cloned());
            models.extend(entry.canary.as_ref().map(|canary| canary.model.clone()));
            let previous = entry.previous.as_ref();
            models.extend(previous.and_then(|previous| previous.kept.clone()));
        }
        models
    }

    /// Whether a request would have a model loaded by asking for it.
    pub fn any_can_be_loaded(&self) -> bool {
        let table = self.read();
        let can_be = |entry: &Entry| match &entry.state {
            EntryState::Unloaded => entry.origin.is_some(),
            EntryState::Sleeping(_) | EntryState::Loading(_) => true,
            // As `find` does: who is told that it cannot would send nobody who has it tried again.
            EntryState::Failed { at, .. } => {
                entry.origin.is_some() && at.elapsed() >= AFTER_FAILURE
            }
            EntryState::Loaded { .. } | EntryState::Unloading(_) => false,
        };
        table.entries.values().any(can_be)
    }

    /// Ids of the models that sleep.
    pub fn sleeping(&self) -> Vec<String> {
        let table = self.read();
        let sleeps = |entry: &Entry| matches!(entry.state, EntryState::Sleeping(_));
        let entries = table.entries.iter().filter(|(_, entry)| sleeps(entry));
        entries.map(|(id, _)| id.clone()).collect()
    }

    /// Ids of all models that are known.
    pub fn ids(&self) -> Vec<String> {
        self.read().known().cloned().collect()
    }

    /// Names that stand for nothing but a load that failed a while ago: requests may not name them, and whoever ordered
    /// the load wants to know why.
    pub fn failures(&self) -> Vec<String> {
        let table = self.read();
        let is_one = |entry: &Entry| match &entry.state {
            EntryState::Failed { at, .. } => !entry.is_known() && at.elapsed() < FAILURE_TOLD,
            _ => false,
        };
        let entries = table.entries.iter().filter(|(_, entry)| is_one(entry));
        entries.map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The entry of a name; without a name that of the default model.
    fn resolve<'a>(&'a self, name: Option<&'a str>) -> Result<(&'a str, &'a Entry), ApiError> {
        let id = match (name, self.default.as_deref()) {
            (None | Some("" | DEFAULT_ALIAS), Some(default)) => default,
            (None | Some("" | DEFAULT_ALIAS), None) => {
                return Err(ApiError::new(ErrorCode::NotReady, "no model is loaded"));
            }
            (Some(name), _) => name,
        };
        let entry = self.entries.get(id);
        entry
            .map(|entry| (id, entry))
            .ok_or_else(|| self.not_found(id))
    }

    /// The entry of an id.
    ///
    /// # Errors
    /// [`ErrorCode::ModelNotFound`].
    pub fn entry(&mut self, id: &str) -> Result<&mut Entry, ApiError> {
        if !self.entries.contains_key(id) {
            return Err(self.not_found(id));
        }
        Ok(self.entries.get_mut(id).expect("it has just been seen"))
    }

    /// Ids of the models that requests may name.
    fn known(&self) -> impl Iterator<Item = &String> {
        let known = self.entries.iter().filter(|(_, entry)| entry.is_known());
        known.map(|(id, _)| id)
    }

    /// There is no model of this name.
    pub fn not_found(&self, id: &str) -> ApiError {
        let id: String = id.chars().take(80).collect();
        let known: Vec<&str> = self.known().map(String::as_str).collect();
        let known = match known.is_empty() {
            true => "none at all".to_owned(),
            false => known.join(", "),
        };
        let message = format!("there is no model '{id}'; there is {known}");
        ApiError::about("model", ErrorCode::ModelNotFound, message)
    }

    /// Takes a name out of the table; if it was the default model's, the first of the others is the default from now
    /// on.
    fn forget(&mut self, id: &str) {
        self.entries.remove(id);
        if self.default.as_deref() == Some(id) {
            let next = self.known().next().cloned();
            self.default = next;
        }
    }

    /// Takes a model out of memory, with what was kept beside it, and its name too where it is not wanted any more or
    /// nobody could load it again. What has left is given back, for whoever calls to let it go.
    pub fn leave(&mut self, id: &str, forget: bool) -> (EntryState, Option<Previous>) {
        let Some(entry) = self.entries.get_mut(id) else {
            return (EntryState::Unloaded, None);
        };
        let left = (std::mem::take(&mut entry.state), entry.previous.take());
        if forget || entry.origin.is_none() {
            self.forget(id);
        }
        left
    }

    /// Takes those names out of the table that stand for nothing but a load that failed long ago.
    pub fn forget_failures(&mut self) {
        self.entries.retain(|_, entry| match &entry.state {
            EntryState::Failed { at, .. } => entry.is_known() || at.elapsed() < FAILURE_TOLD,
            _ => true,
        });
    }
}

/// The model of this name is not in memory.
pub(super) fn not_loaded(id: &str) -> ApiError {
    ApiError::about(
        "model",
        ErrorCode::ModelLoading,
        format!("the model '{id}' is not loaded yet"),
    )
    .retry_after(Duration::from_secs(1))
}

/// The model of this name is leaving memory.
fn unloading(id: &str) -> ApiError {
    ApiError::about(
        "model",
        ErrorCode::ModelLoading,
        format!("the model '{id}' is being unloaded"),
    )
    .retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::model_manager::policy::ModelPolicy;

    #[test]
    fn a_model_that_could_not_be_loaded_can_be_again_when_requests_try_it_again() {
        let models = ModelRegistry::default();
        models.know("a", ModelPolicy::default().origin(PathBuf::from("a.gguf")));
        assert!(models.any_can_be_loaded());
        let now = Instant::now();
        // The first one lies ahead, so that nothing that takes long reaches its end.
        for (at, can_be) in [(now + AFTER_FAILURE, false), (now - AFTER_FAILURE, true)] {
            let error = ApiError::new(ErrorCode::ModelIncompatible, "the disk was away");
            models.write().entry("a").unwrap().state = EntryState::Failed {
                at,
                error,
                source: None,
            };
            assert_eq!(models.any_can_be_loaded(), can_be);
            let found = models.find(None);
            assert_eq!(matches!(found, Ok(Found::Unloaded { .. })), can_be);
        }
        // One that nobody could load again has no request that would.
        models.write().entry("a").unwrap().origin = None;
        assert!(!models.any_can_be_loaded());
    }
}
