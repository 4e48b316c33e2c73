//! Orders about models say what they mean: what is misspelt in one is refused, and nothing is done.

use std::time::Duration;

use bitnet_server::model_manager::sleep::put_to_sleep;
use serde_json::{Value, json};

use crate::fixture::until;
use crate::managed::{Managed, SWAP, swap_order};

const LOAD: &str = "/v1/models/load";
const UNLOAD: &str = "/v1/models/stories/unload";

#[test]
fn an_order_for_what_is_being_loaded_already_is_given_that_load() {
    let managed = Managed::start();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let turn = runtime.unwrap().block_on(managed.server.app.manager.turn());
    let order = |file: &str| json!({"model_path": file, "model_id": "next"});
    let begin = |order: &Value| managed.ask("POST", LOAD, order);
    let first = begin(&order("v2.gguf"));
    assert_eq!(first.status, 202, "{}", first.body);
    let job = first.json()["job_id"].clone();
    let second = begin(&order("v2.gguf"));
    assert_eq!(
        (second.status, &second.json()["job_id"]),
        (202, &job),
        "{}",
        second.body
    );
    // What is loaded is not what these want.
    let mut validated = order("v2.gguf");
    validated["validation_config"] = json!({"validation_samples": 1});
    let mut other_kernel = order("v2.gguf");
    other_kernel["quantization_format"] = "i2s".into();
    for other in [order("v1.gguf"), validated, other_kernel] {
        let busy = begin(&other);
        assert!(busy.is_error(409, "model_busy"), "{}", busy.body);
        assert!(busy.body.contains("in another way"), "{}", busy.body);
    }
    std::thread::scope(|scope| {
        let waits = format!("{LOAD}?wait=true");
        let managed = &managed;
        let waiting = scope.spawn(move || managed.ask("POST", &waits, &order("v2.gguf")));
        drop(turn);
        let loaded = waiting.join().unwrap();
        assert_eq!(loaded.json()["status"], "loaded", "{}", loaded.body);
    });
}

#[test]
fn what_nobody_knows_in_an_order_is_refused_by_name_and_nothing_is_done() {
    let managed = Managed::start();
    let swap = |name: &str, value: Value| {
        let mut order = swap_order("v2.gguf");
        order[name] = value;
        order
    };
    let load =
        |name: &str, value: Value| json!({"model_path": "v2.gguf", "model_id": "new", name: value});
    let (rollback, model) = ("/v1/models/stories/rollback", "/v1/models/stories");
    for (method, path, order, param, hint) in [
        (
            "POST",
            SWAP,
            swap("swap_stratgy", json!("rolling")),
            "swap_stratgy",
            "swap_strategy?",
        ),
        (
            "POST",
            SWAP,
            swap("strategy", json!("rolling")),
            "strategy",
            "swap_strategy",
        ),
        (
            "POST",
            SWAP,
            swap("validation_samples", json!(100)),
            "validation_samples",
            "validation_config",
        ),
        (
            "POST",
            SWAP,
            swap("rollback_on_failures", Value::Null),
            "rollback_on_failures",
            "rollback_on_failure?",
        ),
        (
            "POST",
            SWAP,
            swap("validation_config", json!({"min_acuracy": 1})),
            "validation_config.min_acuracy",
            "validation_config.min_accuracy?",
        ),
        (
            "POST",
            LOAD,
            load("wait", json!(true)),
            "wait",
            "leave it out",
        ),
        (
            "POST",
            LOAD,
            load("device_prefrence", json!("cpu")),
            "device_prefrence",
            "device_preference?",
        ),
        (
            "POST",
            "/v1/models/load?wit=true",
            load("model_id", json!("new")),
            "wit",
            "wait?",
        ),
        (
            "POST",
            "/v1/models/swap?force=true",
            swap_order("v2.gguf"),
            "force",
            "nothing",
        ),
        (
            "POST",
            "/v1/models/stories/rollback?force=true",
            Value::Null,
            "force",
            "nothing",
        ),
        (
            "POST",
            rollback,
            json!({"version": "1"}),
            "version",
            "nothing",
        ),
        ("POST", UNLOAD, json!({"force": true}), "force", "nothing"),
        (
            "POST",
            "/v1/models/stories/unload?timeout=5",
            Value::Null,
            "timeout",
            "timeout_seconds",
        ),
        (
            "DELETE",
            "/v1/models/stories?forced=true",
            Value::Null,
            "forced",
            "force?",
        ),
        ("DELETE", model, json!({"force": true}), "force", "nothing"),
    ] {
        let refused = managed.ask(method, path, &order);
        let code = "unsupported_parameter";
        assert!(
            refused.is_error(400, code),
            "{method} {path} {order}: {}",
            refused.body
        );
        let error = &refused.json()["error"];
        assert_eq!(error["param"], param, "{method} {path}");
        let told = error["hint"].as_str().unwrap();
        assert!(told.contains(hint), "{param}: {told}");
    }
    let new = managed.ask("GET", "/v1/models/new/status", &Value::Null);
    assert_eq!(new.status, 404, "nothing was loaded");
    let status = managed.status("stories");
    assert_eq!(status["status"], "loaded");
    assert_eq!(status["version"], managed.version("v1.gguf"));
}

#[test]
fn values_that_an_order_cannot_have_are_refused_also_where_they_would_not_be_used() {
    let managed = Managed::start();
    let unused = json!({"enable_cross_validation": false, "min_cosine": 7});
    for (name, value, param) in [
        ("swap_strategy", json!("canary"), "swap_strategy"),
        ("device_preference", json!("tpu"), "device_preference"),
        ("quantization_format", json!("q4"), "quantization_format"),
        ("validation_config", unused, "min_cosine"),
    ] {
        let mut order = swap_order("v2.gguf");
        order[name] = value;
        let refused = managed.swap(&order);
        assert!(
            refused.is_error(400, "invalid_value"),
            "{name}: {}",
            refused.body
        );
        assert_eq!(refused.json()["error"]["param"], param);
    }
    for (path, param) in [
        ("/v1/models/stories/unload?force=yes", "force"),
        ("/v1/models/stories/unload?force=true&force=false", "force"),
        (
            "/v1/models/stories/unload?timeout_seconds=soon",
            "timeout_seconds",
        ),
    ] {
        let refused = managed.ask("POST", path, &Value::Null);
        assert!(
            refused.is_error(400, "invalid_value"),
            "{path}: {}",
            refused.body
        );
        assert_eq!(refused.json()["error"]["param"], param);
    }
    assert_eq!(managed.status("stories")["status"], "loaded");
    assert_eq!(
        managed.status("stories")["version"],
        managed.version("v1.gguf")
    );
}

#[test]
fn an_order_that_is_refused_wakes_no_model() {
    let managed = Managed::start();
    let app = &managed.server.app;
    until("it sleeps", || {
        put_to_sleep(app, Duration::ZERO);
        app.models.sleeping() == ["stories"]
    });
    let mut order = swap_order("v2.gguf");
    order["swap_strategy"] = "canary".into();
    let refused = managed.swap(&order);
    assert!(refused.is_error(400, "invalid_value"), "{}", refused.body);
    assert_eq!(managed.status("stories")["status"], "sleeping");
    assert_eq!(managed.swap_to("v2.gguf").status, 200);
}

#[test]
fn a_server_that_ends_loads_nothing_and_waits_for_no_load() {
    let managed = Managed::start();
    let server = &managed.server;
    until("it sleeps", || {
        put_to_sleep(&server.app, Duration::ZERO);
        server.app.models.sleeping() == ["stories"]
    });
    let turn = server.runtime.block_on(server.app.manager.turn());
    // Both wait for a model whose turn does not come.
    let mut swap = managed.begin_as_admin("POST", SWAP, &swap_order("v2.gguf"));
    until("it is being woken", || {
        managed.status("stories")["status"] == "loading"
    });
    let prompt = json!({"prompt": "Once", "max_tokens": 1});
    let mut waiting = managed.begin_as_admin("POST", "/v1/completions", &prompt);
    server.app.start_draining();
    for answer in [swap.answer(), waiting.answer()] {
        assert!(answer.is_error(503, "shutting_down"), "{}", answer.body);
    }
    drop(turn);
    until("it is loaded", || {
        managed.status("stories")["status"] == "loaded"
    });
    until("it sleeps", || {
        put_to_sleep(&server.app, Duration::ZERO);
        server.app.models.sleeping() == ["stories"]
    });
    let refused = managed.ask("POST", "/v1/completions", &prompt);
    assert!(refused.is_error(503, "shutting_down"), "{}", refused.body);
    assert_eq!(managed.status("stories")["status"], "sleeping");
}

#[test]
fn the_examples_of_the_documents_have_every_field_and_are_taken() {
    let managed = Managed::start();
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/models.md"))
            .unwrap();
    let examples: Vec<Value> = text
        .split("```json\n")
        .skip(1)
        .map(|rest| serde_json::from_str(rest.split("```").next().unwrap()).unwrap())
        .collect();
    let [load, swap] = &examples[..] else {
        panic!("two orders are shown, not {}", examples.len());
    };
    assert!(load.as_object().unwrap().len() == 5 && swap.as_object().unwrap().len() == 9);
    let (mut load, mut swap) = (load.clone(), swap.clone());
    (load["model_path"], load["model_id"]) = ("v2.gguf".into(), "new".into());
    let loaded = managed.ask("POST", "/v1/models/load?wait=true", &load);
    assert_eq!(loaded.status, 200, "{}", loaded.body);
    (swap["new_model_path"], swap["target_model_id"]) = ("v2.gguf".into(), "stories".into());
    let swapped = managed.swap(&swap);
    assert_eq!(swapped.status, 200, "{}", swapped.body);
    let bare_object = managed.ask("POST", UNLOAD, &json!({}));
    assert_eq!(bare_object.status, 200, "{}", bare_object.body);
}
