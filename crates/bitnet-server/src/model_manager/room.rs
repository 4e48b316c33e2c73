//! Room for models: `models.cache_size` bounds the bytes of weights in memory, and idle models leave for one that is
//! wanted.
//!
//! A model has its room from before its first byte is read until it is published, when it counts as what it is; loads
//! one after the other never count on the same room. Who has just been loaded stays for a while: else two models that
//! clients ask for by turns would push each other out with every request, and none would ever answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::entry::Entry;
use super::load::{LoadOrder, bytes_of};
use super::policy::OriginSource;
use super::registry::Table;
use crate::app::App;
use crate::error::{ApiError, ErrorCode};
use crate::model::LoadedModel;

/// Bytes that models on their way into memory will take.
#[derive(Debug, Default)]
pub struct Arriving(Arc<AtomicU64>);

/// Room that one of them has, until it is dropped.
#[derive(Debug)]
pub struct WeightRoom {
    bytes: u64,
    arriving: Arc<AtomicU64>,
}

impl Arriving {
    fn take(&self, bytes: u64) -> WeightRoom {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        WeightRoom {
            bytes,
            arriving: self.0.clone(),
        }
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for WeightRoom {
    fn drop(&mut self) {
        self.arriving.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Which models have been told to be larger in memory than all may be: the last version of each, by name. One that is
/// loaded with every other request is told once.
#[derive(Debug, Default)]
pub struct ToldTooLarge(Mutex<BTreeMap<String, Option<String>>>);

impl ToldTooLarge {
    /// What is to be told of a model that takes `bytes` where all may take `limit`, if that is too much and new.
    fn doubt(&self, id: &str, version: Option<&str>, bytes: u64, limit: u64) -> Option<String> {
        if limit == 0 || bytes <= limit {
            return None;
        }
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let version = version.map(str::to_owned);
        if told.get(id) == Some(&version) {
            return None;
        }
        told.insert(id.to_owned(), version);
        Some(format!(
            "the model '{id}' takes {bytes} bytes of memory, more than its files have, and models.cache_size lets all \
             models have {limit}: while it is in memory no other one is loaded; raise models.cache_size to {bytes} at \
             least, and by what other models are to have"
        ))
    }
}

/// Tells of a model that has just been loaded if it alone is larger than the bound: before it was loaded only its files
/// could be held against that.
pub(crate) fn tell_if_too_large(app: &App, model: &LoadedModel) {
    let (bytes, limit) = (weight_bytes(model), app.manager.policy.cache_bytes);
    let version = model.version.as_deref();
    let doubt = (app.manager.told_too_large).doubt(&model.id, version, bytes, limit);
    if let Some(doubt) = doubt {
        tracing::warn!("{doubt}");
    }
}

/// Unloads idle models, those first that were asked for longest ago, until there is room for what is ordered; none of
/// them when that is not enough.
///
/// # Errors
/// [`ErrorCode::NoRoomForModel`] for a model that there is no room for however many requests end: alone, or beside
/// those that never leave by themselves; [`ErrorCode::Overloaded`] when those that are loaded are in use or have just
/// come.
pub(super) fn make_room(app: &App, order: &LoadOrder) -> Result<WeightRoom, ApiError> {
    let (policy, arriving) = (&app.manager.policy, &app.manager.arriving);
    let limit = policy.cache_bytes;
    let needed = source_bytes(&order.origin.source);
    if limit == 0 {
        return Ok(arriving.take(needed));
    }
    if needed > limit {
        let message = format!(
            "its files have {needed} bytes, and models.cache_size lets models have {limit}"
        );
        return Err(ApiError::new(ErrorCode::NoRoomForModel, message)
            .with_hint("raise models.cache_size, or load a smaller model"));
    }
    let mut table = app.models.write();
    let stays = staying_bytes(&table, order, &policy.pinned);
    if stays.saturating_add(needed) > limit {
        // However long one waits: it takes an administrator to unload one of them.
        let message = format!(
            "its files have {needed} bytes, models that never make room have {stays}, and models.cache_size lets all \
             have {limit}"
        );
        return Err(ApiError::new(ErrorCode::NoRoomForModel, message).with_hint(
            "raise models.cache_size, pin fewer models, or unload one; a swap needs room for both versions only \
             where it is blue_green",
        ));
    }
    let mut taken = table_bytes(&table, order) + arriving.bytes();
    let loaded = taken;
    let mut idle: Vec<(u64, String, u64, Duration)> = table
        .entries
        .iter()
        // One that cannot be loaded again would be lost.
        .filter(|(id, entry)| {
            **id != order.id
                && entry.is_idle()
                && entry.origin.is_some()
                && !policy.pinned.contains(id)
        })
        .map(|(id, entry)| {
            let age = entry.current().map_or(Duration::ZERO, |model| model.age());
            let stays = policy.min_residency.saturating_sub(age);
            (entry.last_used(), id.clone(), entry_bytes(entry), stays)
        })
        .collect();
    idle.sort_unstable();
    let mut leaving = Vec::new();
    let mut longest_stay = Duration::ZERO;
    for (_, id, bytes, its_stay) in idle {
        if taken + needed <= limit {
            break;
        }
        if its_stay > Duration::ZERO {
            longest_stay = longest_stay.max(its_stay);
        } else {
            taken -= bytes;
            leaving.push(id);
        }
    }
    if taken + needed > limit {
        let message = format!(
            "there is no room: {loaded} bytes of weights are loaded, too many of them in use or just loaded, {needed} \
             more are wanted, models.cache_size is {limit}"
        );
        let wait = longest_stay.max(Duration::from_secs(1));
        return Err(ApiError::new(ErrorCode::Overloaded, message).retry_after(wait));
    }
    let room = arriving.take(needed);
    let mut left = Vec::new();
    for id in leaving {
        tracing::info!(model = id, "unloaded to make room");
        left.push(table.leave(&id, false));
        app.metrics.model_unloaded(&id);
        app.metrics.unloaded("room");
    }
    drop(table);
    drop(left); // gigabytes, and nobody should wait for the table meanwhile
    Ok(room)
}

/// Bytes of a model's files: what it counts as before it is loaded; 0 for what is not there.
pub(crate) fn source_bytes(source: &OriginSource) -> u64 {
    match source {
        OriginSource::Path(path) => bytes_of(path),
        OriginSource::Bytes { bytes, .. } => bytes.len() as u64,
    }
}

/// Bytes of what is in memory and will be beside what is ordered.
fn table_bytes(table: &Table, order: &LoadOrder) -> u64 {
    let bytes = |(id, entry): (&String, &Entry)| match *id == order.id {
        false => entry_bytes(entry),
        // The version before the one that answers goes in any case.
        true if order.keeps_old => entry.current().map_or(0, bytes_in_memory),
        true => 0,
    };
    table.entries.iter().map(bytes).sum()
}

/// Bytes of what is in memory beside what is ordered and leaves for nothing: pinned models, and the version that a swap
/// keeps.
fn staying_bytes(table: &Table, order: &LoadOrder, pinned: &[String]) -> u64 {
    let bytes = |(id, entry): (&String, &Entry)| {
        let stays = match *id == order.id {
            true => order.keeps_old,
            false => pinned.contains(id),
        };
        let current = entry.current().filter(|_| stays);
        current.map_or(0, bytes_in_memory)
    };
    table.entries.iter().map(bytes).sum()
}

fn entry_bytes(entry: &Entry) -> u64 {
    let kept = entry
        .previous
        .as_ref()
        .and_then(|previous| previous.kept.as_ref());
    let models = entry.in_memory().into_iter().chain(kept);
    models.map(bytes_in_memory).sum()
}

fn bytes_in_memory(model: &Arc<LoadedModel>) -> u64 {
    weight_bytes(model)
}

fn weight_bytes(model: &LoadedModel) -> u64 {
    model.engine.info().weight_bytes() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_alone_is_larger_than_the_bound_is_told_once_a_version() {
        let told = ToldTooLarge::default();
        let doubt = |version, bytes, limit| told.doubt("story", Some(version), bytes, limit);
        assert_eq!(doubt("v1", 50, 50), None);
        assert_eq!(doubt("v1", 50, 0), None, "no limit");
        let text = doubt("v1", 51, 50).unwrap();
        for words in ["'story' takes 51", "models have 50", "to 51 at least"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_eq!(doubt("v1", 51, 50), None, "it came back");
        assert!(doubt("v2", 51, 50).is_some());
        assert!(told.doubt("other", None, 51, 50).is_some());
    }
}
