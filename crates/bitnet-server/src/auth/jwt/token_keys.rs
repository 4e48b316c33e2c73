//! The keys that tokens are checked by: one file, or several keys with names, so that an issuer can change its key
//! while tokens of the old one are about.
//!
//! A file is a public key in PEM, for HS256 a secret, or a JSON Web Key Set (RFC 7517), whose keys of other algorithms
//! and uses are left out. A folder has a file for each key, which is named by it. The name is what a token's `kid` must
//! be.

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde_json::Value;

use super::{JwtKeyError, TokenRefused};

/// Shortest secret of HS256: as long as its hash (RFC 7518, 3.2).
const MIN_SECRET_LEN: usize = 32;
/// Bits of RSA's modulus: at least those of RFC 7518, 3.3, at most what the library computes with.
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// Bytes of a public key of Ed25519 (RFC 8032, 5.1.5).
const ED25519_BYTES: usize = 32;
/// Largest file of keys.
const MAX_KEY_BYTES: u64 = 65_536;
/// Most files in a folder: issuers have a few keys at a time.
const MAX_FILES: usize = 256;

/// The keys of one algorithm.
pub struct TokenKeys(Named);

enum Named {
    /// The one key there is, by which every token is checked: what it says of its key means nothing.
    One(DecodingKey),
    /// Keys, each with its name; at most one has none.
    Each(Vec<(Option<String>, DecodingKey)>),
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl TokenKeys {
    /// Reads what is at `path`.
    ///
    /// # Errors
    /// When it cannot be read, has no key of the algorithm, a key that cannot be used, or two of one name.
    pub fn read(path: &Path, algorithm: Algorithm) -> Result<TokenKeys, JwtKeyError> {
        let failed = |reason: String| JwtKeyError::new(path, reason);
        if path.is_dir() {
            return Ok(TokenKeys(Named::Each(of_folder(path, algorithm)?)));
        }
        let bytes = read_file(path).map_err(failed)?;
        // Any bytes may be a secret; no key in PEM begins so.
        let is_set = match algorithm {
            Algorithm::HS256 => serde_json::from_slice::<KeySet>(&bytes).is_ok(),
            _ => bytes.trim_ascii_start().starts_with(b"{"),
        };
        if is_set {
            let keys = of_set(&bytes, algorithm).map_err(failed)?;
            return Ok(TokenKeys(Named::Each(keys)));
        }
        let key = single(&bytes, algorithm).map_err(failed)?;
        Ok(TokenKeys(Named::One(key)))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match &self.0 {
            Named::One(_) => 1,
            Named::Each(keys) => keys.len(),
        }
    }

    /// The key of a token whose header has this `kid`.
    ///
    /// # Errors
    /// When no key has that name, or it has none and there are several keys.
    pub fn of(&self, kid: Option<&str>) -> Result<&DecodingKey, TokenRefused> {
        let n_keys = self.count();
        let keys = match &self.0 {
            Named::One(key) => return Ok(key),
            Named::Each(keys) => keys,
        };
        let named = keys.iter().find(|(name, _)| name.as_deref() == kid);
        match (named, kid, keys.as_slice()) {
            (Some((_, key)), ..) | (None, None, [(_, key)]) => Ok(key),
            (None, None, _) => Err(TokenRefused::NoKeyNamed { n_keys }),
            (None, Some(_), _) => Err(TokenRefused::UnknownKey { n_keys }),
        }
    }
}

/// The key in a file of its own.
fn single(bytes: &[u8], algorithm: Algorithm) -> Result<DecodingKey, String> {
    let key = match algorithm {
        Algorithm::HS256 => {
            // Editors and `echo` end a file with a line feed that is no part of the secret.
            let secret = bytes.trim_ascii_end();
            check_secret(secret)?;
            if secret.starts_with(b"-----BEGIN") {
                return Err("HS256 needs a secret, and this is a PEM file".into());
            }
            return Ok(DecodingKey::from_secret(secret));
        }
        Algorithm::RS256 => DecodingKey::from_rsa_pem(bytes),
        Algorithm::ES256 => DecodingKey::from_ec_pem(bytes),
        _ => DecodingKey::from_ed_pem(bytes),
    };
    let key =
        key.map_err(|e| format!("no public key for {algorithm:?} in PEM, and no key set: {e}"))?;
    check_use(&key, algorithm)?;
    Ok(key)
}

/// Whether signatures can be checked by a key, which shows no earlier than when one is: nothing is signed by it here.
fn check_use(key: &DecodingKey, algorithm: Algorithm) -> Result<(), String> {
    let failed = |reason: String| Err(format!("it cannot be used for {algorithm:?}: {reason}"));
    // The library takes as many without looking.
    if algorithm == Algorithm::EdDSA {
        match key.try_get_as_bytes() {
            Ok(bytes) if bytes.len() == ED25519_BYTES => {}
            Ok(bytes) => return failed(format!("{} bytes, expected {ED25519_BYTES}", bytes.len())),
            Err(error) => return failed(error.to_string()),
        }
    }
    match crypto::verify("AA", b"", key, algorithm) {
        Ok(_) => Ok(()),
        Err(error) => failed(error.to_string()),
    }
}

fn check_secret(secret: &[u8]) -> Result<(), String> {
    if secret.len() >= MIN_SECRET_LEN {
        return Ok(());
    }
    Err(format!(
        "the secret of HS256 has at least {MIN_SECRET_LEN} bytes"
    ))
}

/// The keys of a folder, by the names of their files without `.pem`.
fn of_folder(
    folder: &Path,
    algorithm: Algorithm,
) -> Result<Vec<(Option<String>, DecodingKey)>, JwtKeyError> {
    let io = |e: std::io::Error| JwtKeyError::new(folder, e);
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let failed = |reason: String| JwtKeyError::new(&path, reason);
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| failed("its name is not UTF-8".into()))?;
        // Mounted secrets have folders and links of their own beside the keys, whose names begin so.
        if name.starts_with('.') {
            continue;
        }
        if keys.len() == MAX_FILES {
            return Err(failed(format!(
                "one file too many: {MAX_FILES} may be there"
            )));
        }
        let name = name.strip_suffix(".pem").unwrap_or(name).to_owned();
        let key = single(&read_file(&path).map_err(failed)?, algorithm).map_err(failed)?;
        keys.push((Some(name), key));
    }
    check_names(&keys).map_err(|reason| JwtKeyError::new(folder, reason))?;
    Ok(keys)
}

/// The keys of a JSON Web Key Set that are for signatures by the algorithm.
fn of_set(
    bytes: &[u8],
    algorithm: Algorithm,
) -> Result<Vec<(Option<String>, DecodingKey)>, String> {
    let set: KeySet =
        serde_json::from_slice(bytes).map_err(|e| format!("no JSON Web Key Set: {e}"))?;
    let mut keys = Vec::new();
    for (i, value) in set.keys.into_iter().enumerate() {
        let has_secret = value.get("d").is_some();
        // One of a kind that is not known is for somebody else.
        let Ok(jwk) = serde_json::from_value::<Jwk>(value) else {
            continue;
        };
        if !is_for(&jwk, algorithm) {
            continue;
        }
        let place = |reason: String| format!("keys[{i}]: {reason}");
        if has_secret {
            let reason = "it is a private key: signatures are checked by the public one";
            return Err(place(reason.into()));
        }
        check_modulus(&jwk).map_err(place)?;
        let key = DecodingKey::from_jwk(&jwk).map_err(|e| place(e.to_string()))?;
        check_use(&key, algorithm).map_err(place)?;
        if algorithm == Algorithm::HS256 {
            let secret = key.try_get_as_bytes().map_err(|e| place(e.to_string()))?;
            check_secret(secret).map_err(place)?;
        }
        keys.push((jwk.common.key_id, key));
    }
    if keys.is_empty() {
        return Err(format!("the key set has no key for {algorithm:?}"));
    }
    check_names(&keys)?;
    Ok(keys)
}

/// RSA's numbers are looked at when a signature is checked, and then it is too late to tell the operator.
fn check_modulus(jwk: &Jwk) -> Result<(), String> {
    let AlgorithmParameters::RSA(key) = &jwk.algorithm else {
        return Ok(());
    };
    let bytes = URL_SAFE_NO_PAD
        .decode(&key.n)
        .map_err(|e| format!("n: {e}"))?;
    match 8 * bytes.len() {
        bits if MODULUS_BITS.contains(&bits) => Ok(()),
        bits => Err(format!(
            "n has {bits} bits, expected {} to {}",
            MODULUS_BITS.start(),
            MODULUS_BITS.end()
        )),
    }
}

/// Whether a key of a set is of this algorithm, as far as it says so, and for signatures.
fn is_for(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let named = match algorithm {
        Algorithm::HS256 => KeyAlgorithm::HS256,
        Algorithm::RS256 => KeyAlgorithm::RS256,
        Algorithm::ES256 => KeyAlgorithm::ES256,
        _ => KeyAlgorithm::EdDSA,
    };
    let is_kind = match (&jwk.algorithm, algorithm) {
        (AlgorithmParameters::OctetKey(_), Algorithm::HS256)
        | (AlgorithmParameters::RSA(_), Algorithm::RS256) => true,
        (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => {
            key.curve == EllipticCurve::P256
        }
        (AlgorithmParameters::OctetKeyPair(key), Algorithm::EdDSA) => {
            key.curve == EllipticCurve::Ed25519
        }
        _ => false,
    };
    let common = &jwk.common;
    is_kind
        && common.key_algorithm.is_none_or(|of| of == named)
        && (common.public_key_use.as_ref()).is_none_or(|of| *of == PublicKeyUse::Signature)
}

fn check_names(keys: &[(Option<String>, DecodingKey)]) -> Result<(), String> {
    if keys.is_empty() {
        return Err("there is no key in it".into());
    }
    let mut names = std::collections::BTreeSet::new();
    match keys.iter().find(|(name, _)| !names.insert(name)) {
        None => Ok(()),
        Some((None, _)) => Err("two keys have no kid: a token cannot say which is meant".into()),
        Some((Some(name), _)) => Err(format!("two keys have the kid {name:?}")),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_KEY_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_KEY_BYTES {
        return Err(format!("it is larger than {MAX_KEY_BYTES} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
