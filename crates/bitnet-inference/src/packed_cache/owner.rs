//! Whose the files of the cache are, so that those of models that are gone do not stay for ever.
//!
//! Beside what is kept of a model lies `STEM.model`, a line with the model's path. Whenever something new is kept, the
//! files of all models go whose path leads nowhere any more. All of it costs or saves room alone, so what fails here is
//! nobody's failure.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bitnet_models::own_files::{self, Unfinished};

use super::{CacheEntry, EXTENSION as PACKED, with_ending};
use crate::private_copy::EXTENSION as COPIED;

/// Ends the name of the file with the model's path.
const OWNER: &str = "model";

/// Bytes of a path that are looked at: more than any system takes.
const LONGEST_PATH: u64 = 64 << 10;

impl CacheEntry {
    /// Notes whose the entry is, and removes those of models that are gone. To be called when something is kept.
    pub fn claim(&self) {
        if let Err(error) = self.write_owner() {
            tracing::debug!("{}: not noted whose it is: {error}", self.stem.display());
        }
        if let Some(folder) = self.stem.parent() {
            remove_ownerless(folder);
        }
    }

    fn write_owner(&self) -> io::Result<()> {
        let to = with_ending(&self.stem, OWNER);
        // A path that is no text is not noted, and what is kept of it stays.
        let Some(model) = self.model.to_str() else {
            return Ok(());
        };
        if owner(&to).is_some_and(|owner| owner == self.model) {
            return Ok(());
        }
        let folder = self.stem.parent().unwrap_or(Path::new("."));
        own_files::make_folder(folder)?;
        own_files::check_folder(folder)?;
        let (unfinished, mut file) = Unfinished::file(&to)?;
        file.write_all(model.as_bytes())?;
        unfinished.rename(&to)
    }
}

/// The path in a `STEM.model`.
fn owner(file: &Path) -> Option<PathBuf> {
    let mut path = String::new();
    let opened = fs::File::open(file).ok()?;
    opened.take(LONGEST_PATH).read_to_string(&mut path).ok()?;
    (!path.is_empty()).then(|| PathBuf::from(path))
}

/// Removes what is kept of models whose path leads nowhere. Whoever has it mapped keeps it.
fn remove_ownerless(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != OWNER) {
            continue;
        }
        let Some(model) = owner(&path) else { continue };
        // Only what is known to be gone: a folder that may not be read says nothing.
        let gone =
            matches!(fs::metadata(&model), Err(error) if error.kind() == io::ErrorKind::NotFound);
        if !gone {
            continue;
        }
        let stem = path.with_extension("");
        tracing::info!("{} is gone: its packed weights go too", model.display());
        remove_copies(folder, &stem, None);
        let _ = fs::remove_file(with_ending(&stem, PACKED));
        let _ = fs::remove_file(path);
    }
}

/// Removes the copies of the files of the model with `stem` in `folder`, but for `kept`.
pub(crate) fn remove_copies(folder: &Path, stem: &Path, kept: Option<&Path>) {
    let Some(stem) = stem.file_name() else { return };
    let ours = format!("{}.", stem.to_string_lossy());
    for other in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = other.file_name().to_string_lossy().into_owned();
        let key = name.strip_prefix(&ours);
        let key = key.and_then(|rest| rest.strip_suffix(&format!(".{COPIED}")));
        let is_copy = key.is_some_and(|key| !key.contains('.'));
        if is_copy && kept.is_none_or(|kept| other.path() != kept) {
            let _ = fs::remove_dir_all(other.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use bitnet_models::CheckpointOptions;

    use super::*;
    use crate::packed_cache::PackedCache;

    /// An entry of the model at `model` with all the files that one may have.
    fn kept(cache: &PackedCache, model: &Path) -> CacheEntry {
        let entry = CacheEntry::of(cache, model, &CheckpointOptions::default()).unwrap();
        entry.claim();
        fs::write(&entry.path, "weights").unwrap();
        let copy = with_ending(&entry.stem, &format!("01234567.{COPIED}"));
        fs::create_dir(&copy).unwrap();
        fs::write(copy.join("model.gguf"), "copy").unwrap();
        entry
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn what_is_kept_of_models_that_are_gone_goes_when_something_new_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = PackedCache::for_serving(folder.path().join("cache"));
        let model = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let (gone, stays) = (model("a.gguf"), model("a.b.gguf"));
        kept(&cache, &gone);
        let other = kept(&cache, &stays);
        assert_eq!(names(&cache.folder), 6);
        fs::remove_file(&gone).unwrap();
        other.claim();
        assert_eq!(names(&cache.folder), 3);
        assert_eq!(fs::read_to_string(&other.path).unwrap(), "weights");
        assert_eq!(owner(&with_ending(&other.stem, OWNER)), Some(other.model));
    }

    #[test]
    fn what_cannot_be_told_whose_it_is_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = PackedCache::for_serving(folder.path().join("cache"));
        let model = folder.path().join("a.gguf");
        fs::write(&model, "a").unwrap();
        let entry = kept(&cache, &model);
        fs::write(cache.folder.join("empty.model"), "").unwrap();
        fs::write(cache.folder.join("empty.bnpk"), "").unwrap();
        fs::write(cache.folder.join("damaged.model"), [0xff, 0xfe]).unwrap();
        entry.claim();
        assert_eq!(names(&cache.folder), 6);
    }

    #[test]
    fn what_is_kept_of_a_model_that_was_replaced_stays_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let cache = PackedCache::for_serving(folder.path().join("cache"));
        let model = folder.path().join("a.gguf");
        fs::write(&model, "a").unwrap();
        kept(&cache, &model);
        fs::write(&model, "another").unwrap();
        CacheEntry::of(&cache, &model, &CheckpointOptions::default())
            .unwrap()
            .claim();
        assert_eq!(names(&cache.folder), 3);
    }
}
