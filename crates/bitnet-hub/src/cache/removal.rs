//! Taking models out of the cache.
//!
//! A blob goes when no snapshot has it any more, and only under its lock: nobody is downloading it then, and nobody
//! is about to link it. What is removed is planned first, so that it can be shown, and planned again under the locks.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cache::{BLOBS, Cache, INCOMPLETE, REFS, entries, names_in};
use crate::choice::{self, WantedFiles};
use crate::error::HubError;
use crate::lock::Lock;
use crate::name::{HubModel, RepositoryId, Revision};

/// What is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Of which repository.
    pub id: RepositoryId,
    /// Names in snapshots.
    pub n_files: usize,
    /// Bytes that this frees; what others use as well is not counted.
    pub freed: u64,
    /// Branches and tags that are the same commit as the one that is named, so that its files stay and its name alone
    /// goes.
    pub same_commit: Vec<String>,
    named: Option<String>,                 // the branch or tag
    names: Vec<(PathBuf, Option<String>)>, // with the blob that each leads to
    blobs: BTreeSet<String>,
}

impl Cache {
    /// What of the cache `model` names: without a revision and a file the whole repository, without a revision a file
    /// of all of them.
    ///
    /// # Errors
    /// [`HubError::NotCached`], and [`HubError::Choice`] where several files could be meant.
    pub fn plan_removal(&self, model: &HubModel) -> Result<Removal, HubError> {
        self.plan_after(model, &[])
    }

    /// What each of `models` names when those before it have gone: what several of them name, or share, goes once.
    ///
    /// # Errors
    /// As [`Cache::plan_removal`].
    pub fn plan_removals(&self, models: &[HubModel]) -> Result<Vec<Removal>, HubError> {
        let mut planned = Vec::new();
        for model in models {
            planned.push(self.plan_after(model, &planned)?);
        }
        Ok(planned)
    }

    /// The plan of a removal that comes after others.
    fn plan_after(&self, model: &HubModel, before: &[Removal]) -> Result<Removal, HubError> {
        let id = &model.id;
        let absent = |missing: String| HubError::NotCached {
            model: Box::new(model.clone()),
            cache: self.root.clone(),
            missing,
            unfinished: 0, // it would be removed too, where the whole repository is meant
            offline: false,
        };
        let folder = self.folder(id);
        if !folder.is_dir() {
            return Err(absent("nothing of it is there".into()));
        }
        let mut commits = self.commits(id);
        if let Some(revision) = &model.revision {
            let commit = self
                .commit_of(id, revision)
                .filter(|commit| commits.contains(commit));
            commits = vec![
                commit.ok_or_else(|| absent(format!("revision {revision} of it is not there")))?,
            ];
        }
        let is_whole = model.revision.is_none() && model.pattern.is_none();
        let same_commit = self.others_of(model, before);
        if !same_commit.is_empty() {
            if model.pattern.is_some() {
                return Err(HubError::SameCommit {
                    model: Box::new(model.clone()),
                    others: same_commit,
                });
            }
            return Ok(Removal {
                id: id.clone(),
                n_files: 0,
                freed: 0,
                same_commit,
                named: named(model),
                names: Vec::new(),
                blobs: BTreeSet::new(),
            });
        }
        let (mut names, mut kept) = (Vec::new(), Vec::new());
        for commit in self.commits(id) {
            let there = entries(&self.snapshot(id, &commit));
            let goes = match (&model.pattern, commits.contains(&commit)) {
                (_, false) => BTreeSet::new(),
                (None, true) => there.iter().map(|(name, _)| name.clone()).collect(),
                (Some(pattern), true) => {
                    let files: Vec<_> = there.iter().map(|(name, _)| (name.clone(), 0)).collect();
                    let wanted = WantedFiles {
                        pattern: Some(pattern),
                        revision: model.revision.as_ref(),
                        allow_pickle: true,
                    };
                    match choice::choose(id, &files, wanted) {
                        Ok(chosen) => chosen.files.into_iter().collect(),
                        // Another commit may have it.
                        Err(HubError::NoModel { .. }) => BTreeSet::new(),
                        Err(e) if choice::names_another(&e) => BTreeSet::new(),
                        Err(e) => return Err(e),
                    }
                }
            };
            for (name, path) in there {
                match goes.contains(&name) {
                    true => names.push(path),
                    false => kept.push(path),
                }
            }
        }
        if names.is_empty() && !is_whole {
            return Err(absent("no such file of it is there".into()));
        }
        let before: Vec<&Removal> = before.iter().filter(|it| it.id == *id).collect();
        let stays = |path: &PathBuf| {
            let mut gone = before.iter().flat_map(|it| &it.names);
            !gone.any(|(there, _)| there == path)
        };
        names.retain(stays);
        kept.retain(stays);
        let with_blob = |path: PathBuf| {
            let blob = blob_of(&folder, &path);
            (path, blob)
        };
        let names: Vec<_> = names.into_iter().map(with_blob).collect();
        let mut blobs: BTreeSet<String> = match is_whole {
            true => names_in(&folder.join(BLOBS)).into_iter().collect(),
            false => {
                let of_kept: BTreeSet<_> = kept
                    .iter()
                    .filter_map(|path| blob_of(&folder, path))
                    .collect();
                &blobs_of(&names) - &of_kept
            }
        };
        blobs.retain(|blob| !before.iter().any(|it| it.blobs.contains(blob)));
        let size = |path: &Path| match fs::symlink_metadata(path) {
            Ok(found) if found.is_file() => found.len(),
            _ => 0,
        };
        let in_blobs: u64 = blobs
            .iter()
            .map(|blob| size(&folder.join(BLOBS).join(blob)))
            .sum();
        let in_place: u64 = names.iter().map(|(path, _)| size(path)).sum();
        Ok(Removal {
            id: id.clone(),
            n_files: names.len(),
            freed: in_blobs + in_place,
            same_commit,
            named: named(model),
            names,
            blobs,
        })
    }

    /// Other names than `model`'s revision that its commit has: whoever removes one means none of these. A commit that is
    /// named itself is meant under all of its names.
    fn others_of(&self, model: &HubModel, before: &[Removal]) -> Vec<String> {
        let named = model.revision.as_ref().filter(|named| !named.is_commit());
        let Some(commit) = named.and_then(|named| self.commit_of(&model.id, named)) else {
            return Vec::new();
        };
        let gone = |name: &str| {
            let mut before = before.iter().filter(|it| it.id == model.id);
            before.any(|it| it.named.as_deref() == Some(name))
        };
        let refs = entries(&self.folder(&model.id).join(REFS)).into_iter();
        let others = refs.filter_map(|(name, _)| {
            let other: Revision = name.as_str().parse().ok()?;
            let is_other = named != Some(&other) && !gone(other.as_str());
            let is_same = self.commit_of(&model.id, &other).as_deref() == Some(commit.as_str());
            (is_other && is_same).then(|| other.to_string())
        });
        others.collect()
    }

    /// Removes what `model` names.
    ///
    /// # Errors
    /// As [`Cache::plan_removal`]; [`HubError::InUse`] while somebody downloads some of it; what the system says.
    pub fn remove(&self, model: &HubModel) -> Result<Removal, HubError> {
        let planned = self.plan_removal(model)?;
        self.remove_planned(model, &planned)
    }

    /// Removes what is planned, as far as it still is what `model` names.
    fn remove_planned(&self, model: &HubModel, planned: &Removal) -> Result<Removal, HubError> {
        let id = &model.id;
        let mut locks = Vec::new();
        let mut locked = BTreeSet::new();
        // Also of names whose blobs stay: they are made under the same locks.
        for blob in planned.blobs.union(&blobs_of(&planned.names)) {
            let blob = blob.strip_suffix(INCOMPLETE).unwrap_or(blob);
            if !locked.insert(blob.to_owned()) {
                continue;
            }
            let lock = Lock::try_take(&self.lock(id, blob))?;
            locks.push(lock.ok_or_else(|| HubError::InUse { id: id.clone() })?);
        }
        let mut removal = self.plan_removal(model)?;
        // What has come since is not locked, and stays.
        removal
            .blobs
            .retain(|blob| locked.contains(blob.strip_suffix(INCOMPLETE).unwrap_or(blob)));
        removal.names.retain(|name| match &name.1 {
            Some(blob) => locked.contains(blob),
            None => planned.names.contains(name),
        });
        removal.n_files = removal.names.len();
        let folder = self.folder(id);
        let gone = |path: PathBuf| match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(HubError::io("remove", path)(e)),
            _ => Ok(()),
        };
        for (name, _) in &removal.names {
            gone(name.clone())?;
        }
        for blob in &removal.blobs {
            gone(folder.join(BLOBS).join(blob))?;
        }
        remove_empty(&folder.join(super::SNAPSHOTS));
        let commits = self.commits(id);
        let its_name = removal.named.as_deref();
        let its_name = its_name.filter(|_| !removal.same_commit.is_empty());
        for (name, path) in entries(&folder.join(REFS)) {
            let commit = fs::read_to_string(&path).unwrap_or_default();
            if its_name == Some(name.as_str())
                || !commits.iter().any(|there| there == commit.trim())
            {
                gone(path)?;
            }
        }
        // Where a pull has begun meanwhile, the blobs' folder cannot be removed.
        let blobs_are_gone = || match fs::remove_dir(folder.join(BLOBS)) {
            Err(e) => e.kind() == io::ErrorKind::NotFound,
            Ok(()) => true,
        };
        // What no snapshot and no unfinished download is left of is nothing, and its folder goes too.
        if commits.is_empty() && blobs_are_gone() {
            match model.revision.is_none() && model.pattern.is_none() {
                true => match fs::remove_dir_all(&folder) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(HubError::io("remove", folder)(e));
                    }
                    _ => {}
                },
                false => remove_if_empty(&folder),
            }
        }
        Ok(removal)
    }
}

/// The branch or tag that a model names.
fn named(model: &HubModel) -> Option<String> {
    let named = model.revision.as_ref().filter(|named| !named.is_commit());
    named.map(ToString::to_string)
}

/// Removes a repository's folder of which nothing is left but folders; what a pull has begun there meanwhile stays.
fn remove_if_empty(folder: &Path) {
    // Other tools note there, in files without content, what a repository lacks.
    let _ = fs::remove_dir_all(folder.join(".no_exist"));
    remove_empty(folder);
    let _ = fs::remove_dir(folder);
}

fn blobs_of(names: &[(PathBuf, Option<String>)]) -> BTreeSet<String> {
    names.iter().filter_map(|(_, blob)| blob.clone()).collect()
}

/// The blob that a name in a snapshot leads to.
fn blob_of(repository: &Path, path: &Path) -> Option<String> {
    let target = path.canonicalize().ok()?;
    let blobs = repository.join(BLOBS).canonicalize().ok()?;
    let name = target.strip_prefix(blobs).ok()?;
    name.to_str().map(Into::into)
}

/// Removes a folder's folders that hold nothing, as far down as there are any.
fn remove_empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
            // One that holds something stays.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::cache::make_folder_of;
    use crate::checksum::Checksum;

    const COMMITS: [&str; 2] = [
        "cccccccccccccccccccccccccccccccccccccccc",
        "dddddddddddddddddddddddddddddddddddddddd",
    ];

    #[test]
    fn what_a_pull_begins_while_the_last_file_goes_stays() {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("models--o--n");
        for name in ["refs/pr", "snapshots", ".no_exist/c"] {
            fs::create_dir_all(repository.join(name)).unwrap();
        }
        fs::write(repository.join(".no_exist/c/added_tokens.json"), "").unwrap();
        let begun = repository.join("blobs/x.incomplete");
        make_folder_of(&begun).unwrap();
        fs::write(&begun, "1").unwrap();
        remove_if_empty(&repository);
        assert_eq!(names_in(&repository), ["blobs"]);
        assert!(begun.exists());
        fs::remove_file(&begun).unwrap();
        remove_if_empty(&repository);
        assert!(!repository.exists());
    }

    #[test]
    fn what_a_pull_brings_between_the_plan_and_the_locks_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        let model: HubModel = "o/n".parse().unwrap();
        let add = |commit: &str, name: &str, digit: &str| {
            let checksum = Checksum::git_blob(&digit.repeat(40)).unwrap();
            let blob = cache.blob(&model.id, &checksum);
            make_folder_of(&blob).unwrap();
            fs::write(blob, digit).unwrap();
            let linked = cache.link(&model.id, commit, &name.parse().unwrap(), &checksum);
            linked.unwrap();
        };
        add(COMMITS[0], "m.gguf", "1");
        let planned = cache.plan_removal(&model).unwrap();
        add(COMMITS[1], "m.gguf", "2");
        let removal = cache.remove_planned(&model, &planned).unwrap();
        assert_eq!(removal.n_files, 1);
        assert_eq!(cache.commits(&model.id), [COMMITS[1]]);
        let kept = cache.snapshot(&model.id, COMMITS[1]).join("m.gguf");
        assert_eq!(fs::read_to_string(kept).unwrap(), "2");
    }
}
