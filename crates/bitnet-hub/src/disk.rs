//! Room on the disk, asked before something long is written instead of found out after it.

use std::path::Path;

/// Bytes that this process may still write into a folder, or into the one that it will be made in; `None` where the
/// system does not tell.
#[cfg(unix)]
pub fn free(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// Not told here: a write fails when there is none.
#[cfg(not(unix))]
pub fn free(_folder: &Path) -> Option<u64> {
    None
}
