//! Taking models out of memory: because somebody says so, or to make room for another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::load::bytes_of;
use super::policy::{ModelOrigin, OriginSource};
use super::registry::EntryState;
use crate::app::App;
use crate::error::{ApiError, ErrorCode};
use crate::model::{LoadedModel, weight_bytes};

/// How a model goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnloadOrder {
    /// Time for running requests to end.
    pub timeout: Duration,
    /// End those that have not ended by then.
    pub force: bool,
    /// The name goes too, so that nobody loads it again.
    pub forget: bool,
}

/// How often running requests are looked for: their ends are hundreds of milliseconds apart.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Takes no more requests for a model, waits for those that run and frees its memory. One that is not in memory has left it
/// already.
///
/// # Errors
/// [`ErrorCode::ModelNotFound`]; [`ErrorCode::ModelBusy`] while it is loaded, swapped or unloaded, and when requests still
/// run after the time, in which case everything is as before.
pub async fn unload(app: &Arc<App>, id: &str, order: UnloadOrder) -> Result<(), ApiError> {
    let Some(model) = take_no_more(app, id, order)? else {
        return Ok(());
    };
    let drained = drain(&model, order).await;
    let mut table = app.models.write();
    match drained {
        true => {
            let left = table.leave(id, order.forget);
            // Before anybody loads it again.
            app.metrics.model_unloaded(id);
            app.metrics.unloaded("request");
            drop(table);
            drop((left, model)); // gigabytes, and nobody should wait for the table meanwhile
            Ok(())
        }
        false => {
            table.entry(id)?.state = EntryState::Loaded { model, swap: None };
            let message = format!(
                "requests of '{id}' still run after {} seconds; it answers as before",
                order.timeout.as_secs_f64()
            );
            Err(ApiError::new(ErrorCode::ModelBusy, message)
                .with_hint("try again later, or with force=true, which ends them"))
        }
    }
}

/// Lets a model take no more requests; `None` for one that is not in memory, of which nothing is left to do.
fn take_no_more(
    app: &App,
    id: &str,
    order: UnloadOrder,
) -> Result<Option<Arc<LoadedModel>>, ApiError> {
    let mut table = app.models.write();
    let entry = table.entry(id)?;
    let being = match &entry.state {
        EntryState::Loaded { model, swap: None } => {
            let model = model.clone();
            entry.state = EntryState::Unloading(model.clone());
            return Ok(Some(model));
        }
        EntryState::Unloaded | EntryState::Failed { .. } => {
            table.leave(id, order.forget);
            return Ok(None);
        }
        EntryState::Loaded { .. } => "swapped",
        EntryState::Loading(_) => "loaded",
        EntryState::Unloading(_) => "unloaded",
    };
    let message = format!("the model '{id}' is being {being}");
    Err(ApiError::new(ErrorCode::ModelBusy, message))
}

/// Who holds a model that is being unloaded, if no request does: the registry, and who unloads it.
const HOLDERS: usize = 2;

/// Waits until no request holds the model; `false` when that takes too long.
async fn drain(model: &Arc<LoadedModel>, order: UnloadOrder) -> bool {
    let end = Instant::now() + order.timeout;
    while Arc::strong_count(model) > HOLDERS {
        if Instant::now() >= end {
            if order.force {
                model.handle.end();
            }
            return order.force;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    true
}

/// Unloads idle models, those first that were asked for longest ago, until there is room for another one.
///
/// # Errors
/// [`ErrorCode::Overloaded`] when those that are left are in use or pinned.
pub(super) fn make_room(app: &App, origin: &ModelOrigin) -> Result<(), ApiError> {
    let limit = app.manager.policy.cache_bytes;
    if limit == 0 {
        return Ok(());
    }
    let needed = match &origin.source {
        OriginSource::Path(path) => bytes_of(path),
        OriginSource::Bytes { bytes, .. } => bytes.len() as u64,
    };
    let mut table = app.models.write();
    loop {
        let bytes = |model: &Arc<LoadedModel>| weight_bytes(model.engine.info()) as u64;
        let current = table.entries.values().filter_map(|entry| entry.current());
        let loaded: u64 = current.map(bytes).sum();
        if loaded + needed <= limit {
            return Ok(());
        }
        let pinned = |id: &String| app.manager.policy.pinned.contains(id);
        // One that cannot be loaded again would be lost.
        let oldest = table
            .entries
            .iter_mut()
            .filter(|(id, entry)| entry.is_idle() && entry.origin.is_some() && !pinned(id))
            .min_by_key(|(_, entry)| entry.last_used());
        let Some((id, entry)) = oldest else {
            let message = format!(
                "there is no room: {loaded} bytes of weights are loaded and in use, {needed} more are wanted, \
                 models.cache_size is {limit}"
            );
            return Err(
                ApiError::new(ErrorCode::Overloaded, message).retry_after(Duration::from_secs(1))
            );
        };
        tracing::info!(model = id, "unloaded to make room");
        entry.state = EntryState::Unloaded;
        entry.previous = None;
        app.metrics.model_unloaded(id);
        app.metrics.unloaded("room");
    }
}
