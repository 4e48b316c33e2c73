//! What strangers try, against a running server: each attempt is answered, and so is the next honest request.

use std::net::TcpListener;

use bitnet_server::ServerLimits;
use serde_json::{Value, json};

use crate::client::{Answer, Connection, request};
use crate::fixture::{TestServer, until};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, param: Option<&str>) {
    let body = answer.json();
    assert_eq!(answer.status, status, "{body}");
    assert_eq!(body["error"]["param"].as_str(), param, "{body}");
}

#[track_caller]
fn assert_serves(server: &TestServer) {
    let answer = server.post(COMPLETIONS, &json!({"prompt": "Once", "max_tokens": 1}));
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn counts_without_bounds_are_refused() {
    let server = TestServer::start();
    let biases = |n: u32| -> Value { (0..n).map(|id| (id.to_string(), json!(1))).collect() };
    let cases = [
        ("n", json!(u64::MAX), "n"),
        ("n", json!(100_000), "n"),
        ("best_of", json!(u64::MAX), "best_of"),
        ("logprobs", json!(100_000), "logprobs"),
        ("logit_bias", biases(301), "logit_bias"),
        ("stop", json!(vec!["a"; 17]), "stop"),
        ("stop", json!("a".repeat(257)), "stop"),
        ("prompt", json!(vec!["a"; 129]), "prompt"),
        ("temperature", json!(-1), "temperature"),
        ("priority", json!(u64::MAX), "priority"),
    ];
    for (field, value, param) in cases {
        let mut body = json!({"prompt": "Once", "max_tokens": 1});
        body[field] = value;
        assert_refused(&server.post(COMPLETIONS, &body), 400, Some(param));
    }
    let many = json!({"messages": vec![json!({"role": "user", "content": "a"}); 4097]});
    assert_refused(&server.post(CHAT, &many), 400, Some("messages"));
    assert_serves(&server);
}

#[test]
fn what_a_client_sent_comes_back_short() {
    let server = TestServer::start();
    let long = "x".repeat(100_000);
    let bodies = [
        (
            COMPLETIONS,
            json!({"prompt": "a", "logit_bias": {long.as_str(): 1}}),
        ),
        (
            COMPLETIONS,
            json!({"prompt": "a", "logit_bias": {"1": long}}),
        ),
        (COMPLETIONS, json!({"prompt": "a", "model": long})),
        (COMPLETIONS, json!({"prompt": "a", "temperature": long})),
        (COMPLETIONS, json!({"prompt": "a", "stop": long})),
        (CHAT, json!({"messages": [{"role": long, "content": ""}]})),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": [{"type": long}]}]}),
        ),
        (
            "/v1/inference",
            json!({"prompt": "a", "quantization_preference": long}),
        ),
    ];
    for (path, body) in bodies {
        let answer = server.post(path, &body);
        assert!((400..500).contains(&answer.status), "{}", answer.status);
        assert!(
            answer.body.len() < 1000,
            "{} bytes to {path}",
            answer.body.len()
        );
    }
}

#[test]
fn numbers_that_are_none_are_no_json() {
    let server = TestServer::start();
    for number in [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "0x10",
        "01",
        "+1",
        "1_0",
    ] {
        let body = format!(r#"{{"prompt": "Once", "max_tokens": 1, "temperature": {number}}}"#);
        let answer = request(server.address, "POST", COMPLETIONS, &body);
        assert_eq!(answer.json()["error"]["code"], "invalid_json", "{number}");
        assert_eq!(answer.status, 400, "{number}");
    }
    let tiny = r#"{"prompt": "Once", "max_tokens": 1, "temperature": 1e-400}"#;
    assert_eq!(
        request(server.address, "POST", COMPLETIONS, tiny).status,
        200
    );
}

#[test]
fn nested_json_and_empty_prompts_harm_nobody() {
    let server = TestServer::start();
    for depth in [126, 127, 128, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let inner = if open == "[" { "" } else { "1" };
            let deep = format!("{}{inner}{}", open.repeat(depth), close.repeat(depth));
            for field in ["prompt", "stop", "logit_bias", "unknown"] {
                let body = format!(r#"{{"{field}": {deep}, "prompt": "Once", "max_tokens": 1}}"#);
                let answer = request(server.address, "POST", COMPLETIONS, &body);
                assert!(
                    [200, 400].contains(&answer.status),
                    "{depth}: {}",
                    answer.status
                );
                assert!(depth < 128 || answer.status == 400, "{depth}");
            }
        }
    }
    for prompt in [
        json!(""),
        json!([""]),
        json!([[]]),
        json!("\0"),
        json!("\u{feff}"),
    ] {
        let answer = server.post(COMPLETIONS, &json!({"prompt": prompt, "max_tokens": 1}));
        assert!(
            [200, 400].contains(&answer.status),
            "{prompt}: {}",
            answer.body
        );
    }
    assert_serves(&server);
}

#[test]
fn clients_bring_no_templates_and_no_arguments_for_them() {
    let server = TestServer::start();
    for field in ["chat_template", "chat_template_kwargs"] {
        for value in [
            json!("{{ 1 }}"),
            json!({"tokenize": true}),
            json!({"messages": []}),
        ] {
            let mut body = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1});
            body[field] = value;
            assert_refused(&server.post(CHAT, &body), 400, Some(field));
        }
    }
    // What looks like a template is text.
    let content = "{% for i in range(10000000) %}x{% endfor %}{{ messages }}";
    let body = json!({"messages": [{"role": "user", "content": content}]});
    let text = server.post("/apply-template", &body).json()["prompt"].clone();
    assert!(
        text.as_str().is_some_and(|text| text.contains(content)),
        "{text}"
    );
}

#[test]
fn no_url_of_a_client_is_fetched() {
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let url = format!("http://{}/cat.png", trap.local_addr().unwrap());
    let server = TestServer::start();
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    let body = json!({"messages": [{"role": "user", "content": [part]}]});
    assert_refused(
        &server.post(CHAT, &body),
        400,
        Some("messages[0].content[0].type"),
    );
    let markdown = format!("![cat]({url})");
    let body = json!({"messages": [{"role": "user", "content": markdown}], "max_tokens": 1});
    assert_eq!(server.post(CHAT, &body).status, 200);
    let connected = trap.accept().unwrap_err();
    assert_eq!(connected.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_body_says_that_it_is_json() {
    let server = TestServer::start();
    let kinds = [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=a",
    ];
    for kind in kinds {
        let mut connection = Connection::open(server.address);
        connection.send("POST", CHAT, &format!("Content-Type: {kind}\r\n"), "{}");
        assert_refused(&connection.answer(), 415, None);
    }
    let mut connection = Connection::open(server.address);
    connection.send_raw(
        format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}")
            .as_bytes(),
    );
    assert_refused(&connection.answer(), 415, None);
}

#[test]
fn bodies_that_arrive_at_once_are_bounded_together() {
    let server = TestServer::with_limits(ServerLimits {
        max_body: 4096,
        max_arriving: 4096,
        ..ServerLimits::default()
    });
    let mut slow = Connection::open(server.address);
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: 4000\r\n\r\n{}",
        " ".repeat(3999)
    );
    slow.send_raw(head.as_bytes());
    until("the body has come", || {
        server.app.bodies.available_permits() == 0
    });
    let refused = server.post(COMPLETIONS, &json!({"prompt": "Once", "max_tokens": 1}));
    assert_eq!(refused.json()["error"]["code"], "queue_full");
    assert_eq!(refused.status, 429);
    drop(slow);
    until("the room is free again", || {
        server.app.bodies.available_permits() == 4
    });
    assert_serves(&server);
}

#[test]
fn tokenising_has_bounds_of_its_own() {
    let server = TestServer::start();
    let app = server.app.clone();
    let all = u32::try_from(app.limits.max_queued_requests).unwrap();
    let taken = app.tokenising.try_acquire_many(all).unwrap();
    let messages = json!([{"role": "user", "content": "a"}]);
    let bodies = [
        ("/tokenize", json!({"content": "a"})),
        ("/detokenize", json!({"tokens": [1]})),
        ("/apply-template", json!({"messages": messages})),
    ];
    for (path, body) in &bodies {
        let refused = server.post(path, body);
        assert_eq!(refused.json()["error"]["code"], "queue_full", "{path}");
        assert!(refused.header("retry-after").is_some(), "{path}");
    }
    drop(taken);
    for (path, body) in &bodies {
        assert_eq!(server.post(path, body).status, 200, "{path}");
    }
}

#[test]
fn texts_that_wait_to_be_tokenised_hold_no_more_than_there_is_room_for() {
    let server = TestServer::with_limits(ServerLimits {
        max_arriving: 400 << 10,
        ..ServerLimits::default()
    });
    let app = server.app.clone();
    let turns = u32::try_from(app.long_checks.available_permits()).unwrap();
    let taken = app.long_checks.try_acquire_many(turns).unwrap();
    let room = app.held_bodies.available_permits();
    let long = json!({"content": "a ".repeat(100 << 10)});
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.post("/tokenize", &long).status);
        until("it waits", || app.held_bodies.available_permits() < room);
        let refused = server.post("/tokenize", &long);
        assert!(refused.is_error(429, "queue_full"), "{}", refused.body);
        let short = server.post("/tokenize", &json!({"content": "a"}));
        assert_eq!(short.status, 200, "{}", short.body);
        drop(taken);
        assert_eq!(waiting.join().unwrap(), 200);
    });
    assert_eq!(app.held_bodies.available_permits(), room);
}

#[test]
fn a_text_that_cannot_fit_is_refused_without_being_tokenised() {
    let server = TestServer::start();
    let app = server.app.clone();
    // Nobody tokenises anything long meanwhile.
    let turns = u32::try_from(app.long_checks.available_permits()).unwrap();
    let taken = app.long_checks.try_acquire_many(turns).unwrap();
    let long = "Once upon a time. ".repeat(100_000);
    let refused = server.post(COMPLETIONS, &json!({"prompt": long, "max_tokens": 1}));
    assert_refused(&refused, 400, Some("prompt"));
    assert!(refused.is_error(400, "context_length_exceeded"));
    assert!(refused.body.contains("tokens or more"), "{}", refused.body);
    drop(taken);
    let chat = json!({"messages": [{"role": "user", "content": long}], "max_tokens": 1});
    let refused = server.post(CHAT, &chat);
    assert_refused(&refused, 400, Some("messages"));
    assert!(refused.body.contains("tokens or more"), "{}", refused.body);
    assert_serves(&server);
}

#[test]
fn long_texts_leave_threads_to_short_ones() {
    let server = TestServer::start();
    let app = server.app.clone();
    let turns = u32::try_from(app.long_checks.available_permits()).unwrap();
    let taken = app.long_checks.try_acquire_many(turns).unwrap();
    let long = "Once upon a time. ".repeat(10_000);
    // Its end is what is kept, so it has to be tokenised.
    let cut = json!({"prompt": long, "max_tokens": 1, "truncate_prompt_tokens": 5});
    let tokenise = json!({"content": long});
    std::thread::scope(|scope| {
        let mut waiting: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| server.post(COMPLETIONS, &cut).status))
            .collect();
        waiting.push(scope.spawn(|| server.post("/tokenize", &tokenise).status));
        let model = server.model();
        until("all are taken", || {
            model.admission.waiting().0 == 4
                && app.tokenising.available_permits() < app.limits.max_queued_requests
        });
        assert_serves(&server);
        assert!(waiting.iter().all(|request| !request.is_finished()));
        drop(taken);
        assert!(
            waiting
                .into_iter()
                .all(|request| request.join().unwrap() == 200)
        );
    });
}

#[test]
fn a_queue_that_is_full_of_tokens_refuses_before_it_counts_them() {
    let server = TestServer::with_limits(ServerLimits {
        max_queued_tokens: 100,
        ..ServerLimits::default()
    });
    let app = server.app.clone();
    let turns = u32::try_from(app.long_checks.available_permits()).unwrap();
    let taken = app.long_checks.try_acquire_many(turns).unwrap();
    let long = "Once upon a time. ".repeat(10_000);
    let cut = json!({"prompt": long, "max_tokens": 1, "truncate_prompt_tokens": 5});
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.post(COMPLETIONS, &cut).status);
        let model = server.model();
        until("the first one is taken", || {
            model.admission.waiting().0 == 1
        });
        let second = server.post(COMPLETIONS, &cut);
        assert!(second.is_error(429, "queue_full"), "{}", second.body);
        assert!(second.header("retry-after").is_some());
        drop(taken);
        assert_eq!(first.join().unwrap(), 200);
    });
}
