//! Probes: is the process sound, may it be sent requests, and what is it.
//!
//! Liveness never depends on the length of a queue: an orchestrator that restarts a busy server makes things worse. It
//! does fail when the engine has panicked, or when one step of it takes so long that it must hang. The thread of
//! [`health_listener`](crate::health_listener) answers by these too.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::build_info::BuildInfo;
use crate::model::{LoadedModel, unix_seconds};
use crate::usage::milliseconds;

/// Whether the process should live on.
pub async fn live(State(app): State<Arc<App>>) -> Response {
    answer(unsound(&app))
}

/// Why the process should be restarted, if it should.
pub fn unsound(app: &App) -> Option<String> {
    let models = app.models.all();
    models.iter().find_map(|model| trouble(app, model))
}

/// Whether requests should be sent here.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    answer(not_ready(&app))
}

/// Whether a model has been loaded, now or before: what has started stays started, whatever becomes of its models.
pub async fn startup(State(app): State<Arc<App>>) -> Response {
    let has_started = app.models.has_answered();
    answer((!has_started).then(|| "no model is loaded".to_owned()))
}

/// Everything that the probes look at.
pub async fn detail(State(app): State<Arc<App>>) -> Response {
    let models = app.models.all();
    let dead = models.iter().find_map(|model| trouble(&app, model));
    let not_ready = not_ready(&app);
    let (status, code) = match (&dead, &not_ready) {
        (Some(_), _) => ("unhealthy", StatusCode::SERVICE_UNAVAILABLE),
        (None, Some(_)) if app.limits.degraded_ok => ("degraded", StatusCode::OK),
        (None, Some(_)) => ("degraded", StatusCode::SERVICE_UNAVAILABLE),
        (None, None) => ("healthy", StatusCode::OK),
    };
    let components: serde_json::Map<String, Value> = models
        .iter()
        .map(|model| (model.id.clone(), component(&app, model)))
        .chain(
            app.models
                .sleeping()
                .into_iter()
                .map(|id| (id, json!({ "status": "sleeping" }))),
        )
        .collect();
    let body = json!({
        "status": status,
        "reason": dead.or(not_ready),
        "timestamp": unix_seconds(),
        "uptime_seconds": app.started.elapsed().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
        "draining": app.is_draining(),
        "components": components,
        "system_metrics": app.metrics.stats().process,
    });
    (code, Json(body)).into_response()
}

/// What is running.
pub async fn version(State(app): State<Arc<App>>) -> Json<Value> {
    let models = app.models.all();
    let fingerprints: Vec<&str> = models.iter().map(|model| &*model.fingerprint).collect();
    let mut body = json!(BuildInfo::of_this());
    body["fingerprints"] = json!(fingerprints);
    Json(body)
}

fn not_ready(app: &App) -> Option<String> {
    if app.is_draining() {
        return Some("the server is shutting down".into());
    }
    let models = app.models.all();
    if models.is_empty() {
        // The first request for one that can be loaded loads it.
        return (!app.models.any_can_be_loaded()).then(|| "no model is loaded".into());
    }
    if !app.is_accepting() {
        return Some("the server takes no connections yet".into());
    }
    let full = |model: &Arc<LoadedModel>| !model.admission.has_room();
    models
        .iter()
        .find_map(|model| trouble(app, model))
        .or_else(|| {
            let all_full = models.iter().all(full);
            all_full.then(|| match &models[..] {
                [only] => format!("the queue of {} is full", only.id),
                _ => "the queues of all models are full".into(),
            })
        })
}

/// Why a model will answer nothing any more.
pub fn trouble(app: &App, model: &LoadedModel) -> Option<String> {
    let health = model.handle.health();
    if health.failed {
        return Some(format!("the engine of {} has failed", model.id));
    }
    let hangs = health
        .in_step
        .filter(|&time| time > app.limits.stall_timeout)?;
    Some(format!(
        "a step of {} has taken {} s",
        model.id,
        hangs.as_secs()
    ))
}

fn component(app: &App, model: &LoadedModel) -> Value {
    let health = model.handle.health();
    let (choices, tokens) = model.admission.waiting();
    json!({
        "status": trouble(app, model).map_or("healthy", |_| "unhealthy"),
        "requests": choices,
        "waiting_prompt_tokens": tokens,
        "turns": health.turns,
        "in_step_ms": health.in_step.map(milliseconds),
        "engine": model.handle.load(),
    })
}

fn answer(trouble: Option<String>) -> Response {
    match trouble {
        None => Json(json!({ "status": "ok" })).into_response(),
        Some(reason) => {
            let body = json!({ "status": "unavailable", "reason": reason });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}
