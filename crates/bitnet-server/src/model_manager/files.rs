//! What the configured directories hold: the models that an order may name, for whoever does not know them by heart.
//!
//! A path is listed exactly where [`paths::confine`] would take it, so nothing outside the directories shows, wherever
//! links lead. The walk is bounded: a directory may be the root of a disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bitnet_inference::ModelFiles;
use serde::Serialize;

use super::paths;

/// Directories below a configured one that are looked into: `owner/model/variant/file`, as download folders have it.
const DEEPEST: usize = 4;

/// Models that are listed: a page of more is read by nobody.
const MOST_MODELS: usize = 1000;

/// Entries that are looked at in all; a few hundred thousand would be seconds of disk.
const MOST_ENTRIES: usize = 20_000;

/// What makes a directory a model.
const CONFIG: &str = "config.json";

/// A model on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoundFile {
    /// As `model_path` and `new_model_path` take it.
    pub path: String,
    /// Bytes of all its files.
    pub bytes: u64,
    /// When the newest of them was changed, in seconds since 1970; `null` where the file system does not tell.
    pub modified: Option<u64>,
    /// Where it is, links resolved.
    #[serde(skip)]
    pub resolved: PathBuf,
}

/// What was found.
#[derive(Debug, Default)]
pub struct FoundFiles {
    /// By path.
    pub files: Vec<FoundFile>,
    /// Whether there is more than is listed.
    pub truncated: bool,
    n_seen: usize,
}

/// The models in `directories`, which are resolved already.
pub fn find(directories: &[PathBuf]) -> FoundFiles {
    let mut found = FoundFiles::default();
    for root in directories {
        found.walk(root, root, 0, directories);
    }
    found.files.sort_by(|one, other| one.path.cmp(&other.path));
    // Of directories that lie in each other.
    found.files.dedup_by(|one, other| one.path == other.path);
    found
}

impl FoundFiles {
    fn walk(&mut self, directory: &Path, root: &Path, depth: usize, directories: &[PathBuf]) {
        // One that may not be read holds nothing for the server either.
        let Ok(entries) = fs::read_dir(directory) else {
            return;
        };
        for entry in entries.flatten() {
            self.n_seen += 1;
            if self.files.len() >= MOST_MODELS || self.n_seen > MOST_ENTRIES {
                self.truncated = true;
                return;
            }
            let path = entry.path();
            // A link to a directory is not followed: it may lead in a circle.
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_model(&path, is_directory) {
                if is_directory && depth < DEEPEST {
                    self.walk(&path, root, depth + 1, directories);
                }
                continue;
            }
            self.files.extend(model_file(&path, root, directories));
        }
    }
}

/// Whether the path alone says that a model is there; of a split only the first part does.
fn is_model(path: &Path, is_directory: bool) -> bool {
    if is_directory {
        return path.join(CONFIG).is_file();
    }
    path.extension()
        .is_some_and(|extension| extension == "gguf")
        && ModelFiles::of(path)
            .is_ok_and(|files| files.iter().next().is_some_and(|(file, _)| file == path))
}

fn model_file(path: &Path, root: &Path, directories: &[PathBuf]) -> Option<FoundFile> {
    let resolved = path.canonicalize().ok()?;
    let confined = |asked: &str| paths::confine("path", asked, directories).ok();
    let is_this = |asked: &&str| confined(asked).as_ref() == Some(&resolved);
    // A name that another directory has too means that of the first one.
    let name = path.strip_prefix(root).ok()?.to_str();
    let name = name.filter(is_this).or(path.to_str().filter(is_this))?;
    // A server never reads pickles, so nobody is offered a model of them.
    let files = ModelFiles::of(path)
        .ok()
        .filter(|files| !files.has_pickles())?;
    let changed = |file: &Path| {
        let changed = fs::metadata(file).ok()?.modified().ok()?;
        changed.duration_since(SystemTime::UNIX_EPOCH).ok()
    };
    let newest = files.iter().filter_map(|(file, _)| changed(file)).max();
    Some(FoundFile {
        path: name.to_owned(),
        bytes: files.bytes(),
        modified: newest.map(|time| time.as_secs()),
        resolved,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn models_are_listed_where_an_order_may_name_them_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for dir in ["one/hf", "one/pickled", "one/deep/er", "two", "outside"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (file, bytes) in [
            ("one/a.gguf", 10),
            ("one/notes.txt", 10),
            ("one/deep/er/b.gguf", 20),
            ("one/s-00001-of-00002.gguf", 3),
            ("one/s-00002-of-00002.gguf", 4),
            ("one/hf/config.json", 5),
            ("one/hf/model.safetensors", 6),
            ("one/pickled/config.json", 5),
            ("one/pickled/pytorch_model.bin", 6),
            ("one/torn-00001-of-00002.gguf", 9),
            ("two/a.gguf", 11),
            ("outside/secret.gguf", 1),
        ] {
            fs::write(root.join(file), vec![0; bytes]).unwrap();
        }
        let link = |to: &str, at: &str| {
            std::os::unix::fs::symlink(root.join(to), root.join(at)).unwrap();
        };
        link("outside/secret.gguf", "one/link.gguf");
        link("one", "one/deep/circle");
        let found = find(&[root.join("one"), root.join("two")]);
        let listed: Vec<(&str, u64)> = found
            .files
            .iter()
            .map(|file| (file.path.as_str(), file.bytes))
            .collect();
        let second = root.join("two/a.gguf");
        assert_eq!(
            listed,
            [
                (second.to_str().unwrap(), 11),
                ("a.gguf", 10),
                ("deep/er/b.gguf", 20),
                ("hf", 11),
                ("s-00001-of-00002.gguf", 7),
            ]
        );
        assert!(!found.truncated);
        assert!(found.files.iter().all(|file| file.modified.is_some()));
        assert!(find(&[]).files.is_empty());
    }

    #[test]
    fn a_directory_of_too_much_is_listed_in_part_and_says_so() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for i in 0..=MOST_MODELS {
            fs::write(root.join(format!("{i}.gguf")), "").unwrap();
        }
        let found = find(&[root]);
        assert_eq!(found.files.len(), MOST_MODELS);
        assert!(found.truncated);
    }
}
