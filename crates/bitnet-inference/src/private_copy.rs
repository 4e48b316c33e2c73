//! A copy of a model's files that nobody else writes, beside its packed weights.
//!
//! Embeddings, heads and vocabularies are used where they lie in the model's files. A server must not map those:
//! whoever may write them could cut them short and so end the process. Reading them into memory costs as much again
//! with every model that is loaded beside another. So they are copied once, into the folder of packed weights, and the
//! copy is mapped: its pages are clean, shared between processes, and go when the system wants them to.
//!
//! ```text
//! STEM.KEY.files/model/m.gguf     the files, under their own names (of a directory, in a directory of its name)
//! STEM.KEY.files/key              what the model was like
//! STEM.KEY.files/sums             "CRC-32 bytes name", a line for each
//! ```
//!
//! A copy is written under another name and renamed when it is whole, and is verified when a process first opens it.
//! Copies of what a model was before go when a new one is made.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bitnet_models::own_files::{self, Unfinished};
use bitnet_models::{FileStamp, ModelFiles};

use crate::packed_cache::owner::remove_copies;
use crate::packed_cache::{CacheEntry, with_ending};

/// Ends the names of the folders.
pub(crate) const EXTENSION: &str = "files";

/// The folder of the files.
const MODEL: &str = "model";

/// The file that says whose copy it is: names have a checksum of the key alone.
const KEY: &str = "key";

/// The file that says what is there.
const SUMS: &str = "sums";

/// Bytes copied at once.
const CHUNK: usize = 1 << 20;

/// The copy of the model at `path`, made if there is none; `None` for a model whose files take less than `least_bytes`.
///
/// # Errors
/// A folder that others may write, files that cannot be read or change meanwhile, disks that are full.
pub(crate) fn of(
    entry: &CacheEntry,
    path: &Path,
    least_bytes: usize,
) -> io::Result<Option<PathBuf>> {
    let path = path.canonicalize()?;
    let files = ModelFiles::of(&path)?;
    if files.bytes() < least_bytes as u64 {
        return Ok(None);
    }
    let folder = entry.stem.parent().unwrap_or(Path::new("."));
    own_files::make_folder(folder)?;
    own_files::check_folder(folder)?;
    let kept = folder_of(entry);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let copied = kept.join(MODEL).join(name);
    if kept.exists() {
        match verify(&kept, &entry.key) {
            Ok(()) => return Ok(Some(copied)),
            Err(error) => {
                tracing::warn!("a copy of {} is of no use: {error}", name.display());
                remove(entry)?;
            }
        }
    }
    own_files::remove_left_over(folder);
    let unfinished = Unfinished::folder(&kept)?;
    copy(&path, &files, &entry.key, unfinished.path())?;
    if let Err(error) = unfinished.rename(&kept) {
        // Another process may have made the same copy meanwhile.
        verify(&kept, &entry.key).map_err(|_| error)?;
    }
    entry.claim();
    // Of what this model was before: whoever has them mapped keeps them.
    remove_copies(folder, &entry.stem, Some(&kept));
    Ok(Some(copied))
}

/// Removes the copy of a model, such as one of files that are no model.
///
/// # Errors
/// What the system says.
pub(crate) fn remove(entry: &CacheEntry) -> io::Result<()> {
    fs::remove_dir_all(folder_of(entry))
}

fn folder_of(entry: &CacheEntry) -> PathBuf {
    let key = crc32fast::hash(entry.key.as_bytes());
    with_ending(&entry.stem, &format!("{key:08x}.{EXTENSION}"))
}

/// Copies `files` of the model at `path` to the new folder `to`, onto the disk.
fn copy(path: &Path, files: &ModelFiles, key: &str, to: &Path) -> io::Result<()> {
    let base = path.parent().unwrap_or(Path::new("/"));
    let mut sums = String::new();
    for (file, stamp) in files.iter() {
        let name = file.strip_prefix(base).map_err(io::Error::other)?;
        let text = name.to_str().filter(|name| !name.contains('\n'));
        let text = text.ok_or_else(|| io::Error::other("a file's name is no line of text"))?;
        let target = to.join(MODEL).join(name);
        if let Some(folder) = target.parent() {
            own_files::make_folder(folder)?;
        }
        let (mut source, mut copied) = (File::open(file)?, own_files::create(&target)?);
        let (mut sum, mut len) = (crc32fast::Hasher::new(), 0);
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = source.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            sum.update(&chunk[..n]);
            len += n as u64;
            copied.write_all(&chunk[..n])?;
        }
        if FileStamp::of(&source.metadata()?) != stamp {
            return Err(io::Error::other(format!(
                "{text} changed while it was copied"
            )));
        }
        // Pages that are mapped before they are on the disk count as this process's own.
        copied.sync_data()?;
        sums.push_str(&format!("{:08x} {len} {text}\n", sum.finalize()));
    }
    for (name, text) in [(KEY, key), (SUMS, &sums)] {
        let mut file = own_files::create(&to.join(name))?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
    }
    files.check_unchanged()
}

/// Makes sure that a copy is what was written of the model with `key`, and that nobody else may write it.
fn verify(kept: &Path, key: &str) -> io::Result<()> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
    own_files::check_folder(kept)?;
    if fs::read_to_string(kept.join(KEY))? != key {
        return Err(damaged());
    }
    let sums = fs::read_to_string(kept.join(SUMS))?;
    for line in sums.lines() {
        let mut parts = line.splitn(3, ' ');
        let mut part = || parts.next().ok_or_else(damaged);
        let expected = u32::from_str_radix(part()?, 16).map_err(|_| damaged())?;
        let len: u64 = part()?.parse().map_err(|_| damaged())?;
        let path = kept.join(MODEL).join(part()?);
        if let Some(folder) = path.parent() {
            own_files::check_folder(folder)?;
        }
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        own_files::check_file(&metadata)?;
        let stamp = FileStamp::of(&metadata);
        if metadata.len() != len {
            return Err(damaged());
        }
        if own_files::is_checked(stamp) {
            continue;
        }
        let mut sum = crc32fast::Hasher::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                n => sum.update(&chunk[..n]),
            }
        }
        if sum.finalize() != expected {
            return Err(damaged());
        }
        own_files::remember_checked(stamp);
    }
    Ok(())
}
