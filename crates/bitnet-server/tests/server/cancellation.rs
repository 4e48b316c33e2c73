//! A client that leaves takes its request with it, wherever that is; so does whoever cancels it by its name.

use bitnet_inference::Pooling;
use bitnet_server::ServerLimits;
use bitnet_server::auth::Role;
use bitnet_server::auth::key_file::{self, NewKey};
use bitnet_server::auth::rate::RateLimits;
use bitnet_server::config::{ServerConfig, Sources};
use serde_json::{Value, json};

use crate::client::{Answer, Connection};
use crate::fixture::{Gated, TestServer, engine, until};

const CHAT: &str = "/v1/chat/completions";

/// What the client calls its request.
const NAMED: &str = "X-Request-Id: mine\r\n";

/// When it ends.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Queued,
    Prefill,
    Decode,
}

/// What ends it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cause {
    ClientLeaves,
    Cancelled,
}

/// `in_step`: the engine is in the middle of a step meanwhile, and takes it to its end.
fn end(cause: Cause, moment: Moment, stream: bool, in_step: bool) {
    let engine = engine();
    let gated = match in_step {
        true => Gated::new(engine.clone()),
        false => Gated::idle(engine.clone()),
    };
    let server = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
    let model = server.model();
    let body = json!({
        "messages": [{"role": "user", "content": "once upon a time ".repeat(35)}],
        "max_tokens": 50, "ignore_eos": true, "stream": stream,
    });
    let mut connection = Connection::open(server.address);
    connection.send("POST", CHAT, NAMED, &body.to_string());
    until("the request is in the queue", || {
        model.handle.load().waiting == 1
    });
    // The prompt is longer than the 128 tokens of two passes.
    let steps_before = match moment {
        Moment::Queued => 0,
        Moment::Prefill => 1,
        Moment::Decode => 6,
    };
    gated.allow(steps_before);
    let steps_before = steps_before as u64;
    until("the steps were taken", || {
        model.handle.load().steps == steps_before
    });
    let load = model.handle.load();
    assert_eq!(load.prompt_tokens > 0, !matches!(moment, Moment::Queued));
    assert_eq!(load.generated_tokens > 1, matches!(moment, Moment::Decode));
    // The engine is ahead of whoever writes the answer, who tells the moments apart.
    until("its first token was taken", || {
        !matches!(moment, Moment::Decode) || model.admission.waiting().1 == 0
    });
    let mut connection = Some(connection);
    if cause == Cause::ClientLeaves {
        connection = None;
        until("the server noticed", || model.admission.waiting() == (0, 0));
    } else {
        let answer = server.post("/v1/requests/mine/cancel", &json!({}));
        let report = json!({"id": "mine", "object": "request.cancellation", "cancelled": 1});
        assert_eq!((answer.status, answer.json()), (200, report));
    }
    if in_step {
        // The turn that waits at the gate ends; before the next one the command is obeyed.
        gated.allow(1);
    }
    if let Some(connection) = &mut connection {
        assert_told(&connection.answer(), stream);
        until("its place is free", || model.admission.waiting() == (0, 0));
    }
    until("everything is free", || {
        let load = model.handle.load();
        (load.waiting, load.running, load.kv_blocks_used) == (0, 0, 0)
    });
    assert!(model.handle.load().generated_tokens < 10, "{moment:?}");
    // The same, as monitoring sees it: everything was free a step later.
    let metrics = server.get("/metrics").body;
    let value = |sample: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(sample));
        line.map_or(0.0, |value| value.trim().parse::<f64>().unwrap())
    };
    let steps = value("bitnet_engine_steps_total{model=\"stories\"}");
    assert!(steps <= (steps_before + 1) as f64, "{moment:?}: {metrics}");
    // Where it was when it ended: the step may have brought it further.
    let phase = match (moment, in_step) {
        (Moment::Queued, false) => "queue",
        (Moment::Queued, true) | (Moment::Prefill, _) => "prefill",
        (Moment::Decode, _) => "decode",
    };
    let cancelled = format!("bitnet_requests_cancelled_total{{phase=\"{phase}\"}}");
    assert_eq!(value(&cancelled), 1.0, "{moment:?}: {metrics}");
    for gone in [
        "bitnet_active_inference_requests{model=\"stories\"}",
        "bitnet_kv_blocks{model=\"stories\",state=\"used\"}",
        "bitnet_waiting_prompt_tokens{model=\"stories\"}",
    ] {
        assert!(metrics.contains(gone), "{metrics}");
        assert_eq!(value(gone), 0.0, "{moment:?}: {gone}");
    }
    gated.open();
    let short = json!({"prompt": "Once", "max_tokens": 2});
    assert_eq!(server.post("/v1/completions", &short).status, 200);
}

/// What the client sees whose request was cancelled: an error, or after the head of a stream what was drawn and an
/// error in place of its end.
fn assert_told(answer: &Answer, stream: bool) {
    let error = json!({"error": {
        "message": "the request was cancelled",
        "type": "invalid_request_error",
        "param": null,
        "code": "request_cancelled",
        "hint": "send the request again if its answer is wanted after all",
        "retryable": false,
        "request_id": "mine",
    }});
    assert_eq!(answer.header("x-request-id"), Some("mine"));
    if !stream {
        assert_eq!((answer.status, answer.json()), (499, error));
        return;
    }
    assert_eq!(answer.status, 200);
    let mut data = answer.body.lines().filter_map(|l| l.strip_prefix("data: "));
    let last: Value = serde_json::from_str(data.next_back().unwrap()).unwrap();
    assert_eq!(last, error, "{}", answer.body);
    assert!(
        !answer.body.contains("finish_reason\":\""),
        "{}",
        answer.body
    );
}

fn end_both(cause: Cause, moment: Moment) {
    for (stream, in_step) in [(false, false), (false, true), (true, false), (true, true)] {
        end(cause, moment, stream, in_step);
    }
}

#[test]
fn a_client_that_leaves_the_queue_frees_its_place() {
    end_both(Cause::ClientLeaves, Moment::Queued);
}

#[test]
fn a_client_that_leaves_in_prefill_frees_its_blocks() {
    end_both(Cause::ClientLeaves, Moment::Prefill);
}

#[test]
fn a_client_that_leaves_in_decode_frees_its_blocks() {
    end_both(Cause::ClientLeaves, Moment::Decode);
}

#[test]
fn a_request_cancelled_in_the_queue_frees_its_place() {
    end_both(Cause::Cancelled, Moment::Queued);
}

#[test]
fn a_request_cancelled_in_prefill_frees_its_blocks() {
    end_both(Cause::Cancelled, Moment::Prefill);
}

#[test]
fn a_request_cancelled_in_decode_frees_its_blocks() {
    end_both(Cause::Cancelled, Moment::Decode);
}

#[test]
fn requests_of_every_route_that_runs_a_model_can_be_cancelled() {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let limits = ServerLimits {
        pooling: Some(Pooling::Mean),
        ..ServerLimits::default()
    };
    let server = TestServer::with_turns(engine, gated.clone(), limits);
    let model = server.model();
    let prompt = json!({"prompt": "Once", "max_tokens": 9, "ignore_eos": true});
    for (path, body) in [
        ("/v1/completions", &prompt),
        ("/v1/inference", &prompt),
        ("/v1/inference/stream", &prompt),
        ("/v1/embeddings", &json!({"input": ["Once", "upon"]})),
        (
            "/v1/rerank",
            &json!({"query": "Once", "documents": ["upon", "a time"]}),
        ),
    ] {
        let mut connection = Connection::open(server.address);
        // A name may have what a path may not.
        let name = "X-Request-Id: a/b?c%41\r\n";
        connection.send("POST", path, name, &body.to_string());
        until("it is in the queue", || model.handle.load().waiting > 0);
        let cancel = "/v1/requests/a%2Fb%3Fc%2541/cancel";
        let report = server.post(cancel, &json!({}));
        assert_eq!(report.status, 200, "{path} {}", report.body);
        gated.allow(1);
        let answer = connection.answer();
        let is_stream = path.ends_with("stream");
        assert_eq!(answer.status, if is_stream { 200 } else { 499 }, "{path}");
        assert!(
            answer.body.contains("\"request_cancelled\""),
            "{}",
            answer.body
        );
        assert!(!answer.body.contains("event: complete"), "{}", answer.body);
        until("its place is free", || model.admission.waiting() == (0, 0));
        until("its blocks are free", || {
            let load = model.handle.load();
            (load.waiting, load.running, load.kv_blocks_used) == (0, 0, 0)
        });
        let gone = server.post(cancel, &json!({}));
        assert_eq!(gone.json()["error"]["code"], "request_not_found", "{path}");
    }
    gated.open();
}

#[test]
fn only_its_sender_or_an_administrator_cancels_a_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let key = |role, concurrent_requests| {
        let limits = RateLimits {
            concurrent_requests,
            ..RateLimits::default()
        };
        let n_keys = key_file::read(&path).map_or(0, |keys| keys.len());
        let name = format!("test-{n_keys}");
        let new = NewKey::new(&name, role, limits);
        key_file::add(&path, &new).unwrap().reveal().to_owned()
    };
    let senders = [(); 3].map(|()| key(Role::Infer, 1));
    let (other, admin) = (key(Role::Infer, 0), key(Role::Admin, 0));
    let config = ServerConfig::load(&Sources {
        flags: vec![("keys-file".into(), path.display().to_string())],
        ..Sources::default()
    })
    .unwrap();
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let limits = ServerLimits::from(&config);
    let server = TestServer::with_turns_and_config(engine, gated.clone(), limits, config);
    let begin = |key: &str, path: &str, body: &Value| {
        let mut connection = Connection::open(server.address);
        let headers = format!("Authorization: Bearer {key}\r\nX-Request-Id: same\r\n");
        connection.send("POST", path, &headers, &body.to_string());
        connection
    };
    let ask = |key: &str, path: &str| {
        let answer = begin(key, path, &json!({})).answer();
        let code = answer.json()["error"]["code"].clone();
        (answer.status, code.as_str().unwrap_or_default().to_owned())
    };
    let cancel = |key: &str, query: &str| ask(key, &format!("/v1/requests/same/cancel{query}"));
    let who = |key: &str| format!("?who=key%3A{}", key.split('_').nth(1).unwrap());
    let done = (200, String::new());
    let refused = |status: u16, code: &str| (status, code.to_owned());

    // All of them choose one name.
    let body = json!({"prompt": "Once", "max_tokens": 3, "ignore_eos": true});
    let mut asked = senders
        .each_ref()
        .map(|key| begin(key, "/v1/completions", &body));
    let model = server.model();
    until("all were taken", || model.admission.waiting().0 == 3);

    let [first, second, third] = &senders;
    assert_eq!(cancel(&other, ""), refused(404, "request_not_found"));
    assert_eq!(
        ask(first, "/v1/requests/another/cancel"),
        refused(404, "request_not_found")
    );
    assert_eq!(
        cancel(first, &who(second)),
        refused(403, "insufficient_role")
    );
    assert_eq!(cancel("bk_0_0", ""), refused(401, "invalid_api_key"));
    assert_eq!(cancel(&admin, ""), refused(400, "missing_field"));
    assert_eq!(
        cancel(&admin, &who(&other)),
        refused(404, "request_not_found")
    );
    // This key may have one request at once; what takes none back is not counted.
    assert_eq!(
        ask(second, "/v1/completions"),
        refused(429, "rate_limit_exceeded")
    );
    assert_eq!(cancel(second, ""), done);
    assert_eq!(cancel(&admin, &who(third)), done);
    gated.open();
    let codes = asked.each_mut().map(|asked| asked.answer().status);
    assert_eq!(codes, [200, 499, 499]);
    assert_eq!(cancel(first, ""), refused(404, "request_not_found"));
}

#[test]
fn a_client_that_leaves_before_its_text_is_tokenised_never_reaches_the_engine() {
    let server = TestServer::start();
    let model = server.model();
    let held = server.hold_checkers();
    let connections = [false, true].map(|stream| {
        let body = json!({
            "messages": [{"role": "user", "content": "Tell me a story"}], "stream": stream,
        });
        let mut connection = Connection::open(server.address);
        connection.send("POST", CHAT, "", &body.to_string());
        connection
    });
    until("both wait for a checker", || {
        model.admission.waiting().0 == 2
    });
    drop(connections);
    let counted = || {
        let metrics = server.get("/metrics").body;
        let line = "bitnet_requests_cancelled_total{phase=\"check\"} 2";
        metrics.lines().any(|found| found == line)
    };
    until("both are counted", counted);
    assert_eq!(
        model.admission.waiting().0,
        2,
        "the checker will still look at them"
    );
    drop(held);
    until("their places are free", || {
        model.admission.waiting() == (0, 0)
    });
    assert_eq!(model.handle.load().steps, 0);
    let short = json!({"prompt": "Once", "max_tokens": 2});
    assert_eq!(server.post("/v1/completions", &short).status, 200);
}
