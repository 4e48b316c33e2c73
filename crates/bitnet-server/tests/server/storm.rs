//! Swaps of all kinds under streams that never end: no request fails, and every answer is wholly one version's.
//!
//! The test is a short storm. The long one of the promises, some minutes in a release build:
//!
//! ```sh
//! BITNET_STORM_SWAPS=1000 BITNET_STORM_STREAMS=64 \
//!     cargo test --release -p bitnet-server --test server storm -- --nocapture
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitnet_server::metrics::process::private_bytes;
use serde_json::{Value, json};

use crate::client::{Answer, Connection};
use crate::fixture::until;
use crate::managed::{Managed, swap_order};

/// Requests that differ in everything that a sampler knows; a version answers each always the same.
const PROMPTS: [&str; 4] = [
    "Once upon a time",
    "The little fox",
    "One day",
    "Lily and her mom",
];

/// What a round of swaps does, and how each is answered.
const KINDS: [(&str, u16, &str); 6] = [
    ("v2.gguf", 200, ""),
    ("cut.gguf", 422, "model_incompatible"),
    ("family.gguf", 422, "model_incompatible"),
    ("v1.gguf", 200, ""),
    ("nan.gguf", 422, "validation_failed"),
    ("v2.gguf too slow", 504, "validation_timeout"),
];

fn request(index: usize) -> Value {
    let index = index % PROMPTS.len();
    json!({"prompt": PROMPTS[index], "max_tokens": 24, "temperature": 0.9, "seed": index, "stream": true,
        "ignore_eos": true})
}

/// The text of a stream and the one version that its events name.
fn read(answer: &Answer) -> (String, String) {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let events = answer.events();
    let mut text = String::new();
    let fingerprint = events[0]["system_fingerprint"].as_str().unwrap().to_owned();
    for event in &events {
        assert!(event.get("error").is_none(), "{event}");
        assert_eq!(
            event["system_fingerprint"],
            fingerprint.as_str(),
            "one answer, one version"
        );
        text += event["choices"][0]["text"].as_str().unwrap_or_default();
    }
    (fingerprint, text)
}

fn ask(managed: &Managed, index: usize) -> Answer {
    let mut connection = Connection::open(managed.server.address);
    let body = request(index).to_string();
    connection.send("POST", "/v1/completions", &managed.headers(), &body);
    connection.answer()
}

fn swap(managed: &Managed, kind: &str) -> Answer {
    let mut order = swap_order(kind);
    if let Some(file) = kind.strip_suffix(" too slow") {
        order["new_model_path"] = file.into();
        order["validation_timeout_seconds"] = 0.into();
    }
    managed.swap(&order)
}

/// A number of the environment, for the long storm.
fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn a_storm_of_swaps_fails_no_request_and_mixes_no_versions() {
    let n_swaps = setting("BITNET_STORM_SWAPS", 12);
    let n_streams = setting("BITNET_STORM_STREAMS", 16);
    let managed = Managed::start();
    // What each version answers when nothing else happens.
    let answers_of = |file: &str| {
        assert_eq!(swap(&managed, file).status, 200);
        let all = (0..PROMPTS.len()).map(|index| read(&ask(&managed, index)));
        all.collect::<Vec<_>>()
    };
    let versions = [answers_of("v2.gguf"), answers_of("v1.gguf")];
    for (old, new) in versions[0].iter().zip(&versions[1]) {
        assert!(
            old.0 != new.0 && old.1 != new.1,
            "the versions can be told apart"
        );
    }

    let (stop, n_answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let seen = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let started = Instant::now();
    let (mut memory, mut slowest) = (Vec::new(), Duration::ZERO);
    let mut engines = vec![Arc::downgrade(&managed.server.model().engine)];
    std::thread::scope(|scope| {
        for stream in 0..n_streams {
            let (managed, versions, stop) = (&managed, &versions, &stop);
            let (n_answers, seen) = (&n_answers, &seen);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let found = read(&ask(managed, stream));
                    let version = versions
                        .iter()
                        .position(|v| v[stream % PROMPTS.len()] == found);
                    let version = version.unwrap_or_else(|| panic!("no version says {found:?}"));
                    seen[version].fetch_add(1, Ordering::Relaxed);
                    n_answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Whatever happens below, the streams end.
        let stopped = Stop(&stop);
        for index in 0..n_swaps {
            let (kind, status, code) = KINDS[index % KINDS.len()];
            let before = managed.server.model().version.clone();
            let started = Instant::now();
            let done = swap(&managed, kind);
            assert_eq!(done.status, status, "{kind}: {}", done.body);
            let after = managed.server.model().version.clone();
            if status == 200 {
                slowest = slowest.max(started.elapsed());
                engines.push(Arc::downgrade(&managed.server.model().engine));
                assert_eq!(after.unwrap(), managed.version(kind));
            } else {
                assert_eq!(done.json()["error"]["code"], code);
                assert_eq!(before, after, "a swap that fails changes nothing");
            }
            memory.extend(private_bytes());
        }
        drop(stopped);
    });
    let alive = || {
        engines
            .iter()
            .filter(|engine| engine.strong_count() > 0)
            .count()
    };
    until("all old versions are gone", || alive() == 1);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (early, late) = memory.split_at(memory.len() / 2);
    let most = |part: &[u64]| part.iter().copied().max().map_or(0.0, mib);
    let end = private_bytes().map_or(0.0, mib);
    println!(
        "{n_swaps} swaps under {n_streams} streams in {:.1} s: {} answers, {} of one version and {} of the other; the slowest \
         swap took {:.2} s; private memory after swaps: at most {:.1} MiB in the first half, {:.1} MiB in the second, {end:.1} MiB at the end",
        started.elapsed().as_secs_f64(),
        n_answers.load(Ordering::Relaxed),
        seen[0].load(Ordering::Relaxed),
        seen[1].load(Ordering::Relaxed),
        slowest.as_secs_f64(),
        most(early),
        most(late),
    );
    assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) > 0));
}

/// Ends the streams, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
