//! What is in the cache.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::cache::{BLOBS, Cache, INCOMPLETE, REFS, entries, names_in};
use crate::name::{FileName, RepositoryId};

/// A repository of which something is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedRepository {
    /// Which.
    pub id: RepositoryId,
    /// Its folder.
    pub path: PathBuf,
    /// Its commits.
    pub snapshots: Vec<CachedSnapshot>,
    /// Bytes of its files on the disk, each counted once.
    pub bytes: u64,
    /// Bytes of downloads that are not whole.
    pub unfinished_bytes: u64,
}

impl CachedRepository {
    fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.bytes == 0 && self.unfinished_bytes == 0
    }
}

/// A commit of which something is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedSnapshot {
    /// 40 hexadecimal digits.
    pub commit: String,
    /// Branches and tags that were it when they were last asked for.
    pub revisions: Vec<String>,
    /// The folder with its files.
    pub path: PathBuf,
    /// Its files, with their bytes.
    pub files: Vec<(FileName, u64)>,
    /// When the last of them was downloaded, where the system tells.
    pub modified: Option<SystemTime>,
}

impl CachedSnapshot {
    /// Bytes of its files, also of those that it shares with others.
    pub fn bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }
}

impl Cache {
    /// Everything that is there, by name. What cannot be read is left out, and so is a folder that holds no file.
    pub fn list(&self) -> Vec<CachedRepository> {
        let mut ids: Vec<RepositoryId> = names_in(&self.root)
            .iter()
            .filter_map(|name| RepositoryId::of_folder(name))
            .collect();
        ids.sort();
        let listed = ids.into_iter().map(|id| self.listed(id));
        listed.filter(|repository| !repository.is_empty()).collect()
    }

    /// Bytes that downloads of a repository have brought which were not finished: of files that are not whole, and, as
    /// long as no snapshot has any, of whole ones.
    pub(crate) fn unfinished(&self, id: &RepositoryId) -> u64 {
        let blobs = self.folder(id).join(BLOBS);
        let mut names = names_in(&blobs);
        if !self.commits(id).is_empty() {
            names.retain(|blob| blob.ends_with(INCOMPLETE));
        }
        names.iter().fold(0, |sum: u64, blob| {
            let size = fs::metadata(blobs.join(blob)).map_or(0, |found| found.len());
            sum.saturating_add(size)
        })
    }

    fn listed(&self, id: RepositoryId) -> CachedRepository {
        let path = self.folder(&id);
        let refs = entries(&path.join(REFS));
        let mut snapshots = Vec::new();
        let mut bytes = 0u64;
        for commit in self.commits(&id) {
            let of_commit =
                |at: &Path| fs::read_to_string(at).is_ok_and(|text| text.trim() == commit);
            let revisions = refs
                .iter()
                .filter(|(_, at)| of_commit(at))
                .map(|(name, _)| name.to_string());
            let snapshot = self.snapshot(&id, &commit);
            let names = entries(&snapshot);
            if names.is_empty() {
                continue;
            }
            let mut modified = None;
            for (_, at) in names {
                if let Ok(found) = fs::metadata(&at) {
                    modified = modified.max(found.modified().ok());
                    // Without links the file itself is here.
                    if is_file(&fs::symlink_metadata(&at)) && !has_blob(&path, &found) {
                        bytes = bytes.saturating_add(found.len());
                    }
                }
            }
            snapshots.push(CachedSnapshot {
                revisions: revisions.collect(),
                files: self.files(&id, &commit),
                path: snapshot,
                commit,
                modified,
            });
        }
        let mut unfinished_bytes = 0;
        let blobs: BTreeSet<String> = names_in(&path.join(BLOBS)).into_iter().collect();
        for blob in blobs {
            let size = fs::metadata(path.join(BLOBS).join(&blob)).map_or(0, |found| found.len());
            match blob.ends_with(INCOMPLETE) {
                true => unfinished_bytes += size,
                false => bytes = bytes.saturating_add(size),
            }
        }
        CachedRepository {
            id,
            path,
            snapshots,
            bytes,
            unfinished_bytes,
        }
    }
}

fn is_file(found: &std::io::Result<Metadata>) -> bool {
    found.as_ref().is_ok_and(Metadata::is_file)
}

/// Whether a file that is no link is one of the blobs under a second name.
#[cfg(unix)]
fn has_blob(_repository: &Path, file: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.nlink() > 1
}

/// Windows does not tell: by size, as two files of a repository seldom have the same.
#[cfg(not(unix))]
fn has_blob(repository: &Path, file: &Metadata) -> bool {
    let blobs = names_in(&repository.join(BLOBS));
    let sizes = blobs
        .iter()
        .filter_map(|name| fs::metadata(repository.join(BLOBS).join(name)).ok());
    sizes.into_iter().any(|blob| blob.len() == file.len())
}
