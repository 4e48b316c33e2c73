//! Taking models out of memory because somebody says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::{Entry, EntryState};
use crate::app::App;
use crate::error::{ApiError, ErrorCode};
use crate::model::LoadedModel;

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

/// Takes no more requests for a model, waits for those that run and frees its memory. One that is not in memory has
/// left it already.
///
/// # Errors
/// [`ErrorCode::ModelNotFound`]; [`ErrorCode::ModelBusy`] while it is loaded, swapped or unloaded, and when requests
/// still run after the time, in which case everything is as before.
pub async fn unload(app: &Arc<App>, id: &str, order: UnloadOrder) -> Result<(), ApiError> {
    let Some(model) = take_no_more(app, id, order)? else {
        return Ok(());
    };
    let leaving = LeavingModel { app, id, model };
    if !drain(&leaving.model, order).await {
        let message = format!(
            "requests of '{id}' still run after {} s; it answers as before",
            order.timeout.as_secs_f64()
        );
        return Err(ApiError::new(ErrorCode::ModelBusy, message)
            .with_hint("try again later, or with force=true, which ends them"));
    }
    let mut table = app.models.write();
    if table.entries.get(id).is_some_and(|e| leaving.has_place(e)) {
        let left = table.leave(id, order.forget);
        // Before anybody loads it again.
        app.metrics.model_unloaded(id);
        app.metrics.unloaded("request");
        drop(table);
        drop(left); // gigabytes, and nobody should wait for the table meanwhile
    }
    Ok(())
}

/// A model that takes no more requests. When this is dropped before it has left, however that comes about, it answers
/// as before: else its name would be of no use until the process is started again.
struct LeavingModel<'a> {
    app: &'a Arc<App>,
    id: &'a str,
    model: Arc<LoadedModel>,
}

impl LeavingModel<'_> {
    /// Whether it is this that is leaving: an older version may have got its place back.
    fn has_place(&self, entry: &Entry) -> bool {
        match &entry.state {
            EntryState::Unloading(leaving) => Arc::ptr_eq(leaving, &self.model),
            _ => false,
        }
    }
}

impl Drop for LeavingModel<'_> {
    fn drop(&mut self) {
        let mut table = self.app.models.write();
        if let Some(entry) = table.entries.get_mut(self.id)
            && self.has_place(entry)
        {
            let model = self.model.clone();
            entry.state = EntryState::Loaded { model, swap: None };
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
        EntryState::Unloaded | EntryState::Sleeping(_) | EntryState::Failed { .. } => {
            app.metrics.sleeping(id, false);
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

/// Who holds a model that is being unloaded, if no request does: the registry, and its [`LeavingModel`].
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
