//! What a model's bytes are called: their SHA-256, which is the version that answers, metrics and status tell.
//!
//! Of one file it is what `sha256sum` prints; of several (a split, a directory) the hash of the lines that
//! `sha256sum NAME...` prints for them in order of names. Files are read, not mapped: one that is cut short meanwhile is
//! an error and nothing worse. A hash is kept in memory for as long as path, size, time and inode stay the same, so
//! loading a model again costs no second reading.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::policy::OriginSource;

/// What tells that a file is still the one that was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileStamp {
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

/// Hashes that are remembered; past them all are forgotten.
const REMEMBERED: usize = 256;

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

static KNOWN: Mutex<Option<HashMap<Vec<FileStamp>, String>>> = Mutex::new(None);

/// The version of a model that is in memory.
pub fn of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The version of the model at `path`, in 64 hexadecimal digits, and the files that it was computed of.
///
/// # Errors
/// Files that are missing, unreadable or change while they are read.
pub fn of_path(path: &Path) -> io::Result<(String, Vec<FileStamp>)> {
    let files = files_of(path)?;
    let stamps = stamps(&files)?;
    if let Some(known) = known(|hashes| hashes.get(&stamps).cloned()) {
        return Ok((known, stamps));
    }
    let version = match &files[..] {
        [file] => of_file(file)?,
        files => {
            let mut lines = String::new();
            for file in files {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                // Writing to a string never fails.
                let _ = writeln!(lines, "{}  {name}", of_file(file)?);
            }
            of_bytes(lines.as_bytes())
        }
    };
    check_unchanged(&stamps)?;
    known(|hashes| {
        if hashes.len() >= REMEMBERED {
            hashes.clear();
        }
        hashes.insert(stamps.clone(), version.clone());
    });
    Ok((version, stamps))
}

/// The version of a model wherever it comes from, and what its files were like.
///
/// # Errors
/// Files that cannot be read to their end, or change meanwhile.
pub fn of_source(source: &OriginSource) -> io::Result<(String, Vec<FileStamp>)> {
    match source {
        OriginSource::Path(path) => of_path(path),
        OriginSource::Bytes { bytes, .. } => Ok((of_bytes(bytes), Vec::new())),
    }
}

/// Whether the files are still those that were read.
///
/// # Errors
/// When one has changed, or is gone.
pub fn check_unchanged(before: &[FileStamp]) -> io::Result<()> {
    for stamp in before {
        if FileStamp::of(&stamp.path)? != *stamp {
            let name = stamp.path.file_name().unwrap_or_default();
            let message = format!("{} changed while it was read", name.display());
            return Err(io::Error::other(message));
        }
    }
    Ok(())
}

/// The files that a model is loaded from, by name: of a GGUF file it and the other parts of its split, of a directory all
/// weights, configurations and vocabularies in it.
///
/// # Errors
/// A path that does not exist, and a directory without any.
pub fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = if fs::metadata(path)?.is_dir() {
        let kept = ["safetensors", "json", "jinja", "model", "txt"];
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let file = entry?.path();
            let extension = file.extension().and_then(|extension| extension.to_str());
            if extension.is_some_and(|extension| kept.contains(&extension)) {
                files.push(file);
            }
        }
        files
    } else {
        parts_of(path).unwrap_or_else(|| vec![path.to_owned()])
    };
    if files.is_empty() {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    files.sort();
    Ok(files)
}

/// The parts of `NAME-00001-of-00003.gguf`.
fn parts_of(path: &Path) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(count) || !digits(number) {
        return None;
    }
    let n: usize = count.parse().ok()?;
    let part = |i| path.with_file_name(format!("{stem}-{i:05}-of-{count}.gguf"));
    Some((1..=n).map(part).collect())
}

impl FileStamp {
    fn of(path: &Path) -> io::Result<FileStamp> {
        let metadata = fs::metadata(path)?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Ok(FileStamp {
            path: path.to_owned(),
            len: metadata.len(),
            modified: metadata.modified().ok(),
            inode,
        })
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The stamps of files.
///
/// # Errors
/// A file that is not there.
pub fn stamps(files: &[PathBuf]) -> io::Result<Vec<FileStamp>> {
    files.iter().map(|file| FileStamp::of(file)).collect()
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

fn known<T>(work: impl FnOnce(&mut HashMap<Vec<FileStamp>, String>) -> T) -> T {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    work(known.get_or_insert_default())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
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
        let (split, stamps) = of_path(&dir.path().join("m-00001-of-00002.gguf")).unwrap();
        assert_eq!(split, of_bytes(lines.as_bytes()));
        assert_eq!(stamps.len(), 2);
    }

    #[test]
    fn a_changed_file_has_another_version_and_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        fs::write(&path, "abc").unwrap();
        let (version, stamps) = of_path(&path).unwrap();
        check_unchanged(&stamps).unwrap();
        fs::write(&path, "abcd").unwrap();
        assert!(check_unchanged(&stamps).is_err());
        assert_ne!(of_path(&path).unwrap().0, version);
        fs::remove_file(&path).unwrap();
        assert!(of_path(&path).is_err());
    }
}
