//! The Hub: asked what a repository holds, chosen from, and brought into the cache.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::cache::{Cache, make_folder_of, missing_parts};
use crate::choice::{self, ChosenFiles, WantedFiles, some_of};
use crate::disk;
use crate::download::{Download, patiently};
use crate::error::HubError;
use crate::http::{Http, NoReply, Refusal};
use crate::lock::Lock;
use crate::name::{FileName, RepositoryId, Revision};
use crate::patience::Fault;
pub use crate::patience::Tries;
use crate::repository::{HubFile, MAX_ANSWER, Repository};
use crate::settings::HubSettings;
use crate::stop::{Pause, Stop};
use crate::url::encoded;

/// What is asked for when it is no file.
const REPOSITORY: &str = "the list of files";

/// Times that files are fetched again which somebody removed, beside one for each file.
const ATTEMPTS: usize = 2;

fn incomplete(id: &RepositoryId, missing: &[String]) -> HubError {
    HubError::NoModel {
        id: id.clone(),
        why: format!("it lacks {}", some_of(missing)),
        hint: "another revision may have all parts".into(),
    }
}

/// Who is told what happens while it does, from several threads.
pub trait PullObserver: Send + Sync {
    /// A file is downloaded now; `there` of its bytes were there already.
    fn begins(&self, _file: &HubFile, _there: u64) {}
    /// Some bytes of it have arrived.
    fn received(&self, _file: &HubFile, _n_bytes: u64) {}
    /// Nothing of it that was there counts, for this reason: it is fetched from its first byte.
    fn starts_over(&self, _file: &HubFile, _why: &str) {}
    /// A file is whole.
    fn ends(&self, _file: &HubFile) {}
    /// Another process downloads this file; it is waited for.
    fn stands_by(&self, _file: &HubFile) {}
    /// Something failed, and is tried again after a while: this is what waits.
    fn waits(&self, _why: &str, pause: &Pause<'_>) {
        pause.pass();
    }
}

/// Nobody is told.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl PullObserver for Silent {}

/// The Hub or a mirror, and the cache.
pub struct Hub {
    http: Http,
    cache: Cache,
    at_once: usize,
}

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// What an engine opens: a file, or a folder.
    pub path: PathBuf,
    /// Files that had to be downloaded, wholly or in part.
    pub n_downloaded: usize,
    /// Files that were there.
    pub n_there: usize,
}

impl Hub {
    /// The Hub that `settings` name, with the cache.
    ///
    /// # Errors
    /// An address or a token that cannot be used.
    pub fn new(settings: &HubSettings, cache: Cache) -> Result<Hub, HubError> {
        Ok(Hub {
            http: Http::new(settings)?,
            cache,
            at_once: settings.at_once.max(1),
        })
    }

    /// Host and port of who is asked.
    pub fn host(&self) -> String {
        self.http.endpoint().origin().host()
    }

    /// Whether the token goes to another machine without encryption.
    pub fn shows_token_openly(&self) -> bool {
        self.http.shows_token_openly()
    }

    /// Asks what a repository holds; where nobody can be reached, as often as `tries` says.
    ///
    /// # Errors
    /// Whatever keeps it from being known.
    pub fn repository(
        &self,
        id: &RepositoryId,
        revision: &Revision,
        tries: Tries,
        observer: &dyn PullObserver,
    ) -> Result<Repository, HubError> {
        let path = format!(
            "/api/models/{id}/revision/{}?blobs=true",
            encoded(revision.as_str(), "")
        );
        let host = self.host();
        let answer = patiently(observer, tries, || {
            let reply = match self.http.get(&path, None) {
                Ok(reply) => reply,
                Err(NoReply::Refused(refusal)) => {
                    return Err(self.meaning(id, revision, REPOSITORY, refusal));
                }
                Err(NoReply::Fault(fault)) => return Err(fault),
            };
            let web_page = HubError::WebPage {
                host: reply.origin.host(),
            };
            if reply.is_web_page() {
                return Err(Fault::Lasting(web_page));
            }
            let mut answer = Vec::new();
            let read = reply
                .into_body()
                .take(MAX_ANSWER + 1)
                .read_to_end(&mut answer);
            read.map_err(|e| {
                Fault::passing(HubError::Unreachable {
                    host: host.clone(),
                    why: e.to_string(),
                })
            })?;
            if answer.len() as u64 > MAX_ANSWER {
                return Err(Fault::Lasting(HubError::Answer {
                    host: host.clone(),
                    why: format!("it is longer than {MAX_ANSWER} bytes"),
                }));
            }
            // Not everybody who sends a page says so; no JSON begins like one.
            match answer.trim_ascii_start().starts_with(b"<") {
                true => Err(Fault::Lasting(web_page)),
                false => Ok(answer),
            }
        })?;
        Repository::of_answer(id, revision, &host, &answer)
    }

    /// Chooses what an engine needs.
    ///
    /// # Errors
    /// As [`choice::choose`]; parts that the repository lacks.
    pub fn choose(
        &self,
        repository: &Repository,
        wanted: WantedFiles<'_>,
    ) -> Result<ChosenFiles, HubError> {
        let files: Vec<_> = repository
            .files
            .iter()
            .map(|file| (file.name.clone(), file.size))
            .collect();
        let chosen = choice::choose(&repository.id, &files, wanted)?;
        match chosen.missing.is_empty() {
            true => Ok(chosen),
            false => Err(incomplete(&repository.id, &chosen.missing)),
        }
    }

    /// The chosen files that are not in the cache, with the bytes of each that have not arrived yet.
    pub fn missing<'a>(
        &self,
        repository: &'a Repository,
        chosen: &ChosenFiles,
    ) -> Vec<(&'a HubFile, u64)> {
        let wanted = repository
            .files
            .iter()
            .filter(|file| chosen.files.contains(&file.name));
        let absent = wanted.filter(|file| !self.is_there(repository, file));
        let left = |file: &HubFile| {
            let incomplete = self.cache.incomplete(&repository.id, &file.checksum);
            let arrived = incomplete.metadata().map_or(0, |found| found.len());
            file.size.saturating_sub(arrived)
        };
        absent.map(|file| (file, left(file))).collect()
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(crate) fn is_there(&self, repository: &Repository, file: &HubFile) -> bool {
        let blob = self.cache.blob(&repository.id, &file.checksum);
        self.cache
            .has(&repository.id, &repository.commit, &file.name, file.size)
            || blob
                .metadata()
                .is_ok_and(|found| found.is_file() && found.len() == file.size)
    }

    /// Brings the chosen files into the cache; those that are there are left as they are. The snapshot gets its names
    /// when all of them are whole, so that whoever finds one finds a model.
    ///
    /// # Errors
    /// Too little room, before anything is downloaded; parts that only an index names, before the weights are; whatever
    /// keeps a file from arriving whole and right. What has arrived stays.
    pub fn pull(
        &self,
        repository: &Repository,
        chosen: &ChosenFiles,
        observer: &dyn PullObserver,
    ) -> Result<Pulled, HubError> {
        let id = &repository.id;
        self.check_room(&self.missing(repository, chosen))?;
        let mut downloaded = BTreeSet::new();
        let mut attempts = ATTEMPTS + chosen.files.len();
        loop {
            let missing = self.missing(repository, chosen);
            let mut queue: Vec<&HubFile> = missing.iter().map(|(file, _)| *file).collect();
            downloaded.extend(queue.iter().map(|file| &file.name));
            // An index first, which tells whether the rest is worth it; then the largest: the small ones fill the other
            // lines meanwhile.
            queue.sort_by_key(|file| (!choice::is_index(&file.name), Reverse(file.size)));
            let n_indices = queue.partition_point(|file| choice::is_index(&file.name));
            let (indices, others) = queue.split_at(n_indices);
            self.fetch_all(repository, indices, observer)?;
            self.check_parts(repository, chosen)?;
            self.fetch_all(repository, others, observer)?;
            let linked = self.link_all(repository, chosen, observer);
            // Somebody may have removed what was there when this began.
            let is_removed = match &linked {
                Ok(is_whole) => !is_whole,
                Err(_) => !self.missing(repository, chosen).is_empty(),
            };
            if !is_removed {
                linked?;
                break;
            }
            if attempts == 0 {
                let folder = self.cache.snapshot(id, &repository.commit);
                let why = io::Error::other("others remove its files again and again");
                return Err(HubError::io("write", folder)(
                    linked.err().map_or(why, io::Error::other),
                ));
            }
            attempts -= 1;
        }
        self.cache
            .remember(id, &repository.revision, &repository.commit)?;
        let snapshot = self.cache.snapshot(id, &repository.commit);
        Ok(Pulled {
            path: match &chosen.model {
                Some(file) => snapshot.join(file.as_str()),
                None => snapshot,
            },
            n_downloaded: downloaded.len(),
            n_there: chosen.files.len() - downloaded.len(),
        })
    }

    /// Looks for the parts that the chosen files' indices name, which are there by now.
    fn check_parts(&self, repository: &Repository, chosen: &ChosenFiles) -> Result<(), HubError> {
        let id = &repository.id;
        let at = |name: &FileName| {
            let file = repository.files.iter().find(|file| file.name == *name);
            let blob = file.map(|file| self.cache.blob(id, &file.checksum));
            // Other tools may have put the file itself into the snapshot.
            blob.filter(|blob| blob.is_file()).unwrap_or_else(|| {
                let snapshot = self.cache.snapshot(id, &repository.commit);
                snapshot.join(name.as_str())
            })
        };
        let names: BTreeSet<&str> = chosen.files.iter().map(FileName::as_str).collect();
        let missing = missing_parts(chosen, at, |part| names.contains(part));
        match missing.is_empty() {
            true => Ok(()),
            false => Err(incomplete(id, &missing)),
        }
    }

    /// Gives the chosen files their names in the snapshot; whether all have them at the end.
    fn link_all(
        &self,
        repository: &Repository,
        chosen: &ChosenFiles,
        observer: &dyn PullObserver,
    ) -> Result<bool, HubError> {
        let id = &repository.id;
        let is_linked = |file: &HubFile| {
            self.cache
                .has(id, &repository.commit, &file.name, file.size)
        };
        let wanted = || {
            repository
                .files
                .iter()
                .filter(|file| chosen.files.contains(&file.name))
        };
        for file in wanted().filter(|file| !is_linked(file)) {
            // Whoever removes blobs takes the lock too.
            let path = self.cache.lock(id, file.checksum.hex());
            let _lock = Lock::take(&path, &Stop::default(), &|| observer.stands_by(file))?;
            self.cache
                .link(id, &repository.commit, &file.name, &file.checksum)?;
        }
        Ok(wanted().all(is_linked))
    }

    fn check_room(&self, missing: &[(&HubFile, u64)]) -> Result<(), HubError> {
        let needed = missing
            .iter()
            .fold(0u64, |sum, (_, left)| sum.saturating_add(*left));
        match disk::free(self.cache.root()) {
            Some(free) if free < needed => Err(HubError::Space {
                folder: self.cache.root().into(),
                needed,
                free,
            }),
            _ => Ok(()),
        }
    }

    /// Downloads several files at once; the first that fails ends the others where they are.
    fn fetch_all(
        &self,
        repository: &Repository,
        queue: &[&HubFile],
        observer: &dyn PullObserver,
    ) -> Result<(), HubError> {
        let (next, stop) = (AtomicUsize::new(0), Stop::default());
        thread::scope(|scope| {
            for _ in 0..self.at_once.min(queue.len()) {
                scope.spawn(|| {
                    while let Some(file) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.fetch(repository, file, &stop, observer) {
                            stop.because(error);
                            return;
                        }
                    }
                });
            }
        });
        stop.into_first().map_or(Ok(()), Err)
    }

    fn fetch(
        &self,
        repository: &Repository,
        file: &HubFile,
        stop: &Stop,
        observer: &dyn PullObserver,
    ) -> Result<(), HubError> {
        stop.check()?;
        let (id, revision) = (&repository.id, &repository.revision);
        let blob = self.cache.blob(id, &file.checksum);
        make_folder_of(&blob)?;
        let path = self.cache.lock(id, file.checksum.hex());
        let _lock = Lock::take(&path, stop, &|| observer.stands_by(file))?;
        // Whoever had the lock before may have brought it.
        if !self.is_there(repository, file) {
            let path = format!(
                "/{id}/resolve/{}/{}",
                repository.commit,
                encoded(file.name.as_str(), "/")
            );
            let download = Download {
                http: &self.http,
                path: &path,
                file,
                observer,
                stop,
                refused: &|refusal| self.meaning(id, revision, file.name.as_str(), refusal),
            };
            download.run(&self.cache.incomplete(id, &file.checksum), &blob)?;
        }
        observer.ends(file);
        Ok(())
    }

    /// What a refusal means for whoever asked for `what` of a repository.
    fn meaning(
        &self,
        id: &RepositoryId,
        revision: &Revision,
        what: &str,
        refusal: Refusal,
    ) -> Fault {
        let token_shown = refusal.token_shown;
        // Only the Hub knows repositories; a storage that says 404 or 403 says nothing about them.
        if !refusal.is_endpoint {
            return refusal.into_fault(what);
        }
        let host = refusal.host.clone();
        let gated = || HubError::Gated {
            id: id.clone(),
            page: format!(
                "{}/{id}",
                self.http.endpoint().as_str().trim_end_matches('/')
            ),
            token_shown,
        };
        let absent = || HubError::NoRepository {
            id: id.clone(),
            host: host.clone(),
            token_shown,
        };
        Fault::Lasting(match (refusal.status, refusal.code.as_str()) {
            (_, "GatedRepo") => gated(),
            (_, "RepoNotFound") => absent(),
            (_, "RevisionNotFound") => HubError::NoRevision {
                id: id.clone(),
                revision: revision.clone(),
            },
            (401, _) if token_shown => HubError::Token { host },
            // The Hub does not tell strangers whether something private is there.
            (401, _) => absent(),
            (403, _) => HubError::Forbidden {
                id: id.clone(),
                host,
                what: what.into(),
                token_shown,
            },
            (404, "") if what == REPOSITORY => absent(),
            _ => return refusal.into_fault(what),
        })
    }
}
