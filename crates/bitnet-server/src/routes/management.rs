//! Models come and go: `POST /v1/models/load`, `/v1/models/swap`, `/v1/models/{id}/rollback`, `/v1/models/{id}/unload`,
//! `DELETE /v1/models/{id}`; and `GET /v1/models/{id}/status`.
//!
//! All but the last are for administrators. What they start goes on when the client leaves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bitnet_inference::{LoadOptions, available_kernels};
use serde_json::{Value, json};

use crate::app::App;
use crate::body::{JsonBody, NoBody};
use crate::caller::Caller;
use crate::error::{ApiError, ErrorCode};
use crate::fields::{Fields, missing};
use crate::model::{LoadedModel, layout};
use crate::model_manager::policy::{ModelOrigin, OriginSource};
use crate::model_manager::swap::{self, SwapOrder, SwapReport, SwapStrategy};
use crate::model_manager::unload::{self, UnloadOrder};
use crate::model_manager::validate::{
    DEFAULT_ACCURACY, DEFAULT_COSINE, DEFAULT_SAMPLES, DEFAULT_TIMEOUT, MAX_SAMPLES, ValidationPlan,
};
use crate::model_manager::{paths, start_load};
use crate::request_log::{AuditNote, OrderAudit};
use crate::routes::query::OrderQuery;

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

async fn model_path(
    app: &App,
    fields: &mut Fields,
    name: &'static str,
) -> Result<PathBuf, ApiError> {
    let asked = fields.text(name)?.ok_or_else(|| missing(name))?;
    paths::confine_aside(name, asked, app.manager.policy.directories.clone()).await
}

/// Where a model comes from that is to be loaded.
enum LoadSource {
    /// A file of the configured directories.
    File(PathBuf),
    /// Wherever the model of that name came from, or would.
    Known(Box<ModelOrigin>),
}

/// The name and the place of the model that a load means: without a path one that the server knows.
async fn what_to_load(app: &App, fields: &mut Fields) -> Result<(String, LoadSource), ApiError> {
    let id = fields.text("model_id")?;
    if let Some(asked) = fields.text("model_path")? {
        let directories = app.manager.policy.directories.clone();
        let path = paths::confine_aside("model_path", asked, directories).await?;
        let stem = || {
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
        };
        let id = id.or_else(stem).unwrap_or_default();
        paths::check_id("model_id", &id)?;
        return Ok((id, LoadSource::File(path)));
    }
    let id = id.ok_or_else(|| missing("model_path"))?;
    let unknown = |error: ApiError| ApiError {
        param: Some("model_id".into()),
        ..error.with_hint("name its file too: model_path")
    };
    let id = app.models.id_of(&id).map_err(unknown)?;
    let origin = app.models.origin_of(&id);
    let origin = origin.ok_or_else(|| missing("model_path"))?;
    Ok((id, LoadSource::Known(Box::new(origin))))
}

/// How the files at `path` are loaded, as the request wants it.
fn origin(app: &App, path: PathBuf, fields: &mut Fields) -> Result<ModelOrigin, ApiError> {
    let kernel = kernel(fields)?;
    Ok(ModelOrigin {
        source: OriginSource::Path(path),
        options: with_kernel(app.manager.policy.options.clone(), kernel),
    })
}

fn with_kernel(options: LoadOptions, kernel: Option<String>) -> LoadOptions {
    LoadOptions {
        kernel: kernel.or(options.kernel),
        ..options
    }
}

/// The kernel that the request wants, if it wants a certain one.
fn kernel(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let impossible = |field: &'static str, message: String| {
        let error = ApiError::about(field, ErrorCode::ModelIncompatible, message);
        Err(error.with_hint("change the field that param names, or leave it out"))
    };
    match fields.text("device_preference")?.as_deref() {
        None | Some("auto" | "cpu") => {}
        Some("gpu") => {
            let message = "this build runs models on the CPU alone: say auto or cpu";
            return impossible("device_preference", message.into());
        }
        Some(other) => {
            let expected = "auto, cpu or gpu";
            return Err(ApiError::invalid(
                "device_preference",
                &other.into(),
                expected,
            ));
        }
    }
    match fields.text("quantization_format")?.as_deref() {
        None | Some("auto") => Ok(None),
        Some(format @ ("i2s" | "t5" | "tl1" | "tl2")) => {
            let found = available_kernels()
                .into_iter()
                .find(|kernel| layout(kernel) == format);
            match found {
                Some(kernel) => Ok(Some(kernel.to_owned())),
                None => {
                    let message =
                        format!("no kernel of this machine multiplies {format}: say auto or i2s");
                    impossible("quantization_format", message)
                }
            }
        }
        Some(other) => {
            let expected = "auto, i2s, t5, tl1 or tl2";
            Err(ApiError::invalid(
                "quantization_format",
                &other.into(),
                expected,
            ))
        }
    }
}

fn plan(timeout: Duration) -> ValidationPlan {
    ValidationPlan {
        samples: DEFAULT_SAMPLES,
        min_accuracy: DEFAULT_ACCURACY,
        min_cosine: DEFAULT_COSINE,
        timeout,
    }
}

/// What a request says about validation.
enum ValidationWish {
    /// Nothing.
    Unsaid,
    /// That there is to be none.
    Off,
    /// How.
    As(ValidationPlan),
}

impl ValidationWish {
    /// The plan, `usual` where nothing was said.
    fn plan_or(self, usual: Option<ValidationPlan>) -> Option<ValidationPlan> {
        match self {
            ValidationWish::Unsaid => usual,
            ValidationWish::Off => None,
            ValidationWish::As(plan) => Some(plan),
        }
    }
}

/// The `validation_config`.
fn validation(fields: &mut Fields, timeout: Duration) -> Result<ValidationWish, ApiError> {
    let Some(mut config) = fields.object("validation_config")? else {
        return Ok(ValidationWish::Unsaid);
    };
    config.only("validation_config.", &VALIDATION_FIELDS)?;
    let is_wanted = config.flag("enable_cross_validation")?.unwrap_or(true);
    let usual = plan(timeout);
    let plan = ValidationPlan {
        samples: config
            .count("validation_samples", 1..=MAX_SAMPLES)?
            .unwrap_or(usual.samples),
        min_accuracy: fraction(&mut config, "min_accuracy", 1.0)?.unwrap_or(usual.min_accuracy),
        min_cosine: fraction(&mut config, "min_cosine", 1.0)?.unwrap_or(usual.min_cosine),
        timeout,
    };
    Ok(match is_wanted {
        true => ValidationWish::As(plan),
        false => ValidationWish::Off,
    })
}

/// A number from 0 to `most`.
fn fraction(fields: &mut Fields, name: &'static str, most: f64) -> Result<Option<f64>, ApiError> {
    let Some(value) = fields.take(name) else {
        return Ok(None);
    };
    match value
        .as_f64()
        .filter(|number| (0.0..=most).contains(number))
    {
        Some(number) => Ok(Some(number)),
        None => Err(ApiError::invalid(
            name,
            &value,
            format!("a number from 0 to {most}"),
        )),
    }
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
