//! A wall clock that jumps, forward and back, under requests with tokens and with limits.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use super::super::access::{AccessTable, RouteAccess};
use super::super::guard::{Guard, Refusal, RequestHead};
use super::super::rate::Exceeded;
use super::*;
use crate::config::{ServerConfig, Sources};
use crate::request_log::RequestNotes;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const PATH: &str = "/v1/completions";

#[test]
fn a_clock_that_jumps_moves_dates_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let flags = [
        ("jwt-algorithm", "HS256"),
        ("jwt-key-file", file.to_str().unwrap()),
        ("jwt-issuer", "issuer"),
        ("jwt-audience", "bitnet"),
        ("jwt-leeway", "0"),
        ("requests-per-minute", "2"),
        ("refused-credentials-per-minute", "3"),
    ];
    let config = ServerConfig::load(&Sources {
        flags: flags
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        ..Sources::default()
    });
    let table = AccessTable::new(&[(Method::POST, PATH, RouteAccess::Infer)]);
    let guard = Guard::new(&config.unwrap(), table).unwrap();

    let start = Instant::now();
    let noon = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let (nbf, exp) = (1_800_000_000 - 60, 1_800_000_000 + 60);
    let claims = json!({"sub": "u", "iss": "issuer", "aud": "bitnet", "nbf": nbf, "exp": exp});
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("localhost"));
    headers.insert("x-api-key", HeaderValue::try_from(token).unwrap());
    let uri = Uri::from_static(PATH);
    let ask = |passed: u64, time: SystemTime| {
        let head = RequestHead {
            method: &Method::POST,
            uri: &uri,
            headers: &headers,
            route: Some(PATH),
            peer: None,
        };
        let instant = start + Duration::from_secs(passed);
        let moment = Moment { instant, time };
        let admitted = guard.admit(head, &RequestNotes::default(), moment);
        admitted.map(|admitted| admitted.unwrap().0.id)
    };
    let exceeded = |refusal: Refusal| match refusal {
        Refusal::TooMuch(too_much) => too_much.exceeded,
        other => panic!("{other:?}"),
    };
    let day = Duration::from_secs(86_400);
    assert_eq!(ask(0, noon).unwrap(), "jwt:u");
    assert_eq!(ask(0, noon).unwrap(), "jwt:u");
    // A day forward: the token is over, and its owner is told; a minute's limits are none the wider.
    assert_eq!(ask(1, noon + day), Err(Refusal::Expired { what: "token" }));
    assert_eq!(exceeded(ask(1, noon).unwrap_err()), Exceeded::Requests);
    // A day back: not yet good. Before 1970 too, which is a clock that nobody has set.
    assert_eq!(ask(1, noon - day), Err(Refusal::InvalidCredentials));
    let unset = UNIX_EPOCH - day;
    assert_eq!(ask(1, unset), Err(Refusal::InvalidCredentials));
    // Three bad ones in this minute, whatever day it was.
    assert_eq!(
        exceeded(ask(1, noon + day).unwrap_err()),
        Exceeded::Credentials
    );
    // Right again, and a minute is a minute.
    assert_eq!(ask(61, noon).unwrap(), "jwt:u");
    assert_eq!(unix_seconds(unset), 0);
}
