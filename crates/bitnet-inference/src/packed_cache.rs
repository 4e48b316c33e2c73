//! Where packed weights are kept between starts, and what of it belongs to which model.
//!
//! A model is known by its files' paths, sizes, times of change and inode numbers, not by their content: reading a
//! gigabyte to find out that nothing has changed would take as long as packing it. Of a path one model is kept, so one
//! that was replaced replaces its packed weights with the next start, and nothing is kept of a path that leads nowhere.
//!
//! ```text
//! STEM.bnpk        packed weights (bitnet_models::packed_file)
//! STEM.KEY.files/  a copy of the model's files (private_copy)
//! STEM.model       whose it is (owner)
//! ```

pub(crate) mod owner;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use bitnet_models::{CheckpointOptions, ModelFiles};

/// Where packed weights are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedCache {
    /// The folder; it is made when it is needed.
    pub folder: PathBuf,
    /// What it is for.
    pub purpose: CachePurpose,
    /// Models whose packed weights (or, of [`CachePurpose::Serving`], files) take less are packed in memory.
    pub least_bytes: usize,
}

/// What packed weights are kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CachePurpose {
    /// For the next start. What is packed stays in memory, and may be written while the model runs
    /// ([`Engine::take_unwritten`](crate::Engine::take_unwritten)).
    NextStart,
    /// To take the place of memory: weights are packed into the file and used from there, and with them a copy of the
    /// model's files. So loading takes next to no memory of its own, the system may drop pages that nobody reads, and
    /// nothing that happens to the model's files concerns a model that runs.
    Serving,
}

/// Packed weights below this many bytes are not worth a file: they are packed in a fraction of a second.
pub const LEAST_CACHED_BYTES: usize = 64 << 20;

/// Files below this many bytes are not worth a copy: two of them in memory are far from what a swap may take.
pub const LEAST_SERVED_BYTES: usize = 16 << 20;

/// Bytes of a model's name that are in the names of its files, which systems bound to 255.
const LONGEST_NAME: usize = 128;

/// Extension of the files.
const EXTENSION: &str = "bnpk";

impl PackedCache {
    /// A cache in `folder` of all models that take long to pack.
    pub fn in_folder(folder: impl Into<PathBuf>) -> PackedCache {
        PackedCache {
            folder: folder.into(),
            purpose: CachePurpose::NextStart,
            least_bytes: LEAST_CACHED_BYTES,
        }
    }

    /// The folder where this user's programs keep what can be made again; `get` looks up a variable of the environment.
    /// In order: `BITNET_CACHE`, systemd's `CACHE_DIRECTORY`, `XDG_CACHE_HOME`, and what is usual on the system.
    pub fn usual_folder(get: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        if let Some(folder) = get("BITNET_CACHE") {
            return Some(folder.into());
        }
        if let Some(folders) = get("CACHE_DIRECTORY") {
            // Several are parted as in PATH.
            return std::env::split_paths(&folders).next();
        }
        let (base, below) = match get("XDG_CACHE_HOME") {
            Some(folder) => (folder, "bitnet"),
            None if cfg!(windows) => (get("LOCALAPPDATA")?, "bitnet"),
            None if cfg!(target_os = "macos") => (get("HOME")?, "Library/Caches/bitnet"),
            None => (get("HOME")?, ".cache/bitnet"),
        };
        Some(PathBuf::from(base).join(below).join("packed"))
    }

    /// A cache in `folder` that models are served from.
    pub fn for_serving(folder: impl Into<PathBuf>) -> PackedCache {
        PackedCache {
            folder: folder.into(),
            purpose: CachePurpose::Serving,
            least_bytes: LEAST_SERVED_BYTES,
        }
    }
}

/// The file for one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheEntry {
    /// Where it is, or would be.
    pub path: PathBuf,
    /// What the names of everything begin with that is kept of this model.
    pub stem: PathBuf,
    /// What the model is.
    pub key: String,
    /// Where the model is, without symbolic links.
    pub model: PathBuf,
}

impl CacheEntry {
    /// The entry of the model at `path`, looked at before it is opened: a file that changes in between gets a key that
    /// nobody asks for again.
    pub fn of(cache: &PackedCache, path: &Path, options: &CheckpointOptions) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let mut key = format!("dialects {}\n", options.dialects);
        let base = path.parent().unwrap_or(Path::new(""));
        for (file, stamp) in ModelFiles::of(&path)?.iter() {
            let name = file.strip_prefix(base).unwrap_or(file);
            key.push_str(&format!("{} {stamp}\n", name.display()));
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let stem = &stem[..stem.floor_char_boundary(LONGEST_NAME)];
        let place = crc32fast::hash(path.as_os_str().as_encoded_bytes());
        let stem = cache.folder.join(format!("{stem}-{place:08x}"));
        Ok(CacheEntry {
            path: with_ending(&stem, EXTENSION),
            stem,
            key,
            model: path,
        })
    }
}

/// `path` with a point and `ending` behind it, whatever points it has.
pub(crate) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_model_that_changes_keeps_its_place_and_loses_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let cache = PackedCache::in_folder(folder.path().join("cache"));
        let model = folder.path().join("model.gguf");
        fs::write(&model, "one").unwrap();
        let options = CheckpointOptions::default();
        let first = CacheEntry::of(&cache, &model, &options).unwrap();
        assert_eq!(first, CacheEntry::of(&cache, &model, &options).unwrap());
        fs::write(&model, "other").unwrap();
        let second = CacheEntry::of(&cache, &model, &options).unwrap();
        assert_eq!(first.path, second.path);
        assert_ne!(first.key, second.key);
        let elsewhere = folder.path().join("elsewhere/model.gguf");
        fs::create_dir(elsewhere.parent().unwrap()).unwrap();
        fs::write(&elsewhere, "one").unwrap();
        let other = CacheEntry::of(&cache, &elsewhere, &options).unwrap();
        assert_ne!(first.path, other.path);
    }

    #[test]
    fn the_usual_folder_is_the_first_that_is_named() {
        let mut set = vec![("HOME", "/home/me"), ("LOCALAPPDATA", "/home/me")];
        let mut folder_with = |variable| {
            set.insert(0, variable);
            let get = |name: &str| {
                let found = set.iter().find(|(set, _)| *set == name);
                found.map(|(_, value)| OsString::from(value))
            };
            PackedCache::usual_folder(get).unwrap()
        };
        assert!(folder_with(("XDG_CACHE_HOME", "")).starts_with("/home/me"));
        let base = folder_with(("XDG_CACHE_HOME", "/cache"));
        assert_eq!(base, Path::new("/cache/bitnet/packed"));
        if cfg!(unix) {
            let first = folder_with(("CACHE_DIRECTORY", "/var/cache/bitnet:/var/cache/other"));
            assert_eq!(first, Path::new("/var/cache/bitnet"));
        }
        assert_eq!(folder_with(("BITNET_CACHE", "/own")), Path::new("/own"));
        assert_eq!(PackedCache::usual_folder(|_| None), None);
    }

    #[test]
    fn whatever_loading_reads_is_in_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let cache = PackedCache::in_folder(folder.path().join("cache"));
        let model = folder.path().join("model");
        fs::create_dir_all(model.join("1_Pooling")).unwrap();
        let write = |name: &str, text: &str| fs::write(model.join(name), text).unwrap();
        let key = || {
            let options = CheckpointOptions::default();
            CacheEntry::of(&cache, &model, &options).unwrap().key
        };
        write("config.json", "{}");
        write("1_Pooling/config.json", "cls");
        let first = key();
        write("README.md", "nobody loads it");
        assert_eq!(key(), first);
        write("1_Pooling/config.json", "mean");
        assert_ne!(key(), first);
    }

    #[test]
    fn a_long_name_in_any_script_is_the_name_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("模".repeat(80));
        fs::write(&model, "one").unwrap();
        let cache = PackedCache::in_folder(folder.path());
        let entry = CacheEntry::of(&cache, &model, &CheckpointOptions::default()).unwrap();
        fs::write(
            with_ending(&entry.stem, "0123456789abcdef.0123456789abcdef.part"),
            "",
        )
        .unwrap();
    }
}
