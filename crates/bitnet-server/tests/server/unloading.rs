//! Models leave memory when nobody uses them any more, and until then nothing of them changes.

use std::sync::Arc;
use std::time::Duration;

use bitnet_server::Stopped;
use bitnet_server::model_manager::policy::ModelPolicy;
use bitnet_server::model_manager::unload::{UnloadOrder, unload};
use serde_json::{Value, json};

use crate::fixture::until;
use crate::managed::{Managed, swap_order};

const UNLOAD: &str = "/v1/models/stories/unload";

fn once() -> Value {
    json!({"prompt": "Once", "max_tokens": 1})
}

#[test]
fn unloading_waits_for_requests_and_the_next_one_loads_the_model_again() {
    let (managed, gate) = Managed::gated();
    gate.allow(3);
    let mut stream = managed.long_stream();
    let mut unload = managed.begin_as_admin("POST", UNLOAD, &Value::Null);
    until("it is leaving", || {
        managed.status("stories")["status"] == "unloading"
    });
    gate.open();
    let whole = stream.answer();
    assert_eq!(whole.status, 200);
    assert!(whole.body.ends_with("data: [DONE]\n\n") && !whole.body.contains("error"));
    let unloaded = unload.answer();
    assert_eq!(unloaded.status, 200, "{}", unloaded.body);
    assert_eq!(managed.status("stories")["status"], "unloaded");
    let again = managed.ask("POST", UNLOAD, &Value::Null);
    assert_eq!(again.status, 200, "it has left: {}", again.body);
    let answer = managed.ask("POST", "/v1/completions", &once());
    assert_eq!(answer.status, 200, "it is loaded again");
}

#[test]
fn a_server_that_ends_waits_for_requests_and_not_for_orders() {
    let (managed, gate) = Managed::gated();
    gate.allow(3);
    let mut stream = managed.long_stream();
    let mut unload = managed.begin_as_admin("POST", UNLOAD, &Value::Null);
    until("it is leaving", || {
        managed.status("stories")["status"] == "unloading"
    });
    managed.server.ask_to_stop();
    let told = unload.answer();
    assert!(told.is_error(503, "shutting_down"), "{}", told.body);
    let path = "/v1/models/load";
    let refused = managed.ask("POST", path, &json!({"model_path": "v2.gguf"}));
    assert!(refused.is_error(503, "shutting_down"), "{}", refused.body);
    let swap = managed.swap_to("v2.gguf");
    assert!(swap.is_error(503, "shutting_down"), "{}", swap.body);
    gate.open();
    let whole = stream.answer();
    assert!(whole.body.ends_with("data: [DONE]\n\n") && !whole.body.contains("error"));
    assert_eq!(managed.server.join(), Stopped::Drained);
}

#[test]
fn a_deleted_model_is_unknown_and_force_ends_its_requests() {
    let (managed, gate) = Managed::gated();
    let engine = Arc::downgrade(&managed.server.model().engine);
    gate.allow(3);
    let mut stream = managed.long_stream();
    let path = "/v1/models/stories?timeout_seconds=0&force=true";
    let forced = managed.ask("DELETE", path, &Value::Null);
    assert_eq!(forced.status, 200, "{}", forced.body);
    gate.open(); // the turn under way ends, and before the next one the requests do
    drop(gate);
    assert!(stream.answer().body.contains("was unloaded"));
    let unknown = managed.ask("GET", "/v1/models/stories/status", &Value::Null);
    assert!(unknown.is_error(404, "model_not_found"), "{}", unknown.body);
    until("its memory is free", || engine.strong_count() == 0);
    let gone = managed.ask("DELETE", "/v1/models/stories", &Value::Null);
    assert_eq!(gone.status, 404);
}

#[test]
fn an_unload_that_is_given_up_leaves_everything_as_it_was() {
    let managed = Managed::start();
    assert_eq!(managed.swap_to("v2.gguf").status, 200);
    let other = json!({"model_path": "v1.gguf", "model_id": "another"});
    let loaded = managed.ask("POST", "/v1/models/load?wait=true", &other);
    assert_eq!(loaded.status, 200, "{}", loaded.body);
    let loads = || {
        let metrics = managed.metrics();
        let line = "bitnet_model_load_duration_seconds_count{model=\"stories\"}";
        let line = metrics.lines().find(|found| found.starts_with(line));
        line.expect("it was loaded").to_owned()
    };
    let default = || managed.ask("POST", "/v1/completions", &once()).json()["model"].clone();
    let before = (
        loads(),
        managed.status("stories")["previous_version"].clone(),
    );
    assert_eq!(before.1, managed.version("v1.gguf"));

    let held = managed.server.model();
    for (method, path) in [("DELETE", "/v1/models/stories"), ("POST", UNLOAD)] {
        let path = format!("{path}?timeout_seconds=0");
        let refused = managed.ask(method, &path, &Value::Null);
        assert!(refused.is_error(409, "model_busy"), "{}", refused.body);
        assert_eq!(managed.status("stories")["status"], "loaded");
        assert_eq!(default(), "stories", "the default is the same");
        let now = (
            loads(),
            managed.status("stories")["previous_version"].clone(),
        );
        assert_eq!(now, before);
    }
    drop(held);
    let back = managed.ask("POST", "/v1/models/stories/rollback", &Value::Null);
    assert_eq!(back.json()["version"], managed.version("v1.gguf"));

    // A model that is gone for good is not the default any more.
    assert_eq!(
        managed
            .ask("DELETE", "/v1/models/stories", &Value::Null)
            .status,
        200
    );
    assert_eq!(default(), "another");
}

#[test]
fn an_unload_that_breaks_off_leaves_everything_as_it_was() {
    let managed = Managed::start();
    let held = managed.server.model();
    let order = UnloadOrder {
        timeout: Duration::from_secs(600),
        force: false,
        forget: true,
    };
    let unloading = unload(&managed.server.app, "stories", order);
    let broken_off = managed.server.runtime.block_on(async {
        tokio::select! {
            biased;
            ended = unloading => Some(ended),
            () = std::future::ready(()) => None,
        }
    });
    assert!(broken_off.is_none(), "the model is held");
    assert_eq!(managed.status("stories")["status"], "loaded");
    let answer = managed.ask("POST", "/v1/completions", &once());
    assert_eq!(answer.status, 200, "{}", answer.body);
    drop(held);
}

#[test]
fn a_model_that_is_leaving_takes_no_requests_and_no_other_orders() {
    let managed = Managed::start();
    let held = managed.server.model();
    let mut unload = managed.begin_as_admin("POST", UNLOAD, &Value::Null);
    until("it is leaving", || {
        managed.status("stories")["status"] == "unloading"
    });
    let refused = managed.ask("POST", "/v1/completions", &once());
    assert!(refused.is_error(503, "model_loading"), "{}", refused.body);
    let load = json!({"model_path": "v2.gguf", "model_id": "stories"});
    for (method, path, body) in [
        ("POST", "/v1/models/load", &load),
        ("POST", UNLOAD, &Value::Null),
        ("DELETE", "/v1/models/stories", &Value::Null),
        ("POST", "/v1/models/stories/rollback", &Value::Null),
    ] {
        let refused = managed.ask(method, path, body);
        assert!(
            refused.status == 409 || refused.status == 503,
            "{method} {path}: {}",
            refused.body
        );
    }
    let swap = managed.swap(&swap_order("v2.gguf"));
    assert!(swap.status == 409 || swap.status == 503, "{}", swap.body);
    assert_eq!(managed.status("stories")["status"], "unloading");
    drop(held);
    assert_eq!(unload.answer().status, 200);
    assert_eq!(managed.status("stories")["status"], "unloaded");
    let version =
        managed.ask("POST", "/v1/completions", &once()).json()["system_fingerprint"].clone();
    let first = &managed.version("v1.gguf")[..12];
    assert!(version.as_str().unwrap().contains(first), "{version}");
}

#[test]
fn a_version_that_is_kept_goes_in_time_also_when_an_unload_is_given_up_meanwhile() {
    let managed = Managed::with(|policy| ModelPolicy {
        keep_previous: Duration::from_millis(500),
        ..policy
    });
    let old = Arc::downgrade(&managed.server.model().engine);
    let mut order = swap_order("v2.gguf");
    order["swap_strategy"] = "blue_green".into();
    assert_eq!(managed.swap(&order).status, 200);
    let held = managed.server.model();
    let path = format!("{UNLOAD}?timeout_seconds=1.5");
    let refused = managed.ask("POST", &path, &Value::Null);
    assert!(refused.is_error(409, "model_busy"), "{}", refused.body);
    until("the old version is gone", || old.strong_count() == 0);
    assert_eq!(managed.status("stories")["status"], "loaded");
    drop(held);
}

#[test]
fn a_load_that_fails_leaves_no_model_of_its_name() {
    let managed = Managed::start();
    let load = |file| {
        let order = json!({"model_path": file, "model_id": "new"});
        managed.ask("POST", "/v1/models/load?wait=true", &order)
    };
    let refused = load("cut.gguf");
    assert!(
        refused.is_error(422, "model_incompatible"),
        "{}",
        refused.body
    );
    // Who started it without waiting learns what became of it; to everybody else there is no such model.
    let status = managed.status("new");
    assert_eq!(status["status"], "failed");
    assert_eq!(status["error"]["code"], "model_incompatible");
    let asked = json!({"model": "new", "prompt": "Once", "max_tokens": 1});
    let unknown = managed.ask_as_user("POST", "/v1/completions", &asked);
    assert!(unknown.is_error(404, "model_not_found"), "{}", unknown.body);
    let list = managed.ask_as_user("GET", "/v1/models", &Value::Null);
    assert!(!list.body.contains("\"new\""), "{}", list.body);
    // Administrators see it among the models, and not among those that may be named.
    let list = managed.ask("GET", "/v1/models", &Value::Null).json();
    assert_eq!(list["data"].as_array().unwrap().len(), 1, "{list}");
    let failed = &list["models"][1];
    assert_eq!(
        (&failed["id"], &failed["status"]),
        (&"new".into(), &"failed".into()),
        "{list}"
    );
    assert_eq!(failed["error"]["code"], "model_incompatible", "{list}");
    assert_eq!(load("v1.gguf").status, 200);
    assert_eq!(
        managed
            .ask_as_user("POST", "/v1/completions", &asked)
            .status,
        200
    );
}
