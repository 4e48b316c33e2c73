//! Models that nobody asks for sleep: engine, KV cache and weights leave memory, and the name stays. The next request
//! finds a model that has to be loaded first, which takes a moment where its weights are kept packed in the cache.
//!
//! Falling asleep is one write under the lock under which requests find their models: a model goes only if nobody holds
//! it in that moment, and whoever comes after finds it gone and wakes it. So no request is ever on a model that is
//! going.

use std::sync::Arc;
use std::time::Duration;

use super::entry::{Asleep, Entry, EntryState};
use crate::app::App;
use crate::model::{LoadedModel, unix_seconds};

/// Shortest and longest time between two looks at what is unused: a quarter of the time after which models sleep,
/// within these.
const LOOK_INTERVAL: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// Puts models to sleep for as long as the server runs, if they ever do.
pub async fn watch(app: Arc<App>) {
    let Some(time) = app.manager.policy.keep_alive else {
        return;
    };
    let [shortest, longest] = LOOK_INTERVAL;
    loop {
        tokio::time::sleep((time / 4).clamp(shortest, longest)).await;
        put_to_sleep(&app, time);
    }
}

/// Puts those to sleep that nobody has used for `time`.
pub fn put_to_sleep(app: &App, time: Duration) {
    let mut gone: Vec<Arc<LoadedModel>> = Vec::new();
    let mut table = app.models.write();
    for (id, entry) in &mut table.entries {
        // One that cannot be loaded again would be lost.
        if app.manager.policy.pinned.contains(id) || entry.origin.is_none() {
            continue;
        }
        if has_requests(entry) {
            entry.in_use();
        }
        if entry.unused_for() < time || !entry.is_idle() {
            continue;
        }
        let Some(model) = entry.current().cloned() else {
            continue;
        };
        entry.state = EntryState::Sleeping(Asleep {
            version: model.version.clone(),
            validation: model.validation.clone(),
            since: unix_seconds(),
        });
        if let Some(previous) = &mut entry.previous {
            gone.extend(previous.kept.take());
        }
        app.metrics.model_unloaded(id);
        app.metrics.unloaded("idle");
        app.metrics.sleeping(id, true);
        tracing::info!(model = id, "nobody asked for it: it sleeps");
        gone.push(model);
    }
    drop(table);
    drop(gone); // gigabytes, and nobody should wait for the table meanwhile
}

/// Whether requests for it are under way. Those who look at it, such as probes, hold it too, for a moment.
fn has_requests(entry: &Entry) -> bool {
    entry.current().is_some_and(|model| {
        let load = model.handle.load();
        load.running + load.waiting > 0
    })
}
