//! Files that this program makes for itself and maps: in a folder that nobody else may write.
//!
//! Whoever can cut a mapped file short can end the process that has it mapped (SIGBUS). The files here are safe from
//! everybody but their owner and root: they are created for the owner alone, in a folder of the owner's, under a name
//! that nobody looks for, and renamed when they are whole. Before one is mapped its owner and mode are looked at
//! through the open file, so it does not matter what happens to its name. A finished file is never written again.

mod unfinished;

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::model_files::FileStamp;

pub use self::unfinished::{Unfinished, remove_left_over};

/// Makes `folder` for this user alone, unless it is there.
///
/// # Errors
/// What the system says.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Creates a file that only this user may read or write.
///
/// # Errors
/// What the system says; a file that is there.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Whether nobody but the user of this process and root may write an open file, as its metadata tell. Lists of further
/// rights show in the bits of the group.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`] saying who may.
pub fn check_file(metadata: &Metadata) -> io::Result<()> {
    if !metadata.is_file() {
        return Err(refused("it is no ordinary file"));
    }
    check_owner(metadata)
}

/// The same of a folder: nobody else may put files into it or take some away.
///
/// # Errors
/// As [`check_file`], and what the system says.
pub fn check_folder(folder: &Path) -> io::Result<()> {
    let metadata = fs::metadata(folder)?;
    if !metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    check_owner(&metadata)
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(unix)]
fn check_owner(metadata: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user && metadata.uid() != 0 {
        return Err(refused("it belongs to another user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(refused("others may write it: chmod go-w"));
    }
    Ok(())
}

/// Other systems do not let a mapped file be cut short.
#[cfg(not(unix))]
fn check_owner(_: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Files that this process has checked; past this many all are forgotten.
const REMEMBERED: usize = 256;

static CHECKED: Mutex<Option<HashSet<FileStamp>>> = Mutex::new(None);

/// Whether this process has checked the content of a file and nobody has written it since. Where the system does not
/// tell files apart, it never has.
pub fn is_checked(stamp: FileStamp) -> bool {
    let checked = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
    cfg!(unix)
        && checked
            .as_ref()
            .is_some_and(|checked| checked.contains(&stamp))
}

/// Remembers that the content of a file is what it should be.
pub fn remember_checked(stamp: FileStamp) {
    let mut checked = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
    let checked = checked.get_or_insert_default();
    if checked.len() >= REMEMBERED {
        checked.clear();
    }
    checked.insert(stamp);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn files_and_folders_that_others_may_write_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("a/b");
        make_folder(&cache).unwrap();
        let path = cache.join("file");
        let file = create(&path).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        check_folder(&cache).unwrap();
        check_file(&file.metadata().unwrap()).unwrap();
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = check_file(&file.metadata().unwrap()).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{mode:o}");
        }
        for mode in [0o770, 0o707, 0o1777] {
            fs::set_permissions(&cache, fs::Permissions::from_mode(mode)).unwrap();
            assert!(check_folder(&cache).is_err(), "{mode:o}");
        }
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).unwrap();
        check_folder(&cache).unwrap();
        assert!(check_folder(&path).is_err());
        assert!(check_file(&fs::metadata(&cache).unwrap()).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_was_checked_is_known_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let stamp = || FileStamp::at(&path).unwrap();
        assert!(!is_checked(stamp()));
        remember_checked(stamp());
        assert!(is_checked(stamp()));
        fs::write(&path, "longer").unwrap();
        assert!(!is_checked(stamp()));
    }
}
