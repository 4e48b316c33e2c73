//! Which files a request may name: those inside the directories that the operator has configured, wherever links lead.
//!
//! A path is resolved by the system first, links and all, and then held against the resolved directories; the same is
//! done with every file that loading it would read. What is outside and what does not exist are answered alike, so that
//! nobody learns which files a machine has.

use std::path::{Component, Path, PathBuf};
use std::thread;

use serde_json::json;
use tokio::sync::oneshot;

use bitnet_inference::ModelFiles;

use crate::error::{ApiError, ErrorCode};

/// Bytes of a path in a request.
const LONGEST_PATH: usize = 4096;

/// Characters of a model's id.
pub(crate) const LONGEST_ID: usize = 128;

/// Checks the name of a model: letters, digits, `.`, `_` and `-`, and not the one that always means the default model.
///
/// # Errors
/// [`ErrorCode::InvalidValue`].
pub fn check_id(field: &'static str, id: &str) -> Result<(), ApiError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=LONGEST_ID).contains(&id.len())
        && id.chars().all(plain)
        && id != crate::model::DEFAULT_ALIAS
    {
        return Ok(());
    }
    let expected = "1 to 128 letters, digits, '.', '_' or '-', and not 'default'";
    Err(ApiError::invalid(field, &id.into(), expected))
}

/// An id for a model whose file has this name: what no id may have becomes `-`.
pub fn id_like(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let kept = name.chars().take(LONGEST_ID);
    let id: String = kept.map(|c| if plain(c) { c } else { '-' }).collect();
    match id.as_str() {
        "" | crate::model::DEFAULT_ALIAS => "model".into(),
        _ => id,
    }
}

/// The order that loads `path` as `id`, as a hint shows it: to be sent as it is written.
pub(crate) fn load_order(path: &Path, id: &str) -> String {
    let order = json!({ "model_path": path.to_string_lossy(), "model_id": id });
    format!("POST /v1/models/load {order}")
}

/// The file or directory that `asked` means: in one of `directories`, which are resolved already.
///
/// # Errors
/// [`ErrorCode::ModelNotAllowed`] for everything that is not a readable model inside them.
pub fn confine(
    field: &'static str,
    asked: &str,
    directories: &[PathBuf],
) -> Result<PathBuf, ApiError> {
    let refused = || {
        let message = format!("{field} names no model in the configured directories");
        let error = ApiError::about(field, ErrorCode::ModelNotAllowed, message);
        match directories {
            [] => {
                error.with_hint("the operator has configured none: models.directories names them")
            }
            _ => error,
        }
    };
    let path = Path::new(asked);
    let climbs = |part| matches!(part, Component::ParentDir);
    if asked.is_empty()
        || asked.len() > LONGEST_PATH
        || asked.chars().any(char::is_control)
        || path.components().any(climbs)
    {
        return Err(refused());
    }
    // An absolute path replaces the directory that it is joined to.
    directories
        .iter()
        .filter_map(|directory| directory.join(path).canonicalize().ok())
        .find(|found| is_inside(found, directories) && reads_inside(found, directories))
        .ok_or_else(refused)
}

/// [`confine`] on a thread of its own: a network may let the system wait for as long as it likes, and nobody else
/// should.
///
/// # Errors
/// As [`confine`], and when there is no thread to be had.
pub async fn confine_aside(
    field: &'static str,
    asked: String,
    directories: Vec<PathBuf>,
) -> Result<PathBuf, ApiError> {
    aside(move || confine(field, &asked, &directories)).await?
}

/// Whether `path`, which is resolved, is what `origin` leads to now, links and all; looked at as [`confine_aside`]
/// does.
///
/// # Errors
/// When there is no thread to be had.
pub async fn is_same_aside(path: PathBuf, origin: PathBuf) -> Result<bool, ApiError> {
    aside(move || path == origin || origin.canonicalize().is_ok_and(|origin| origin == path)).await
}

/// What `look` finds on a thread of its own.
async fn aside<T: Send + 'static>(
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let (sender, found) = oneshot::channel();
    let look = move || {
        let _ = sender.send(look()); // nobody waits any more
    };
    let failed = |reason: String| {
        let message = format!("no thread can be started to look at files: {reason}");
        ApiError::new(ErrorCode::InternalError, message)
    };
    let started = thread::Builder::new().name("paths".into()).spawn(look);
    started.map_err(|error| failed(error.to_string()))?;
    found.await.map_err(|_| failed("it panicked".into()))
}

fn is_inside(path: &Path, directories: &[PathBuf]) -> bool {
    directories
        .iter()
        .any(|directory| path.starts_with(directory) && path != directory)
}

/// Whether everything that loading `path` reads is inside too. A named pipe or a device is no model file: opening one
/// may wait for ever.
fn reads_inside(path: &Path, directories: &[PathBuf]) -> bool {
    ModelFiles::of(path).is_ok_and(|files| {
        files.iter().all(|(file, _)| {
            file.canonicalize()
                .is_ok_and(|file| is_inside(&file, directories))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_file_makes_an_id() {
        for (name, id) in [
            ("model-2b.Q2_0", "model-2b.Q2_0"),
            ("my model", "my-model"),
            ("default", "model"),
            ("", "model"),
            ("模型", "--"),
        ] {
            assert_eq!(id_like(name), id);
            check_id("id", &id_like(name)).unwrap();
        }
        assert_eq!(id_like(&"m".repeat(300)).len(), LONGEST_ID);
    }

    #[cfg(unix)]
    #[test]
    fn nothing_outside_the_directories_can_be_named_by_any_way_of_writing_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (models, outside) = (root.join("models"), root.join("models-secret"));
        for dir in [&models, &outside, &models.join("hf"), &models.join("bad")] {
            std::fs::create_dir(dir).unwrap();
        }
        for file in [
            models.join("a.gguf"),
            outside.join("s.gguf"),
            models.join("hf/model.safetensors"),
        ] {
            std::fs::write(file, "x").unwrap();
        }
        let link = |to: &Path, at: &str| std::os::unix::fs::symlink(to, models.join(at)).unwrap();
        link(&outside.join("s.gguf"), "link.gguf");
        link(&outside, "dir");
        link(&models.join("a.gguf"), "inner.gguf");
        link(&outside.join("s.gguf"), "bad/model.safetensors");

        let directories = [models.clone()];
        let confine = |asked: &str| confine("model_path", asked, &directories);
        assert_eq!(confine("a.gguf").unwrap(), models.join("a.gguf"));
        assert_eq!(confine("inner.gguf").unwrap(), models.join("a.gguf"));
        assert_eq!(confine("hf").unwrap(), models.join("hf"));
        let absolute = models.join("a.gguf");
        assert!(confine(absolute.to_str().unwrap()).is_ok());

        let missing = confine("nothing.gguf").unwrap_err();
        for asked in [
            "",
            ".",
            "..",
            "../models-secret/s.gguf",
            "hf/../../models-secret/s.gguf",
            "/etc/passwd",
            "link.gguf",
            "dir/s.gguf",
            "dir",
            "bad",
            "a.gguf\0",
            "a.gguf/",
            "a\n.gguf",
            outside.join("s.gguf").to_str().unwrap(),
            &"x/".repeat(5000),
        ] {
            assert_eq!(confine(asked).unwrap_err(), missing, "{asked}");
        }
        assert!(super::confine("model_path", "a.gguf", &[]).is_err());
    }

    #[test]
    fn ids_are_plain_words() {
        for id in ["a", "Model-1.58_b", &"x".repeat(128)] {
            check_id("model_id", id).unwrap();
        }
        for id in ["", "default", "a/b", "..\u{0}", "é", &"x".repeat(129)] {
            check_id("model_id", id).unwrap_err();
        }
    }
}
