//! Output that appears under its name only when it is complete.
//!
//! A model takes a while to write. Whoever finds `OUT.gguf` must be able to rely on it, so it grows under a temporary
//! name in the same directory (a rename within one file system is atomic) and takes its own at the end; when the work
//! fails or is interrupted, the temporary one is removed.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::exit::CliError;

/// A file or a directory in the making.
#[derive(Debug)]
pub struct Pending {
    target: PathBuf,
    temporary: PathBuf,
    state: Cell<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is there, or something that is not ours.
    Planned,
    /// The temporary file or directory is ours.
    Created,
    /// It has its own name.
    Finished,
}

impl Pending {
    /// Prepares output under `target`; nothing is created yet.
    ///
    /// # Errors
    /// Exit 1 when the directory it goes to does not exist, or `target` names something else than a file: a directory,
    /// or a device, which a rename would replace. A link to a file stands for the file.
    pub fn new(target: &Path) -> Result<Pending, CliError> {
        let resolved = match target.symlink_metadata() {
            Ok(found) if found.is_symlink() => target
                .canonicalize()
                .map_err(|e| CliError::file("write", target, &e))?,
            _ => target.to_owned(),
        };
        let target = &*resolved;
        let Some(name) = target.file_name() else {
            return Err(CliError::usage(
                format!("{} is not a file name", target.display()),
                "name the file to write",
            ));
        };
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !parent.is_dir() {
            return Err(CliError::runtime(
                format!(
                    "cannot write {}: there is no directory {}",
                    target.display(),
                    parent.display()
                ),
                "create the directory first",
            ));
        }
        if target.is_dir() {
            return Err(CliError::runtime(
                format!(
                    "cannot write {}: a directory of that name exists",
                    target.display()
                ),
                "choose another name, or remove the directory first",
            ));
        }
        if target.exists() && !target.is_file() {
            return Err(CliError::runtime(
                format!("cannot write {}: it is no regular file", target.display()),
                "name a file; it is written under another name first and then put in place",
            ));
        }
        let mut temporary_name = name.to_owned();
        temporary_name.push(format!(".partial-{}", std::process::id()));
        Ok(Pending {
            target: target.to_owned(),
            temporary: parent.join(temporary_name),
            state: Cell::new(State::Planned),
        })
    }

    /// Refuses a target that is one of the files to read.
    ///
    /// # Errors
    /// Exit 2, naming it.
    pub fn is_none_of<'a>(
        &self,
        inputs: impl IntoIterator<Item = &'a Path>,
    ) -> Result<(), CliError> {
        let target = self.target.canonicalize();
        for input in inputs {
            if let (Ok(target), Ok(input)) = (&target, input.canonicalize())
                && *target == input
            {
                return Err(CliError::usage(
                    format!("{} is a file to read", self.target.display()),
                    "write to another name",
                ));
            }
        }
        Ok(())
    }

    /// The path to write to.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Creates the temporary file.
    ///
    /// # Errors
    /// Exit 1 when the system refuses.
    pub fn create_file(&self) -> Result<BufWriter<File>, CliError> {
        let file = Pending::create_inside(&self.temporary)?;
        self.created();
        Ok(file)
    }

    /// Creates a file of a directory in the making.
    ///
    /// # Errors
    /// Exit 1 when the system refuses.
    pub fn create_inside(path: &Path) -> Result<BufWriter<File>, CliError> {
        // 1 MiB: large writes, and nothing against the size of a model.
        const BUFFER_BYTES: usize = 1 << 20;
        // Never through a link or into a file that somebody else has put there.
        let file = File::create_new(path).map_err(|e| CliError::file("write", path, &e))?;
        Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
    }

    /// Creates the temporary directory.
    ///
    /// # Errors
    /// Exit 1 when the system refuses.
    pub fn create_directory(&self) -> Result<(), CliError> {
        fs::create_dir(&self.temporary)
            .map_err(|e| CliError::file("write", &self.temporary, &e))?;
        self.created();
        Ok(())
    }

    /// Gives the output its name.
    ///
    /// # Errors
    /// Exit 1 when the system refuses.
    pub fn finish(self) -> Result<(), CliError> {
        if let Ok(replaced) = fs::metadata(&self.target) {
            // Whoever may read the old file may read the new one.
            fs::set_permissions(&self.temporary, replaced.permissions())
                .map_err(|e| CliError::file("write", &self.target, &e))?;
        }
        fs::rename(&self.temporary, &self.target)
            .map_err(|e| CliError::file("write", &self.target, &e))?;
        self.state.set(State::Finished);
        self.forget();
        Ok(())
    }

    /// Refuses a target that exists.
    ///
    /// # Errors
    /// Exit 2, naming it.
    pub fn is_new(&self) -> Result<(), CliError> {
        if self.target.exists() {
            return Err(CliError::usage(
                format!("{} exists", self.target.display()),
                "write to another name, or say --force to replace it",
            ));
        }
        Ok(())
    }

    /// Notes that the temporary file or directory is there.
    fn created(&self) {
        self.state.set(State::Created);
        partials().push(self.temporary.clone());
    }

    fn forget(&self) {
        partials().retain(|path| *path != self.temporary);
    }
}

/// What an end of the process would leave behind.
static PARTIALS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn partials() -> MutexGuard<'static, Vec<PathBuf>> {
    PARTIALS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all output in the making, before the process ends without dropping anything.
pub fn remove_partials() {
    for path in partials().drain(..) {
        remove(&path);
    }
}

/// Removes a file or a directory that is ours.
fn remove(path: &Path) {
    // Either may not exist, and there is nothing more to do about one that cannot be removed.
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir_all(path);
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.state.get() == State::Created {
            remove(&self.temporary);
            self.forget();
        }
    }
}

/// Writes the last buffered bytes and waits until the disk has them, so that a rename never names a hole.
///
/// # Errors
/// Exit 1 when the disk is full or fails.
pub fn sync(writer: BufWriter<File>, target: &Path) -> Result<(), CliError> {
    let wrap = |e: &std::io::Error| CliError::file("write", target, e);
    let mut file = writer.into_inner().map_err(|e| wrap(e.error()))?;
    file.flush().map_err(|e| wrap(&e))?;
    file.sync_all().map_err(|e| wrap(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_has_its_name_only_when_finished() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out.bin");
        let dropped = Pending::new(&target).unwrap();
        dropped.create_file().unwrap().write_all(b"half").unwrap();
        drop(dropped);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left behind"
        );

        let pending = Pending::new(&target).unwrap();
        let mut writer = pending.create_file().unwrap();
        writer.write_all(b"whole").unwrap();
        sync(writer, &target).unwrap();
        assert!(!target.exists());
        pending.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_links_are_not_replaced_and_files_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let error = Pending::new(Path::new("/dev/null")).unwrap_err();
        assert!(
            error.message.contains("no regular file"),
            "{}",
            error.message
        );

        let (target, link) = (dir.path().join("out.bin"), dir.path().join("link.bin"));
        fs::write(&target, b"old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let pending = Pending::new(&link).unwrap();
        pending.create_file().unwrap().write_all(b"new").unwrap();
        pending.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert!(link.symlink_metadata().unwrap().is_symlink());

        let pending = Pending::new(&target).unwrap();
        let theirs = pending.path().to_owned();
        fs::write(&theirs, b"theirs").unwrap();
        assert!(pending.create_file().is_err());
        drop(pending);
        assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    }

    #[cfg(unix)]
    #[test]
    fn a_replaced_file_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out.bin");
        fs::write(&target, b"old").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
        let pending = Pending::new(&target).unwrap();
        assert!(pending.is_new().is_err());
        pending.create_file().unwrap().write_all(b"new").unwrap();
        pending.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        let mode = fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn a_file_to_read_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model.gguf");
        fs::write(&model, b"weights").unwrap();
        let pending = Pending::new(&model).unwrap();
        assert!(
            pending
                .is_none_of([dir.path().join("other").as_path()])
                .is_ok()
        );
        assert!(
            pending
                .is_none_of([dir.path().join("./model.gguf").as_path()])
                .is_err()
        );
    }

    #[test]
    fn a_missing_directory_is_told_before_any_work() {
        let dir = tempfile::tempdir().unwrap();
        let error = Pending::new(&dir.path().join("no/out.bin")).unwrap_err();
        assert!(
            error.message.contains("there is no directory"),
            "{}",
            error.message
        );
        assert!(Pending::new(dir.path()).is_err());
    }
}
