//! What the tests pull with: an empty cache, a client that does not sleep, and a record of what it was told.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bitnet_hub::choice::WantedFiles;
use bitnet_hub::settings::AccessToken;
use bitnet_hub::{
    Cache, Hub, HubError, HubFile, HubModel, HubSettings, Pause, PullObserver, Pulled, Silent,
    Tries,
};

use crate::fake_hub::FakeHub;

/// What an observer was told.
#[derive(Default)]
pub struct Record {
    /// Waits, in seconds, with their reasons.
    pub waits: Mutex<Vec<(u64, String)>>,
    /// Files begun, with the bytes that were there.
    pub begun: Mutex<Vec<(String, u64)>>,
    /// Files begun anew, with the reasons.
    pub anew: Mutex<Vec<(String, String)>>,
    /// Files that another process had.
    pub stood_by: Mutex<Vec<String>>,
}

impl PullObserver for Record {
    fn begins(&self, file: &HubFile, there: u64) {
        self.begun
            .lock()
            .unwrap()
            .push((file.name.to_string(), there));
    }

    fn starts_over(&self, file: &HubFile, why: &str) {
        let told = (file.name.to_string(), why.to_owned());
        self.anew.lock().unwrap().push(told);
    }

    fn stands_by(&self, file: &HubFile) {
        self.stood_by.lock().unwrap().push(file.name.to_string());
    }

    fn waits(&self, why: &str, pause: &Pause<'_>) {
        self.waits
            .lock()
            .unwrap()
            .push((pause.wait.as_secs(), why.to_owned()));
    }
}

/// An empty cache and settings.
pub struct Client {
    folder: tempfile::TempDir,
    /// To be changed before a pull.
    pub settings: HubSettings,
    /// Of all pulls.
    pub record: Record,
}

impl Client {
    /// One that asks `hub`.
    pub fn of(hub: &FakeHub) -> Client {
        Client {
            folder: tempfile::tempdir().unwrap(),
            settings: HubSettings {
                endpoint: hub.url(),
                ..HubSettings::default()
            },
            record: Record::default(),
        }
    }

    /// The same with a token.
    pub fn with_token(hub: &FakeHub, token: &str) -> Client {
        let mut client = Client::of(hub);
        client.settings.token = AccessToken::of(token);
        client
    }

    pub fn cache(&self) -> Cache {
        Cache::at(self.folder.path().join("hub"))
    }

    /// Pulls as the command does.
    pub fn pull(&self, model: &str) -> Result<Pulled, HubError> {
        self.pull_with(model, &self.record)
    }

    /// The same, telling somebody else.
    pub fn pull_with(&self, model: &str, observer: &dyn PullObserver) -> Result<Pulled, HubError> {
        let model: HubModel = model.parse()?;
        let hub = Hub::new(&self.settings, self.cache())?;
        let repository = hub.repository(
            &model.id,
            &model.revision_or_default(),
            Tries::Few,
            observer,
        )?;
        let wanted = WantedFiles {
            pattern: model.pattern.as_deref(),
            ..WantedFiles::default()
        };
        let chosen = hub.choose(&repository, wanted)?;
        hub.pull(&repository, &chosen, observer)
    }

    /// Pulls, and reads the file that came.
    pub fn content(&self, model: &str) -> Vec<u8> {
        fs::read(self.pull(model).unwrap().path).unwrap()
    }

    /// Holds the reasons for which `m.gguf` was begun anew against words that are in them.
    pub fn was_told_anew(&self, reasons: &[&str]) {
        let anew = self.record.anew.lock().unwrap();
        let is_told = |((file, why), words): (&(String, String), &&str)| {
            file == "m.gguf" && why.contains(*words)
        };
        assert!(
            anew.len() == reasons.len() && anew.iter().zip(reasons).all(is_told),
            "{anew:?}"
        );
    }

    /// Files of a model whose bytes are not what the hub names; they are taken out of the cache.
    pub fn discard_damaged(&self, model: &str) -> Vec<String> {
        let model: HubModel = model.parse().unwrap();
        let hub = Hub::new(&self.settings, self.cache()).unwrap();
        let revision = model.revision_or_default();
        let repository = hub.repository(&model.id, &revision, Tries::Few, &Silent);
        let repository = repository.unwrap();
        let chosen = hub.choose(&repository, WantedFiles::default()).unwrap();
        let read = AtomicU64::new(0);
        let advance = |n| {
            read.fetch_add(n, Ordering::Relaxed);
        };
        let damaged = hub.damaged(&repository, &chosen, &advance).unwrap();
        // A size can be wrong without a byte being read.
        assert!(read.into_inner() > 0 || !damaged.is_empty());
        hub.discard(&repository, &damaged).unwrap();
        damaged.iter().map(|file| file.name.to_string()).collect()
    }

    /// Names in a folder of the repository `o/n`.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let folder = self.repository().join(folder);
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The folder of the repository `o/n`.
    pub fn repository(&self) -> PathBuf {
        self.cache().root().join("models--o--n")
    }
}
