//! Whether a file will fit on its disk, asked before a long write instead of found out after it.

use std::path::Path;

use bitnet_hub::disk;

use crate::exit::CliError;
use crate::units;

/// Refuses to begin a file of `bytes` at `target` when the disk has less room.
///
/// # Errors
/// Exit 1 when there is too little. A system that does not tell (Windows here) lets everything pass: the write itself
/// fails then.
pub fn check(target: &Path, bytes: u64) -> Result<(), CliError> {
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match disk::free(directory) {
        Some(free) if free < bytes => Err(CliError::runtime(
            format!(
                "cannot write {}: it takes {}, and {} are free there",
                target.display(),
                units::bytes(bytes),
                units::bytes(free)
            ),
            "free some space on that disk or name another one",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_file_beyond_the_disk_is_refused_before_it_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out.gguf");
        assert!(check(&target, 1).is_ok());
        let error = check(&target, u64::MAX).unwrap_err();
        assert!(error.message.contains("are free there"), "{error}");
    }
}
