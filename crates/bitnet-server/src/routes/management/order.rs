//! What orders about models say: the model they mean, how it is loaded, and how it is validated.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bitnet_inference::{LoadOptions, available_kernels};

use super::VALIDATION_FIELDS;
use crate::app::App;
use crate::error::{ApiError, ErrorCode};
use crate::fields::{Fields, missing};
use crate::model::layout;
use crate::model_manager::entry::ModelState;
use crate::model_manager::paths;
use crate::model_manager::policy::{ModelOrigin, OriginSource};
use crate::model_manager::validate::{
    DEFAULT_ACCURACY, DEFAULT_COSINE, DEFAULT_SAMPLES, MAX_SAMPLES, ValidationPlan,
};

/// The path that the field `name` has, which must be there and lie in a configured directory.
pub(super) async fn model_path(
    app: &App,
    fields: &mut Fields,
    name: &'static str,
) -> Result<PathBuf, ApiError> {
    let asked = fields.text(name)?.ok_or_else(|| missing(name))?;
    paths::confine_aside(name, asked, app.manager.policy.directories.clone()).await
}

/// Where a model comes from that is to be loaded.
pub(super) enum LoadSource {
    /// A file of the configured directories.
    File(PathBuf),
    /// Wherever the model of that name came from, or would.
    Known(Box<ModelOrigin>),
}

/// The name and the place of the model that a load means: without a path one that the server knows.
pub(super) async fn what_to_load(
    app: &App,
    fields: &mut Fields,
) -> Result<(String, LoadSource), ApiError> {
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
        refuse_other_file(app, &id, &path).await?;
        return Ok((id, LoadSource::File(path)));
    }
    let id = id.ok_or_else(|| missing("model_path"))?;
    let unknown = |error: ApiError| ApiError {
        param: Some("model_id".into()),
        ..error.with_hint("name its file too: model_path")
    };
    let known = app.models.id_of(&id);
    // Its name may have been freed; what the settings say of it is as true as before.
    let configured = known.is_err().then(|| app.manager.configured(&id));
    if let Some(origin) = configured.flatten() {
        return Ok((id, LoadSource::Known(Box::new(origin))));
    }
    let id = known.map_err(unknown)?;
    let origin = app.models.origin_of(&id);
    let origin = origin.ok_or_else(|| nowhere(app, &id))?;
    Ok((id, LoadSource::Known(Box::new(origin))))
}

/// Refuses a file under a name that means another one and has no model in memory at this moment: requests that ask for
/// the name would have the other one loaded, and be answered by this one. One in memory is told by whoever loads.
async fn refuse_other_file(app: &App, id: &str, path: &Path) -> Result<(), ApiError> {
    let Ok(seen) = app.models.look(id) else {
        return Ok(()); // a new name
    };
    let idle = [
        ModelState::Unloaded,
        ModelState::Sleeping,
        ModelState::Failed,
    ];
    let (true, Some(origin)) = (idle.contains(&seen.state), app.models.origin_of(id)) else {
        return Ok(());
    };
    let is_same = match &origin.source {
        OriginSource::Bytes { .. } => false,
        OriginSource::Path(known) => paths::is_same_aside(path.to_owned(), known.clone()).await?,
    };
    if is_same {
        return Ok(());
    }
    let name = |path: &Path| path.file_name().unwrap_or_default().display().to_string();
    let known = match &origin.source {
        OriginSource::Bytes { name, .. } => (*name).to_owned(),
        OriginSource::Path(known) => name(known),
    };
    let message = format!(
        "the name '{id}' means {known}, not {}; without model_path that one is loaded",
        name(path)
    );
    Err(ApiError::about(
        "model_id",
        ErrorCode::ModelIdTaken,
        message,
    ))
}

/// A model without a path, whose name says nothing of where it is: its first load failed.
fn nowhere(app: &App, id: &str) -> ApiError {
    let Ok(seen) = app.models.look(id) else {
        return missing("model_path");
    };
    let (Some(failure), Some(path)) = (seen.failure, seen.failed_path) else {
        return missing("model_path");
    };
    let message = format!(
        "'{id}' has never been loaded, so only model_path says where it is; the last load of it failed: {failure}"
    );
    ApiError::about("model_path", ErrorCode::MissingField, message).with_hint(format!(
        "mend the file, then {}",
        paths::load_order(&path, id)
    ))
}

/// How the files at `path` are loaded, as the request wants it.
pub(super) fn origin(
    app: &App,
    path: PathBuf,
    fields: &mut Fields,
) -> Result<ModelOrigin, ApiError> {
    let kernel = kernel(fields)?;
    Ok(ModelOrigin {
        source: OriginSource::Path(path),
        options: with_kernel(app.manager.policy.options.clone(), kernel),
    })
}

/// The same options with the kernel that a request wants.
pub(super) fn with_kernel(options: LoadOptions, kernel: Option<String>) -> LoadOptions {
    LoadOptions {
        kernel: kernel.or(options.kernel),
        ..options
    }
}

/// The kernel that the request wants, if it wants a certain one.
pub(super) fn kernel(fields: &mut Fields) -> Result<Option<String>, ApiError> {
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

/// How a model is validated when nothing is said but the time.
pub(super) fn plan(timeout: Duration) -> ValidationPlan {
    ValidationPlan {
        samples: DEFAULT_SAMPLES,
        min_accuracy: DEFAULT_ACCURACY,
        min_cosine: DEFAULT_COSINE,
        timeout,
    }
}

/// What a request says about validation.
pub(super) enum ValidationWish {
    /// Nothing.
    Unsaid,
    /// That there is to be none.
    Off,
    /// How.
    As(ValidationPlan),
}

impl ValidationWish {
    /// The plan, `usual` where nothing was said.
    pub fn plan_or(self, usual: Option<ValidationPlan>) -> Option<ValidationPlan> {
        match self {
            ValidationWish::Unsaid => usual,
            ValidationWish::Off => None,
            ValidationWish::As(plan) => Some(plan),
        }
    }
}

/// The `validation_config`.
pub(super) fn validation(
    fields: &mut Fields,
    timeout: Duration,
) -> Result<ValidationWish, ApiError> {
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
pub(super) fn fraction(
    fields: &mut Fields,
    name: &'static str,
    most: f64,
) -> Result<Option<f64>, ApiError> {
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
