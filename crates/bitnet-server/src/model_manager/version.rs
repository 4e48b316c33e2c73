//! What a model's bytes are called: their SHA-256, which is the version that answers, metrics and status tell.
//!
//! Of one file it is what `sha256sum` prints; of several (a split, a directory) the hash of the lines that
//! `sha256sum NAME...` prints for them in order of names. Files are read, not mapped: one that is cut short meanwhile
//! is an error and nothing worse. A hash is kept in memory for as long as path, size, time and inode stay the same, so
//! loading a model again costs no second reading.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bitnet_inference::ModelFiles;
use sha2::{Digest, Sha256};

use super::policy::OriginSource;

/// Hashes that are remembered; past them all are forgotten.
const REMEMBERED: usize = 256;

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

static KNOWN: Mutex<Option<HashMap<ModelFiles, String>>> = Mutex::new(None);

/// The version of a model that is in memory.
pub fn of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The version of the model at `path`, in 64 hexadecimal digits, and the files that it was computed of.
///
/// # Errors
/// Files that are missing, unreadable or change while they are read.
pub fn of_path(path: &Path) -> io::Result<(String, ModelFiles)> {
    let files = ModelFiles::of(path)?;
    if let Some(known) = known(|hashes| hashes.get(&files).cloned()) {
        return Ok((known, files));
    }
    let base = match path.is_dir() {
        true => path,
        false => path.parent().unwrap_or(Path::new("")),
    };
    let mut sums = Vec::new();
    for (file, _) in files.iter() {
        let name = file.strip_prefix(base).unwrap_or(file);
        sums.push((of_file(file)?, name.to_string_lossy()));
    }
    let version = match &sums[..] {
        [(sum, _)] => sum.clone(),
        sums => {
            let lines = sums.iter().map(|(sum, name)| format!("{sum}  {name}\n"));
            of_bytes(lines.collect::<String>().as_bytes())
        }
    };
    files.check_unchanged()?;
    known(|hashes| {
        if hashes.len() >= REMEMBERED {
            hashes.clear();
        }
        hashes.insert(files.clone(), version.clone());
    });
    Ok((version, files))
}

/// The files of a model that comes from files.
///
/// # Errors
/// Files that are missing, or are no regular ones.
pub fn files_of_source(source: &OriginSource) -> io::Result<Option<ModelFiles>> {
    match source {
        OriginSource::Path(path) => ModelFiles::of(path).map(Some),
        OriginSource::Bytes { .. } => Ok(None),
    }
}

/// The version of a model wherever it comes from, and the files that it was computed of.
///
/// # Errors
/// Files that cannot be read to their end, or change meanwhile.
pub fn of_source(source: &OriginSource) -> io::Result<(String, Option<ModelFiles>)> {
    match source {
        OriginSource::Path(path) => of_path(path).map(|(version, files)| (version, Some(files))),
        OriginSource::Bytes { bytes, .. } => Ok((of_bytes(bytes), None)),
    }
}

/// The version of a model that was hashed while it was loaded: `before` is what its files were like before either
/// began.
///
/// # Errors
/// When not all of it was done with the same files, which are there still.
pub fn of_loaded(
    before: io::Result<Option<ModelFiles>>,
    (version, hashed): (String, Option<ModelFiles>),
) -> io::Result<String> {
    let before = before?;
    if let Some(files) = &before {
        files.check_unchanged()?;
    }
    if before != hashed {
        return Err(io::Error::other("its files changed while they were read"));
    }
    Ok(version)
}

fn of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            n => hash.update(&chunk[..n]),
        }
    }
}

fn known<T>(work: impl FnOnce(&mut HashMap<ModelFiles, String>) -> T) -> T {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    work(known.get_or_insert_default())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_file_has_the_hash_that_sha256sum_prints_and_several_that_of_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        write("a.gguf", "abc");
        assert_eq!(of_path(&dir.path().join("a.gguf")).unwrap().0, abc);
        assert_eq!(of_bytes(b"abc"), abc);

        write("m-00001-of-00002.gguf", "abc");
        write("m-00002-of-00002.gguf", "abc");
        let lines = format!("{abc}  m-00001-of-00002.gguf\n{abc}  m-00002-of-00002.gguf\n");
        let (split, files) = of_path(&dir.path().join("m-00001-of-00002.gguf")).unwrap();
        assert_eq!(split, of_bytes(lines.as_bytes()));
        assert_eq!(files.iter().count(), 2);
    }

    #[test]
    fn a_model_whose_files_change_while_it_is_loaded_has_no_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        fs::write(&path, "abc").unwrap();
        let source = OriginSource::Path(path.clone());
        let before = || files_of_source(&source);
        let hashed = of_source(&source).unwrap();
        assert_eq!(of_loaded(before(), hashed.clone()).unwrap(), hashed.0);
        let earlier = before();
        fs::write(&path, "abcd").unwrap();
        assert!(of_loaded(earlier, hashed.clone()).is_err(), "after both");
        assert!(of_loaded(before(), hashed).is_err(), "between the two");
        let bytes = OriginSource::Bytes {
            name: "a",
            bytes: "abc".into(),
        };
        let hashed = of_source(&bytes).unwrap();
        assert_eq!(
            of_loaded(files_of_source(&bytes), hashed.clone()).unwrap(),
            hashed.0
        );
    }

    #[test]
    fn a_changed_file_has_another_version_and_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        fs::write(&path, "abc").unwrap();
        let (version, files) = of_path(&path).unwrap();
        files.check_unchanged().unwrap();
        fs::write(&path, "abcd").unwrap();
        assert!(files.check_unchanged().is_err());
        assert_ne!(of_path(&path).unwrap().0, version);
        fs::remove_file(&path).unwrap();
        assert!(of_path(&path).is_err());
    }
}
