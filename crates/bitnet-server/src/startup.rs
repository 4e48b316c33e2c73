//! From settings to a server that can begin: the policy of its models, the first model with its version, and the state
//! that routes share. `bitnet serve` and `bitnet-server` are two command lines before this one way.

mod check;
mod room;
mod setting;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_inference::{Engine, EngineInfo, Error, LoadOptions, PackedCache};

use crate::app::App;
use crate::config::{ServerConfig, SettingError};
use crate::limits::ServerLimits;
use crate::model::LoadedModel;
use crate::model_manager::policy::{self, ModelOrigin, ModelPolicy, OriginSource};
use crate::model_manager::room::tell_if_too_large;
use crate::model_manager::{paths, version};
use crate::process::{Process, ProcessError};
use crate::request_log::RequestLog;
use crate::telemetry::{Telemetry, TelemetryError, TelemetryOptions};
use room::NamedModels;

pub use check::{check, names_of, unknown_names};
pub use room::unknown_sizes;

/// The model that a server begins with.
#[derive(Debug, Clone)]
pub struct FirstModel {
    /// Where it comes from.
    pub source: OriginSource,
    /// How it is loaded, but for what serving many needs.
    pub options: LoadOptions,
    /// How the models that come later are loaded.
    pub others: LoadOptions,
    /// Where models of `models.configured` lie of which the settings have a name instead of a path.
    pub places: BTreeMap<PathBuf, PathBuf>,
}

impl FirstModel {
    /// `source`, loaded as the settings say; packed weights are kept in `cache_folder` unless they name another one.
    ///
    /// # Errors
    /// A chat template that cannot be read.
    pub fn of(
        source: OriginSource,
        config: &ServerConfig,
        cache_folder: Option<PathBuf>,
    ) -> Result<FirstModel, SettingError> {
        let packed_cache = cache_folder.map(PackedCache::for_serving);
        let cached = |options| LoadOptions {
            packed_cache: packed_cache.clone(),
            ..options
        };
        Ok(FirstModel {
            source,
            options: cached(config.first_load_options()?),
            others: cached(config.engine.load_options()),
            places: BTreeMap::new(),
        })
    }

    /// The same, finding models of `models.configured` at `places`, by what the settings have instead of a path.
    #[must_use]
    pub fn with_places(self, places: BTreeMap<PathBuf, PathBuf>) -> FirstModel {
        FirstModel { places, ..self }
    }
}

/// A server that can begin.
pub struct Ready {
    /// What its routes share.
    pub app: Arc<App>,
    /// The engine of its first model.
    pub engine: Arc<Engine>,
    /// The name of that model.
    pub name: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// A setting of the models means nothing here.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// Traces are asked for and cannot be exported.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A file of the model cannot be read to its end.
    #[error("cannot read {name} for its version: {source}")]
    Version {
        /// The model.
        name: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The first model cannot be loaded.
    #[error("{setting}{source}")]
    Model {
        /// The model.
        name: String,
        /// The setting that the error is about and a colon, or nothing.
        setting: String,
        /// What loading it would say.
        source: Error,
    },
    /// The same of a model of `models.configured`.
    #[error("models.configured has {id}: {setting}{source}")]
    Configured {
        /// The model's id.
        id: String,
        /// The setting that the error is about and a colon, or nothing.
        setting: String,
        /// What loading it would say.
        source: Error,
    },
    /// The logs of requests cannot be written.
    #[error("the logs cannot be opened: {0}")]
    Log(std::io::Error),
    /// The operating system has no thread to give.
    #[error("the engine's thread cannot start: {0}")]
    Thread(std::io::Error),
    /// Nobody can look after the process.
    #[error(transparent)]
    Process(#[from] ProcessError),
}

impl StartupError {
    /// The first model, called `name`, cannot be loaded with these settings.
    pub fn of_model(config: &ServerConfig, name: String, source: Error) -> StartupError {
        StartupError::Model {
            name,
            setting: setting::prefix(config, &source),
            source,
        }
    }
}

/// What exports traces, if the settings ask for them.
fn telemetry(config: &ServerConfig) -> Result<Option<Telemetry>, TelemetryError> {
    let start = || Telemetry::start(&TelemetryOptions::of_process(&config.monitoring));
    config
        .monitoring
        .opentelemetry_enabled
        .then(start)
        .transpose()
}

/// The policy of a server's models, the name of the first one, and what is probably not meant, a line each.
fn policy_and_name(
    config: &ServerConfig,
    first: &FirstModel,
) -> Result<(ModelPolicy, String, Vec<String>), SettingError> {
    check::memory_for_cache(config)?;
    let mut policy = ModelPolicy::new(config, first.others.clone())?;
    for (_, path) in &mut policy.configured {
        if let Some(place) = first.places.get(path) {
            *path = place.clone();
        }
    }
    let name = first_name(config, &first.source);
    policy.check_first(&name)?;
    let models = NamedModels::of(&policy, &name, &first.source);
    models.check(config)?;
    let mut doubts = unknown_names(config, &first.source);
    doubts.extend(models.doubts());
    doubts.extend(check::unwritable_usage(config));
    Ok((policy, name, doubts))
}

/// Makes the state that routes share, lets the process look after it, and loads the first model into it by `load`,
/// which is given its source and complete options.
///
/// # Errors
/// Those of `load`, settings of models that mean nothing here, and logs that cannot be opened.
pub fn prepare<E: From<StartupError>>(
    process: &Process,
    first: FirstModel,
    load: impl FnOnce(&OriginSource, &LoadOptions) -> Result<Engine, E>,
) -> Result<Ready, E> {
    let config = process.config();
    let telemetry = telemetry(config).map_err(StartupError::from)?;
    let batch_timeout = config.performance.batch_timeout_ms;
    if batch_timeout > 0 {
        tracing::warn!(
            "performance.batch_timeout_ms is {batch_timeout} and without effect: requests join the batch at every \
             step, and none waits for others"
        );
    }
    let (policy, name, doubts) = policy_and_name(config, &first).map_err(StartupError::from)?;
    for doubt in doubts {
        tracing::warn!("{doubt}");
    }
    let origin = ModelOrigin {
        options: policy::serving(config, first.options),
        source: first.source,
    };
    let log = RequestLog::open(&config.monitoring).map_err(StartupError::Log)?;
    let mut app = App::new(ServerLimits::from(config))
        .with_log(log)
        .with_policy(policy);
    app.telemetry = telemetry;
    let app = Arc::new(app);
    process.watch_over(&app).map_err(StartupError::from)?;
    let before = version::files_of_source(&origin.source);
    let (engine, hashed) = std::thread::scope(|scope| {
        // Beside the load, which takes longer.
        let hashed = scope.spawn(|| version::of_source(&origin.source));
        let options = policy::sized(&origin.options, app.manager.policy.kv_cache_bytes, 0);
        let loaded = load(&origin.source, &options);
        (loaded, hashed.join().expect("hashing does not panic"))
    });
    let engine = Arc::new(engine?);
    let version = hashed.and_then(|hashed| version::of_loaded(before, hashed));
    let version = version.map_err(|source| StartupError::Version {
        name: origin.source.name(),
        source,
    })?;
    let model = LoadedModel::start(name.as_str(), engine.clone(), Some(&version), &app)
        .map_err(StartupError::Thread)?;
    tell_if_too_large(&app, &model);
    app.models.insert(model.loaded_from(&origin));
    app.models.set_origin(&name, origin);
    app.know_configured();
    Ok(Ready { app, engine, name })
}

/// What an engine takes and has: memory, positions, threads, kernel. For the line that a server prints when it begins.
pub fn summary(info: &EngineInfo) -> String {
    let (weights, cache) = (info.weight_bytes(), info.kv_cache_bytes);
    format!(
        "memory {}: weights {}, KV cache {} for {} positions; context {}; {} threads, {}",
        decimal(weights + cache),
        decimal(weights),
        decimal(cache),
        info.kv_positions,
        info.context,
        info.threads,
        info.kernel,
    )
}

/// Bytes as people read them: `1.19 GB`, `12.5 MB`.
fn decimal(bytes: usize) -> String {
    match bytes as f64 / 1e9 {
        gigabytes if gigabytes >= 1.0 => format!("{gigabytes:.2} GB"),
        gigabytes => format!("{:.1} MB", gigabytes * 1e3),
    }
}

/// The name of the first model.
fn first_name(config: &ServerConfig, first: &OriginSource) -> String {
    let name = config.models.served_model_name.clone();
    name.unwrap_or_else(|| short_name(first))
}

/// A name that clients can type: of a path its last part without the extension, of a model inside the program its own
/// without the remark.
fn short_name(source: &OriginSource) -> String {
    let path = match source {
        OriginSource::Path(path) => path.as_path(),
        OriginSource::Bytes { name, .. } => {
            Path::new(name.strip_suffix(" (embedded)").unwrap_or(name))
        }
    };
    if let Some(name) = hub_name(path) {
        return paths::id_like(name);
    }
    let stem = match path.is_dir() {
        true => path.file_name(),
        false => path.file_stem(),
    };
    let name = stem.map_or_else(|| source.name(), |stem| stem.to_string_lossy().into_owned());
    paths::id_like(&name)
}

/// The NAME of OWNER/NAME where the path is a whole model in a cache of the Hub,
/// `models--OWNER--NAME/snapshots/COMMIT`: clients must not have to follow its commits.
fn hub_name(path: &Path) -> Option<&str> {
    let mut parts = path.iter().rev().map(|part| part.to_str());
    let (commit, snapshots, repository) = (parts.next()??, parts.next()??, parts.next()??);
    let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_commit || snapshots != "snapshots" {
        return None;
    }
    let (_, name) = repository.strip_prefix("models--")?.split_once("--")?;
    Some(name)
}

#[cfg(test)]
mod tests;
