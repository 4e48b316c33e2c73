//! Models that nobody asks for leave memory, and no request notices.

use std::sync::Arc;
use std::time::Duration;

use bitnet_server::model_manager::policy::ModelPolicy;
use bitnet_server::model_manager::sleep::put_to_sleep;
use bitnet_server::model_manager::start_load;
use serde_json::{Value, json};

use crate::fixture::until;
use crate::managed::Managed;

fn with_time(pinned: &[&str]) -> Managed {
    Managed::with(|policy| ModelPolicy {
        keep_alive: Some(Duration::ZERO),
        pinned: pinned.iter().map(|&id| id.to_owned()).collect(),
        ..policy
    })
}

fn prompt(n: usize) -> Value {
    json!({"prompt": "Once upon a time", "max_tokens": n, "temperature": 0, "seed": 1, "ignore_eos": true})
}

fn status(managed: &Managed, id: &str) -> Value {
    let path = format!("/v1/models/{id}/status");
    managed.ask("GET", &path, &Value::Null).json()
}

/// One look, which finds every model's time come.
fn look(managed: &Managed) {
    put_to_sleep(&managed.server.app, Duration::ZERO);
}

/// Sleeps as soon as nobody holds the model any more.
fn asleep(managed: &Managed, id: &str) {
    let sleeps = || {
        managed
            .server
            .app
            .models
            .sleeping()
            .contains(&id.to_owned())
    };
    until("it sleeps", || {
        look(managed);
        sleeps()
    });
}

#[test]
fn a_model_that_nobody_asks_for_sleeps_and_the_next_request_wakes_it() {
    let managed = with_time(&[]);
    let text = || {
        managed
            .ask_as_user("POST", "/v1/completions", &prompt(8))
            .json()["choices"]
            .clone()
    };
    let expected = text();
    let before = status(&managed, "stories");
    assert_eq!(
        (&before["status"], &before["asleep_since"]),
        (&json!("loaded"), &Value::Null)
    );
    assert_eq!(before["keep_alive_seconds"], 0.0);

    let engine = Arc::downgrade(&managed.server.model().engine);
    asleep(&managed, "stories");
    until("its memory is free", || engine.strong_count() == 0);
    let sleeping = status(&managed, "stories");
    assert_eq!(sleeping["status"], "sleeping");
    assert_eq!(sleeping["version"], before["version"]);
    assert!(sleeping["asleep_since"].is_u64(), "{sleeping}");
    let metrics = || managed.ask("GET", "/metrics", &Value::Null).body;
    let told = metrics();
    for line in [
        "bitnet_model_sleeping{model=\"stories\"} 1",
        "bitnet_model_unloads_total{reason=\"idle\"} 1",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    // It takes requests: whoever balances load must not leave it alone.
    assert_eq!(managed.server.get("/health/ready").status, 200);
    assert_eq!(managed.server.get("/health/startup").status, 200);
    let health = managed.ask("GET", "/health", &Value::Null).json();
    assert_eq!(health["components"]["stories"]["status"], "sleeping");

    assert_eq!(text(), expected);
    let awake = status(&managed, "stories");
    assert_eq!(
        (&awake["status"], &awake["version"]),
        (&json!("loaded"), &before["version"])
    );
    assert!(!metrics().contains("bitnet_model_sleeping{"));
}

#[test]
fn whoever_holds_the_model_keeps_it_awake() {
    let managed = with_time(&[]);
    let held = managed.server.model();
    look(&managed);
    assert_eq!(status(&managed, "stories")["status"], "loaded");
    drop(held);
    asleep(&managed, "stories");
}

#[test]
fn a_woken_model_stays_for_those_who_wait_for_it() {
    let managed = with_time(&[]);
    let app = &managed.server.app;
    let origin = app.models.origin_of("stories").unwrap();
    asleep(&managed, "stories");
    let (job, awaited) = {
        let _entered = managed.server.runtime.enter();
        start_load(app, "stories", origin, None).unwrap()
    };
    managed.server.runtime.block_on(job.ended()).unwrap();
    look(&managed);
    assert_eq!(status(&managed, "stories")["status"], "loaded");
    drop(awaited);
    asleep(&managed, "stories");
}

#[test]
fn a_model_that_does_not_wake_is_told_and_the_server_stays_started() {
    let managed = with_time(&[]);
    asleep(&managed, "stories");
    std::fs::remove_file(managed.models.join("v1.gguf")).unwrap();
    let refused = managed.ask_as_user("POST", "/v1/completions", &prompt(1));
    assert!(
        refused.is_error(422, "model_incompatible"),
        "{}",
        refused.body
    );
    assert_eq!(status(&managed, "stories")["status"], "failed");
    assert_eq!(managed.server.get("/health/startup").status, 200);
}

#[test]
fn no_request_is_lost_in_the_moment_of_falling_asleep() {
    let managed = with_time(&[]);
    let ask = || managed.ask_as_user("POST", "/v1/completions", &prompt(4));
    let expected = ask().json()["choices"].clone();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..8 {
                        let answer = ask();
                        assert_eq!(answer.status, 200, "{}", answer.body);
                        assert_eq!(answer.json()["choices"], expected);
                    }
                })
            })
            .collect();
        // As often as it can be, so that it falls between any two steps of a request.
        while !clients.iter().all(|client| client.is_finished()) {
            look(&managed);
            std::thread::yield_now();
        }
    });
    asleep(&managed, "stories");
    assert_eq!(ask().json()["choices"], expected);
}

#[test]
fn pinned_models_never_sleep_and_sleeping_ones_can_be_swapped_and_unloaded() {
    let managed = with_time(&["stories"]);
    let load = json!({"model_path": "v2.gguf", "model_id": "other"});
    let loaded = managed.ask("POST", "/v1/models/load?wait=true", &load);
    assert_eq!(loaded.json()["keep_alive_seconds"], 0.0);
    assert_eq!(
        status(&managed, "stories")["keep_alive_seconds"],
        Value::Null
    );
    asleep(&managed, "other");
    assert_eq!(managed.server.app.models.sleeping(), ["other"]);
    assert_eq!(status(&managed, "stories")["status"], "loaded");

    let swapped = managed.ask(
        "POST",
        "/v1/models/swap",
        &json!({
            "new_model_path": "v1.gguf", "target_model_id": "other",
            "validation_config": {"validation_samples": 1}
        }),
    );
    assert_eq!(swapped.status, 200, "{}", swapped.body);
    asleep(&managed, "other");
    let version = managed.version("v1.gguf");
    assert_eq!(status(&managed, "other")["version"], version);
    let unloaded = managed.ask("POST", "/v1/models/other/unload", &Value::Null);
    assert_eq!(unloaded.status, 200, "{}", unloaded.body);
    assert_eq!(status(&managed, "other")["status"], "unloaded");
    let metrics = managed.ask("GET", "/metrics", &Value::Null).body;
    assert!(!metrics.contains("bitnet_model_sleeping{"), "{metrics}");
    let named = json!({"model": "other", "prompt": "Once", "max_tokens": 1});
    assert_eq!(managed.ask("POST", "/v1/completions", &named).status, 200);
}
