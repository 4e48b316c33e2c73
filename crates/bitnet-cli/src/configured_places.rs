//! Models that a server's settings configure by their names on the Hub.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bitnet_hub::{HubError, HubModel};

use crate::env::Environment;
use crate::exit::CliError;
use crate::model_source::{hub_cache, in_cache, may_be_path, of_hub};

/// Where those of `models.configured`, each `id=path`, lie that name a model of the Hub instead of a path, by what the
/// settings have. They are found as `ModelSource::choose_for_server` finds the first model, but `OWNER/NAME` is a path
/// where the cache has no such model: a configured model's file need not be there when the server starts.
///
/// # Errors
/// As there, with the model's id; not for `OWNER/NAME` alone.
pub fn configured_places(
    configured: &[String],
    env: &Environment,
) -> Result<BTreeMap<PathBuf, PathBuf>, CliError> {
    let mut places = BTreeMap::new();
    // Looked for without a word, for what is not there may be a path.
    let is_cached = |model: &HubModel| {
        let found = hub_cache(env).map(|cache| cache.find(model, false));
        !matches!(found, Err(_) | Ok(Err(HubError::NotCached { .. })))
    };
    for entry in configured {
        let Some((id, name)) = entry.split_once('=') else {
            continue; // which the settings' own check tells
        };
        let found = of_hub(name, &env.hub).and_then(|model| match model {
            Some(model) if !may_be_path(name) || is_cached(&model) => {
                in_cache(name, &model, env).map(Some)
            }
            _ => Ok(None),
        });
        let found = found.map_err(|error| {
            let message = format!("models.configured has {id}: {}", error.message);
            CliError::new(error.class, message, error.hint)
        })?;
        places.extend(found.map(|place| (PathBuf::from(name), place)));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn configured_models_are_found_in_the_cache_by_their_names_of_the_hub() {
        let folder = tempfile::tempdir().unwrap();
        let mut env = Environment::default();
        env.hub.cache = Some(folder.path().into());
        let snapshot = format!("models--o--n/snapshots/{}", "0a".repeat(20));
        let snapshot = folder.path().join(snapshot);
        std::fs::create_dir_all(&snapshot).unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::write(snapshot.join(file), "{}").unwrap();
        }
        let entries = |entries: &[&str]| -> Vec<String> {
            entries.iter().map(|&entry| entry.to_owned()).collect()
        };
        let of = |given: &[&str]| configured_places(&entries(given), &env);
        let found = of(&["a=m.gguf", "b=hf:o/n", "c=o/n", "nonsense"]).unwrap();
        let names: Vec<&Path> = found.keys().map(PathBuf::as_path).collect();
        assert_eq!(names, [Path::new("hf:o/n"), Path::new("o/n")]);
        let at = |name: &str| found[Path::new(name)].canonicalize().unwrap();
        assert_eq!(at("hf:o/n"), snapshot.canonicalize().unwrap());
        assert_eq!(at("o/n"), at("hf:o/n"));
        // Nothing says that it is the Hub's, and the file may come later.
        assert!(of(&["a=models/m", "b=o/other:Q2_0"]).unwrap().is_empty());
        let nowhere = Environment::default();
        assert!(
            configured_places(&entries(&["a=models/m"]), &nowhere)
                .unwrap()
                .is_empty()
        );
        let error = of(&["b=hf:o/other"]).unwrap_err();
        let told = "models.configured has b: o/other is not in";
        assert!(error.message.contains(told), "{}", error.message);
        assert_eq!(error.hint, "`bitnet pull o/other` downloads it");
        let error = of(&["b=hf:no-owner"]).unwrap_err();
        assert!(error.message.contains("has b: "), "{}", error.message);
    }
}
