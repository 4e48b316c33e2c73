//! Where packed weights are kept between starts, and which file belongs to which model.
//!
//! A model is known by its files' paths, sizes, times of change and inode numbers, not by their content: reading a
//! gigabyte to find out that nothing has changed would take as long as packing it. There is one file for each path, so a
//! model that was replaced replaces its packed weights with the next start.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bitnet_models::CheckpointOptions;

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
}

impl CacheEntry {
    /// The entry of the model at `path`, looked at before it is opened: a file that changes in between gets a key that
    /// nobody asks for again.
    pub fn of(cache: &PackedCache, path: &Path, options: &CheckpointOptions) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let mut key = format!("dialects {}\n", options.dialects);
        for file in files_of(&path)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            key.push_str(&format!("{name} {}\n", stamp(&fs::metadata(&file)?)?));
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let stem: String = stem.chars().take(80).collect();
        let place = crc32fast::hash(path.as_os_str().as_encoded_bytes());
        let stem = cache.folder.join(format!("{stem}-{place:08x}"));
        Ok(CacheEntry {
            path: with_ending(&stem, EXTENSION),
            stem,
            key,
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

/// The files of a model: all of a directory, all parts of a split, or the one.
pub(crate) fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (folder, prefix) = if path.is_dir() {
        (path, "")
    } else {
        match (name.find("-00001-of-"), path.parent()) {
            (Some(end), Some(folder)) => (folder, &name[..end]),
            _ => return Ok(vec![path.to_owned()]),
        }
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let ours = entry.file_name().to_string_lossy().starts_with(prefix);
        if ours && !entry.path().is_dir() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Size, time of change and identity of a file.
fn stamp(file: &Metadata) -> io::Result<String> {
    let modified = file.modified()?;
    let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp = format!("{} bytes, changed {} ns", file.len(), modified.as_nanos());
    #[cfg(unix)]
    let stamp = {
        use std::os::unix::fs::MetadataExt;
        let created = i128::from(file.ctime()) * 1_000_000_000 + i128::from(file.ctime_nsec());
        format!(
            "{stamp} and {created} ns, inode {}:{}",
            file.dev(),
            file.ino()
        )
    };
    Ok(stamp)
}

#[cfg(test)]
mod tests {
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
        let other = CacheEntry::of(&cache, folder.path(), &options).unwrap();
        assert_ne!(first.path, other.path);
    }

    #[test]
    fn all_parts_of_a_split_are_in_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let part = |name: &str| folder.path().join(name);
        for name in [
            "m-00001-of-00002.gguf",
            "m-00002-of-00002.gguf",
            "other.gguf",
        ] {
            fs::write(part(name), name).unwrap();
        }
        let files = files_of(&part("m-00001-of-00002.gguf")).unwrap();
        assert_eq!(
            files,
            [part("m-00001-of-00002.gguf"), part("m-00002-of-00002.gguf")]
        );
    }
}
