//! Swaps of all kinds under streams that never end: no request fails, and every answer is wholly one version's.
//!
//! It runs in a process of its own, where nothing else takes memory: what it took has to come back.
//!
//! The test is a short storm. The long one of the promises, some minutes in a release build:
//!
//! ```sh
//! BITNET_STORM_SWAPS=1000 BITNET_STORM_STREAMS=64 \
//!     cargo test --release -p bitnet-server --test server storm -- --nocapture
//! ```

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bitnet_server::metrics::process::private_bytes;
use bitnet_server::model_manager::policy::ModelPolicy;
use bitnet_server::model_manager::validate::MAX_SAMPLES;
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

/// How new versions take the place of old ones, by turns.
const STRATEGIES: [&str; 3] = ["atomic", "blue_green", "rolling"];

/// What a round of swaps does, and how each is answered.
const KINDS: [(&str, u16, &str); 7] = [
    ("v2.gguf", 200, ""),
    ("cut.gguf", 422, "model_incompatible"),
    ("family.gguf", 422, "model_incompatible"),
    ("v1.gguf", 200, ""),
    ("nan.gguf", 422, "validation_failed"),
    ("v2.gguf without time", 504, "validation_timeout"),
    ("v2.gguf too slow", 504, "validation_timeout"),
];

/// Time for a validation of as many prompts as there can be: it is far from its end when this is over.
const TOO_SHORT: f64 = 0.05;

/// Bytes by which the process may have grown since its first round of swaps: less than the six versions of two rounds
/// take, and what the allocator keeps of threads that have ended.
const MEMORY_KEPT: u64 = 16 << 20;

/// Set for the process that has nothing else to do.
const ALONE: &str = "BITNET_STORM_ALONE";

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

fn swap(managed: &Managed, kind: &str, strategy: &str) -> Answer {
    let (file, hurry) = kind.split_once(' ').unwrap_or((kind, ""));
    let mut order = swap_order(file);
    order["swap_strategy"] = strategy.into();
    match hurry {
        "without time" => order["validation_timeout_seconds"] = 0.into(),
        "too slow" => {
            order["validation_timeout_seconds"] = TOO_SHORT.into();
            order["validation_config"]["validation_samples"] = MAX_SAMPLES.into();
        }
        _ => {}
    }
    managed.swap(&order)
}

/// A number of the environment, for the long storm.
fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn a_storm_of_swaps_fails_no_request_mixes_no_versions_and_gives_its_memory_back() {
    if std::env::var_os(ALONE).is_some() {
        return storm();
    }
    let this = std::env::current_exe().unwrap();
    let name = concat!(
        "storm::",
        "a_storm_of_swaps_fails_no_request_mixes_no_versions_and_gives_its_memory_back"
    );
    let alone = Command::new(this)
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&alone.stdout);
    println!("{told}");
    let wrong = String::from_utf8_lossy(&alone.stderr);
    assert!(alone.status.success(), "{told}\n{wrong}");
    assert!(told.contains("1 passed"), "it has run: {told}");
}

fn storm() {
    let n_swaps = setting("BITNET_STORM_SWAPS", 14);
    let n_streams = setting("BITNET_STORM_STREAMS", 16);
    let managed = Managed::with(|policy| ModelPolicy {
        keep_previous: Duration::from_millis(100),
        ..policy
    });
    // What each version answers when nothing else happens.
    let answers_of = |file: &str| {
        assert_eq!(swap(&managed, file, "atomic").status, 200);
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
            let strategy = STRATEGIES[index % STRATEGIES.len()];
            let done = swap(&managed, kind, strategy);
            assert_eq!(done.status, status, "{kind}, {strategy}: {}", done.body);
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
    let end = private_bytes();
    println!(
        "{n_swaps} swaps under {n_streams} streams in {:.1} s: {} answers, {} of one version and {} of the other; the slowest \
         swap took {:.2} s; private memory {:.1} MiB after the first round, at most {:.1} MiB after later swaps, {:.1} MiB at the end",
        started.elapsed().as_secs_f64(),
        n_answers.load(Ordering::Relaxed),
        seen[0].load(Ordering::Relaxed),
        seen[1].load(Ordering::Relaxed),
        slowest.as_secs_f64(),
        memory.get(KINDS.len() - 1).copied().map_or(0.0, mib),
        memory
            .iter()
            .skip(KINDS.len())
            .copied()
            .max()
            .map_or(0.0, mib),
        end.map_or(0.0, mib),
    );
    if let (Some(first), Some(end)) = (memory.get(KINDS.len() - 1), end) {
        let more = end.saturating_sub(*first);
        assert!(more < MEMORY_KEPT, "{more} bytes did not come back");
    }
    assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) > 0));
}

/// Ends the streams, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
