//! Keys before every route, what one key may take, and the metrics of it all.

use std::ops::Index;

use bitnet_server::ServerLimits;
use bitnet_server::auth::key_file::{self, NewKey};
use bitnet_server::auth::rate::RateLimits;
use bitnet_server::auth::{Role, RouteAccess};
use bitnet_server::config::{ServerConfig, Sources};
use bitnet_server::routes;
use serde_json::{Value, json};

use crate::client::{Answer, Connection};
use crate::fixture::{Gated, TestServer, engine, until};
use crate::managed::Managed;

/// A server with a key that may do this much, and the key.
fn server(limits: RateLimits) -> (TestServer, String) {
    let (config, keys) = config_with_keys(&[], &[limits]);
    (TestServer::with_config(config), keys[0].clone())
}

/// A server with these settings and a key with this many requests a minute, and the key.
pub fn server_with_key(flags: &[(&str, &str)], requests_per_minute: u32) -> (TestServer, String) {
    let limits = RateLimits {
        requests_per_minute,
        ..RateLimits::default()
    };
    let (config, keys) = config_with_keys(flags, &[limits]);
    (TestServer::with_config(config), keys[0].clone())
}

/// Keys, and the folder that their file is in.
pub struct TestKeys {
    keys: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Index<usize> for TestKeys {
    type Output = String;

    fn index(&self, index: usize) -> &String {
        &self.keys[index]
    }
}

/// A configuration with these settings and a key for each of `limits`, and the keys. Servers read their file when they
/// start; it goes with the keys.
pub fn config_with_keys(flags: &[(&str, &str)], limits: &[RateLimits]) -> (ServerConfig, TestKeys) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let key = |limits: &RateLimits| {
        let n_keys = key_file::read(&path).map_or(0, |keys| keys.len());
        let name = format!("test-{n_keys}");
        let new = NewKey::new(&name, Role::Infer, *limits);
        key_file::add(&path, &new).unwrap().reveal().to_owned()
    };
    let keys = limits.iter().map(key).collect();
    let mut flags: Vec<(String, String)> = flags
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    flags.push(("keys-file".into(), path.display().to_string()));
    let config = ServerConfig::load(&Sources {
        flags,
        ..Sources::default()
    });
    let keys = TestKeys {
        keys,
        _folder: folder,
    };
    (config.unwrap(), keys)
}

/// Posts with a key.
pub fn send_with(server: &TestServer, key: &str, path: &str, body: &Value) -> Answer {
    let mut connection = Connection::open(server.address);
    let headers = format!("Authorization: Bearer {key}\r\n");
    connection.send("POST", path, &headers, &body.to_string());
    connection.answer()
}

fn status(server: &TestServer, method: &str, path: &str, key: Option<&str>, body: &str) -> u16 {
    let headers = key.map_or(String::new(), |key| {
        format!("Authorization: Bearer {key}\r\n")
    });
    let mut connection = Connection::open(server.address);
    connection.send(method, path, &headers, body);
    connection.answer().status
}

/// Every route of the server, with names in place of parameters, and one that there is not.
fn all_routes() -> Vec<(String, String, RouteAccess)> {
    let table = routes::access();
    let mut all: Vec<_> = table
        .routes()
        .map(|(method, path, access)| (method.to_string(), path.replace("{id}", "stories"), access))
        .collect();
    assert!(all.len() >= 15, "{all:?}");
    all.push(("GET".into(), "/nothing".into(), RouteAccess::Infer));
    all
}

#[test]
fn nothing_but_the_probes_answers_without_a_key() {
    // More bad ones than an address may show.
    let (server, key) = server_with_key(&[("refused-credentials-per-minute", "0")], 0);
    for (method, path, access) in all_routes() {
        let body = if method == "POST" { "{}" } else { "" };
        let without = status(&server, &method, &path, None, body);
        if access == RouteAccess::Probe {
            assert_eq!(without, 200, "{path}");
            continue;
        }
        assert_eq!(without, 401, "{method} {path}");
        for wrong in [
            "sk-bitnet-0000000000000000-wrong",
            "",
            "bk_00000000_00",
            &key[..key.len() - 1],
        ] {
            let with_wrong = status(&server, &method, &path, Some(wrong), body);
            assert_eq!(with_wrong, 401, "{method} {path} {wrong}");
        }
        let with_key = status(&server, &method, &path, Some(&key), body);
        match access {
            RouteAccess::Admin => assert_eq!(with_key, 403, "{method} {path}"),
            _ => assert!(
                ![401, 403].contains(&with_key),
                "{method} {path}: {with_key}"
            ),
        }
    }
}

#[test]
fn on_loopback_inference_is_open_and_management_never() {
    let server = TestServer::start();
    for (method, path, access) in all_routes() {
        let body = if method == "POST" { "{}" } else { "" };
        let open = status(&server, &method, &path, None, body);
        match access {
            RouteAccess::Admin => assert_eq!(open, 401, "{method} {path}"),
            _ => assert!(![401, 403].contains(&open), "{method} {path}: {open}"),
        }
    }
}

#[test]
fn methods_that_a_route_does_not_list_answer_nobody() {
    let (server, _) = server(RateLimits::default());
    let listed = all_routes();
    let paths: std::collections::BTreeSet<&String> =
        listed.iter().map(|(_, path, _)| path).collect();
    for path in paths {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            if !listed.iter().any(|(of, at, _)| of == method && at == path) {
                assert_eq!(
                    status(&server, method, path, None, ""),
                    401,
                    "{method} {path}"
                );
            }
        }
    }
}

#[test]
fn a_tenant_finds_its_own_prompts_in_the_cache_and_nobody_elses() {
    let (config, keys) = config_with_keys(&[], &[RateLimits::default(); 2]);
    let server = TestServer::with_prefix_cache(config);
    let cached = |key: &str, prompt: &str| {
        let body = json!({"prompt": prompt, "max_tokens": 1});
        let answer = send_with(&server, key, "/v1/completions", &body).json();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap()
    };
    let (first, second) = (&keys[0], &keys[1]);
    for (owner, stranger, word) in [(first, second, "fox "), (second, first, "dog ")] {
        let prompt = format!("Once upon a time {}", word.repeat(60));
        assert_eq!(cached(owner, &prompt), 0, "nobody has asked before");
        assert!(cached(owner, &prompt) > 0, "its own prompt is found");
        assert_eq!(cached(stranger, &prompt), 0, "a stranger's is not");
        assert!(cached(stranger, &prompt) > 0);
    }
}

#[test]
fn pages_of_listed_origins_are_answered_as_browsers_ask_and_others_are_not() {
    let asks = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,x-stainless-os\r\n";
    let origin = "https://app.example";
    let listed = ("allowed-origins", origin);
    let ask = |server: &TestServer, method: &str, headers: &str| {
        let mut connection = Connection::open(server.address);
        let body = if method == "POST" {
            r#"{"prompt": "Once", "max_tokens": 1}"#
        } else {
            ""
        };
        connection.send(method, "/v1/completions", headers, body);
        connection.answer()
    };
    let allowed = |answer: &Answer| {
        answer
            .header("access-control-allow-origin")
            .map(str::to_owned)
    };
    let (closed, _) = server_with_key(&[], 0);
    let before = ask(&closed, "OPTIONS", &format!("Origin: {origin}\r\n{asks}"));
    assert_eq!(
        (before.status, allowed(&before)),
        (401, None),
        "off by default"
    );

    let (server, key) = server_with_key(&[listed], 0);
    let before = ask(&server, "OPTIONS", &format!("Origin: {origin}\r\n{asks}"));
    assert_eq!(
        (before.status, allowed(&before)),
        (204, Some(origin.into()))
    );
    assert_eq!(before.header("vary"), Some("origin"));
    assert_eq!(before.header("access-control-allow-credentials"), None);
    // Whatever its library sends: OpenAI's own has headers of its own.
    let headers = before.header("access-control-allow-headers");
    assert_eq!(headers, Some("authorization,x-stainless-os"));
    let methods = before.header("access-control-allow-methods").unwrap();
    assert!(methods.contains("POST"), "{methods}");
    let after = ask(&server, "POST", &format!("Origin: {origin}\r\n"));
    assert_eq!(
        (after.status, allowed(&after)),
        (401, Some(origin.into())),
        "a key is needed all the same"
    );
    let with_key = format!("Origin: {origin}\r\nAuthorization: Bearer {key}\r\n");
    let after = ask(&server, "POST", &with_key);
    assert_eq!((after.status, allowed(&after)), (200, Some(origin.into())));
    for other in [
        "https://app.example.evil",
        "http://app.example",
        "null",
        "https://APP.example",
    ] {
        let before = ask(&server, "OPTIONS", &format!("Origin: {other}\r\n{asks}"));
        assert_eq!((before.status, allowed(&before)), (401, None), "{other}");
    }
    let twice = format!("Origin: {origin}\r\nOrigin: https://evil.example\r\n{asks}");
    assert_eq!(allowed(&ask(&server, "OPTIONS", &twice)), None);

    // On loopback without keys a listed page may ask, and no other.
    let config = ServerConfig::load(&Sources {
        flags: vec![(listed.0.into(), listed.1.into())],
        ..Sources::default()
    });
    let open = TestServer::with_config(config.unwrap());
    let cross = "Sec-Fetch-Site: cross-site\r\n";
    assert_eq!(
        ask(&open, "POST", &format!("Origin: {origin}\r\n{cross}")).status,
        200
    );
    assert_eq!(
        ask(
            &open,
            "POST",
            &format!("Origin: https://evil.example\r\n{cross}")
        )
        .status,
        403
    );
    assert_eq!(ask(&open, "POST", cross).status, 403);
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
    let left = |answer: &Answer| {
        let number = |name: &str| {
            answer
                .header(&format!("x-ratelimit-{name}-requests"))
                .unwrap()
                .to_owned()
        };
        assert!(number("reset").ends_with("ms"));
        (answer.status, number("limit"), number("remaining"))
    };
    let expect = |status: u16, remaining: &str| (status, "2".to_owned(), remaining.to_owned());
    assert_eq!(left(&answers.next().unwrap()), expect(200, "1"));
    assert_eq!(left(&answers.next().unwrap()), expect(200, "0"));
    let refused = answers.next().unwrap();
    assert_eq!(left(&refused), expect(429, "0"));
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    let error = &refused.json()["error"];
    assert_eq!(error["details"], json!({"limit": "requests"}), "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("requests a minute"), "{message}");
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    // What costs no tokens goes on.
    assert_eq!(status(&server, "GET", "/v1/models", Some(&key), ""), 200);
}

#[test]
fn requests_at_once_do_not_take_more_tokens_than_their_key_may() {
    let limits = RateLimits {
        tokens_per_minute: 100,
        ..RateLimits::default()
    };
    let (config, keys) = config_with_keys(&[], &[limits]);
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let limits = ServerLimits::from(&config);
    let server = TestServer::with_turns_and_config(engine, gated.clone(), limits, config);
    let headers = format!("Authorization: Bearer {}\r\n", keys[0]);
    let ask = |max_tokens: u32| {
        let body =
            json!({"prompt": "Once upon a time", "max_tokens": max_tokens, "ignore_eos": true});
        let mut connection = Connection::open(server.address);
        connection.send("POST", "/v1/completions", &headers, &body.to_string());
        connection
    };
    let left_of = |answer: &Answer| -> u32 {
        let left = answer.header("x-ratelimit-remaining-tokens").unwrap();
        left.parse().unwrap()
    };
    let mut first = ask(90);
    // It is queued before its tokens are set aside, and a second one that came between would be the one let through.
    until("the tokens of the first are set aside", || {
        // Without a prompt it is refused, and tells what is left.
        let mut connection = Connection::open(server.address);
        connection.send("POST", "/v1/completions", &headers, "{}");
        left_of(&connection.answer()) < 80
    });
    // 90 tokens and a prompt are set aside, though not one was drawn yet: there is no room for 90 more for most of a
    // minute.
    let refused = ask(90).answer();
    assert_eq!(refused.status, 429, "{}", refused.body);
    let error = &refused.json()["error"];
    assert_eq!(error["code"], "rate_limit_exceeded");
    assert_eq!(error["details"], json!({"limit": "tokens"}), "{error}");
    assert!(refused.header("retry-after").is_some());
    let left = left_of(&refused);
    assert!(left < 80, "{left}");
    gated.open();
    let answer = first.answer();
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn only_administrators_go_before_everybody_else() {
    const PATH: &str = "/v1/completions";
    let body = |priority: i64| json!({"prompt": "Once", "max_tokens": 1, "priority": priority});
    let managed = Managed::start();
    for priority in [0, 1, i64::from(i32::MAX)] {
        assert_eq!(
            managed.ask_as_user("POST", PATH, &body(priority)).status,
            200
        );
    }
    for priority in [-1, i64::from(i32::MIN)] {
        let refused = managed.ask_as_user("POST", PATH, &body(priority));
        assert_eq!(refused.status, 403, "{}", refused.body);
        let error = &refused.json()["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!("insufficient_role"), &json!("priority"))
        );
        assert_eq!(managed.ask("POST", PATH, &body(priority)).status, 200);
    }
    let nobody = TestServer::start();
    assert_eq!(nobody.post(PATH, &body(-1)).status, 403);
    let (open, key) = server_with_key(&[("allow-urgent", "true")], 0);
    assert_eq!(send_with(&open, &key, PATH, &body(-1)).status, 200);

    // A tier is a priority by name.
    let body = |tier: &str| json!({"prompt": "Once", "max_tokens": 1, "service_tier": tier});
    for (tier, told) in [
        ("auto", "default"),
        ("default", "default"),
        ("flex", "flex"),
    ] {
        let answer = managed.ask_as_user("POST", PATH, &body(tier));
        assert_eq!(
            (answer.status, &answer.json()["service_tier"]),
            (200, &json!(told))
        );
    }
    let refused = managed.ask_as_user("POST", PATH, &body("priority"));
    assert!(
        refused.is_error(403, "insufficient_role"),
        "{}",
        refused.body
    );
    assert_eq!(refused.json()["error"]["param"], "service_tier");
    let answer = managed.ask("POST", PATH, &body("priority"));
    assert_eq!(answer.json()["service_tier"], "priority");
    let mut both = body("flex");
    both["priority"] = json!(3);
    for wrong in [body("scale"), both] {
        let refused = managed.ask("POST", PATH, &wrong);
        assert!(refused.is_error(400, "invalid_value"), "{}", refused.body);
        assert_eq!(refused.json()["error"]["param"], "service_tier");
    }
    let unnamed = managed.ask("POST", PATH, &json!({"prompt": "Once", "max_tokens": 1}));
    assert_eq!(unnamed.json().get("service_tier"), None);
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
