//! Several at once: files of one pull, and pulls of one file.

use std::fs;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bitnet_hub::{HubError, HubFile, HubModel, Pause, PullObserver};
use serde_json::json;

use crate::fake_hub::{FakeHub, Trouble, noise};
use crate::pulled::Client;

/// Whether `is_so` within a time that no machine needs.
fn comes_true(is_so: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        if Instant::now() > end {
            return false;
        }
        thread::yield_now();
    }
    true
}

#[test]
fn files_are_downloaded_side_by_side() {
    let (hub, weights) = (FakeHub::start(), noise(1000, 1));
    let hub = Arc::new(hub);
    hub.has(
        "o/n",
        &[
            ("a-00001-of-00002.gguf", &weights),
            ("a-00002-of-00002.gguf", b"x"),
        ],
    );
    // Both are held: the second can only be asked for while the first is under way.
    for name in ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"] {
        hub.has_trouble("o/n", name, [Trouble::Hold]);
    }
    let watcher = thread::spawn({
        let hub = hub.clone();
        move || {
            let n_asked = || {
                let seen = hub.seen();
                seen.iter()
                    .filter(|seen| seen.path.contains("resolve"))
                    .count()
            };
            let both_came = comes_true(|| n_asked() == 2);
            hub.let_go();
            both_came
        }
    });
    assert_eq!(Client::of(&hub).pull("o/n").unwrap().n_downloaded, 2);
    assert!(watcher.join().unwrap());
}

#[test]
fn two_who_pull_the_same_file_get_it_once_and_right() {
    let (hub, weights) = (FakeHub::start(), noise(500_000, 1));
    let hub = Arc::new(hub);
    hub.has("o/n", &[("m.gguf", &weights)]);
    hub.has_trouble("o/n", "m.gguf", [Trouble::Hold]);
    let client = Client::of(&hub);
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| client.content("o/n")))
            .collect();
        // All but the one that has the lock say that they wait, and only then the file is sent.
        let all_wait = comes_true(|| client.record.stood_by.lock().unwrap().len() == 3);
        hub.let_go();
        assert!(all_wait);
        for pull in pulls {
            assert!(pull.join().unwrap() == weights);
        }
    });
    assert_eq!(hub.offsets("m.gguf"), [0]);
    assert_eq!(hub.sent(), 500_000);
}

const PARTS: [&str; 2] = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"];

/// Lets the second part begin when the first one waits, and really waits.
struct SecondAfterFirst {
    waiting: (Mutex<bool>, Condvar),
}

impl PullObserver for SecondAfterFirst {
    fn begins(&self, file: &HubFile, _there: u64) {
        if file.name.as_str() == PARTS[1] {
            let (waiting, told) = &self.waiting;
            let is_not = |waiting: &mut bool| !*waiting;
            let limit = Duration::from_secs(60);
            let waited = told.wait_timeout_while(waiting.lock().unwrap(), limit, is_not);
            assert!(!waited.unwrap().1.timed_out());
        }
    }

    fn waits(&self, _why: &str, pause: &Pause<'_>) {
        assert_eq!(pause.wait.as_secs(), 300);
        *self.waiting.0.lock().unwrap() = true;
        self.waiting.1.notify_all();
        pause.pass();
    }
}

#[test]
fn a_file_that_fails_ends_the_waits_of_the_others() {
    let hub = FakeHub::start();
    hub.has("o/n", &[(PARTS[0], b"11"), (PARTS[1], b"2")]);
    let later = Trouble::Status(503, vec![("Retry-After", "300".into())]);
    hub.has_trouble("o/n", PARTS[0], [later]);
    hub.has_trouble("o/n", PARTS[1], [Trouble::Status(404, Vec::new())]);
    let begin = Instant::now();
    let observer = SecondAfterFirst {
        waiting: Default::default(),
    };
    let error = Client::of(&hub).pull_with("o/n", &observer).unwrap_err();
    assert!(
        matches!(error, HubError::Status { status: 404, .. }),
        "{error}"
    );
    assert!(begin.elapsed() < Duration::from_secs(200));
    assert_eq!(hub.offsets(PARTS[0]), [0]);
}

/// Removes another revision, which has the first part, while the second one is downloaded.
struct Remover<'a> {
    client: &'a Client,
    model: HubModel,
}

impl PullObserver for Remover<'_> {
    fn ends(&self, file: &HubFile) {
        if file.name.as_str() == PARTS[1] {
            let removal = self.client.cache().remove(&self.model).unwrap();
            assert_eq!(removal.n_files, 1);
        }
    }
}

#[test]
fn what_was_there_and_is_removed_during_a_pull_is_downloaded() {
    let (hub, other) = (FakeHub::start(), "f".repeat(40));
    hub.has("o/n", &[(PARTS[0], b"11"), (PARTS[1], b"2")]);
    hub.has_at("o/n", "v2", &other, &[("a.gguf", b"11")], &json!(null));
    let client = Client::of(&hub);
    client.pull("o/n@v2").unwrap();
    let observer = Remover {
        client: &client,
        model: "o/n@v2".parse().unwrap(),
    };
    let pulled = client.pull_with("o/n", &observer).unwrap();
    assert_eq!((pulled.n_downloaded, pulled.n_there), (2, 0));
    assert_eq!(hub.offsets(PARTS[0]), [0]);
    assert_eq!(fs::read(pulled.path).unwrap(), b"11");
}
