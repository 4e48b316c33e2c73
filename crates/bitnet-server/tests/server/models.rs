//! Models come and go while requests run.

use std::time::Duration;

use bitnet_inference::LoadOptions;
use bitnet_server::model_manager::policy::{ModelOrigin, ModelPolicy};
use serde_json::{Value, json};

use crate::fixture::until;
use crate::managed::{Managed, SWAP, swap_order};

fn prompt() -> Value {
    json!({"prompt": "Once upon a time", "max_tokens": 30, "temperature": 0, "seed": 1, "ignore_eos": true})
}

#[test]
fn a_name_is_given_to_no_other_file_without_a_word() {
    let managed = Managed::with(|policy| ModelPolicy {
        configured: ["spare", "broken"]
            .map(|id| (id.to_owned(), policy.directories[0].join("cut.gguf")))
            .into(),
        ..policy
    });
    let load = |order: &Value| managed.ask("POST", "/v1/models/load?wait=true", order);
    let order = |file: &str, id: &str| json!({"model_path": file, "model_id": id});
    let refused = load(&order("family.gguf", "spare"));
    assert!(refused.is_error(422, "model_id_taken"), "{}", refused.body);
    let error = &refused.json()["error"];
    let (message, hint) = (error["message"].as_str(), error["hint"].as_str());
    let (message, hint) = (message.unwrap(), hint.unwrap());
    assert!(
        message.contains("'spare' means cut.gguf, not family.gguf"),
        "{message}"
    );
    assert!(
        !message.contains(&managed.models.display().to_string()),
        "{message}"
    );
    assert!(hint.contains("/v1/models/swap"), "{hint}");
    assert_eq!(managed.status("spare")["status"], "unloaded");
    // A swap has nothing to hold another file against, and does not speak as if that one were broken.
    let swap = json!({"target_model_id": "spare", "new_model_path": "v2.gguf"});
    let refused = managed.swap(&swap);
    assert!(
        refused.is_error(422, "model_incompatible"),
        "{}",
        refused.body
    );
    let error = &refused.json()["error"];
    let message = error["message"].as_str().unwrap();
    let old = "the model that 'spare' means now cannot be loaded";
    assert!(message.contains(old), "{message}");
    assert!(
        error["hint"].as_str().unwrap().contains("DELETE"),
        "{error}"
    );
    // Its own file is no other one, however it is written; nor does a load that failed give the name free.
    let itself = managed.models.join("cut.gguf");
    let itself = load(&order(itself.to_str().unwrap(), "spare"));
    assert!(
        itself.is_error(422, "model_incompatible"),
        "{}",
        itself.body
    );
    let refused = load(&order("v2.gguf", "spare"));
    assert!(refused.is_error(422, "model_id_taken"), "{}", refused.body);
    // The first model, out of memory: it is loaded again from where it was.
    let unload = "/v1/models/stories/unload";
    assert_eq!(managed.ask("POST", unload, &Value::Null).status, 200);
    let refused = load(&order("v2.gguf", "stories"));
    assert!(refused.is_error(422, "model_id_taken"), "{}", refused.body);
    // One that is forgotten is nobody's name.
    let forgotten = managed.ask("DELETE", "/v1/models/broken", &Value::Null);
    assert_eq!(forgotten.status, 200, "{}", forgotten.body);
    assert_eq!(load(&order("v2.gguf", "broken")).status, 200);
}

#[test]
fn a_configured_name_that_was_freed_still_means_what_is_configured() {
    let managed = Managed::with(|policy| ModelPolicy {
        configured: vec![("spare".into(), policy.directories[0].join("v2.gguf"))],
        ..policy
    });
    let forgotten = managed.ask("DELETE", "/v1/models/spare", &Value::Null);
    assert_eq!(forgotten.status, 200, "{}", forgotten.body);
    let request = json!({"model": "spare", "prompt": "Once", "max_tokens": 1});
    let asked = managed.ask("POST", "/v1/inference", &request);
    assert!(asked.is_error(404, "model_not_found"), "{}", asked.body);
    let order = json!({"model_id": "spare"});
    let loaded = managed.ask("POST", "/v1/models/load?wait=true", &order);
    assert_eq!(loaded.status, 200, "{}", loaded.body);
}

#[test]
fn a_load_that_failed_is_tried_again_with_its_file() {
    let managed = Managed::start();
    let load = |order: Value| managed.ask("POST", "/v1/models/load?wait=true", &order);
    let failed = load(json!({"model_path": "cut.gguf", "model_id": "next"}));
    assert!(
        failed.is_error(422, "model_incompatible"),
        "{}",
        failed.body
    );
    let nowhere = load(json!({"model_id": "next"}));
    assert!(nowhere.is_error(400, "missing_field"), "{}", nowhere.body);
    let error = &nowhere.json()["error"];
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("'next' has never been loaded"),
        "{message}"
    );
    assert!(message.contains("cut.gguf"), "{message}");
    let hint = error["hint"].as_str().unwrap();
    // The order is whole: sent as it is written it tries again.
    let (_, order) = hint.split_once("POST /v1/models/load ").unwrap();
    let again = load(serde_json::from_str(order).unwrap());
    assert!(again.is_error(422, "model_incompatible"), "{}", again.body);
    let listed = managed.ask("GET", "/v1/models", &Value::Null).json();
    let next = &listed["models"][1];
    let path = managed.models.join("cut.gguf").display().to_string();
    assert_eq!((&next["id"], &next["path"]), (&"next".into(), &path.into()));
    let loaded = load(json!({"model_path": "v2.gguf", "model_id": "next"}));
    assert_eq!(loaded.status, 200, "{}", loaded.body);
}

#[test]
fn a_server_that_drains_still_lists_its_models_and_says_so() {
    let managed = Managed::start();
    let list = || managed.ask("GET", "/v1/models", &Value::Null).json();
    assert_eq!(list()["draining"], false);
    managed.server.app.start_draining();
    let listed = list();
    assert_eq!(listed["draining"], true);
    assert_eq!(listed["models"][0]["id"], "stories");
    let files = managed.ask("GET", "/v1/model_files", &Value::Null).json();
    assert_eq!(files["draining"], true);
}

#[test]
fn the_version_of_a_model_is_its_hash_in_fingerprints_metrics_and_status() {
    let managed = Managed::start();
    let version = managed.version("v1.gguf");
    let answer = managed.ask("POST", "/v1/completions", &prompt()).json();
    let fingerprint = answer["system_fingerprint"].as_str().unwrap();
    assert!(fingerprint.contains(&version[..12]), "{fingerprint}");
    let metrics = managed.metrics();
    let label = format!("bitnet_model_info{{model=\"stories\",hash=\"{version}\"");
    assert!(metrics.contains(&label), "{metrics}");
    assert_eq!(managed.status("stories")["version"], version);
}

#[test]
fn a_swap_puts_a_validated_version_in_place_and_a_rollback_brings_the_old_one_back() {
    let managed = Managed::start();
    let text = || managed.ask("POST", "/v1/completions", &prompt()).json()["choices"].clone();
    let first = text();
    let inference = json!({"prompt": "Once", "max_tokens": 1});
    let metrics =
        || managed.ask("POST", "/v1/inference", &inference).json()["accuracy_metrics"].clone();
    assert_eq!(metrics(), Value::Null);

    let swapped = managed.swap_to("v2.gguf");
    assert_eq!(swapped.status, 200, "{}", swapped.body);
    let report = swapped.json();
    assert_eq!(report["version"], managed.version("v2.gguf"));
    assert_eq!(report["previous_version"], managed.version("v1.gguf"));
    assert_eq!(report["validation"]["top1_agreement"], 1.0);
    if cfg!(target_os = "linux") {
        let bytes = |field: &str| report["memory"][field].as_u64().unwrap();
        assert!(bytes("peak_bytes") >= bytes("before_bytes").max(bytes("after_bytes")));
        let temporary = report["temporary_bytes"].as_u64().unwrap();
        assert_eq!(temporary, bytes("peak_bytes") - bytes("before_bytes"));
    }
    let second = text();
    assert_ne!(first, second, "the versions differ");
    assert_eq!(metrics()["quantization_accuracy"], 1.0);
    assert!(metrics()["cross_validation_score"].as_f64().unwrap() > 0.9999);

    let back = managed.ask("POST", "/v1/models/stories/rollback", &Value::Null);
    assert_eq!(back.status, 200, "{}", back.body);
    assert_eq!(back.json()["version"], managed.version("v1.gguf"));
    assert_eq!(text(), first);

    // An order that is sent twice does not bring back what was left.
    let again = managed.ask("POST", "/v1/models/stories/rollback", &Value::Null);
    assert!(again.is_error(422, "no_previous_version"), "{}", again.body);
    let hint = again.json()["error"]["hint"].clone();
    assert!(hint.as_str().unwrap().contains("/v1/models/swap"), "{hint}");
    assert_eq!(managed.status("stories")["previous_version"], Value::Null);
    assert_eq!(text(), first);
}

#[test]
fn what_is_no_model_is_told_in_figures_and_changes_nothing() {
    let managed = Managed::start();
    let before = managed.status("stories")["version"].clone();
    for (file, status, code) in [
        ("cut.gguf", 422, "model_incompatible"),
        ("text.gguf", 422, "model_incompatible"),
        ("family.gguf", 422, "model_incompatible"),
        ("nan.gguf", 422, "validation_failed"),
        ("nothing.gguf", 403, "model_not_allowed"),
        ("../keys.json", 403, "model_not_allowed"),
    ] {
        let refused = managed.swap_to(file);
        assert_eq!(refused.status, status, "{file}: {}", refused.body);
        let error = &refused.json()["error"];
        assert_eq!(error["code"], code, "{file}");
        let folder = managed.models.display().to_string();
        assert!(!refused.body.contains(&folder), "{}", refused.body);
    }
    let details = |file| managed.swap_to(file).json()["error"]["details"].clone();
    let cut = details("cut.gguf");
    assert!(
        cut["offset"].is_u64() && cut["expected"].is_string() && cut["found"].is_string(),
        "{cut}"
    );
    assert!(cut["tensor"].is_string(), "{cut}");
    let text = details("text.gguf");
    assert_eq!(
        (&text["kind"], &text["offset"]),
        (&"not-a-model".into(), &0.into()),
        "{text}"
    );
    assert_eq!(
        details("family.gguf"),
        json!({"expected": "bitnet-b1.58", "found": "qwen3"})
    );
    assert_eq!(details("nan.gguf")["top1_agreement"], 0.0);

    let mut slow = swap_order("v2.gguf");
    slow["validation_timeout_seconds"] = 0.into();
    let slow = managed.swap(&slow);
    assert_eq!(
        (slow.status, &slow.json()["error"]["code"]),
        (504, &json!("validation_timeout"))
    );

    let mut strict = swap_order("v2.gguf");
    strict["device_preference"] = "gpu".into();
    assert_eq!(managed.swap(&strict).status, 422);
    strict["device_preference"] = "auto".into();
    strict["quantization_format"] = "tl1".into();
    assert_eq!(managed.swap(&strict).status, 422);

    assert_eq!(managed.status("stories")["version"], before);
    assert_eq!(
        managed.ask("POST", "/v1/completions", &prompt()).status,
        200
    );
    let metrics = managed.metrics();
    for line in [
        "bitnet_swap_total{result=\"validation_failed\"} 2",
        "bitnet_swap_total{result=\"validation_timeout\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[test]
fn blue_green_keeps_the_old_version_and_rolling_shares_requests_first() {
    let managed = Managed::with(|policy| ModelPolicy {
        rolling_step: Duration::from_secs(3),
        ..policy
    });
    let mut order = swap_order("v2.gguf");
    order["swap_strategy"] = "blue_green".into();
    assert_eq!(managed.swap(&order).status, 200);
    let back = managed
        .ask("POST", "/v1/models/stories/rollback", &Value::Null)
        .json();
    assert_eq!(back["version"], managed.version("v1.gguf"));
    assert_eq!(
        back["memory"]["peak_bytes"],
        Value::Null,
        "nothing was loaded"
    );

    let again = managed.ask("POST", "/v1/models/stories/rollback", &Value::Null);
    assert!(again.is_error(422, "no_previous_version"), "{}", again.body);

    order["swap_strategy"] = "rolling".into();
    std::thread::scope(|scope| {
        let swap = scope.spawn(|| managed.swap(&order));
        until("half of the requests go to the new version", || {
            managed.status("stories")["rolling_percent"] == 50
        });
        let one = json!({"prompt": "Once", "max_tokens": 1});
        let fingerprint =
            || managed.ask("POST", "/v1/completions", &one).json()["system_fingerprint"].clone();
        let first = fingerprint();
        until("both versions answer", || fingerprint() != first);
        assert_eq!(swap.join().unwrap().status, 200);
    });
    assert_eq!(
        managed.status("stories")["version"],
        managed.version("v2.gguf")
    );
    order["swap_strategy"] = "purple".into();
    assert_eq!(managed.swap(&order).status, 400);
}

#[test]
fn a_swap_keeps_the_template_that_was_given_for_the_name() {
    let managed = Managed::start();
    let template = || {
        let model = managed.server.model();
        model.engine.chat_template().map(str::to_owned)
    };
    assert_eq!(template(), None, "its file has none");
    let models = &managed.server.app.models;
    let origin = models.origin_of("stories").unwrap();
    let options = LoadOptions {
        chat_template: Some("{{ messages[0].content }}!".into()),
        ..origin.options.clone()
    };
    models.set_origin("stories", ModelOrigin { options, ..origin });
    for file in ["v2.gguf", "v1.gguf"] {
        assert_eq!(managed.swap_to(file).status, 200);
        assert_eq!(template().as_deref(), Some("{{ messages[0].content }}!"));
    }
    // Without it chats would be laid out by nothing from one request to the next.
    let mut order = swap_order("v2.gguf");
    order["inherit_overrides"] = false.into();
    let refused = managed.swap(&order);
    assert!(
        refused.is_error(422, "model_incompatible"),
        "{}",
        refused.body
    );
    assert!(refused.body.contains("chat template"), "{}", refused.body);
}

#[test]
fn a_swap_without_validation_runs_no_reference() {
    let managed = Managed::start();
    let mut order = swap_order("v2.gguf");
    order["validation_timeout_seconds"] = 0.into();
    assert!(managed.swap(&order).is_error(504, "validation_timeout"));
    order["validation_config"]["enable_cross_validation"] = false.into();
    let swapped = managed.swap(&order);
    assert_eq!(swapped.status, 200, "{}", swapped.body);
    assert_eq!(swapped.json()["validation"], Value::Null);
}

#[test]
fn the_default_models_other_name_is_good_for_every_order() {
    let managed = Managed::start();
    let mut order = swap_order("v2.gguf");
    order["target_model_id"] = "default".into();
    assert_eq!(managed.swap(&order).status, 200);
    for (method, path, status) in [
        ("POST", "/v1/models/default/rollback", "loaded"),
        ("POST", "/v1/models/default/unload", "unloaded"),
    ] {
        let done = managed.ask(method, path, &Value::Null);
        assert_eq!(done.status, 200, "{}", done.body);
        assert_eq!(managed.status("stories")["status"], status);
    }
    // What is not in memory is loaded for the swap.
    assert_eq!(managed.swap(&order).status, 200);
    let deleted = managed.ask("DELETE", "/v1/models/default", &Value::Null);
    assert_eq!(deleted.json()["id"], "stories");
    let gone = managed.ask("GET", "/v1/models/stories/status", &Value::Null);
    assert_eq!(gone.status, 404);
}

#[test]
fn a_server_whose_models_can_be_loaded_is_ready() {
    let managed = Managed::start();
    assert_eq!(managed.server.get("/health/ready").status, 200);
    let unload = "/v1/models/stories/unload";
    assert_eq!(managed.ask("POST", unload, &Value::Null).status, 200);
    assert_eq!(managed.server.get("/health/ready").status, 200);
    let forgotten = managed.ask("DELETE", "/v1/models/stories", &Value::Null);
    assert_eq!(forgotten.status, 200);
    assert_eq!(managed.server.get("/health/ready").status, 503);
}

#[test]
fn only_administrators_change_models_or_see_paths() {
    let managed = Managed::start();
    for (method, path) in [
        ("POST", "/v1/models/load"),
        ("POST", SWAP),
        ("GET", "/v1/model_files"),
        ("POST", "/v1/models/stories/rollback"),
        ("POST", "/v1/models/stories/unload"),
        ("DELETE", "/v1/models/stories"),
    ] {
        let refused = managed.ask_as_user(method, path, &json!({}));
        assert_eq!(refused.status, 403, "{method} {path}");
    }
    assert_eq!(managed.swap_to("v2.gguf").status, 200);
    let folder = managed.models.display().to_string();
    for path in ["/v1/models", "/v1/models/stories/status"] {
        let seen = managed.ask_as_user("GET", path, &Value::Null);
        assert_eq!(seen.status, 200);
        assert!(!seen.body.contains(&folder), "{}", seen.body);
        let all = managed.ask("GET", path, &Value::Null);
        assert!(all.body.contains(&folder), "{}", all.body);
    }
}

#[test]
fn a_file_cut_short_under_its_running_model_harms_nobody() {
    let managed = Managed::start();
    let text = || managed.ask("POST", "/v1/completions", &prompt()).json()["choices"].clone();
    let before = text();
    let mut stream = managed.long_stream();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(managed.models.join("v1.gguf"));
    file.unwrap().set_len(100).unwrap();
    let whole = stream.answer();
    assert!(whole.body.ends_with("data: [DONE]\n\n") && !whole.body.contains("error"));
    assert_eq!(text(), before, "the model is a copy");
    let cut = managed.swap_to("v1.gguf");
    assert_eq!(cut.json()["error"]["code"], "model_incompatible");
    assert_eq!(text(), before);
}

#[test]
fn what_may_be_loaded_is_listed_and_a_known_model_is_loaded_by_its_name_alone() {
    let managed = Managed::with(|policy| ModelPolicy {
        configured: vec![("spare".into(), policy.directories[0].join("v2.gguf"))],
        ..policy
    });
    let list = || managed.ask("GET", "/v1/models", &Value::Null).json()["models"].clone();
    let spare = &list()[0];
    assert_eq!(
        (&spare["id"], &spare["status"]),
        (&json!("spare"), &json!("unloaded"))
    );
    assert!(
        spare["path"].as_str().unwrap().ends_with("v2.gguf"),
        "{spare}"
    );
    for unknown in [
        "kernel",
        "weight_bytes",
        "device",
        "version",
        "progress",
        "error",
    ] {
        assert_eq!(spare[unknown], Value::Null, "{unknown}");
    }
    let files = managed.ask("GET", "/v1/model_files", &Value::Null).json();
    assert_eq!(files["truncated"], false);
    let files = files["data"].as_array().unwrap();
    let known: Vec<(&Value, &Value)> = files
        .iter()
        .map(|it| (&it["path"], &it["model_ids"]))
        .collect();
    for expected in [
        (&json!("v1.gguf"), &json!(["stories"])),
        (&json!("v2.gguf"), &json!(["spare"])),
        (&json!("text.gguf"), &json!([])),
    ] {
        assert!(known.contains(&expected), "{known:?}");
    }

    let by_name = |id: &str| {
        managed.ask(
            "POST",
            "/v1/models/load?wait=true",
            &json!({"model_id": id}),
        )
    };
    let loaded = by_name("spare");
    assert_eq!(loaded.status, 200, "{}", loaded.body);
    assert_eq!(loaded.json()["version"], managed.version("v2.gguf"));
    assert_eq!(list()[0]["status"], "loaded");
    let twice = by_name("spare");
    assert!(
        twice.is_error(422, "model_already_loaded"),
        "{}",
        twice.body
    );
    let unknown = by_name("nobody");
    assert!(unknown.is_error(404, "model_not_found"), "{}", unknown.body);
    assert_eq!(unknown.json()["error"]["param"], "model_id");
    let nothing = managed.ask("POST", "/v1/models/load", &json!({}));
    assert_eq!(nothing.json()["error"]["param"], "model_path");
}
