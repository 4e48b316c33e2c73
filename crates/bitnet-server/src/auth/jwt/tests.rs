//! The attacks on signed tokens: another algorithm, another key, a header that names files.
//!
//! The keys were made by `openssl genpkey` for these tests and open nothing.

use super::*;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use crate::config::{ServerConfig, Sources};

macro_rules! key {
    ($name:literal) => {
        include_str!(concat!("../../../tests/data/jwt/", $name, ".pem"))
    };
}

const EXP: f64 = 4_000_000_000.0;
const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(super) const ALGORITHMS: [(Algorithm, &str, &str); 4] = [
    (Algorithm::HS256, SECRET, SECRET),
    (
        Algorithm::RS256,
        key!("rs256.private"),
        key!("rs256.public"),
    ),
    (
        Algorithm::ES256,
        key!("es256.private"),
        key!("es256.public"),
    ),
    (
        Algorithm::EdDSA,
        key!("eddsa.private"),
        key!("eddsa.public"),
    ),
];

fn open(algorithm: Algorithm, key: &str) -> Result<Option<JwtVerifier>, JwtKeyError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, key).unwrap();
    open_at(algorithm, &path)
}

pub(super) fn open_at(
    algorithm: Algorithm,
    path: &Path,
) -> Result<Option<JwtVerifier>, JwtKeyError> {
    let flags = [
        ("jwt-algorithm", format!("{algorithm:?}")),
        ("jwt-key-file", path.display().to_string()),
        ("jwt-issuer", "issuer".to_owned()),
        ("jwt-audience", "bitnet".to_owned()),
    ];
    let config = ServerConfig::load(&Sources {
        flags: flags.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        ..Sources::default()
    });
    JwtVerifier::open(&config.unwrap().auth)
}

pub(super) fn signing_key(algorithm: Algorithm, key: &str) -> EncodingKey {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS512 => EncodingKey::from_secret(key.as_bytes()),
        Algorithm::RS256 => EncodingKey::from_rsa_pem(key.as_bytes()).unwrap(),
        Algorithm::ES256 => EncodingKey::from_ec_pem(key.as_bytes()).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(key.as_bytes()).unwrap(),
        other => panic!("{other:?} has no key here"),
    }
}

pub(super) fn token(header: &Header, private: &str) -> String {
    signed(header, private, &claims())
}

fn signed(header: &Header, private: &str, claims: &Value) -> String {
    encode(header, claims, &signing_key(header.alg, private)).unwrap()
}

/// The claims of a token that expires at [`EXP`].
fn claims() -> Value {
    json!({"sub": "u", "iss": "issuer", "aud": "bitnet", "exp": EXP})
}

fn at(seconds: f64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

pub(super) fn verify(verifier: &JwtVerifier, token: &str) -> Result<Subject, TokenRefused> {
    verifier.verify(token, at(EXP - 1000.0))
}

#[test]
fn each_algorithm_is_accepted_where_it_is_configured_and_nowhere_else() {
    for (configured, _, public) in ALGORITHMS {
        let verifier = open(configured, public).unwrap().unwrap();
        for (signed, private, _) in ALGORITHMS {
            let accepted = verify(&verifier, &token(&Header::new(signed), private));
            assert_eq!(
                accepted.is_ok(),
                configured == signed,
                "{signed:?} where {configured:?} is configured"
            );
        }
    }
}

#[test]
fn a_public_key_is_no_shared_secret() {
    for (configured, _, public) in &ALGORITHMS[1..] {
        let verifier = open(*configured, public).unwrap().unwrap();
        for secret in [public, public.trim_end()] {
            let forged = token(&Header::new(Algorithm::HS256), secret);
            assert!(verify(&verifier, &forged).is_err(), "{configured:?}");
        }
        assert!(
            open(Algorithm::HS256, public).is_err(),
            "a PEM file as the secret"
        );
    }
}

#[test]
fn the_header_names_no_key() {
    let (algorithm, _, public) = ALGORITHMS[3];
    let verifier = open(algorithm, public).unwrap().unwrap();
    for name in [
        "../../../../../../dev/null",
        "/proc/self/environ",
        "' OR 1=1 --",
        "http://169.254.169.254/key",
    ] {
        let header = Header {
            kid: Some(name.into()),
            jku: Some(name.into()),
            x5u: Some(name.into()),
            ..Header::new(algorithm)
        };
        // By the right key it is good whatever it names, and by none that it could lead to.
        assert!(
            verify(&verifier, &token(&header, ALGORITHMS[3].1)).is_ok(),
            "{name}"
        );
        for empty in ["", "\0"] {
            let header = Header {
                alg: Algorithm::HS256,
                ..header.clone()
            };
            assert!(verify(&verifier, &token(&header, empty)).is_err(), "{name}");
        }
    }
}

#[test]
fn keys_of_another_kind_are_told_at_start() {
    for (configured, ..) in &ALGORITHMS[1..] {
        for (of, private, public) in &ALGORITHMS[1..] {
            let opened = open(*configured, public);
            assert_eq!(
                opened.is_ok(),
                configured == of,
                "{configured:?} with a key of {of:?}"
            );
            if let Err(error) = open(*configured, private) {
                let secret = private.lines().nth(1).unwrap();
                assert!(!error.to_string().contains(secret), "an error shows a key");
            }
        }
    }
}

#[test]
fn times_are_held_against_the_clock_that_is_given_with_leeway() {
    let verifier = open(Algorithm::HS256, SECRET).unwrap().unwrap();
    let leeway = verifier.leeway.as_secs_f64();
    assert_eq!(leeway, 10.0, "the default");
    let mut timed = claims();
    timed["nbf"] = json!(EXP - 100.5);
    let timed = signed(&Header::new(Algorithm::HS256), SECRET, &timed);
    for (now, expected) in [
        (0.0, Err(TokenRefused::NotYet)),
        (EXP - 100.5 - leeway - 0.5, Err(TokenRefused::NotYet)),
        (EXP - 100.5 - leeway, Ok(())),
        (EXP, Ok(())),
        (EXP + leeway - 0.5, Ok(())),
        (EXP + leeway, Err(TokenRefused::Expired)),
        (10.0 * EXP, Err(TokenRefused::Expired)),
    ] {
        let told = verifier.verify(&timed, at(now)).map(|_| ());
        assert_eq!(told, expected, "{now}");
    }
    // A machine whose clock was never set.
    let before = UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(verifier.verify(&timed, before), Err(TokenRefused::NotYet));
    // Somebody else's token is never called an expired one.
    let forged = token(
        &Header::new(Algorithm::HS256),
        "another secret of the same length",
    );
    let told = verifier.verify(&forged, at(2.0 * EXP));
    assert_eq!(told, Err(TokenRefused::Signature));
}

#[test]
fn each_fault_has_its_reason() {
    let verifier = open(Algorithm::HS256, SECRET).unwrap().unwrap();
    let header = Header::new(Algorithm::HS256);
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        verify(&verifier, &signed(&header, SECRET, &claims)).unwrap_err()
    };
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        verify(&verifier, &signed(&header, SECRET, &claims)).unwrap_err()
    };
    for claim in ["exp", "iss", "aud", "sub"] {
        assert_eq!(without(claim), TokenRefused::Claim { claim });
    }
    for (name, value) in [
        ("exp", json!("soon")),
        ("exp", json!(-1)),
        ("sub", json!("")),
    ] {
        let told = with(name, value.clone());
        assert!(
            matches!(told, TokenRefused::Claim { claim } if claim == name),
            "{name} {value}"
        );
    }
    let claim = "nbf";
    for value in [json!("late"), json!(null)] {
        assert_eq!(with(claim, value), TokenRefused::Claim { claim });
    }
    assert_eq!(with("iss", json!("other")), TokenRefused::Issuer);
    assert_eq!(with("aud", json!(["a", "b"])), TokenRefused::Audience);
    let told = with("role", json!("viewer"));
    assert!(
        told.to_string().contains("neither infer nor admin"),
        "{told}"
    );
    let other = token(&Header::new(Algorithm::HS512), SECRET);
    assert_eq!(verify(&verifier, &other), Err(TokenRefused::Algorithm));
    for text in ["", "a.b.c", "..", &"a".repeat(10_000)] {
        assert_eq!(verify(&verifier, text), Err(TokenRefused::Malformed));
    }
}
