//! Files and folders that are being written: under names that nobody looks for, locked by whoever writes them.
//!
//! The lock, and no number of a process, tells that somebody is at it: programs in containers all have the number 1,
//! and cannot see one another where they share a disk. The system takes a lock away with the process that had it.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{create, make_folder};

/// Ends the names: `NAME.RANDOM.part`.
const ENDING: &str = ".part";

/// Age from which an unfinished file is nobody's any more where locks do not tell: writing takes seconds.
const LEFT_OVER_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Names that are tried before somebody else's clearing up counts as an error.
const ATTEMPTS: usize = 8;

/// A file or a folder that goes away unless it is given its name.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    lock: Option<File>, // of a folder none where folders cannot be locked
    finished: bool,
}

impl Unfinished {
    /// Begins a file that is to be `to`, for this user alone; the second part is to be written to.
    ///
    /// # Errors
    /// What the system says.
    pub fn file(to: &Path) -> io::Result<(Unfinished, File)> {
        let begun = Unfinished::begin(to, |path| create(path).map(Some))?;
        let file = begun.lock.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let file = file.try_clone()?;
        Ok((begun, file))
    }

    /// Begins a folder that is to be `to`, for this user alone.
    ///
    /// # Errors
    /// What the system says.
    pub fn folder(to: &Path) -> io::Result<Unfinished> {
        Unfinished::begin(to, |path| {
            make_folder(path)?;
            Ok(File::open(path).ok())
        })
    }

    fn begin(
        to: &Path,
        make: impl Fn(&Path) -> io::Result<Option<File>>,
    ) -> io::Result<Unfinished> {
        for _ in 0..ATTEMPTS {
            let mut name = to.as_os_str().to_owned();
            let random = RandomState::new().hash_one(std::process::id());
            name.push(format!(".{random:016x}{ENDING}"));
            let begun = Unfinished {
                lock: make(Path::new(&name))?,
                path: PathBuf::from(name),
                finished: false,
            };
            if let Some(lock) = &begun.lock {
                // Where it cannot be had, the age must tell.
                let _ = lock.lock();
            }
            // Somebody may have cleared up between the making and the lock.
            if begun.path.exists() {
                return Ok(begun);
            }
        }
        Err(io::Error::other("others remove it again and again"))
    }

    /// Where it is while it is written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, in place of what has had it.
    ///
    /// # Errors
    /// What the system says; it goes away then.
    pub fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            remove(&self.path);
        }
    }
}

/// Removes what interrupted writers have left in `folder`: all that is unfinished and that nobody has locked.
pub fn remove_left_over(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !is_unfinished(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else {
            continue; // it is gone already
        };
        match File::open(&path).map(|file| (file.try_lock(), file)) {
            // The lock is held until it is gone, so that nobody can take it in between.
            Ok((Ok(()), _lock)) => remove(&path),
            Ok((Err(TryLockError::WouldBlock), _)) => {}
            Ok((Err(TryLockError::Error(_)), _)) | Err(_) if is_old(&metadata) => remove(&path),
            Ok((Err(TryLockError::Error(_)), _)) | Err(_) => {}
        }
    }
}

/// Whether a name ends as [`Unfinished`] ends them.
fn is_unfinished(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.strip_suffix(ENDING));
    let random = parts.and_then(|name| name.rsplit_once('.'));
    random.is_some_and(|(_, random)| {
        !random.is_empty() && random.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

fn is_old(metadata: &Metadata) -> bool {
    let age = metadata
        .modified()
        .map(|at| SystemTime::now().duration_since(at));
    matches!(age, Ok(Ok(age)) if age > LEFT_OVER_AFTER)
}

/// Nothing more can be done about what cannot be removed: it costs room.
fn remove(path: &Path) {
    let _ = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_interrupted_writers_left_goes_whatever_their_number_was_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (file, mut out) = Unfinished::file(&at("a.bnpk")).unwrap();
        let copy = Unfinished::folder(&at("a.files")).unwrap();
        out.write_all(b"x").unwrap();
        // As an earlier process of the same number left them.
        let gone = [
            format!("b.bnpk.{}.part", std::process::id()),
            "c.files.0123456789abcdef.part".to_owned(),
        ];
        fs::write(at(&gone[0]), "x").unwrap();
        fs::create_dir(at(&gone[1])).unwrap();
        fs::write(at(&gone[1]).join("x"), "x").unwrap();
        let kept = ["a.bnpk", "x.part", "b.bnpk.1x.part", "c.7"];
        for name in kept {
            fs::write(at(name), "x").unwrap();
        }
        remove_left_over(folder.path());
        for name in kept {
            assert!(at(name).exists(), "{name}");
        }
        for name in gone {
            assert!(!at(&name).exists(), "{name}");
        }
        assert!(file.path().exists());
        assert!(copy.path().exists() || !cfg!(unix));
    }

    #[test]
    fn what_is_not_given_its_name_goes_and_what_is_takes_the_place_of_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("a");
        let write = |text: &str| {
            let (unfinished, mut file) = Unfinished::file(&to).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            unfinished
        };
        let (one, two) = (write("one"), write("two"));
        assert_ne!(one.path(), two.path());
        one.rename(&to).unwrap();
        two.rename(&to).unwrap();
        drop(write("three"));
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
        let copy = Unfinished::folder(&folder.path().join("b")).unwrap();
        fs::write(copy.path().join("x"), "x").unwrap();
        drop(copy);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
