//! Key sets and folders of keys: what is taken of them, which key a token means, and the change from one key to the
//! next.

use std::path::PathBuf;

use jsonwebtoken::Header;
use serde_json::json;

use super::super::tests::{ALGORITHMS, open_at, signing_key, token, verify};
use super::super::{JwtVerifier, Subject};
use super::*;

const NEXT: [&str; 2] = [
    include_str!("../../../../tests/data/jwt/eddsa-next.private.pem"),
    include_str!("../../../../tests/data/jwt/eddsa-next.public.pem"),
];

fn header(algorithm: Algorithm, kid: Option<&str>) -> Header {
    Header {
        kid: kid.map(str::to_owned),
        ..Header::new(algorithm)
    }
}

/// The public half of a key, as key sets have it.
fn jwk(algorithm: Algorithm, private: &str, kid: Option<&str>) -> Value {
    let jwk = Jwk::from_encoding_key(&signing_key(algorithm, private), algorithm).unwrap();
    let mut jwk = serde_json::to_value(jwk).unwrap();
    if let Some(kid) = kid {
        jwk["kid"] = json!(kid);
    }
    jwk
}

struct KeyFile {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl KeyFile {
    fn new() -> KeyFile {
        let folder = tempfile::tempdir().unwrap();
        KeyFile {
            path: folder.path().join("keys"),
            _folder: folder,
        }
    }

    fn set(keys: &Value) -> KeyFile {
        let file = KeyFile::new();
        std::fs::write(&file.path, json!({"keys": keys}).to_string()).unwrap();
        file
    }

    fn open(&self, algorithm: Algorithm) -> JwtVerifier {
        open_at(algorithm, &self.path).unwrap().unwrap()
    }

    fn error(&self, algorithm: Algorithm) -> String {
        let error = open_at(algorithm, &self.path).err();
        error.expect("it cannot be used").to_string()
    }
}

#[test]
fn a_key_set_has_the_keys_of_the_algorithm_and_others_are_left_out() {
    let mut keys: Vec<Value> = ALGORITHMS
        .iter()
        .map(|(algorithm, private, _)| {
            jwk(
                *algorithm,
                private,
                Some(&format!("{algorithm:?}").to_lowercase()),
            )
        })
        .collect();
    keys.push(json!({"kty": "LATER", "kid": "x"}));
    keys.push(json!("no key at all"));
    let mut encrypts = jwk(Algorithm::EdDSA, NEXT[0], Some("encrypts"));
    encrypts["use"] = json!("enc");
    keys.push(encrypts);
    let file = KeyFile::set(&json!(keys));
    for (algorithm, private, _) in ALGORITHMS {
        let verifier = file.open(algorithm);
        assert_eq!(verifier.n_keys(), 1, "{algorithm:?}");
        let kid = format!("{algorithm:?}").to_lowercase();
        for (kid, is_good) in [(Some(kid.as_str()), true), (None, true), (Some("x"), false)] {
            let told = verify(&verifier, &token(&header(algorithm, kid), private));
            assert_eq!(told.is_ok(), is_good, "{algorithm:?} {kid:?}: {told:?}");
        }
    }
    let verifier = file.open(Algorithm::EdDSA);
    let other = token(&header(Algorithm::EdDSA, Some("encrypts")), NEXT[0]);
    assert_eq!(
        verify(&verifier, &other),
        Err(TokenRefused::UnknownKey { n_keys: 1 })
    );
}

#[test]
fn key_sets_that_nothing_can_be_checked_by_are_told() {
    let private = ALGORITHMS[3].1;
    let good = jwk(Algorithm::EdDSA, private, Some("a"));
    let changed = |name: &str, value: Value| {
        let mut key = good.clone();
        key[name] = value;
        json!([key])
    };
    let mut short = jwk(Algorithm::RS256, ALGORITHMS[1].1, None);
    short["n"] = json!("3q2-7w");
    let cases = [
        (Algorithm::EdDSA, json!([]), "no key for EdDSA"),
        (Algorithm::RS256, json!([good]), "no key for RS256"),
        (
            Algorithm::EdDSA,
            json!([good, good]),
            "two keys have the kid \"a\"",
        ),
        (Algorithm::EdDSA, changed("d", json!("AA")), "private key"),
        (Algorithm::EdDSA, changed("x", json!("AA")), "keys[0]"),
        (Algorithm::EdDSA, changed("x", json!("%")), "keys[0]"),
        (Algorithm::RS256, json!([short]), "32 bits"),
        (
            Algorithm::HS256,
            json!([{"kty": "oct", "k": "AAAA"}]),
            "at least 32 bytes",
        ),
    ];
    for (algorithm, keys, words) in cases {
        let told = KeyFile::set(&keys).error(algorithm);
        assert!(told.contains(words), "{words}: {told}");
    }
    let file = KeyFile::new();
    for text in ["{", "{\"keys\": 7}", "{}"] {
        std::fs::write(&file.path, text).unwrap();
        let told = file.error(Algorithm::EdDSA);
        assert!(told.contains("no JSON Web Key Set"), "{text}: {told}");
    }
    // What looks like a key set and is none may be a secret.
    let secret = "{0123456789abcdef0123456789abcdef";
    std::fs::write(&file.path, secret).unwrap();
    let verifier = file.open(Algorithm::HS256);
    let good = token(&header(Algorithm::HS256, None), secret);
    assert!(verify(&verifier, &good).is_ok());
}

#[test]
fn while_a_key_is_changed_tokens_of_both_are_good() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (ALGORITHMS[3].1, NEXT[0]);
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put("2026-11.pem", ALGORITHMS[3].2);
    // As secrets are mounted.
    std::fs::create_dir(folder.path().join("..data")).unwrap();
    let open = || open_at(Algorithm::EdDSA, folder.path()).unwrap().unwrap();
    let tell = |verifier: &JwtVerifier, kid: Option<&str>, private: &str| {
        verify(verifier, &token(&header(Algorithm::EdDSA, kid), private))
    };
    let (first, second) = (Some("2026-11"), Some("2026-12"));
    let is_good = |told: Result<Subject, TokenRefused>| assert_eq!(told.unwrap().id, "u");

    let verifier = open();
    is_good(tell(&verifier, first, old));
    is_good(tell(&verifier, None, old));
    assert_eq!(
        tell(&verifier, second, new),
        Err(TokenRefused::UnknownKey { n_keys: 1 })
    );

    put("2026-12.pem", NEXT[1]);
    let verifier = open();
    is_good(tell(&verifier, first, old));
    is_good(tell(&verifier, second, new));
    assert_eq!(tell(&verifier, first, new), Err(TokenRefused::Signature));
    assert_eq!(tell(&verifier, second, old), Err(TokenRefused::Signature));
    assert_eq!(
        tell(&verifier, None, new),
        Err(TokenRefused::NoKeyNamed { n_keys: 2 })
    );
    for strange in ["", "2026-11.pem", "../2026-11", "2026-1"] {
        let told = tell(&verifier, Some(strange), old);
        assert_eq!(
            told,
            Err(TokenRefused::UnknownKey { n_keys: 2 }),
            "{strange}"
        );
    }

    std::fs::remove_file(folder.path().join("2026-11.pem")).unwrap();
    let verifier = open();
    is_good(tell(&verifier, second, new));
    assert_eq!(
        tell(&verifier, first, old),
        Err(TokenRefused::UnknownKey { n_keys: 1 })
    );

    put("notes.txt", "the key of next month");
    let told = open_at(Algorithm::EdDSA, folder.path())
        .err()
        .unwrap()
        .to_string();
    assert!(told.contains("notes.txt"), "{told}");
    std::fs::remove_file(folder.path().join("notes.txt")).unwrap();
    put("2026-12", NEXT[1]);
    let told = open_at(Algorithm::EdDSA, folder.path())
        .err()
        .unwrap()
        .to_string();
    assert!(told.contains("two keys have the kid"), "{told}");
    let empty = tempfile::tempdir().unwrap();
    let told = open_at(Algorithm::EdDSA, empty.path())
        .err()
        .unwrap()
        .to_string();
    assert!(told.contains("no key"), "{told}");
}
