//! Every route through the layer, with every kind of credentials; keys and tokens good and bad.

mod keys;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::access::{AccessTable, Role, RouteAccess};
use super::guard::{Guard, GuardError, Refusal};
use super::key_file::{self, KeyFileError, NewKey};
use super::layer::{AuthGate, layer};
use super::rate::RateLimits;
use crate::config::{ServerConfig, Sources};

const ROUTES: [(Method, &str, RouteAccess); 6] = [
    (Method::GET, "/health", RouteAccess::Probe),
    (Method::GET, "/metrics", RouteAccess::Metrics),
    (Method::POST, "/v1/chat/completions", RouteAccess::Infer),
    (Method::GET, "/v1/models/{id}", RouteAccess::Infer),
    (Method::DELETE, "/v1/models/{id}", RouteAccess::Admin),
    (Method::POST, "/v1/models/swap", RouteAccess::Admin),
];

/// A route that the router has and the table has not.
const FORGOTTEN: &str = "/forgotten";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn config(flags: &[(&str, &str)]) -> ServerConfig {
    ServerConfig::load(&Sources {
        flags: flags
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
        ..Sources::default()
    })
    .unwrap()
}

fn tell(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::MissingCredentials
        | Refusal::NobodyHasCredentials
        | Refusal::InvalidCredentials
        | Refusal::Expired { .. } => StatusCode::UNAUTHORIZED,
        Refusal::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
        Refusal::TooMuch(_) => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::FORBIDDEN,
    };
    (status, refusal.to_string()).into_response()
}

/// A server whose routes answer every method with 200.
fn server(flags: &[(&str, &str)]) -> Router {
    let guard = Arc::new(Guard::new(&config(flags), AccessTable::new(&ROUTES)).unwrap());
    let mut router = Router::new().route(FORGOTTEN, any(|| async { "open" }));
    let mut paths: Vec<&str> = ROUTES.iter().map(|(_, path, _)| *path).collect();
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        router = router.route(path, any(|| async { "open" }));
    }
    router.layer(axum::middleware::from_fn_with_state(
        AuthGate { guard, tell },
        layer,
    ))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn ask(router: &Router, method: &Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::builder()
        .method(method)
        .uri(path.replace("{id}", "m"));
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "127.0.0.1:8080");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    runtime().block_on(router.clone().oneshot(request)).unwrap()
}

fn status(router: &Router, method: &Method, path: &str, headers: &[(&str, &str)]) -> u16 {
    ask(router, method, path, headers).status().as_u16()
}

/// A key with a name of its own.
fn new_key(path: &Path, role: Role) -> String {
    let n_keys = key_file::read(path).map_or(0, |keys| keys.len());
    let name = format!("test-{n_keys}");
    let new = NewKey::new(&name, role, RateLimits::default());
    key_file::add(path, &new).unwrap().reveal().to_owned()
}

fn keys() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    (folder, path)
}

fn all_methods() -> [Method; 7] {
    [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ]
}

#[test]
fn nothing_but_probes_answers_without_credentials() {
    let (_folder, path) = keys();
    new_key(&path, Role::Infer);
    let file = path.to_str().unwrap();
    for host in ["127.0.0.1", "0.0.0.0"] {
        let router = server(&[("host", host), ("keys-file", file)]);
        for method in all_methods() {
            for path in ROUTES
                .iter()
                .map(|(_, path, _)| *path)
                .chain([FORGOTTEN, "/no/such/route"])
            {
                let is_probe =
                    path == "/health" && (method == Method::GET || method == Method::HEAD);
                let expected = if is_probe { 200 } else { 401 };
                assert_eq!(
                    status(&router, &method, path, &[]),
                    expected,
                    "{host} {method} {path}"
                );
            }
        }
    }
}

#[test]
fn roles_open_what_is_theirs_and_a_forgotten_route_is_for_admins() {
    let (_folder, path) = keys();
    let infer = format!("Bearer {}", new_key(&path, Role::Infer));
    let admin = format!("bearer {}", new_key(&path, Role::Admin));
    let router = server(&[("keys-file", path.to_str().unwrap())]);
    let get = |key: &str, method: Method, path: &str| {
        status(&router, &method, path, &[("authorization", key)])
    };
    for (method, path, access) in ROUTES {
        let expected = if access == RouteAccess::Admin {
            403
        } else {
            200
        };
        assert_eq!(
            get(&infer, method.clone(), path),
            expected,
            "{method} {path}"
        );
        assert_eq!(get(&admin, method.clone(), path), 200, "{method} {path}");
    }
    assert_eq!(
        (
            get(&infer, Method::GET, FORGOTTEN),
            get(&admin, Method::GET, FORGOTTEN)
        ),
        (403, 200)
    );
    assert_eq!(
        get(&admin, Method::PUT, "/v1/models/{id}"),
        405,
        "a method that is not listed does not exist"
    );
    assert_eq!(get(&infer, Method::GET, "/no/such/route"), 404);
}

#[test]
fn credentials_are_taken_one_at_a_time_and_whole() {
    let (_folder, path) = keys();
    let key = new_key(&path, Role::Infer);
    let router = server(&[
        ("keys-file", path.to_str().unwrap()),
        ("loopback-inference", "open"),
    ]);
    let bearer = format!("Bearer {key}");
    let flipped = format!(
        "Bearer {}{}",
        &key[..key.len() - 1],
        if key.ends_with('0') { '1' } else { '0' }
    );
    let long = format!("Bearer {}", "a".repeat(20_000));
    let cases: [(&[(&str, &str)], u16); 10] = [
        (&[], 200),
        (&[("authorization", &bearer)], 200),
        (&[("x-api-key", &key)], 200),
        (&[("authorization", &flipped)], 401),
        (&[("authorization", &key)], 401),
        (&[("authorization", &bearer[..20])], 401),
        (&[("authorization", "Basic YTpi")], 401),
        (&[("authorization", "")], 401),
        (&[("authorization", &bearer), ("x-api-key", &key)], 401),
        (&[("authorization", &long)], 401),
    ];
    for (headers, expected) in cases {
        assert_eq!(
            status(&router, &Method::POST, "/v1/chat/completions", headers),
            expected,
            "{headers:?}"
        );
    }
}

#[test]
fn without_credentials_configured_loopback_infers_and_nobody_manages() {
    let router = server(&[]);
    let some_key = [("authorization", "Bearer sk-anything")];
    for (method, path, access) in ROUTES {
        let expected = if access == RouteAccess::Admin {
            401
        } else {
            200
        };
        assert_eq!(
            status(&router, &method, path, &[]),
            expected,
            "{method} {path}"
        );
        assert_eq!(
            status(&router, &method, path, &some_key),
            expected,
            "{method} {path}"
        );
    }
    assert_eq!(status(&router, &Method::GET, FORGOTTEN, &[]), 401);
    let closed = server(&[("loopback-inference", "key")]);
    assert_eq!(
        status(&closed, &Method::POST, "/v1/chat/completions", &[]),
        401
    );
}

#[test]
fn a_public_address_without_credentials_is_refused_unless_told() {
    let table = AccessTable::new(&ROUTES);
    for host in ["0.0.0.0", "::", "192.0.2.1", "::ffff:10.0.0.1"] {
        let refused = Guard::new(&config(&[("host", host)]), table.clone());
        assert!(matches!(refused, Err(GuardError::Bind(_))), "{host}");
        let router = server(&[("host", host), ("insecure-no-auth", "true")]);
        assert_eq!(
            status(
                &router,
                &Method::POST,
                "/v1/chat/completions",
                &[("host", "any.example")]
            ),
            200
        );
        assert_eq!(
            status(&router, &Method::POST, "/v1/models/swap", &[]),
            401,
            "management stays closed"
        );
    }
    for host in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        assert!(
            Guard::new(&config(&[("host", host)]), table.clone()).is_ok(),
            "{host}"
        );
    }
}

#[test]
fn pages_of_a_browser_cannot_use_a_server_on_loopback() {
    let router = server(&[("allowed-hosts", "box.example")]);
    let cases: [(&[(&str, &str)], u16); 14] = [
        (&[("host", "localhost:8080")], 200),
        (&[("host", "LOCALHOST")], 200),
        (&[("host", "[::1]:8080")], 200),
        (&[("host", "box.example:1")], 200),
        (&[("host", "evil.example")], 403),
        (&[("host", "127.0.0.1.evil.example")], 403),
        (&[("host", "localhost"), ("host", "evil.example")], 403),
        (&[("host", "")], 403),
        (&[("origin", "http://127.0.0.1:8080")], 200),
        (&[("origin", "https://evil.example")], 403),
        (&[("origin", "null")], 403),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("sec-fetch-site", "same-site")], 403),
        (&[("sec-fetch-site", "same-origin")], 200),
    ];
    for (headers, expected) in cases {
        let response = ask(&router, &Method::POST, "/v1/chat/completions", headers);
        assert_eq!(response.status().as_u16(), expected, "{headers:?}");
        assert!(
            !response
                .headers()
                .keys()
                .any(|name| name.as_str().starts_with("access-control"))
        );
    }
}

#[test]
fn tokens_need_everything_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    let router = server(&[
        ("jwt-algorithm", "HS256"),
        ("jwt-key-file", path.to_str().unwrap()),
        ("jwt-issuer", "issuer"),
        ("jwt-audience", "bitnet"),
    ]);
    let far = 4_000_000_000u64;
    let good = json!({"sub": "u", "iss": "issuer", "aud": "bitnet", "exp": far, "role": "admin"});
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let sign = |algorithm: Algorithm, secret: &str, claims: &Value| {
        encode(
            &Header::new(algorithm),
            claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
        .unwrap()
    };
    let manage = |token: &str| {
        let bearer = format!("Bearer {token}");
        status(
            &router,
            &Method::POST,
            "/v1/models/swap",
            &[("authorization", &bearer)],
        )
    };
    assert_eq!(manage(&sign(Algorithm::HS256, SECRET, &good)), 200);
    assert_eq!(
        manage(&sign(Algorithm::HS256, SECRET, &without("role"))),
        403,
        "no role is the lesser one"
    );
    let bad = [
        without("exp"),
        without("iss"),
        without("aud"),
        without("sub"),
        with("exp", json!(1)),
        with("nbf", json!(far)),
        with("iss", json!("another")),
        with("aud", json!("another")),
        with("sub", json!("")),
        with("role", json!("root")),
    ];
    for claims in bad {
        assert_eq!(
            manage(&sign(Algorithm::HS256, SECRET, &claims)),
            401,
            "{claims}"
        );
    }
    assert_eq!(
        manage(&sign(Algorithm::HS512, SECRET, &good)),
        401,
        "another algorithm"
    );
    assert_eq!(
        manage(&sign(
            Algorithm::HS256,
            "another secret of the same length",
            &good
        )),
        401
    );
    // {"alg":"none","typ":"JWT"} in front of good claims, with and without a signature.
    let signed = sign(Algorithm::HS256, SECRET, &good);
    let parts: Vec<&str> = signed.split('.').collect();
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    assert_eq!(manage(&format!("{none}.{}.", parts[1])), 401);
    assert_eq!(manage(&format!("{none}.{}.{}", parts[1], parts[2])), 401);
    assert_eq!(manage("a.b.c"), 401);
    std::fs::write(&path, "short").unwrap();
    let short = Guard::new(
        &config(&[
            ("jwt-algorithm", "HS256"),
            ("jwt-key-file", path.to_str().unwrap()),
            ("jwt-issuer", "i"),
            ("jwt-audience", "a"),
        ]),
        AccessTable::default(),
    );
    assert!(matches!(short, Err(GuardError::Jwt(_))));
}

#[test]
fn a_limit_is_told_with_headers_and_ends_by_itself() {
    let router = server(&[("requests-per-minute", "2")]);
    let post = || ask(&router, &Method::POST, "/v1/chat/completions", &[]);
    let first = post();
    assert_eq!(first.headers()["x-ratelimit-limit-requests"], "2");
    assert_eq!(first.headers()["x-ratelimit-remaining-requests"], "1");
    assert_eq!(post().status(), 200);
    let third = post();
    assert_eq!(third.status(), 429);
    assert_eq!(third.headers()["x-ratelimit-remaining-requests"], "0");
    assert!(
        third.headers()["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            <= 30
    );
    assert_eq!(
        status(&router, &Method::GET, "/health", &[]),
        200,
        "probes are not counted"
    );
}

#[test]
fn a_stream_counts_until_its_body_is_dropped() {
    let router = server(&[("concurrent-requests", "1")]);
    let open = ask(&router, &Method::POST, "/v1/chat/completions", &[]);
    assert_eq!(open.status(), 200);
    assert_eq!(
        status(&router, &Method::POST, "/v1/chat/completions", &[]),
        429
    );
    drop(open);
    assert_eq!(
        status(&router, &Method::POST, "/v1/chat/completions", &[]),
        200
    );
}
