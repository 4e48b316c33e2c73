//! Keys and tokens that are not good, or not good for this, against a running server.

use std::time::SystemTime;

use bitnet_server::auth::Role;
use bitnet_server::auth::clock::unix_seconds;
use bitnet_server::auth::key_file::{self, NewKey};
use bitnet_server::auth::rate::RateLimits;
use bitnet_server::config::{ServerConfig, Sources};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use crate::access::{send_with, server_with_key};
use crate::client::{Answer, Connection};
use crate::fixture::TestServer;

const COMPLETIONS: &str = "/v1/completions";

#[test]
fn a_flood_of_bad_keys_is_told_to_wait_and_good_ones_are_let_in() {
    let (server, key) = server_with_key(&[("refused-credentials-per-minute", "2")], 0);
    let body = json!({"prompt": "Once", "max_tokens": 1});
    let bad = format!("{}{}", &key[..key.len() - 4], "zzzz");
    for _ in 0..2 {
        let refused = send_with(&server, &bad, COMPLETIONS, &body);
        assert!(refused.is_error(401, "invalid_api_key"), "{}", refused.body);
    }
    for path in [COMPLETIONS, "/v1/models/load", "/nothing"] {
        let refused = send_with(&server, &bad, path, &body);
        assert!(
            refused.is_error(429, "rate_limit_exceeded"),
            "{}",
            refused.body
        );
        let error = &refused.json()["error"];
        assert_eq!(error["details"], json!({"limit": "credentials"}), "{error}");
        assert!(!refused.body.contains(&bad), "{error}");
        let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=30).contains(&after), "{after}");
    }
    let good = send_with(&server, &key, COMPLETIONS, &body);
    assert_eq!(good.status, 200, "{}", good.body);
    // Who shows nothing is no guesser, and probes ask nobody.
    assert!(
        server
            .post(COMPLETIONS, &body)
            .is_error(401, "missing_api_key")
    );
    assert_eq!(server.get("/health/live").status, 200);
}

#[test]
fn who_has_an_expired_token_is_told_so_and_nobody_else_learns_anything() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let flags = [
        ("jwt-algorithm", "HS256"),
        ("jwt-key-file", file.to_str().unwrap()),
        ("jwt-issuer", "issuer"),
        ("jwt-audience", "bitnet"),
    ];
    let config = ServerConfig::load(&Sources {
        flags: flags
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        ..Sources::default()
    });
    let server = TestServer::with_config(config.unwrap());
    let token = |secret: &str, exp: u64, nbf: u64| {
        let claims = json!({"sub": "u", "iss": "issuer", "aud": "bitnet", "exp": exp, "nbf": nbf});
        encode(
            &Header::default(),
            &claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
        .unwrap()
    };
    let far = 4_000_000_000;
    let generic = "the API key or token is not valid";
    let body = json!({"prompt": "Once", "max_tokens": 1});
    for (token, message) in [
        (token(SECRET, 1000, 0), "this token has expired"),
        (token("another secret of the same length", 1000, 0), generic),
        (token("another secret of the same length", far, 0), generic),
        (token(SECRET, far, far - 1), generic),
        ("bk_0123abcd_0".into(), generic),
    ] {
        let refused = send_with(&server, &token, COMPLETIONS, &body);
        assert!(refused.is_error(401, "invalid_api_key"), "{}", refused.body);
        let error = &refused.json()["error"];
        assert_eq!(error["message"], message, "{error}");
        assert_eq!(error["type"], "authentication_error");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    }
    let good = send_with(&server, &token(SECRET, far, 0), COMPLETIONS, &body);
    assert_eq!(good.status, 200, "{}", good.body);
}

/// A server with one key, and the key.
fn server_with(change: impl FnOnce(&mut NewKey<'_>)) -> (TestServer, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let mut new = NewKey::new("test", Role::Infer, RateLimits::default());
    change(&mut new);
    let key = key_file::add(&path, &new).unwrap().reveal().to_owned();
    let config = ServerConfig::load(&Sources {
        flags: vec![("keys-file".into(), path.display().to_string())],
        ..Sources::default()
    });
    (TestServer::with_config(config.unwrap()), key)
}

#[test]
fn who_has_an_expired_key_is_told_so() {
    let now = unix_seconds(SystemTime::now());
    let body = json!({"prompt": "Once", "max_tokens": 1});
    let (server, key) = server_with(|new| new.expires = Some(now + 3600));
    assert_eq!(send_with(&server, &key, COMPLETIONS, &body).status, 200);
    let (server, key) = server_with(|new| new.expires = Some(now));
    let refused = send_with(&server, &key, COMPLETIONS, &body);
    assert!(refused.is_error(401, "invalid_api_key"), "{}", refused.body);
    let error = &refused.json()["error"];
    assert_eq!(error["message"], "this API key has expired", "{error}");
    // Who knows its id alone learns nothing of it.
    let guessed = format!("{}{}", &key[..12], "0".repeat(64));
    let refused = send_with(&server, &guessed, COMPLETIONS, &body);
    let error = &refused.json()["error"];
    assert_eq!(
        error["message"], "the API key or token is not valid",
        "{error}"
    );
}

#[test]
fn a_key_for_some_models_sees_and_uses_no_others() {
    let of = |ids: &[&str]| Some(ids.iter().map(|id| (*id).to_owned()).collect());
    let ask = |server: &TestServer, key: &str, method: &str, path: &str, body: &str| -> Answer {
        let mut connection = Connection::open(server.address);
        let headers = format!("Authorization: Bearer {key}\r\n");
        connection.send(method, path, &headers, body);
        connection.answer()
    };
    let routes = [
        (COMPLETIONS, json!({"prompt": "Once", "max_tokens": 1})),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "Once"}], "max_tokens": 1}),
        ),
        ("/v1/inference", json!({"prompt": "Once", "max_tokens": 1})),
        (
            "/v1/inference/stream",
            json!({"prompt": "Once", "max_tokens": 1}),
        ),
        ("/v1/embeddings", json!({"input": "Once"})),
        ("/v1/rerank", json!({"query": "Once", "documents": ["a"]})),
        ("/tokenize", json!({"content": "Once"})),
        ("/detokenize", json!({"tokens": [1]})),
        (
            "/apply-template",
            json!({"messages": [{"role": "user", "content": "Once"}]}),
        ),
    ];
    let (server, key) = server_with(|new| new.models = of(&["other", "stories"]));
    let (closed, shut) = server_with(|new| new.models = of(&["other", "third"]));
    for (path, body) in &routes {
        for name in [None, Some("stories")] {
            let mut body = body.clone();
            if let Some(name) = name {
                body["model"] = json!(name);
            }
            // Some of them this model cannot do, which is said after it has been found.
            let allowed = send_with(&server, &key, path, &body);
            assert_ne!(allowed.status, 404, "{path}: {}", allowed.body);
            let refused = send_with(&closed, &shut, path, &body);
            assert!(
                refused.is_error(404, "model_not_found"),
                "{path}: {}",
                refused.body
            );
            let error = &refused.json()["error"];
            assert_eq!(error["param"], "model");
            assert_eq!(error["hint"], "this key may use: other, third");
        }
    }
    // What is there and what is not are told alike.
    let told = |name: &str| {
        let body = json!({"model": name, "prompt": "Once"});
        let refused = send_with(&closed, &shut, COMPLETIONS, &body);
        refused.json()["error"]["message"]
            .as_str()
            .unwrap()
            .replace(name, "NAME")
    };
    assert_eq!(told("stories"), told("nothing"));
    assert_eq!(told("stories"), told("third"));
    for (server, key, n_seen) in [(&server, &key, 1), (&closed, &shut, 0)] {
        let list = ask(server, key, "GET", "/v1/models", "").json();
        assert_eq!(list["data"].as_array().unwrap().len(), n_seen, "{list}");
        assert_eq!(list["models"].as_array().unwrap().len(), n_seen, "{list}");
        for path in [
            "/v1/models/stories",
            "/v1/models/stories/status",
            "/tokenizer_info",
        ] {
            let status = ask(server, key, "GET", path, "").status;
            assert_eq!(status, if n_seen == 1 { 200 } else { 404 }, "{path}");
        }
    }
}

#[test]
fn a_key_whose_quota_is_used_up_is_told_when_there_is_more() {
    let (server, key) = server_with(|new| new.quota.tokens_per_month = 1);
    let body = json!({"prompt": "Once", "max_tokens": 1});
    assert_eq!(send_with(&server, &key, COMPLETIONS, &body).status, 200);
    // Still set aside, or used: nothing is left.
    let refused = send_with(&server, &key, COMPLETIONS, &body);
    assert!(
        refused.is_error(429, "rate_limit_exceeded"),
        "{}",
        refused.body
    );
    let error = &refused.json()["error"];
    let details = &error["details"];
    assert_eq!(details["limit"], "quota", "{error}");
    assert_eq!(
        (&details["period"], &details["tokens"]),
        (&"month".into(), &1.into())
    );
    let resets_at = details["resets_at"].as_u64().unwrap();
    let begins = bitnet_server::auth::expiry::written(resets_at);
    let said = error["message"].as_str().unwrap();
    for words in ["quota of 1 tokens a month is used up", &begins] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=31 * 86_400).contains(&after), "{after}");
    let header = |name: &str| refused.header(&format!("x-ratelimit-{name}-tokens"));
    assert_eq!(
        (header("limit"), header("remaining")),
        (Some("1"), Some("0"))
    );
    let reset = header("reset").unwrap().strip_suffix("ms").unwrap();
    assert!(
        (1..=31 * 86_400_000u64).contains(&reset.parse().unwrap()),
        "{reset}"
    );
}

#[test]
fn answers_tell_what_is_left_of_a_quota_where_a_minute_has_more() {
    let (server, key) = server_with(|new| {
        new.limits.tokens_per_minute = 1_000_000;
        new.quota.tokens_per_day = 5000;
        new.quota.tokens_per_month = 100_000;
    });
    let body = json!({"prompt": [5, 6, 7], "max_tokens": 1, "ignore_eos": true});
    let answer = send_with(&server, &key, COMPLETIONS, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("5000"));
    let left: u64 = answer
        .header("x-ratelimit-remaining-tokens")
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(left, 4996);
    let reset = answer.header("x-ratelimit-reset-tokens").unwrap();
    let reset: u64 = reset.strip_suffix("ms").unwrap().parse().unwrap();
    assert!(reset <= 86_400_000, "{reset}");
}
