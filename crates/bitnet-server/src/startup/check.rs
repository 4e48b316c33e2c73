//! What can be told of a configuration before a server begins with it: `--check-config`.
//!
//! What would keep it from starting is an error in the words of the start. What would let it start and is probably not
//! meant, such as a name that no model has, is a doubt: it is told, and the server begins.

use bitnet_inference::{Access, Checkpoint, CheckpointOptions, Error, LoadOptions, check_room};

use super::{FirstModel, StartupError, first_name, policy_and_name, setting, telemetry};
use crate::auth::{key_file, usage_file};
use crate::config::{ServerConfig, SettingError};
use crate::machine;
use crate::model_manager::policy::{self, OriginSource};
use crate::model_manager::version;
use crate::process::Process;
use crate::request_log::RequestLog;

/// Tells what would keep a server from starting, as far as no weights have to be read for that: the checks of
/// [`Process::begin`] and [`prepare`](super::prepare) without what they take. No port is opened and no file left
/// behind, so a server that runs is not disturbed. Of models the headers are read.
///
/// Returns what is probably not meant, a line each.
///
/// # Errors
/// As theirs; and models of the configuration that are not there, or that no memory of this machine has room for.
pub fn check(config: &ServerConfig, first: FirstModel) -> Result<Vec<String>, StartupError> {
    Process::check(config)?;
    if let Some(telemetry) = telemetry(config)? {
        telemetry.close();
    }
    let (policy, _, mut doubts) = policy_and_name(config, &first)?;
    RequestLog::check(&config.monitoring).map_err(StartupError::Log)?;
    let options = policy::serving(config, first.options);
    check_model(&first.source, &options, policy.kv_cache_bytes)
        .map_err(|error| StartupError::of_model(config, first.source.name(), error))?;
    let usage = config.auth.usage_path();
    doubts.extend(usage.and_then(|path| usage_file::doubt(&path)));
    doubts.extend(crowded(&first.source, policy.kv_cache_bytes));
    for (id, path) in &policy.configured {
        let source = OriginSource::Path(path.clone());
        check_model(&source, &policy.options, policy.kv_cache_bytes).map_err(|source| {
            StartupError::Configured {
                id: id.clone(),
                setting: setting::prefix(config, &source),
                source,
            }
        })?;
        doubts.extend(crowded(&source, policy.kv_cache_bytes));
    }
    Ok(doubts)
}

/// What loading the model would say before it reads weights. Memory counts that there is at all: at this moment the
/// server that the settings are for may have it.
fn check_model(
    source: &OriginSource,
    options: &LoadOptions,
    kv_cache_bytes: Option<u64>,
) -> Result<(), Error> {
    // Only the header is looked at, once: nothing is gained by a copy.
    let reading = CheckpointOptions {
        access: Access::Map,
        ..options.checkpoint
    };
    let checkpoint = match source {
        OriginSource::Path(path) => Checkpoint::open(path, &reading)?,
        OriginSource::Bytes { name, bytes } => {
            Checkpoint::from_gguf_bytes(name, bytes.clone(), &reading)?
        }
    };
    let options = policy::sized_within(options, kv_cache_bytes, machine::total_memory());
    check_room(&checkpoint, &options)
}

/// Refuses a KV cache that is larger than all memory: it would be taken as requests come, until the system ends the
/// process.
pub(super) fn memory_for_cache(config: &ServerConfig) -> Result<(), SettingError> {
    let key = "performance.kv_cache_memory";
    match (config.performance.kv_cache_memory, machine::total_memory()) {
        (Some(cache), Some(total)) if cache.0 > total => {
            let setting = config.named(key);
            Err(SettingError::Contradiction(format!(
                "{setting} is {} bytes, more than the {total} of memory that there are here: say less, or leave \
                 it out, and it is sized by what there is",
                cache.0
            )))
        }
        _ => Ok(()),
    }
}

/// Whether a model and its KV cache are together more than all memory. Files are not always as large as what is made of
/// them, so the start does not refuse it.
fn crowded(source: &OriginSource, kv_cache_bytes: Option<u64>) -> Option<String> {
    let files = version::files_of_source(source).ok()??;
    let (cache, total) = (kv_cache_bytes?, machine::total_memory()?);
    (files.bytes().saturating_add(cache) > total).then(|| {
        format!(
            "{} has {} bytes of files, performance.kv_cache_memory is {cache}, and memory has {total} for both",
            source.name(),
            files.bytes()
        )
    })
}

/// Why the file of used tokens could not be written, if a key has a quota: what is counted then ends with the process,
/// and that shows when it is too late.
pub(super) fn unwritable_usage(config: &ServerConfig) -> Option<String> {
    let keys = config.auth.keys_file.as_ref()?;
    let keys = key_file::entries(keys).ok()?;
    keys.iter().find(|key| !key.quota.is_none())?;
    let error = usage_file::check_writable(&config.auth.usage_path()?).err()?;
    Some(format!(
        "{error}: what keys use of their quotas would be forgotten at the end; auth.usage_file names another place"
    ))
}

/// Ids that requests may name from the start on.
pub fn names_of(config: &ServerConfig, first: &OriginSource) -> Vec<String> {
    let configured = config.models.configured.iter();
    let configured = configured.filter_map(|entry| entry.split_once('='));
    let configured = configured.map(|(id, _)| id.to_owned());
    [first_name(config, first)]
        .into_iter()
        .chain(configured)
        .collect()
}

/// Where the settings and the keys name models that nothing configures, a line each: a name that is misspelt pins
/// nothing and opens nothing. A file of keys that cannot be read is told by whoever needs it.
pub fn unknown_names(config: &ServerConfig, first: &OriginSource) -> Vec<String> {
    let known = names_of(config, first);
    let mut doubts = Vec::new();
    let mut look = |whose: &str, id: &String| {
        if !known.contains(id) {
            let known = known.join(", ");
            doubts.push(format!(
                "{whose} the model '{id}', which no setting configures: there is {known} until an administrator \
                 loads others"
            ));
        }
    };
    for id in &config.models.pinned {
        look("models.pinned has", id);
    }
    let keys = config.auth.keys_file.as_ref();
    let keys = keys.and_then(|path| key_file::entries(path).ok());
    for key in keys.into_iter().flatten() {
        for id in key.models.iter().flatten() {
            look(&format!("the key '{}' ({}) is for", key.name, key.id), id);
        }
    }
    doubts
}
