//! What the operator lets the model manager do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bitnet_inference::{
    Access, CachePurpose, CheckpointOptions, KvPool, LoadOptions, PackedCache,
    SERVING_PREFILL_BESIDE,
};
use bytes::Bytes;

use super::paths;
use crate::config::{ServerConfig, SettingError};
use crate::machine;

/// Where a model comes from.
#[derive(Debug, Clone)]
pub enum OriginSource {
    /// A file or a directory.
    Path(PathBuf),
    /// A GGUF file that is part of the program.
    Bytes {
        /// What messages call it.
        name: &'static str,
        /// All of it.
        bytes: Bytes,
    },
}

impl OriginSource {
    /// The file or directory that it is, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            OriginSource::Path(path) => Some(path),
            OriginSource::Bytes { .. } => None,
        }
    }

    /// What messages to operators call it: all of a path.
    pub fn name(&self) -> String {
        match self {
            OriginSource::Path(path) => path.display().to_string(),
            OriginSource::Bytes { name, .. } => (*name).to_owned(),
        }
    }
}

/// Where a model comes from and how it is loaded.
#[derive(Debug, Clone)]
pub struct ModelOrigin {
    /// Its files.
    pub source: OriginSource,
    /// How they are loaded.
    pub options: LoadOptions,
}

impl ModelOrigin {
    /// The same with the tokenizer and the chat template that are used for `old` instead of its own: whoever gave them
    /// meant the model of that name, not that file.
    #[must_use]
    pub fn with_overrides_of(self, old: &ModelOrigin) -> ModelOrigin {
        let (own, old) = (self.options, &old.options);
        ModelOrigin {
            options: LoadOptions {
                tokenizer: old.tokenizer.clone().or(own.tokenizer),
                chat_template: old.chat_template.clone().or(own.chat_template),
                ..own
            },
            source: self.source,
        }
    }
}

/// What the operator lets the model manager do.
#[derive(Debug, Clone)]
pub struct ModelPolicy {
    /// Directories that models may be loaded from by requests, resolved.
    pub directories: Vec<PathBuf>,
    /// Models that are loaded when they are asked for.
    pub configured: Vec<(String, PathBuf)>,
    /// Models that are never unloaded to make room.
    pub pinned: Vec<String>,
    /// Time without a request after which a model sleeps; `None`: none does.
    pub keep_alive: Option<Duration>,
    /// Bytes of weights that are kept loaded; 0 is no limit.
    pub cache_bytes: u64,
    /// Time for which a model that was loaded makes no room for others.
    pub min_residency: Duration,
    /// Time that running requests have to end when their model is unloaded.
    pub unload_timeout: Duration,
    /// Time for which a swap of strategy `blue_green` keeps the old version.
    pub keep_previous: Duration,
    /// Time for which a new version that fails gives its place back where the old one is not kept.
    pub rollback_period: Duration,
    /// Time between the steps of a swap of strategy `rolling`.
    pub rolling_step: Duration,
    /// Time for which a request waits for its model to be loaded.
    pub load_wait: Duration,
    /// Memory for keys and values of each model; `None`: what there is room for.
    pub kv_cache_bytes: Option<u64>,
    /// How models are loaded.
    pub options: LoadOptions,
}

impl Default for ModelPolicy {
    fn default() -> ModelPolicy {
        ModelPolicy::new(&ServerConfig::default(), LoadOptions::default())
            .expect("the defaults name no directory")
    }
}

impl ModelPolicy {
    /// The policy of a configuration; models are loaded as `options` says, but for what serving many needs.
    ///
    /// # Errors
    /// Directories that do not exist, names that no model can have, and configured models that are written in another
    /// way than `id=path` or twice.
    pub fn new(config: &ServerConfig, options: LoadOptions) -> Result<ModelPolicy, SettingError> {
        let models = &config.models;
        let wrong = |message: String| SettingError::Contradiction(message);
        let resolved = |directory: &String| {
            let path = Path::new(directory).canonicalize();
            let found = path.and_then(|path| match path.is_dir() {
                true => Ok(path),
                false => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            });
            found.map_err(|error| {
                wrong(format!(
                    "models.directories has {directory}, which cannot be used: {error}"
                ))
            })
        };
        let named = |entry: &String| {
            let (id, path) = entry
                .split_once('=')
                .ok_or_else(|| wrong(format!("models.configured has {entry}, expected id=path")))?;
            paths::check_id("models.configured", id).map_err(|error| wrong(error.message))?;
            Ok((id.to_owned(), PathBuf::from(path)))
        };
        if let Some(name) = &models.served_model_name {
            paths::check_id("models.served_model_name", name)
                .map_err(|error| wrong(error.message))?;
        }
        let configured: Vec<(String, PathBuf)> = models
            .configured
            .iter()
            .map(named)
            .collect::<Result<_, _>>()?;
        for (at, (id, _)) in configured.iter().enumerate() {
            if configured[..at].iter().any(|(other, _)| other == id) {
                return Err(wrong(format!("models.configured has {id} twice")));
            }
        }
        Ok(ModelPolicy {
            directories: models
                .directories
                .iter()
                .map(resolved)
                .collect::<Result<_, _>>()?,
            configured,
            pinned: models.pinned.clone(),
            keep_alive: models.keep_alive,
            cache_bytes: models.cache_size.0,
            min_residency: models.min_residency,
            unload_timeout: models.unload_timeout,
            keep_previous: models.keep_previous,
            rollback_period: models.rollback_period,
            rolling_step: models.rolling_step,
            load_wait: models.load_wait,
            kv_cache_bytes: config.performance.kv_cache_memory.map(|size| size.0),
            options: serving(config, options),
        })
    }

    /// Refuses a name for the first model that a configured one has.
    ///
    /// # Errors
    /// [`SettingError::Contradiction`].
    pub fn check_first(&self, name: &str) -> Result<(), SettingError> {
        if self.configured.iter().any(|(id, _)| id == name) {
            let message = format!(
                "models.configured has {name}, which is the name of the first model: give that another one by \
                 models.served_model_name"
            );
            return Err(SettingError::Contradiction(message));
        }
        Ok(())
    }

    /// The models' origin when nothing else is said of it.
    pub fn origin(&self, path: PathBuf) -> ModelOrigin {
        ModelOrigin {
            source: OriginSource::Path(path),
            options: self.options.clone(),
        }
    }
}

/// `options` with a KV cache of `kv_cache_bytes`, or as large as memory has room for at this moment, of which
/// `promised` bytes are for others. Where the system does not tell its memory, every request has its whole context.
pub fn sized(options: &LoadOptions, kv_cache_bytes: Option<u64>, promised: u64) -> LoadOptions {
    let available = machine::available_memory();
    let spare = available.map(|available| available.saturating_sub(promised));
    sized_within(options, kv_cache_bytes, spare)
}

/// The same with `spare` bytes of memory for weights, KV cache and everything else; `None`: nobody knows.
pub fn sized_within(
    options: &LoadOptions,
    kv_cache_bytes: Option<u64>,
    spare: Option<u64>,
) -> LoadOptions {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let kv_pool = match (kv_cache_bytes, spare) {
        (Some(bytes), _) => KvPool::Bytes(size(bytes)),
        (None, Some(spare)) => KvPool::Within(size(spare / MEMORY_SHARE.1 * MEMORY_SHARE.0)),
        (None, None) => KvPool::Contexts,
    };
    LoadOptions {
        kv_pool,
        ..options.clone()
    }
}

/// Of the memory that could be had, the share that weights and KV cache may take, as a fraction: the rest is for
/// buffers, requests and the system's own cache of files.
const MEMORY_SHARE: (u64, u64) = (4, 5);

/// `options` as a server needs them.
pub fn serving(config: &ServerConfig, options: LoadOptions) -> LoadOptions {
    LoadOptions {
        max_sequences: config.performance.max_concurrent_requests,
        prefix_cache: config.performance.prefix_cache,
        // A long prompt must not hold up those who read their answers.
        prefill_beside: SERVING_PREFILL_BESIDE,
        packed_cache: packed_cache(config, options.packed_cache),
        checkpoint: CheckpointOptions {
            access: match config.models.map_files {
                true => Access::Map,
                // Nothing that happens to a file may end the process.
                false => Access::ReadIntoMemory,
            },
            ..options.checkpoint
        },
        ..options
    }
}

/// The cache that models are served from, in the configured folder or in that of `usual`.
fn packed_cache(config: &ServerConfig, usual: Option<PackedCache>) -> Option<PackedCache> {
    let models = &config.models;
    if !models.packed_cache || models.map_files {
        return None;
    }
    match (&models.cache_folder, usual) {
        (Some(folder), _) => Some(PackedCache::for_serving(folder)),
        (None, Some(usual)) if usual.purpose == CachePurpose::NextStart => {
            Some(PackedCache::for_serving(usual.folder))
        }
        (None, usual) => usual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    /// The policy of settings that are written as flags.
    fn policy_of(flags: &[(&str, &str)]) -> Result<ModelPolicy, SettingError> {
        let flags = flags
            .iter()
            .map(|&(name, value)| (name.into(), value.into()));
        let sources = Sources {
            flags: flags.collect(),
            ..Sources::default()
        };
        ModelPolicy::new(&ServerConfig::load(&sources)?, LoadOptions::default())
    }

    #[test]
    fn names_that_no_request_could_use_are_refused_at_the_start() {
        let named = |name| policy_of(&[("served-model-name", name)]);
        named("BitNet-2B.v1_x").unwrap();
        for name in ["default", "org/model", "a b"] {
            let error = named(name).unwrap_err().to_string();
            assert!(
                error.contains("models.served_model_name"),
                "{name}: {error}"
            );
        }
        let configured = |entries| policy_of(&[("configured", entries)]);
        let policy = configured("a=x.gguf,b=x.gguf").unwrap();
        policy.check_first("c").unwrap();
        assert!(policy.check_first("b").is_err());
        assert!(configured("a=x.gguf,a=y.gguf").is_err());
    }

    #[test]
    fn what_was_given_for_a_name_goes_over_to_its_next_version() {
        let origin = |tokenizer: Option<&str>, template: Option<&str>| ModelOrigin {
            source: OriginSource::Path(PathBuf::from("model.gguf")),
            options: LoadOptions {
                tokenizer: tokenizer.map(PathBuf::from),
                chat_template: template.map(str::to_owned),
                ..LoadOptions::default()
            },
        };
        let old = origin(Some("tokenizer.json"), Some("old"));
        let new = origin(None, None).with_overrides_of(&old).options;
        assert_eq!(new.tokenizer, old.options.tokenizer);
        assert_eq!(new.chat_template.as_deref(), Some("old"));
        let plain = origin(None, None);
        let kept = origin(None, Some("own")).with_overrides_of(&plain).options;
        assert_eq!(kept.chat_template.as_deref(), Some("own"));
    }
}
