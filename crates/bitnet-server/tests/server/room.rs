//! Models are loaded by request and by need, and leave memory for each other.

use std::sync::Arc;
use std::time::Duration;

use bitnet_server::model_manager::policy::ModelPolicy;
use serde_json::{Value, json};

use crate::client::Answer;
use crate::fixture::until;
use crate::managed::{Managed, swap_order};

/// Bytes of weights of two models, and not of three.
const TWO_MODELS: u64 = 5_000_000;

/// Asks a model for a token.
fn ask(managed: &Managed, model: &str) -> Answer {
    let body = json!({"model": model, "prompt": "Once", "max_tokens": 1});
    managed.ask_as_user("POST", "/v1/completions", &body)
}

/// Asks a model for a token and waits until its request does not hold it any more, which is soon after its answer.
fn use_once(managed: &Managed, id: &str) {
    let answer = ask(managed, id);
    assert_eq!(answer.status, 200, "{}", answer.body);
    until("nobody uses it", || {
        let model = managed.server.app.models.get(Some(id)).unwrap();
        Arc::strong_count(&model) == 2 // the registry's and this one
    });
}

/// A server with a first model that stays, and others that are loaded when somebody asks for them.
fn with_spares(configured: &[(&str, &str)], min_residency: Duration) -> Managed {
    Managed::with(|policy| ModelPolicy {
        configured: configured
            .iter()
            .map(|&(id, file)| (id.to_owned(), policy.directories[0].join(file)))
            .collect(),
        pinned: vec!["stories".into()],
        cache_bytes: TWO_MODELS,
        min_residency,
        ..policy
    })
}

#[test]
fn requests_wait_for_one_loading_of_the_model_that_they_ask_for() {
    let managed = with_spares(&[("spare", "v2.gguf")], Duration::ZERO);
    assert_eq!(managed.status("spare")["status"], "unloaded");
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| ask(&managed, "spare").status))
            .collect();
        assert!(asked.into_iter().all(|asked| asked.join().unwrap() == 200));
    });
    let loads = "bitnet_model_load_duration_seconds_count{model=\"spare\"} 1";
    assert!(managed.metrics().contains(loads));
    assert_eq!(ask(&managed, "unknown").status, 404);
}

#[test]
fn a_configured_model_that_cannot_be_loaded_says_why_without_its_folder() {
    let managed = with_spares(&[("broken", "cut.gguf")], Duration::ZERO);
    let broken = ask(&managed, "broken");
    assert!(
        broken.is_error(422, "model_incompatible"),
        "{}",
        broken.body
    );
    assert!(!broken.body.contains(&managed.models.display().to_string()));
    assert_eq!(managed.status("broken")["status"], "failed");
    let managed = with_spares(&[("gone", "nowhere.gguf")], Duration::ZERO);
    let gone = ask(&managed, "gone");
    assert!(gone.is_error(422, "model_incompatible"), "{}", gone.body);
    let hint = &gone.json()["error"]["hint"];
    assert!(hint.as_str().unwrap().contains("put it back"), "{hint}");
}

#[test]
fn models_that_nobody_uses_make_room_and_come_back() {
    let managed = with_spares(&[("spare", "v2.gguf")], Duration::ZERO);
    use_once(&managed, "spare");
    let order = json!({"model_path": "v2.gguf", "model_id": "third"});
    let accepted = managed.ask("POST", "/v1/models/load", &order);
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    assert!(accepted.json()["job_id"].is_string());
    until("the third one is loaded", || {
        managed.status("third")["status"] == "loaded"
    });
    assert_eq!(managed.status("spare")["status"], "unloaded");
    assert_eq!(
        managed.status("stories")["status"],
        "loaded",
        "it is pinned"
    );
    let again = managed.ask("POST", "/v1/models/load?wait=true", &order);
    assert!(
        again.is_error(422, "model_already_loaded"),
        "{}",
        again.body
    );
    use_once(&managed, "third");
    assert_eq!(ask(&managed, "spare").status, 200, "it comes back");
}

#[test]
fn a_load_tells_how_the_model_was_validated_and_why_it_runs_as_it_does() {
    let managed = Managed::start();
    let order = json!({"model_path": "v1.gguf", "model_id": "waited",
        "validation_config": {"validation_samples": 1}, "quantization_format": "i2s"});
    let waited = managed.ask("POST", "/v1/models/load?wait=true", &order);
    let waited = waited.json();
    assert_eq!(waited["validation"]["samples"], 1);
    assert!(waited["decision"].as_str().unwrap().contains("i2s"));
    let list = managed.ask("GET", "/v1/models", &Value::Null).json();
    let listed = list["data"].as_array().unwrap();
    let ids: Vec<&Value> = listed.iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["stories", "waited"]);
}

#[test]
fn models_push_each_other_out_no_faster_than_they_may() {
    let spares = [("one", "v1.gguf"), ("two", "v2.gguf")];
    let managed = with_spares(&spares, Duration::from_secs(3600));
    use_once(&managed, "one");
    let refused = ask(&managed, "two");
    assert!(refused.is_error(503, "overloaded"), "{}", refused.body);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&wait), "{wait}");
    assert_eq!(managed.status("one")["status"], "loaded");
    assert_eq!(ask(&managed, "one").status, 200);
}

#[test]
fn the_bound_on_memory_holds_for_swaps_and_for_versions_that_are_kept() {
    let managed = with_spares(&[("spare", "v2.gguf")], Duration::ZERO);
    use_once(&managed, "spare");
    // The old version goes, so the new one has its room.
    assert_eq!(managed.swap_to("v2.gguf").status, 200);
    assert_eq!(managed.status("spare")["status"], "loaded");
    // Here it stays for a while, and both need room.
    let mut order = swap_order("v1.gguf");
    order["swap_strategy"] = "blue_green".into();
    assert_eq!(managed.swap(&order).status, 200);
    assert_eq!(managed.status("spare")["status"], "unloaded");
    let full = ask(&managed, "spare");
    assert!(full.is_error(503, "overloaded"), "{}", full.body);
}

#[test]
fn who_asks_for_what_pinned_models_leave_no_room_for_is_not_told_to_try_again() {
    let managed = Managed::with(|policy| ModelPolicy {
        configured: vec![("spare".into(), policy.directories[0].join("v2.gguf"))],
        pinned: vec!["stories".into()],
        cache_bytes: TWO_MODELS * 3 / 4,
        min_residency: Duration::ZERO,
        ..policy
    });
    let refused = ask(&managed, "spare");
    assert!(
        refused.is_error(422, "no_room_for_model"),
        "{}",
        refused.body
    );
    let error = &refused.json()["error"];
    assert_eq!(error["retryable"], false);
    assert!(refused.header("retry-after").is_none());
    let hint = error["hint"].as_str().unwrap();
    assert!(hint.contains("pin fewer models"), "{hint}");
    // The version that goes makes room; one that is kept does not, however long one waits.
    let mut order = swap_order("v2.gguf");
    order["swap_strategy"] = "blue_green".into();
    let refused = managed.swap(&order);
    assert!(
        refused.is_error(422, "no_room_for_model"),
        "{}",
        refused.body
    );
    assert_eq!(managed.swap_to("v2.gguf").status, 200);
}

#[test]
fn a_model_that_never_fits_pushes_nobody_out() {
    let managed = Managed::with(|policy| ModelPolicy {
        cache_bytes: TWO_MODELS / 5,
        ..policy
    });
    let refused = managed.swap_to("v2.gguf");
    assert!(
        refused.is_error(422, "no_room_for_model"),
        "{}",
        refused.body
    );
    assert_eq!(managed.status("stories")["status"], "loaded");
}
