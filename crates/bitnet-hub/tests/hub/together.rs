//! Several at once: files of one pull, and pulls of one file.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

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
