//! The files by which sentence-transformers describes an embedding model: `modules.json` lists what follows the
//! transformer, `1_Pooling/config.json` says how hidden states are pooled.

use std::path::{Component, Path};

use serde_json::Value;

use crate::config::{EmbeddingConfig, Pooling};
use crate::error::ModelError;
use crate::json::JsonFile;

const MODULES: &str = "modules.json";

/// What the directory says about its embeddings; `None` without a pooling module.
pub(super) fn read(dir: &Path) -> Result<Option<EmbeddingConfig>, ModelError> {
    let path = dir.join(MODULES);
    if !path.exists() {
        return Ok(None);
    }
    let file = JsonFile::read_list(&path, "modules")?;
    let modules: Vec<&Value> = file
        .root()
        .get("modules")
        .and_then(Value::as_array)
        .map_or_else(Vec::new, |list| list.iter().collect());
    let kind = |module: &&Value, name: &str| {
        let kind = module.get("type").and_then(Value::as_str);
        kind.is_some_and(|kind| kind.rsplit('.').next() == Some(name))
    };
    let Some(module) = modules.iter().find(|module| kind(module, "Pooling")) else {
        return Ok(None);
    };
    let folder = module
        .get("path")
        .and_then(Value::as_str)
        .unwrap_or("1_Pooling");
    let mut parts = Path::new(folder).components();
    if !matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    ) {
        return Err(file.root().wrong(
            "modules",
            "the name of a folder as the path of the pooling module",
        ));
    }
    let config = JsonFile::read(&dir.join(folder).join("config.json"))?;
    let pooling = pooling(&config)?;
    Ok(Some(EmbeddingConfig {
        pooling,
        normalize: modules.iter().any(|module| kind(module, "Normalize")),
    }))
}

/// The one way that is switched on.
fn pooling(config: &JsonFile) -> Result<Pooling, ModelError> {
    let json = config.root();
    let mut on = None;
    for (key, way) in [
        ("pooling_mode_lasttoken", Some(Pooling::Last)),
        ("pooling_mode_mean_tokens", Some(Pooling::Mean)),
        ("pooling_mode_cls_token", Some(Pooling::Cls)),
        ("pooling_mode_max_tokens", None),
        ("pooling_mode_mean_sqrt_len_tokens", None),
        ("pooling_mode_weightedmean_tokens", None),
    ] {
        if json.bool(key)? != Some(true) {
            continue;
        }
        if way.is_none() || on.is_some() {
            let expected = "false: one of pooling_mode_lasttoken, pooling_mode_mean_tokens and pooling_mode_cls_token is read";
            return Err(json.wrong(key, expected));
        }
        on = way;
    }
    json.required(
        "pooling_mode_lasttoken",
        "true, or another pooling mode",
        on,
    )
}
