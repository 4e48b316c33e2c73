//! Models come and go: `POST /v1/models/load`, `/v1/models/swap`, `/v1/models/{id}/rollback`, `/v1/models/{id}/unload`,
//! `DELETE /v1/models/{id}`; and `GET /v1/models/{id}/status`.
//!
//! All but the last are for administrators. What they start goes on when the client leaves.

mod order;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::body::{JsonBody, NoBody};
use crate::caller::Caller;
use crate::error::{ApiError, ErrorCode};
use crate::fields::missing;
use crate::model::{LoadedModel, layout};
use crate::model_manager::policy::ModelOrigin;
use crate::model_manager::start_load;
use crate::model_manager::swap::{self, SwapOrder, SwapReport, SwapStrategy};
use crate::model_manager::unload::{self, UnloadOrder};
use crate::model_manager::validate::DEFAULT_TIMEOUT;
use crate::request_log::{AuditNote, OrderAudit};
use crate::routes::query::OrderQuery;
use order::{
    LoadSource, fraction, kernel, model_path, origin, plan, validation, what_to_load, with_kernel,
};

/// Longest time for anything that a request may name.
const DAY: f64 = 86_400.0;

/// What a load may say.
const LOAD_FIELDS: [&str; 5] = [
    "model_path",
    "model_id",
    "validation_config",
    "device_preference",
    "quantization_format",
];

/// What a swap may say.
const SWAP_FIELDS: [&str; 9] = [
    "new_model_path",
    "target_model_id",
    "swap_strategy",
    "rollback_on_failure",
    "inherit_overrides",
    "validation_timeout_seconds",
    "validation_config",
    "device_preference",
    "quantization_format",
];

/// What a `validation_config` may say.
const VALIDATION_FIELDS: [&str; 4] = [
    "enable_cross_validation",
    "validation_samples",
    "min_accuracy",
    "min_cosine",
];

/// Loads a model under a new name: 202 with the name of the job, or with `?wait=true` 200 with the model's status.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn load(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    note: AuditNote,
    audit: OrderAudit,
    JsonBody(mut fields): JsonBody,
) -> Result<Response, ApiError> {
    note.fill(&fields, &["model_id", "model_path"]);
    fields.only("", &LOAD_FIELDS)?;
    let waits = OrderQuery::parse(query.as_deref(), &["wait"])?.flag("wait")?;
    let (id, source) = what_to_load(&app, &mut fields).await?;
    let plan = validation(&mut fields, DEFAULT_TIMEOUT)?.plan_or(None);
    let origin = match source {
        LoadSource::File(path) => origin(&app, path, &mut fields)?,
        LoadSource::Known(origin) => {
            let kernel = kernel(&mut fields)?;
            ModelOrigin {
                options: with_kernel(origin.options, kernel),
                source: origin.source,
            }
        }
    };
    app.check_serving()?;
    let (job, _) = start_load(&app, &id, origin, plan)?;
    let (begun, under_way) = (job.clone(), audit.begin());
    tokio::spawn(async move { under_way.end(&begun.ended().await) });
    if waits {
        tokio::select! {
            biased;
            ended = job.ended() => ended?,
            () = app.drain_begun() => return Err(not_waited_for()),
        }
        return Ok(Json(status_of(&app, &id, true)?).into_response());
    }
    let body = json!({
        "job_id": job.id,
        "model_id": id,
        "status": "loading",
        "status_url": format!("/v1/models/{id}/status"),
    });
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

/// Puts a new version in the place of a model that answers; the answer comes when all requests go to it.
///
/// # Errors
/// Those of the table in [`crate::error`]; the old version then answers as before.
pub async fn swap(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    note: AuditNote,
    audit: OrderAudit,
    JsonBody(mut fields): JsonBody,
) -> Result<Json<SwapReport>, ApiError> {
    note.fill(&fields, &["target_model_id", "new_model_path"]);
    fields.only("", &SWAP_FIELDS)?;
    OrderQuery::parse(query.as_deref(), &[])?;
    let path = model_path(&app, &mut fields, "new_model_path").await?;
    let id = fields
        .text("target_model_id")?
        .ok_or_else(|| missing("target_model_id"))?;
    let refused = |error: &ApiError| app.metrics.swapped(error.code.name());
    let id = app.models.id_of(&id).inspect_err(refused)?;
    let strategy = match fields.text("swap_strategy")?.as_deref() {
        None | Some("atomic") => SwapStrategy::Atomic,
        Some("blue_green") => SwapStrategy::BlueGreen,
        Some("rolling") => SwapStrategy::Rolling,
        Some(other) => {
            let expected = "atomic, blue_green or rolling";
            return Err(ApiError::invalid("swap_strategy", &other.into(), expected));
        }
    };
    let timeout = match fraction(&mut fields, "validation_timeout_seconds", DAY)? {
        Some(seconds) => Duration::from_secs_f64(seconds),
        None => DEFAULT_TIMEOUT,
    };
    let mut origin = origin(&app, path, &mut fields)?;
    if fields.flag("inherit_overrides")?.unwrap_or(true)
        && let Some(old) = app.models.origin_of(&id)
    {
        origin = origin.with_overrides_of(&old);
    }
    let order = SwapOrder {
        id,
        plan: validation(&mut fields, timeout)?.plan_or(Some(plan(timeout))),
        strategy,
        rollback_on_failure: fields.flag("rollback_on_failure")?.unwrap_or(true),
        origin,
    };
    on_its_own(
        app.clone(),
        audit,
        async move { swap::swap(&app, order).await },
    )
    .await
}

/// Goes back to the version before the last swap.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn rollback(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    audit: OrderAudit,
    _: NoBody,
) -> Result<Json<SwapReport>, ApiError> {
    OrderQuery::parse(query.as_deref(), &[])?;
    let refused = |error: &ApiError| app.metrics.swapped(error.code.name());
    let id = app.models.id_of(&id).inspect_err(refused)?;
    on_its_own(app.clone(), audit, async move {
        swap::roll_back(&app, &id).await
    })
    .await
}

/// Takes a model out of memory; the next request for it loads it again.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn unload(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    audit: OrderAudit,
    _: NoBody,
) -> Result<Json<Value>, ApiError> {
    leave(app, id, query, audit, false).await
}

/// Takes a model out of memory and forgets its name.
///
/// # Errors
/// Those of the table in [`crate::error`].
pub async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    audit: OrderAudit,
    _: NoBody,
) -> Result<Json<Value>, ApiError> {
    leave(app, id, query, audit, true).await
}

async fn leave(
    app: Arc<App>,
    id: String,
    query: Option<String>,
    audit: OrderAudit,
    forget: bool,
) -> Result<Json<Value>, ApiError> {
    let query = OrderQuery::parse(query.as_deref(), &["timeout_seconds", "force"])?;
    let id = app.models.id_of(&id)?;
    let order = UnloadOrder {
        timeout: match query.value("timeout_seconds") {
            None => app.manager.policy.unload_timeout,
            Some(text) => match text.parse() {
                Ok(seconds) if (0.0..=DAY).contains(&seconds) => Duration::from_secs_f64(seconds),
                _ => {
                    let expected = "a number of seconds from 0 to 86400";
                    return Err(ApiError::invalid("timeout_seconds", &text.into(), expected));
                }
            },
        },
        force: query.flag("force")?,
        forget,
    };
    on_its_own(app.clone(), audit, async move {
        unload::unload(&app, &id, order).await?;
        let status = if forget { "deleted" } else { "unloaded" };
        Ok(json!({ "id": id, "object": "model", "status": status, "deleted": forget }))
    })
    .await
}

/// Shows how a model is.
///
/// # Errors
/// [`ErrorCode::ModelNotFound`].
pub async fn status(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    caller: Caller,
) -> Result<Json<Value>, ApiError> {
    app.models.allowed_name(Some(id.clone()), &caller.models)?;
    status_of(&app, &id, caller.is_admin).map(Json)
}

/// What [`status`] tells of a model; its path only to administrators.
fn status_of(app: &App, id: &str, with_path: bool) -> Result<Value, ApiError> {
    let seen = app.models.look(id)?;
    let model = seen.current.as_deref();
    let path = model.and_then(|model| model.path.as_ref());
    let policy = &app.manager.policy;
    let keep_alive = policy
        .keep_alive
        .filter(|_| !policy.pinned.contains(&seen.id));
    let mut body = json!({
        "id": seen.id,
        "status": seen.state_now(),
        "progress": seen.progress(),
        "error": seen.error(),
        "previous_version": seen.previous_version,
        "rolling_percent": seen.rolling_percent,
        "last_rollback": seen.rollback,
        "keep_alive_seconds": keep_alive.map(|time| time.as_secs_f64()),
        "unused_seconds": seen.unused_for.as_secs_f64(),
        "asleep_since": seen.asleep.as_ref().map(|asleep| asleep.since),
    });
    if let Some(asleep) = &seen.asleep {
        body["version"] = json!(asleep.version);
    }
    if let Some(about) = model.map(about) {
        for (key, value) in about.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
    }
    if let Some(path) = path.filter(|_| with_path) {
        body["path"] = json!(path);
    }
    Ok(body)
}

/// What is known of a model that is in memory.
fn about(model: &LoadedModel) -> Value {
    let info = model.engine.info();
    json!({
        "version": model.version,
        "fingerprint": model.fingerprint,
        "device": model.device(),
        "quantization_format": layout(&info.kernel),
        "decision": model.choice,
        "family": model.engine.config().family.name,
        "loaded_at": model.created,
        "load_seconds": info.load.as_secs_f64(),
        "weight_bytes": info.weight_bytes(),
        "weights_in": info.weights_in,
        "packed_weights": info.packed_weights,
        "load_memory": model.load_memory,
        "validation": model.validation,
        "requests": model.admission.waiting().0,
        "performance_metrics": model.rolling(),
    })
}

/// Runs `work` to its end whoever waits for it, and writes to the audit log how it ended.
async fn on_its_own<T: Send + 'static>(
    app: Arc<App>,
    audit: OrderAudit,
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<Json<T>, ApiError> {
    app.check_serving()?;
    let under_way = audit.begin();
    let told = async move {
        let outcome = work.await;
        under_way.end(&outcome);
        outcome
    };
    let told = tokio::spawn(told);
    tokio::select! {
        biased;
        done = told => match done {
            Ok(done) => done.map(Json),
            Err(_) => Err(ApiError::new(
                ErrorCode::InternalError,
                "changing the model failed",
            )),
        },
        () = app.drain_begun() => Err(not_waited_for()),
    }
}

/// The end of an order that a server at its end does not wait for: loading takes minutes, and serves nobody then.
fn not_waited_for() -> ApiError {
    let message = "the server is shutting down, and does not wait for what was ordered";
    ApiError::new(ErrorCode::ShuttingDown, message).retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::openapi::DOCUMENT;

    #[test]
    fn the_fields_of_orders_are_those_of_the_description_for_programs() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        for (schema, fields) in [
            ("LoadRequest", &LOAD_FIELDS[..]),
            ("SwapRequest", &SWAP_FIELDS),
            ("ValidationConfig", &VALIDATION_FIELDS),
        ] {
            let schema = &document["components"]["schemas"][schema];
            let mut described: Vec<&String> =
                schema["properties"].as_object().unwrap().keys().collect();
            let mut taken = fields.to_vec();
            described.sort();
            taken.sort();
            assert_eq!(described, taken);
            assert_eq!(schema["additionalProperties"], false, "{schema}");
        }
    }
}
