//! Keys and tokens that are not good, or not good for this, against a running server.

use serde_json::json;

use crate::access::{send_with, server_with_key};

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
