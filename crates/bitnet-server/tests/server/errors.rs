//! Errors of requests as a whole: what is no JSON, names nothing, is too large, too late or too much.

mod fields;

use std::time::Duration;

use bitnet_server::ServerLimits;
use serde_json::json;

use crate::client::{Answer, Connection};
use crate::fixture::{Gated, TestServer, engine, until};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

#[track_caller]
fn assert_error(answer: &Answer, status: u16, code: &str, param: Option<&str>) {
    let body = answer.json();
    assert_eq!(
        (answer.status, body["error"]["code"].as_str()),
        (status, Some(code)),
        "{body}"
    );
    assert_eq!(body["error"]["param"].as_str(), param, "{body}");
    assert!(
        body["error"]["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    assert!(body["error"]["type"].is_string());
    assert!(
        body["error"]["hint"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    let may_retry = [408, 409, 429, 503, 504].contains(&status);
    assert_eq!(body["error"]["retryable"], may_retry, "{body}");
    let name = answer.header("x-request-id").expect("every answer has one");
    assert_eq!(body["error"]["request_id"], name, "{body}");
}

#[test]
fn what_is_no_json_is_refused_however_deep_it_is() {
    let server = TestServer::start();
    let mut bodies = vec!["".to_owned(), "{".to_owned(), "\u{feff}{}".to_owned()];
    bodies.push(format!(
        "{{\"x\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    ));
    for body in bodies {
        let answer = crate::client::request(server.address, "POST", CHAT, &body);
        assert_error(&answer, 400, "invalid_json", None);
    }
}

#[test]
fn unknown_models_routes_and_methods_have_the_same_shape() {
    let server = TestServer::start();
    let answer = server.post(COMPLETIONS, &json!({"model": "gpt", "prompt": "x"}));
    assert_error(&answer, 404, "model_not_found", Some("model"));
    let hint = |answer: &Answer| answer.json()["error"]["hint"].to_string();
    let nothing = server.get("/v2/nothing");
    assert_error(&nothing, 404, "not_found", None);
    assert!(hint(&nothing).contains("/openapi.json"), "{}", nothing.body);
    for (method, path, allowed) in [
        ("GET", CHAT, "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PATCH", "/v1/models/stories", "DELETE, GET, HEAD"),
    ] {
        let mut connection = Connection::open(server.address);
        connection.send(method, path, "", "");
        let refused = connection.answer();
        assert_error(&refused, 405, "method_not_allowed", None);
        assert_eq!(refused.header("allow"), Some(allowed), "{method} {path}");
        let message = refused.json()["error"]["message"].to_string();
        assert!(message.contains(allowed), "{message}");
        assert!(hint(&refused).contains("/openapi.json"), "{}", refused.body);
    }
}

#[test]
fn bodies_of_another_kind_or_size_or_pace_are_refused() {
    let limits = ServerLimits {
        max_body: 1000,
        body_timeout: Duration::from_millis(30),
        ..ServerLimits::default()
    };
    let server = TestServer::with_limits(limits);
    let mut form = Connection::open(server.address);
    form.send(
        "POST",
        CHAT,
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "{}",
    );
    assert_error(&form.answer(), 415, "unsupported_media_type", None);

    let long = json!({"prompt": "x".repeat(2000)});
    assert_error(
        &server.post(COMPLETIONS, &long),
        413,
        "body_too_large",
        None,
    );
    let mut chunked = Connection::open(server.address);
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n";
    chunked.send_raw(format!("{head}800\r\n{}\r\n", " ".repeat(0x800)).as_bytes());
    assert_error(&chunked.answer(), 413, "body_too_large", None);

    let mut slow = Connection::open(server.address);
    slow.send_raw(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
            Content-Length: 100\r\n\r\n{",
    );
    assert_error(&slow.answer(), 408, "client_timeout", None);
}

#[test]
fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let limits = ServerLimits {
        max_queued_requests: 0,
        ..ServerLimits::default()
    };
    let server = TestServer::with_turns(engine, gated.clone(), limits);
    let body = json!({"prompt": "Once", "max_tokens": 1, "n": 4});
    let mut first = Connection::open(server.address);
    first.send(
        "POST",
        COMPLETIONS,
        "Content-Type: application/json\r\n",
        &body.to_string(),
    );
    let model = server.model();
    until("all places are taken", || !model.admission.has_room());
    let refused = server.post(COMPLETIONS, &json!({"prompt": "Once"}));
    assert_error(&refused, 429, "queue_full", None);
    let details = &refused.json()["error"]["details"];
    assert_eq!(*details, json!({"limit": "queued_requests"}));
    assert!(
        refused
            .header("retry-after")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
    assert_eq!(server.get("/health/ready").status, 503);
    assert_eq!(server.get("/health/live").status, 200);
    gated.open();
    assert_eq!(first.answer().status, 200);
    assert_eq!(
        server.post(COMPLETIONS, &json!({"prompt": "Once"})).status,
        200
    );
}

#[test]
fn a_request_past_its_time_ends() {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let server = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
    let body = json!({"prompt": "Once"}).to_string();
    let mut late = Connection::open(server.address);
    late.send(
        "POST",
        COMPLETIONS,
        "Content-Type: application/json\r\nX-Request-Timeout: 1e-6\r\n",
        &body,
    );
    gated.open();
    assert_error(&late.answer(), 504, "deadline_exceeded", None);
    let mut odd = Connection::open(server.address);
    odd.send(
        "POST",
        COMPLETIONS,
        "Content-Type: application/json\r\nX-Request-Timeout: soon\r\n",
        &body,
    );
    assert_error(
        &odd.answer(),
        400,
        "invalid_value",
        Some("x-request-timeout"),
    );
}

#[test]
fn a_clients_request_id_comes_back() {
    let server = TestServer::start();
    let mut connection = Connection::open(server.address);
    connection.send("GET", "/version", "X-Request-Id: abc-1\r\n", "");
    assert_eq!(connection.answer().header("x-request-id"), Some("abc-1"));
    let mut long = Connection::open(server.address);
    long.send(
        "GET",
        "/version",
        &format!("X-Request-Id: {}\r\n", "a".repeat(129)),
        "",
    );
    assert!(
        long.answer()
            .header("x-request-id")
            .unwrap()
            .starts_with("req-")
    );
}
