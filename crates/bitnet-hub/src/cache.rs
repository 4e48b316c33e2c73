//! The cache that the Hub's tools share, as huggingface_hub lays it out.
//!
//! ```text
//! CACHE/models--OWNER--NAME/blobs/CHECKSUM              a file's bytes, once
//!                          /blobs/CHECKSUM.incomplete   what has arrived of one
//!                          /snapshots/COMMIT/NAME       link to a blob, under the file's own name
//!                          /refs/REVISION               the commit that a branch or tag was last seen at
//! CACHE/.locks/models--OWNER--NAME/CHECKSUM.lock        held by whoever downloads the blob
//! ```
//! Where links cannot be made a snapshot holds the files themselves, as with the other tools.
//!
//! # Layout
//! - [`listing`]: what is there
//! - [`removal`]: taking some of it away

pub mod listing;
pub mod removal;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;

use crate::checksum::Checksum;
use crate::choice::{self, ChosenFiles, WantedFiles, are};
use crate::error::HubError;
use crate::name::{FileName, HubModel, RepositoryId, Revision, is_hex};

/// Folders of locks, beside the repositories.
const LOCKS: &str = ".locks";
const BLOBS: &str = "blobs";
const SNAPSHOTS: &str = "snapshots";
const REFS: &str = "refs";
/// Ends the name of a blob that is not whole.
const INCOMPLETE: &str = ".incomplete";
/// Most bytes of an index of weights that is believed: a thousand layers take two million.
const MAX_INDEX: u64 = 64 << 20;
/// Folders within folders that are looked into.
const MAX_DEPTH: usize = 16;

/// The folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// What an engine opens: a file, or a folder.
    pub path: PathBuf,
    /// Of which commit.
    pub commit: String,
    /// Its files, with their bytes.
    pub files: Vec<(FileName, u64)>,
}

impl Cache {
    /// The cache in `root`, which need not exist.
    pub fn at(root: impl Into<PathBuf>) -> Cache {
        Cache { root: root.into() }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A repository's folder.
    pub(crate) fn folder(&self, id: &RepositoryId) -> PathBuf {
        self.root.join(id.folder())
    }

    /// The folder with a commit's files under their own names.
    pub fn snapshot(&self, id: &RepositoryId, commit: &str) -> PathBuf {
        self.folder(id).join(SNAPSHOTS).join(commit)
    }

    pub(crate) fn blob(&self, id: &RepositoryId, checksum: &Checksum) -> PathBuf {
        self.folder(id).join(BLOBS).join(checksum.hex())
    }

    pub(crate) fn incomplete(&self, id: &RepositoryId, checksum: &Checksum) -> PathBuf {
        let name = format!("{}{INCOMPLETE}", checksum.hex());
        self.folder(id).join(BLOBS).join(name)
    }

    /// The lock of the blob of this name.
    pub(crate) fn lock(&self, id: &RepositoryId, blob: &str) -> PathBuf {
        let name = format!("{blob}.lock");
        self.root.join(LOCKS).join(id.folder()).join(name)
    }

    /// The commit that a revision was last seen at.
    pub fn commit_of(&self, id: &RepositoryId, revision: &Revision) -> Option<String> {
        if revision.is_commit() {
            return Some(revision.as_str().into());
        }
        let path = self.folder(id).join(REFS).join(revision.as_str());
        let commit = read_limited(&path, 64).ok()?;
        let commit = String::from_utf8(commit).ok()?;
        let commit = commit.trim();
        is_hex(commit, 40).then(|| commit.to_owned())
    }

    /// Remembers what a branch or tag is now.
    pub(crate) fn remember(
        &self,
        id: &RepositoryId,
        revision: &Revision,
        commit: &str,
    ) -> Result<(), HubError> {
        if revision.is_commit() || self.commit_of(id, revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder(id).join(REFS).join(revision.as_str());
        make_folder_of(&path)?;
        // Beside it, for whoever reads half a commit finds no model; not in its folder, where every file is a revision.
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let n = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let beside = self
            .folder(id)
            .join(format!(".{commit}.{}.{n}", process::id()));
        let written = fs::write(&beside, commit).and_then(|()| fs::rename(&beside, &path));
        written.map_err(|e| {
            let _ = fs::remove_file(&beside); // it may not be there
            HubError::io("write", path)(e)
        })
    }

    /// Whether a commit's file is there, whole.
    pub(crate) fn has(&self, id: &RepositoryId, commit: &str, name: &FileName, size: u64) -> bool {
        let path = self.snapshot(id, commit).join(name.as_str());
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == size)
    }

    /// Gives a whole blob its name in a snapshot.
    pub(crate) fn link(
        &self,
        id: &RepositoryId,
        commit: &str,
        name: &FileName,
        checksum: &Checksum,
    ) -> Result<(), HubError> {
        let (blob, path) = (
            self.blob(id, checksum),
            self.snapshot(id, commit).join(name.as_str()),
        );
        // Somebody may have removed it since it was seen.
        fs::metadata(&blob).map_err(HubError::io("read", &blob))?;
        make_folder_of(&path)?;
        let up = "../".repeat(2 + name.depth());
        let target = PathBuf::from(format!("{up}{BLOBS}/{}", checksum.hex()));
        if fs::read_link(&path).is_ok_and(|there| there == target) {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(HubError::io("write", path)(e));
            }
            _ => {}
        }
        match place(&WAYS, &target, &blob, &path) {
            // Another process has done the same.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(HubError::io("write", path)),
        }
    }

    /// The files of a snapshot that are whole, with their bytes.
    pub(crate) fn files(&self, id: &RepositoryId, commit: &str) -> Vec<(FileName, u64)> {
        let mut files = Vec::new();
        for (name, path) in entries(&self.snapshot(id, commit)) {
            if let Ok(found) = fs::metadata(path)
                && found.is_file()
            {
                files.push((name, found.len()));
            }
        }
        files
    }

    /// The commits that have snapshots.
    pub(crate) fn commits(&self, id: &RepositoryId) -> Vec<String> {
        let mut commits: Vec<String> = names_in(&self.folder(id).join(SNAPSHOTS));
        commits.retain(|commit| is_hex(commit, 40));
        commits.sort();
        commits
    }

    /// Finds a model without asking anybody. A model without a revision is the one of `main`, else the only one.
    ///
    /// # Errors
    /// [`HubError::NotCached`] saying what is missing; [`HubError::Choice`] where several files could be meant.
    pub fn find(&self, model: &HubModel, offline: bool) -> Result<CachedModel, HubError> {
        let absent = |missing: String| HubError::NotCached {
            model: Box::new(model.clone()),
            cache: self.root.clone(),
            missing,
            unfinished: self.unfinished(&model.id),
            offline,
        };
        let commit = self.commit_of(&model.id, &model.revision_or_default());
        let commits = self.commits(&model.id);
        let commit = match (commit, commits.as_slice()) {
            (Some(commit), commits) if commits.contains(&commit) => commit,
            (_, []) => {
                let what = match self.unfinished(&model.id) {
                    0 => "nothing of it is there",
                    _ => "no model of it is whole",
                };
                return Err(absent(what.into()));
            }
            (_, [only]) if model.revision.is_none() => only.clone(),
            _ => {
                let revision = model.revision_or_default();
                return Err(absent(format!("revision {revision} of it is not there")));
            }
        };
        let files = self.files(&model.id, &commit);
        let wanted = WantedFiles {
            pattern: model.pattern.as_deref(),
            revision: model.revision.as_ref(),
            allow_pickle: true, // it was asked for when it was downloaded
        };
        let chosen = match choice::choose(&model.id, &files, wanted) {
            Ok(chosen) => chosen,
            Err(HubError::NoModel { .. }) => {
                return Err(absent("no file of it that can be run is there".into()));
            }
            Err(error) => match error {
                HubError::Choice { ref choices, .. } if choice::names_another(&error) => {
                    let names: Vec<_> = choices.iter().map(|(name, _)| name.clone()).collect();
                    return Err(absent(format!("only {} there", are(&names))));
                }
                other => return Err(other),
            },
        };
        let snapshot = self.snapshot(&model.id, &commit);
        let missing = missing_parts(
            &chosen,
            |name| snapshot.join(name.as_str()),
            |part| files.iter().any(|(name, _)| name.as_str() == part),
        );
        if !missing.is_empty() {
            return Err(absent(format!("{} missing", are(&missing))));
        }
        let path = match &chosen.model {
            Some(file) => snapshot.join(file.as_str()),
            None => snapshot,
        };
        let files = files.into_iter();
        let files = files.filter(|(name, _)| chosen.files.contains(name));
        Ok(CachedModel {
            path,
            commit,
            files: files.collect(),
        })
    }
}

/// Files that others of a model name as parts of it, and that are not there; where the others are is said by `at`.
pub(crate) fn missing_parts(
    chosen: &ChosenFiles,
    at: impl Fn(&FileName) -> PathBuf,
    is_there: impl Fn(&str) -> bool,
) -> Vec<String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let mut missing: BTreeSet<String> = chosen.missing.iter().cloned().collect();
    for name in chosen.files.iter().filter(|name| choice::is_index(name)) {
        // An index that cannot be read is the engine's to complain about.
        let Ok(text) = read_limited(&at(name), MAX_INDEX) else {
            continue;
        };
        let Ok(index) = serde_json::from_slice::<Index>(&text) else {
            continue;
        };
        missing.extend(
            index
                .weight_map
                .into_values()
                .filter(|part| !is_there(part)),
        );
    }
    missing.into_iter().collect()
}

/// The files below a folder by their names, links too, whatever they lead to.
fn entries(folder: &Path) -> Vec<(FileName, PathBuf)> {
    let mut entries = Vec::new();
    gather(folder, "", 0, &mut entries);
    entries.sort();
    entries
}

fn gather(folder: &Path, before: &str, depth: usize, entries: &mut Vec<(FileName, PathBuf)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let (Some(name), Ok(kind)) = (file_name.to_str(), entry.file_type()) else {
            continue;
        };
        let name = format!("{before}{name}");
        // A link to a folder is not followed: the other tools make none.
        if kind.is_dir() && depth < MAX_DEPTH {
            gather(&entry.path(), &format!("{name}/"), depth + 1, entries);
        } else if !kind.is_dir()
            && let Ok(name) = name.parse()
        {
            entries.push((name, entry.path()));
        }
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        false => Ok(bytes),
    }
}

pub(crate) fn make_folder_of(path: &Path) -> Result<(), HubError> {
    match path.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(HubError::io("write", folder)),
        None => Ok(()),
    }
}

/// A way to give a blob a name: of what a link there would hold, the blob, and the name.
type Way = fn(&Path, &Path, &Path) -> io::Result<()>;

/// From the best on: links; where the file system has none (exFAT, many shares), a second name of the same file; where
/// it has no such either, the file itself.
#[cfg(unix)]
const WAYS: [Way; 3] = [
    |target, _, path| std::os::unix::fs::symlink(target, path),
    |_, blob, path| fs::hard_link(blob, path),
    |_, blob, path| fs::rename(blob, path),
];

/// Links need leave there.
#[cfg(not(unix))]
const WAYS: [Way; 2] = [
    |_, blob, path| fs::hard_link(blob, path),
    |_, blob, path| fs::rename(blob, path),
];

/// The first of `ways` that this file system knows.
fn place(ways: &[Way], target: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    let mut tried = Err(io::ErrorKind::Unsupported.into());
    for way in ways {
        tried = way(target, blob, path);
        match &tried {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {}
            _ => break,
        }
    }
    tried
}

#[cfg(test)]
mod tests;
