//! The keys in memory, which follow their file.
//!
//! The file is looked at, not watched: notifications of the file system do not reach containers whose file is a mounted
//! secret. A file that cannot be used changes nothing: the keys that were good stay good, and the failure is told.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::key::{KeyHash, id_of};
use super::key_file::{self, KeyEntry, KeyFileError};

/// Keys by id, shared by all requests.
#[derive(Debug)]
pub struct KeyStore {
    path: PathBuf,
    keys: ArcSwap<HashMap<String, (KeyHash, KeyEntry)>>,
    /// What the file was like when it was read last, whether or not it could be used.
    seen: Mutex<Option<Stamp>>,
}

/// Enough of a file's metadata to see that it is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    #[cfg(unix)]
    inode: u64,
}

impl KeyStore {
    /// Reads the keys.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open(path: &Path) -> Result<KeyStore, KeyFileError> {
        let store = KeyStore {
            path: path.to_owned(),
            keys: ArcSwap::default(),
            seen: Mutex::new(None),
        };
        store.reload()?;
        Ok(store)
    }

    /// Reads the file again, whatever it looks like, and returns how many keys there are.
    ///
    /// # Errors
    /// When it cannot be used; the keys stay as they were.
    pub fn reload(&self) -> Result<usize, KeyFileError> {
        self.read(&mut self.seen())
    }

    /// Reads the file. Whoever else wants to waits: an older reading must not replace a newer one.
    fn read(&self, seen: &mut Option<Stamp>) -> Result<usize, KeyFileError> {
        // The stamp is older than what is read: a file that changes in between is read again.
        *seen = stamp(&self.path);
        let keys: HashMap<_, _> = key_file::read(&self.path)?
            .into_iter()
            .filter_map(|entry| Some((entry.id.clone(), (KeyHash::parse(&entry.sha256)?, entry))))
            .collect();
        let n_keys = keys.len();
        self.keys.store(keys.into());
        Ok(n_keys)
    }

    /// Reads the file if it has changed; `None` when it has not. A file that cannot be used is told once.
    ///
    /// # Errors
    /// As [`KeyStore::reload`].
    pub fn poll(&self) -> Option<Result<usize, KeyFileError>> {
        let mut seen = self.seen();
        (stamp(&self.path) != *seen).then(|| self.read(&mut seen))
    }

    fn seen(&self) -> MutexGuard<'_, Option<Stamp>> {
        // A plain value, written in one go.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.keys.load().len()
    }

    /// What the file says of a key; `None` when it is none of its keys.
    pub fn find(&self, key: &str) -> Option<KeyEntry> {
        let keys = self.keys.load();
        let (hash, entry) = keys.get(id_of(key)?)?;
        KeyHash::of(key).is(hash).then(|| entry.clone())
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp {
        modified: metadata.modified().ok(),
        len: metadata.len(),
        #[cfg(unix)]
        inode: std::os::unix::fs::MetadataExt::ino(&metadata),
    })
}
