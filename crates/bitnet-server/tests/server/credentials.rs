//! Keys and tokens that are not good, or not good for this, against a running server.

use bitnet_server::config::{ServerConfig, Sources};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use crate::access::{send_with, server_with_key};
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
