//! The file of what keys have used: JSON, replaced as a whole, never in part.
//!
//! Writers hold a lock on a file beside it, read what is there, add to it, and rename a finished copy over it. What is
//! in it is taken as what anybody may have written: it is bounded, ids are ids, and a sum never runs over.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::key::is_id;
use super::private_file;
use super::quota::Used;
use crate::log::LIFE;

/// Largest file: more than 10 000 keys.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// How often the lock is tried for, and the time between: a second in all, where a write takes milliseconds.
const LOCK_TRIES: usize = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// What is written; another number is a file of another time.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    keys: BTreeMap<String, Used>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsageFileError {
    /// The system refuses.
    #[error("cannot use the file of used tokens {path}: {source}")]
    Io {
        /// Its name.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not such a file, or cut off.
    #[error("{path} is no complete file of used tokens: {reason}")]
    Damaged {
        /// Its name.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// What keys have used; nothing where there is no file.
///
/// # Errors
/// When it cannot be read, is cut off, or has what is none.
pub fn read(path: &Path) -> Result<BTreeMap<String, Used>, UsageFileError> {
    let mut text = Vec::new();
    let opened =
        File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text));
    match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        opened => opened.map_err(io(path))?,
    };
    let damaged = |reason: String| UsageFileError::Damaged {
        path: path.display().to_string(),
        reason,
    };
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(damaged(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    let contents: Contents = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if contents.version != VERSION {
        let version = contents.version;
        return Err(damaged(format!(
            "its version is {version}, expected {VERSION}"
        )));
    }
    if let Some(id) = contents.keys.keys().find(|id| !is_id(id)) {
        return Err(damaged(format!("{id:?} is no id of a key")));
    }
    Ok(contents.keys)
}

/// What keys have used, for a server that begins. A file that cannot be read is told, and a damaged one moved aside.
pub fn open(path: &Path) -> BTreeMap<String, Used> {
    let error = match read(path) {
        Ok(known) => return known,
        Err(error @ UsageFileError::Io { .. }) => error,
        Err(UsageFileError::Damaged { .. }) => match lock(path) {
            // Somebody else may have moved it, and put a whole one in its place.
            Ok(_lock) => return read_or_move(path).unwrap_or_else(counted_from_nothing),
            Err(error) => error,
        },
    };
    counted_from_nothing(error)
}

/// Tells why, and leaves the file where it is: it may be whole, and readable later.
fn counted_from_nothing(error: UsageFileError) -> BTreeMap<String, Used> {
    tracing::error!(target: LIFE, "{error}; tokens are counted from 0");
    BTreeMap::new()
}

/// Adds what of `counted` is of the day and month of the second `now` to the file, and returns all of it. A damaged one
/// is moved aside first.
///
/// # Errors
/// When it cannot be read or replaced; it is what it was then.
pub fn add(
    path: &Path,
    counted: &[(String, Used)],
    now: u64,
) -> Result<BTreeMap<String, Used>, UsageFileError> {
    let _lock = lock(path)?;
    let mut keys = read_or_move(path)?;
    for (id, counted) in counted {
        let used = keys.entry(id.clone()).or_default();
        *used = used.at(now).and(counted.at(now));
    }
    // Keys come and go, and what they used in other months is of no use.
    keys.retain(|_, used| used.at(now).is_any());
    let contents = Contents {
        version: VERSION,
        keys,
    };
    let text = serde_json::to_vec(&contents).expect("numbers and ids are JSON");
    private_file::replace(path, &text, |_| Ok(()), io(path))?;
    Ok(contents.keys)
}

/// The lock of those who change the file at `path`; it ends when it is dropped.
fn lock(path: &Path) -> Result<File, UsageFileError> {
    let name = private_file::lock_name(path);
    let failed = io(&name);
    let file = private_file::open_lock(path).map_err(&failed)?;
    take(&file).map_err(failed)?;
    Ok(file)
}

/// Locks the file, unless another process holds it for longer than a write takes: one that was stopped must not keep
/// this one from ending.
fn take(lock_file: &File) -> std::io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match lock_file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(std::io::Error::other("another process holds it"))
}

/// What is in the file; a damaged one is told and moved aside, for whoever wants to know more. The caller has the lock.
fn read_or_move(path: &Path) -> Result<BTreeMap<String, Used>, UsageFileError> {
    let error = match read(path) {
        Err(error @ UsageFileError::Damaged { .. }) => error,
        read => return read,
    };
    match std::fs::rename(path, aside(path)) {
        Ok(()) => tracing::error!(target: LIFE, "{error}; tokens are counted from 0"),
        Err(e) => {
            tracing::error!(target: LIFE, "{error}; tokens are counted from 0, and it stays: {e}")
        }
    }
    Ok(BTreeMap::new())
}

/// The file's name where no setting names it: that of the keys with `.usage` behind it.
pub fn of_keys(keys: &Path) -> PathBuf {
    private_file::beside(keys, ".usage")
}

/// Tells what would keep a server from writing the file, without disturbing one that does.
///
/// # Errors
/// What the system refuses.
pub fn check_writable(path: &Path) -> Result<(), UsageFileError> {
    private_file::check_replaceable(path).map_err(io(path))
}

/// What a server that began now would say of the file and do with it; nothing of a whole one. Nothing is changed.
pub fn doubt(path: &Path) -> Option<String> {
    let error = read(path).err()?;
    let moved = match error {
        UsageFileError::Damaged { .. } => format!(" moves it to {} and", aside(path).display()),
        UsageFileError::Io { .. } => String::new(),
    };
    Some(format!("{error}: a start{moved} counts tokens from 0"))
}

/// Where a damaged file goes.
fn aside(path: &Path) -> PathBuf {
    private_file::beside(path, ".damaged")
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> UsageFileError {
    let path = path.display().to_string();
    move |source| UsageFileError::Io {
        path: path.clone(),
        source,
    }
}
