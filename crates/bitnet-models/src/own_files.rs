//! Files that this program makes for itself and maps: in a folder that nobody else may write.
//!
//! Whoever can cut a mapped file short can end the process that has it mapped (SIGBUS). The files here are safe from
//! everybody but their owner and root: they are created for the owner alone, in a folder of the owner's, under a name that
//! nobody looks for, and renamed when they are whole. Before one is mapped its owner and mode are looked at through the open
//! file, so it does not matter what happens to its name. A finished file is never written again.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Ends the names of files and folders that are being written: `NAME.PID.part`.
const UNFINISHED: &str = ".part";

/// Age from which an unfinished file is nobody's any more, whatever its process: writing takes seconds.
const LEFT_OVER_AFTER: Duration = Duration::from_secs(3600);

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

/// The name under which `path` is written until it is whole.
pub fn unfinished_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}{UNFINISHED}", std::process::id()));
    PathBuf::from(name)
}

/// Removes what interrupted writers have left in `folder`: unfinished files whose process is gone or which are older than
/// an hour. What cannot be removed stays.
pub fn remove_left_over(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Some(writer) = writer_of(&entry.file_name()) else {
            continue;
        };
        let Ok(metadata) = entry.metadata() else {
            continue; // it is gone already
        };
        let age = metadata
            .modified()
            .map(|at| SystemTime::now().duration_since(at));
        let old = matches!(age, Ok(Ok(age)) if age > LEFT_OVER_AFTER);
        if !old && runs(writer) {
            continue;
        }
        let path = entry.path();
        let _ = match metadata.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
    }
}

/// The process in the name of an unfinished file.
fn writer_of(name: &OsString) -> Option<u32> {
    let name = name.to_str()?.strip_suffix(UNFINISHED)?;
    let (_, pid) = name.rsplit_once('.')?;
    pid.parse().ok()
}

/// Whether a process may still run; where the system does not tell, it may.
fn runs(pid: u32) -> bool {
    let processes = Path::new("/proc");
    pid == std::process::id()
        || !cfg!(target_os = "linux")
        || !processes.join("self").exists()
        || processes.join(pid.to_string()).exists()
}

/// What tells that a file is still the one whose content was checked: where it is, how long it is, and when its content
/// and its own data last changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Checked(Option<[i128; 5]>);

/// Files that this process has checked; past this many all are forgotten.
const REMEMBERED: usize = 256;

static CHECKED: Mutex<Option<HashSet<Checked>>> = Mutex::new(None);

impl Checked {
    /// The stamp of an open file.
    pub fn of(metadata: &Metadata) -> Checked {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let time =
                |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            Checked(Some([
                i128::from(metadata.dev()),
                i128::from(metadata.ino()),
                i128::from(metadata.len()),
                time(metadata.mtime(), metadata.mtime_nsec()),
                time(metadata.ctime(), metadata.ctime_nsec()),
            ]))
        }
        #[cfg(not(unix))]
        {
            let _ = metadata;
            Checked(None)
        }
    }

    /// Whether this process has checked the file and nobody has written it since.
    pub fn is_known(&self) -> bool {
        let checked = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.is_some()
            && checked
                .as_ref()
                .is_some_and(|checked| checked.contains(self))
    }

    /// Remembers that its content is what it should be.
    pub fn remember(self) {
        let mut checked = CHECKED.lock().unwrap_or_else(PoisonError::into_inner);
        let checked = checked.get_or_insert_default();
        if checked.len() >= REMEMBERED {
            checked.clear();
        }
        checked.insert(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_and_old_writers_left_goes_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // No process has this number: it is beyond what Linux gives out.
        let dead = 4_194_305;
        let own = unfinished_name(&at("a.bnpk"));
        assert_eq!(
            own.file_name().unwrap().to_str().unwrap(),
            format!("a.bnpk.{}.part", std::process::id())
        );
        let gone = [
            format!("b.bnpk.{dead}.part"),
            format!("c.files.{dead}.part"),
        ];
        fs::write(at(&gone[0]), "x").unwrap();
        fs::create_dir(at(&gone[1])).unwrap();
        fs::write(at(&gone[1]).join("x"), "x").unwrap();
        let old = format!("d.bnpk.{}.part", std::process::id());
        File::create(at(&old))
            .unwrap()
            .set_modified(SystemTime::now() - 2 * LEFT_OVER_AFTER)
            .unwrap();
        let kept = ["a.bnpk", "x.part", "b.bnpk.1x.part", "c.7"];
        for name in kept {
            fs::write(at(name), "x").unwrap();
        }
        fs::write(&own, "x").unwrap();
        remove_left_over(folder.path());
        for name in kept {
            assert!(at(name).exists(), "{name}");
        }
        assert!(own.exists());
        assert!(!at(&old).exists());
        if cfg!(target_os = "linux") {
            assert!(!at(&gone[0]).exists() && !at(&gone[1]).exists());
        }
    }

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
        let stamp = || Checked::of(&fs::metadata(&path).unwrap());
        assert!(!stamp().is_known());
        stamp().remember();
        assert!(stamp().is_known());
        fs::write(&path, "longer").unwrap();
        assert!(!stamp().is_known());
    }
}
