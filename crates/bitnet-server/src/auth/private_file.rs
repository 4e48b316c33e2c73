//! Files that only their owner may read, replaced as a whole, never in part: those of keys and of what they have used.
//!
//! Writers hold a lock on a file beside it, `NAME.lock`, and rename a finished copy, `NAME.new`, over it: whoever reads
//! it sees the old contents or the new ones. Elsewhere than on Unix a file has its folder's rights.

use std::fs::{File, OpenOptions};
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
/// When it cannot be made or written, or something else than a file has its name.
pub fn open_lock(path: &Path) -> io::Result<File> {
    let name = lock_name(path);
    check_file(&name)?;
    private(OpenOptions::new().create(true).truncate(false)).open(name)
}

/// The name of the copy that becomes what is at `path`.
fn copy_name(path: &Path) -> PathBuf {
    beside(path, ".new")
}

/// Replaces what is at `path`. `prepare` is given the empty copy, for what it needs besides its contents. The caller
/// holds the lock, so the name of the copy is free.
///
/// # Errors
/// Those of `prepare`, and what the system refuses, by `failed`; the file is what it was then, and no copy is left.
pub fn replace<E>(
    path: &Path,
    contents: &[u8],
    prepare: impl FnOnce(&File) -> Result<(), E>,
    failed: impl Fn(io::Error) -> E,
) -> Result<(), E> {
    let copy = copy_name(path);
    check_file(&copy).map_err(&failed)?;
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
/// the lock is taken nor a name used that writers use. A file of a byte, `NAME.trial`, is made and removed again; those
/// who do so at once share it, and one that is left of a process that was killed is the next one's.
///
/// # Errors
/// What the system refuses, and what else than a file has a name that writers use.
pub fn check_replaceable(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => return Err(ErrorKind::IsADirectory.into()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for used in [lock_name(path), copy_name(path)] {
        let opened =
            check_file(&used).and_then(|()| OpenOptions::new().write(true).open(&used).map(drop));
        match opened {
            // Another writer may take the copy away in this moment.
            Err(error) if error.kind() != ErrorKind::NotFound => {
                let told = format!("{}: {error}", used.display());
                return Err(io::Error::new(error.kind(), told));
            }
            Ok(()) | Err(_) => {}
        }
    }
    let trial = beside(path, ".trial");
    remove(&trial)?; // another user's, perhaps, who may not be written for
    let mut file = private(OpenOptions::new().create(true).truncate(true)).open(&trial)?;
    let written = file.write_all(b"\n").and_then(|()| file.sync_all());
    remove(&trial).and(written)
}

/// Refuses a name that something else than a file has: a pipe would be waited for until somebody reads from it.
fn check_file(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(found) if !found.is_file() => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "what is there is no file, but a link, a pipe or a device: move it away",
        )),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
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
        assert_eq!(names(folder.path()), ["file"], "no copy is left");
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
        assert_eq!(std::fs::read(copy_name(&path)).unwrap(), b"half");
        // One that was killed left its trial, another user's perhaps; two at once do not disturb each other.
        std::fs::write(beside(&path, ".trial"), "left").unwrap();
        std::thread::scope(|scope| {
            let checks = [(); 2]
                .map(|()| scope.spawn(|| (0..50).try_for_each(|_| check_replaceable(&path))));
            for check in checks {
                check.join().unwrap().unwrap();
            }
        });
        assert_eq!(names(folder.path()), ["file", "file.lock", "file.new"]);

        let nowhere = folder.path().join("nowhere/file");
        let kind = |path: &Path| check_replaceable(path).unwrap_err().kind();
        assert_eq!(kind(&nowhere), ErrorKind::NotFound);
        assert_eq!(kind(&path.join("inside")), ErrorKind::NotADirectory);
        assert_eq!(kind(folder.path()), ErrorKind::IsADirectory);
        // Somebody else's copy, or lock, in the way of every writer.
        std::fs::remove_file(copy_name(&path)).unwrap();
        std::fs::create_dir(copy_name(&path)).unwrap();
        assert_eq!(kind(&path), ErrorKind::IsADirectory);
    }

    #[cfg(unix)]
    #[test]
    fn nobody_waits_for_a_pipe_that_has_a_name_of_the_writers() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["file.lock", "file.new"] {
            let (path, pipe) = (folder.path().join("file"), folder.path().join(name));
            let made = std::process::Command::new("mkfifo").arg(&pipe).status();
            assert!(made.unwrap().success());
            // On a thread of its own, so that one that waits fails and does not hang.
            let (told, refusals) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let written = match name {
                    "file.lock" => open_lock(&path).map(drop),
                    _ => replace(&path, b"new", |_| Ok(()), |error| error),
                };
                told.send(written).unwrap();
                told.send(check_replaceable(&path)).unwrap();
            });
            for checked in [false, true] {
                let refused = refusals.recv_timeout(std::time::Duration::from_secs(60));
                let refused = refused.unwrap().unwrap_err().to_string();
                assert!(refused.contains("no file, but a link"), "{refused}");
                assert_eq!(refused.contains(name), checked, "{refused}");
            }
            std::fs::remove_file(pipe).unwrap();
        }
    }
}
