//! A new version that fails after requests were sent to it: the old one answers again, by itself, and everybody is
//! told.
//!
//! Loading is what a test cannot make fail late, so the failing engine is put in where loading ends; everything after
//! that is the server's own.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bitnet_inference::{Engine, GenerateOptions};
use bitnet_server::LoadedModel;
use bitnet_server::error::{ApiError, ErrorCode};
use bitnet_server::model_manager::load::LoadMemory;
use bitnet_server::model_manager::policy::ModelPolicy;
use bitnet_server::model_manager::swap::{SwapOrder, SwapReport, SwapStrategy, Swapping};
use bitnet_server::model_manager::validate::ValidationPlan;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::device::engine_failing_after;
use crate::faults::Panicking;
use crate::fixture::{load_options, until};
use crate::managed::{Managed, SWAP, swap_order};

/// How the new version fails, after a few good passes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Failure {
    Panic,
    EveryPass,
}

/// Passes before it does.
const GOOD_PASSES: usize = 3;

fn new_version(managed: &Managed, failure: Failure) -> LoadedModel {
    let path = managed.models.join("v2.gguf");
    let (app, version) = (&managed.server.app, managed.version("v2.gguf"));
    let started = match failure {
        Failure::Panic => {
            let engine = Arc::new(Engine::load(&path, &load_options()).unwrap());
            let turns = Panicking::after(engine.clone(), GOOD_PASSES);
            LoadedModel::start_with("stories", engine, turns, Some(&version), app)
        }
        Failure::EveryPass => {
            let engine = engine_failing_after(GOOD_PASSES, &path, &load_options());
            LoadedModel::start("stories", engine, Some(&version), app)
        }
    };
    started.unwrap()
}

fn order(managed: &Managed, strategy: SwapStrategy) -> SwapOrder {
    let app = &managed.server.app;
    SwapOrder {
        id: "stories".into(),
        origin: app.manager.policy.origin(managed.models.join("v2.gguf")),
        plan: Some(ValidationPlan {
            samples: 1,
            min_accuracy: 1.0,
            min_cosine: 0.9999,
            timeout: Duration::from_secs(60),
        }),
        strategy,
        rollback_on_failure: true,
    }
}

/// Swaps to a version that will fail. What watches over it lives as long as `runtime`.
fn swap(
    managed: &Managed,
    runtime: &Runtime,
    strategy: SwapStrategy,
    failure: Failure,
) -> Result<SwapReport, ApiError> {
    let app = &managed.server.app;
    let order = order(managed, strategy);
    let loaded = Ok((new_version(managed, failure), LoadMemory::default()));
    runtime.block_on(async { Swapping::begin(app, order)?.end(loaded).await })
}

fn status(managed: &Managed) -> Value {
    let path = "/v1/models/stories/status";
    managed.ask("GET", path, &Value::Null).json()
}

fn ask(managed: &Managed) -> (u16, Value) {
    let body = json!({"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "seed": 1,
        "ignore_eos": true});
    let answer = managed.ask("POST", "/v1/completions", &body);
    // The requests of a version that fails fail; nobody is sent away, also while the old one is loaded again.
    assert!([200, 500].contains(&answer.status), "{}", answer.body);
    (answer.status, answer.json()["choices"].clone())
}

/// How often the server says that it went back.
fn has_gone_back(managed: &Managed, times: usize) -> bool {
    let metrics = managed.ask("GET", "/metrics", &Value::Null).body;
    metrics.contains(&format!(
        "bitnet_swap_total{{result=\"rolled_back\"}} {times}\n"
    ))
}

fn assert_that_the_old_version_serves(managed: &Managed, before: &Value) {
    let status = status(managed);
    assert_eq!(status["version"], managed.version("v1.gguf"));
    assert_eq!(status["status"], "loaded");
    let told = &status["last_rollback"];
    assert_eq!(told["failed_version"], managed.version("v2.gguf"));
    assert!(told["reason"].as_str().unwrap().contains("fail"), "{told}");
    assert!(told["at"].as_u64().unwrap() > 1_700_000_000, "{told}");
    assert_eq!(ask(managed), (200, before.clone()));
    assert_eq!(managed.server.get("/health/ready").status, 200);
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

/// Fails twice, in both ways, when all requests go to the new version.
fn fails_after_publication(managed: &Managed, strategy: SwapStrategy) {
    let (_, before) = ask(managed);
    let runtime = runtime();
    for (n_before, failure) in [Failure::Panic, Failure::EveryPass].into_iter().enumerate() {
        let report = swap(managed, &runtime, strategy, failure).unwrap();
        assert_eq!(report.version, Some(managed.version("v2.gguf")));
        until("the way back", || {
            ask(managed);
            has_gone_back(managed, n_before + 1)
        });
        assert_that_the_old_version_serves(managed, &before);
        let previous = status(managed)["previous_version"].clone();
        assert_eq!(
            previous,
            Value::Null,
            "nobody goes back to a version that failed"
        );
    }
    assert!(
        managed
            .ask("GET", "/metrics", &Value::Null)
            .body
            .contains("bitnet_swap_total{result=\"swapped\"} 2\n")
    );
}

#[test]
fn after_an_atomic_swap_the_old_version_is_loaded_again_when_the_new_one_fails() {
    fails_after_publication(&Managed::start(), SwapStrategy::Atomic);
}

#[test]
fn after_a_blue_green_swap_the_old_version_is_there_when_the_new_one_fails() {
    let managed = Managed::start();
    let engine = Arc::as_ptr(&managed.server.model().engine);
    fails_after_publication(&managed, SwapStrategy::BlueGreen);
    let now = Arc::as_ptr(&managed.server.model().engine);
    assert_eq!(engine, now, "it was kept, not loaded");
}

#[test]
fn after_a_rolling_swap_the_old_version_is_loaded_again_when_the_new_one_fails() {
    let managed = Managed::with(|policy| ModelPolicy {
        rolling_step: Duration::ZERO,
        ..policy
    });
    fails_after_publication(&managed, SwapStrategy::Rolling);
}

#[test]
fn a_rolling_swap_ends_when_the_new_version_fails_under_its_share() {
    let managed = Managed::with(|policy| ModelPolicy {
        rolling_step: Duration::from_secs(600), // it ends by the failure, or never
        ..policy
    });
    let (_, before) = ask(&managed);
    let runtime = runtime();
    for (n_before, failure) in [Failure::Panic, Failure::EveryPass].into_iter().enumerate() {
        let over = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    ask(&managed);
                }
            });
            let outcome = swap(&managed, &runtime, SwapStrategy::Rolling, failure);
            over.store(true, Ordering::Relaxed);
            asking.join().unwrap();
            outcome
        });
        let error = outcome.unwrap_err();
        assert_eq!(error.code, ErrorCode::ValidationFailed);
        assert!(error.message.contains("under 10 of a hundred"), "{error}");
        assert!(has_gone_back(&managed, n_before + 1));
        assert_that_the_old_version_serves(&managed, &before);
    }
}

#[test]
fn a_rolling_swap_that_breaks_off_leaves_nobody_at_the_new_version() {
    let managed = Managed::with(|policy| ModelPolicy {
        rolling_step: Duration::from_secs(600),
        ..policy
    });
    let (_, before) = ask(&managed);
    let app = &managed.server.app;
    let loaded = (new_version(&managed, Failure::Panic), LoadMemory::default());
    let ended = runtime().block_on(async {
        let swapping = Swapping::begin(app, order(&managed, SwapStrategy::Rolling)).unwrap();
        tokio::select! {
            biased;
            ended = swapping.end(Ok(loaded)) => Some(ended),
            () = std::future::ready(()) => None,
        }
    });
    assert!(ended.is_none(), "its first step takes ten minutes");
    let status = status(&managed);
    assert_eq!(
        (&status["rolling_percent"], &status["progress"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(ask(&managed), (200, before));
}

/// A log that a test reads.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// How often it says that the server goes back.
    fn ways_back(&self) -> usize {
        let bytes = self.0.lock().unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        text.matches("going back").count()
    }
}

#[test]
fn a_version_that_fails_while_it_is_swapped_gives_its_place_back_after_that_and_says_so_once() {
    let managed = Managed::with(|policy| ModelPolicy {
        rollback_period: Duration::ZERO, // it is over when the failure is seen
        ..policy
    });
    let (_, before) = ask(&managed);
    let app = &managed.server.app;
    let model = new_version(&managed, Failure::Panic);
    let options = GenerateOptions {
        max_tokens: Some(16),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let request = model.engine.check(&[1u32][..], &options);
    let (sender, _updates) = tokio::sync::mpsc::channel(64);
    let _ticket = model.handle.submit(request.unwrap(), 0, sender);
    until("its engine fails", || model.handle.health().failed);

    let lines = Lines::default();
    // Two of them: of one alone tracing asks the thread that is the first to come by an event, and others than this
    // have none.
    let [to_lines, _other] = [lines.clone(), Lines::default()].map(|lines| {
        let subscriber = tracing_subscriber::fmt().with_writer(move || lines.clone());
        tracing::Dispatch::new(subscriber.finish())
    });
    let _logging = tracing::dispatcher::set_default(&to_lines);
    // On one thread, this one: what is logged goes to `lines`, and nobody looks before the second swap has begun.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let loaded = Ok((model, LoadMemory::default()));
        let first = Swapping::begin(app, order(&managed, SwapStrategy::Atomic)).unwrap();
        first.end(loaded).await.unwrap();
        let second = Swapping::begin(app, order(&managed, SwapStrategy::Atomic)).unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await; // two looks
        assert_eq!(lines.ways_back(), 0, "it cannot go back yet");
        let refused = ApiError::new(ErrorCode::ValidationFailed, "refused by the test");
        second.end(Err(refused)).await.unwrap_err();
        let end = Instant::now() + Duration::from_secs(30);
        while !has_gone_back(&managed, 1) {
            assert!(Instant::now() < end, "it never went back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(lines.ways_back(), 1);
    assert_that_the_old_version_serves(&managed, &before);
}

#[test]
fn when_the_old_version_does_not_come_back_the_new_one_stays_and_the_probes_tell() {
    let managed = Managed::start();
    let runtime = runtime();
    swap(&managed, &runtime, SwapStrategy::Atomic, Failure::Panic).unwrap();
    std::fs::remove_file(managed.models.join("v1.gguf")).unwrap();
    until("the failure to go back", || {
        let body = json!({"prompt": "Once", "max_tokens": 8, "ignore_eos": true});
        managed.ask("POST", "/v1/completions", &body);
        let metrics = managed.ask("GET", "/metrics", &Value::Null).body;
        metrics.contains("bitnet_swap_total{result=\"model_incompatible\"} 1\n")
    });
    let status = status(&managed);
    assert_eq!(status["status"], "failed");
    assert_eq!(status["version"], managed.version("v2.gguf"));
    assert_eq!(managed.server.get("/health/live").status, 503);
}

#[test]
fn swaps_that_are_refused_and_rollbacks_that_fail_are_counted_by_their_codes() {
    let managed = Managed::start();
    let count = |code: &str| {
        let metrics = managed.ask("GET", "/metrics", &Value::Null).body;
        let sample = format!("bitnet_swap_total{{result=\"{code}\"}} ");
        let found = metrics.lines().find_map(|line| line.strip_prefix(&sample));
        found.map_or(0, |count| count.parse().unwrap())
    };
    let nothing_before = managed.ask("POST", "/v1/models/stories/rollback", &Value::Null);
    assert!(nothing_before.is_error(422, "no_previous_version"));
    assert_eq!(count("no_previous_version"), 1);
    let nobody = managed.ask("POST", "/v1/models/nobody/rollback", &Value::Null);
    assert!(nobody.is_error(404, "model_not_found"));
    let mut order = swap_order("v2.gguf");
    order["target_model_id"] = "nobody".into();
    assert!(
        managed
            .ask("POST", SWAP, &order)
            .is_error(404, "model_not_found")
    );
    assert_eq!(count("model_not_found"), 2);
}
