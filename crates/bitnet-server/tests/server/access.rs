//! Keys before every route, what one key may take, and the metrics of it all.

use bitnet_server::auth::Role;
use bitnet_server::auth::key_file::{self, NewKey};
use bitnet_server::auth::rate::RateLimits;
use bitnet_server::config::{ServerConfig, Sources};
use serde_json::json;

use crate::client::Connection;
use crate::fixture::TestServer;

/// A server with a key that may do this much, and the key.
fn server(limits: RateLimits) -> (TestServer, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let new = NewKey {
        name: "test",
        role: Role::Infer,
        limits,
    };
    let key = key_file::add(&path, &new).unwrap().reveal().to_owned();
    let config = ServerConfig::load(&Sources {
        flags: vec![("keys-file".into(), path.display().to_string())],
        ..Sources::default()
    });
    (TestServer::with_config(config.unwrap()), key)
}

fn status(server: &TestServer, method: &str, path: &str, key: Option<&str>, body: &str) -> u16 {
    let headers = key.map_or(String::new(), |key| {
        format!("Authorization: Bearer {key}\r\n")
    });
    let mut connection = Connection::open(server.address);
    connection.send(method, path, &headers, body);
    connection.answer().status
}

#[test]
fn nothing_but_the_probes_answers_without_a_key() {
    let (server, key) = server(RateLimits::default());
    for (method, path, body) in [
        ("POST", "/v1/chat/completions", "{}"),
        ("POST", "/v1/completions", "{}"),
        ("POST", "/v1/inference", "{}"),
        ("POST", "/v1/inference/stream", "{}"),
        ("POST", "/tokenize", "{}"),
        ("POST", "/detokenize", "{}"),
        ("POST", "/apply-template", "{}"),
        ("GET", "/tokenizer_info", ""),
        ("GET", "/v1/models", ""),
        ("GET", "/v1/models/stories", ""),
        ("GET", "/health", ""),
        ("GET", "/version", ""),
        ("GET", "/metrics", ""),
        ("GET", "/nothing", ""),
    ] {
        assert_eq!(status(&server, method, path, None, body), 401, "{path}");
        let wrong = Some("sk-bitnet-0000000000000000-wrong");
        assert_eq!(status(&server, method, path, wrong, body), 401, "{path}");
        let with_key = status(&server, method, path, Some(&key), body);
        assert!(![401, 403].contains(&with_key), "{path}: {with_key}");
    }
    for path in ["/health/live", "/health/ready", "/health/startup"] {
        assert_eq!(status(&server, "GET", path, None, ""), 200, "{path}");
    }
}

#[test]
fn a_key_that_has_taken_its_requests_is_told_when_to_come_back() {
    let (server, key) = server(RateLimits {
        requests_per_minute: 2,
        ..RateLimits::default()
    });
    let headers = format!("Authorization: Bearer {key}\r\n");
    let mut answers = (0..3).map(|_| {
        let mut connection = Connection::open(server.address);
        let body = r#"{"prompt": "Once", "max_tokens": 1}"#;
        connection.send("POST", "/v1/completions", &headers, body);
        connection.answer()
    });
    assert_eq!(answers.next().unwrap().status, 200);
    assert_eq!(answers.next().unwrap().status, 200);
    let refused = answers.next().unwrap();
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    // What costs no tokens goes on.
    assert_eq!(status(&server, "GET", "/v1/models", Some(&key), ""), 200);
}

#[test]
fn metrics_count_what_was_answered() {
    let server = TestServer::start();
    let body = json!({"prompt": "Once upon a time", "max_tokens": 5, "temperature": 0});
    assert_eq!(server.post("/v1/completions", &body).status, 200);
    assert_eq!(server.post("/v1/completions", &json!({})).status, 400);
    let metrics = server.get("/metrics");
    let content_type = metrics.header("content-type").unwrap();
    assert!(
        content_type.starts_with("text/plain; version=0.0.4"),
        "{content_type}"
    );
    for line in [
        "bitnet_generated_tokens_total{model=\"stories\"} 5",
        "vllm:generation_tokens_total{model_name=\"stories\",engine=\"0\"} 5",
        "vllm:request_success_total{model_name=\"stories\",engine=\"0\",finished_reason=\"length\"} 1",
        "bitnet_request_failures_total{code=\"missing_field\"} 1",
        "bitnet_active_inference_requests{model=\"stories\"} 0",
        "vllm:inter_token_latency_seconds_count{model_name=\"stories\",engine=\"0\"} 4",
    ] {
        assert!(
            metrics.body.lines().any(|l| l == line),
            "{line} is not in\n{}",
            metrics.body
        );
    }
}
