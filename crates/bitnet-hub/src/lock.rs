//! One process at a time for each file: the locks that huggingface_hub takes, in the same places.
//!
//! `.locks/FOLDER/CHECKSUM.lock` beside the repositories; the lock is the system's on that file (flock), which goes
//! away with the process that has it. The file stays: whoever removed it could take it from under somebody who is
//! about to lock it. Other tools do remove it, so after locking it is looked at whether it is still the one of that
//! name.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::error::HubError;
use crate::stop::Stop;

/// Times that a lock file may be taken away while it is locked.
const ATTEMPTS: usize = 16;

/// Time between two attempts while somebody has it.
const BETWEEN: Duration = Duration::from_millis(50);

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the lock is the open file's")] File);

impl Lock {
    /// Takes the lock at `path`, and waits for it where somebody has it, after saying so.
    ///
    /// # Errors
    /// What the system says; [`HubError::Stopped`] where the work is over before somebody gives it back.
    pub(crate) fn take(path: &Path, stop: &Stop, waiting: &dyn Fn()) -> Result<Lock, HubError> {
        if let Some(lock) = Lock::try_take(path)? {
            return Ok(lock);
        }
        waiting();
        loop {
            stop.check()?;
            if let Some(lock) = Lock::try_take(path)? {
                return Ok(lock);
            }
            // The system's own wait could not be ended.
            stop.wait(BETWEEN);
        }
    }

    /// Takes the lock at `path`; `None` where somebody has it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Lock>, HubError> {
        Lock::begin(path, |file| match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        })
    }

    fn begin(
        path: &Path,
        lock: impl Fn(&File) -> io::Result<bool>,
    ) -> Result<Option<Lock>, HubError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(HubError::io("write", folder))?;
        }
        for _ in 0..ATTEMPTS {
            let opened = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path);
            let file = opened.map_err(HubError::io("write", path))?;
            if !lock(&file).map_err(HubError::io("lock", path))? {
                return Ok(None);
            }
            if is_at(&file, path) {
                return Ok(Some(Lock(file)));
            }
        }
        let gone = io::Error::other("others remove it again and again");
        Err(HubError::io("lock", path)(gone))
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(locked), Ok(named)) => (locked.dev(), locked.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// An open file cannot be removed there.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn one_has_the_lock_and_another_gets_it_after_that_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.lock");
        let held = Lock::take(&path, &Stop::default(), &|| panic!("nobody has it")).unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        let (tell, told) = mpsc::channel();
        let other = thread::spawn({
            let path = path.clone();
            move || Lock::take(&path, &Stop::default(), &|| tell.send(()).unwrap()).unwrap()
        });
        told.recv().unwrap();
        drop(held);
        let held = other.join().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(held);
        assert!(Lock::try_take(&path).unwrap().is_some());
    }

    #[test]
    fn whoever_waits_for_a_lock_ends_with_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.lock");
        let stop = Stop::default();
        let _held = Lock::take(&path, &stop, &|| panic!("nobody has it")).unwrap();
        // Somebody has it, who never gives it back.
        let taken = Lock::take(&path, &stop, &|| stop.because(HubError::Stopped));
        assert!(matches!(taken, Err(HubError::Stopped)), "{taken:?}");
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_on_a_file_that_was_removed_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.lock");
        let (tell, told) = mpsc::channel();
        let held = Lock::take(&path, &Stop::default(), &|| ()).unwrap();
        let other = thread::spawn({
            let path = path.clone();
            move || Lock::take(&path, &Stop::default(), &|| tell.send(()).unwrap()).unwrap()
        });
        told.recv().unwrap();
        // As other tools do when they are done.
        fs::remove_file(&path).unwrap();
        drop(held);
        let _held = other.join().unwrap();
        assert!(path.exists() && Lock::try_take(&path).unwrap().is_none());
    }
}
