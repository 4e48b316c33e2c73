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

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ALGORITHMS: [(Algorithm, &str, &str); 4] = [
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

fn signing_key(algorithm: Algorithm, key: &str) -> EncodingKey {
    match algorithm {
        Algorithm::HS256 => EncodingKey::from_secret(key.as_bytes()),
        Algorithm::RS256 => EncodingKey::from_rsa_pem(key.as_bytes()).unwrap(),
        Algorithm::ES256 => EncodingKey::from_ec_pem(key.as_bytes()).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(key.as_bytes()).unwrap(),
        other => panic!("{other:?} has no key here"),
    }
}

fn token(header: &Header, private: &str) -> String {
    let far = 4_000_000_000u64;
    let claims = json!({"sub": "u", "iss": "issuer", "aud": "bitnet", "exp": far});
    encode(header, &claims, &signing_key(header.alg, private)).unwrap()
}

#[test]
fn each_algorithm_is_accepted_where_it_is_configured_and_nowhere_else() {
    for (configured, _, public) in ALGORITHMS {
        let verifier = open(configured, public).unwrap().unwrap();
        for (signed, private, _) in ALGORITHMS {
            let accepted = verifier.verify(&token(&Header::new(signed), private));
            assert_eq!(
                accepted.is_some(),
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
            assert_eq!(verifier.verify(&forged), None, "{configured:?}");
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
            verifier.verify(&token(&header, ALGORITHMS[3].1)).is_some(),
            "{name}"
        );
        for empty in ["", "\0"] {
            let header = Header {
                alg: Algorithm::HS256,
                ..header.clone()
            };
            assert_eq!(verifier.verify(&token(&header, empty)), None, "{name}");
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
fn a_part_of_a_second_counts_as_one() {
    for (milliseconds, seconds) in [(0, 0), (1, 1), (500, 1), (1000, 1), (1001, 2), (30_000, 30)] {
        assert_eq!(whole_seconds(Duration::from_millis(milliseconds)), seconds);
    }
}
