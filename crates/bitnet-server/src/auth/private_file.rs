//! Files that only their owner may read, replaced as a whole, never in part: those of keys and of what they have used.
//!
//! Writers hold a lock on a file beside it, `NAME.lock`, and rename a finished copy, `NAME.new`, over it: whoever reads it
//! sees the old contents or the new ones. Elsewhere than on Unix a file has its folder's rights.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The path with `suffix` behind its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The name of the file whose lock those hold who change the one at `path`.
pub fn lock_name(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

/// That file, made if it is not there, not locked yet.
///
/// # Errors
/// When it cannot be made or written.
pub fn open_lock(path: &Path) -> io::Result<File> {
    private(OpenOptions::new().create(true).truncate(false)).open(lock_name(path))
}

/// Replaces what is at `path`. `prepare` is given the empty copy, for what it needs besides its contents. The caller holds
/// the lock, so the name of the copy is free.
///
/// # Errors
/// Those of `prepare`, and what the system refuses, by `failed`; the file is what it was then, and no copy is left.
pub fn replace<E>(
    path: &Path,
    contents: &[u8],
    prepare: impl FnOnce(&File) -> Result<(), E>,
    failed: impl Fn(io::Error) -> E,
) -> Result<(), E> {
    let copy = beside(path, ".new");
    let written = private(OpenOptions::new().create(true).truncate(true))
        .open(&copy)
        .map_err(&failed)
        .and_then(|mut file| {
            prepare(&file)?;
            file.write_all(contents)
                .and_then(|()| file.sync_all())
                .and_then(|()| std::fs::rename(&copy, path))
                .map_err(&failed)
        });
    if written.is_err() {
        // The next writer truncates it, so a failure to remove it is no second error.
        let _ = std::fs::remove_file(&copy);
    }
    written
}

/// Tells what would keep this process from replacing what is at `path`, and changes nothing of what others use: neither
/// the lock is taken nor a name used that writers use. A file of a byte is made beside it and removed again.
///
/// # Errors
/// What the system refuses.
pub fn check_replaceable(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for used in [lock_name(path), beside(path, ".new")] {
        // Another writer may take the copy away in this moment.
        match OpenOptions::new().write(true).open(used) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    // Processes of two containers have the same number.
    let name = RandomState::new().hash_one(std::process::id());
    let trial = beside(path, &format!(".{name:016x}"));
    let mut file = private(OpenOptions::new().create_new(true)).open(&trial)?;
    let written = file.write_all(b"\n").and_then(|()| file.sync_all());
    std::fs::remove_file(&trial).and(written)
}

/// For writing, and for nobody else to read where the system knows owners.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let name = |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let replace = |contents: &[u8], prepared: io::Result<()>| {
            replace(&path, contents, |_| prepared, |error| error)
        };
        replace(b"old", Ok(())).unwrap();
        let refused = replace(b"new", Err(ErrorKind::PermissionDenied.into()));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        replace(b"new", Ok(())).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["file"]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn whether_a_file_can_be_replaced_is_told_without_touching_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        check_replaceable(&path).unwrap();
        assert!(names(folder.path()).is_empty());
        std::fs::write(&path, "old").unwrap();
        let lock = open_lock(&path).unwrap();
        lock.lock().unwrap();
        std::fs::write(beside(&path, ".new"), "half").unwrap();
        check_replaceable(&path).unwrap();
        assert_eq!(names(folder.path()), ["file", "file.lock", "file.new"]);
        assert_eq!(std::fs::read(beside(&path, ".new")).unwrap(), b"half");

        let nowhere = folder.path().join("nowhere/file");
        let kind = |path: &Path| check_replaceable(path).unwrap_err().kind();
        assert_eq!(kind(&nowhere), ErrorKind::NotFound);
        assert_eq!(kind(&path.join("inside")), ErrorKind::NotADirectory);
        assert_eq!(kind(folder.path()), ErrorKind::IsADirectory);
        // Somebody else's copy, or lock, in the way of every writer.
        std::fs::remove_file(beside(&path, ".new")).unwrap();
        std::fs::create_dir(beside(&path, ".new")).unwrap();
        assert_eq!(kind(&path), ErrorKind::IsADirectory);
    }
}
