//! Taking models out of memory: because somebody says so, or to make room for another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::load::bytes_of;
use super::policy::{ModelOrigin, OriginSource};
use super::registry::{not_found, not_loaded};
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

/// Takes no more requests for a model, waits for those that run and frees its memory.
///
/// # Errors
/// [`ErrorCode::ModelNotFound`]; [`ErrorCode::ModelBusy`] while it is loaded or swapped, and when requests still run
/// after the time, in which case the model answers as before.
pub async fn unload(app: &Arc<App>, id: &str, order: UnloadOrder) -> Result<(), ApiError> {
    let (mut model, origin) = {
        let mut table = app.models.write();
        let Some(entry) = table.entries.get_mut(id) else {
            let known: Vec<&str> = table.entries.keys().map(String::as_str).collect();
            return Err(not_found(id, &known));
        };
        if entry.job.is_some() {
            let message = format!("the model '{id}' is being loaded or swapped");
            return Err(ApiError::new(ErrorCode::ModelBusy, message));
        }
        entry.previous = None;
        let model = entry.current.take();
        let origin = entry.origin.clone();
        if order.forget {
            // No admission, and the name is gone already: a request gets 404.
            table.entries.remove(id);
            if table.default.as_deref() == Some(id) {
                table.default = table.entries.keys().next().cloned();
            }
        } else if model.is_none() {
            return Err(not_loaded(id));
        } else {
            // Until it is gone nobody loads it again.
            entry.failure = Some((Instant::now() + order.timeout, not_loaded(id)));
        }
        (model, origin)
    };
    let Some(held) = model.take() else {
        return Ok(());
    };
    match drain(held, order).await {
        Ok(()) => {
            if let Some(entry) = app.models.write().entries.get_mut(id) {
                entry.failure = None;
            }
            app.metrics.model_unloaded(id);
            app.metrics.unloaded("request");
            Ok(())
        }
        Err(model) => {
            app.models.publish_shared(model, origin, false);
            let message = format!(
                "requests of '{id}' still run after {} seconds; it answers as before",
                order.timeout.as_secs_f64()
            );
            Err(ApiError::new(ErrorCode::ModelBusy, message)
                .with_hint("try again later, or with force=true, which ends them"))
        }
    }
}

/// Waits until nobody else holds the model; gives it back when that takes too long.
async fn drain(model: Arc<LoadedModel>, order: UnloadOrder) -> Result<(), Arc<LoadedModel>> {
    let end = Instant::now() + order.timeout;
    while Arc::strong_count(&model) > 1 {
        if Instant::now() >= end {
            if !order.force {
                return Err(model);
            }
            model.handle.end();
            return Ok(());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
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
        let current = table
            .entries
            .values()
            .filter_map(|entry| entry.current.as_ref());
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
        entry.current = None;
        entry.previous = None;
        app.metrics.model_unloaded(id);
        app.metrics.unloaded("room");
    }
}
