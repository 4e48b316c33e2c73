//! JSON Web Tokens of an issuer that the operator trusts.
//!
//! One algorithm and one key are configured and nothing of a token's header is believed: `alg` must be the configured
//! one (so neither `none` nor a public key used as a shared secret), `kid` names nothing. `iss`, `aud` and `exp` must
//! be there and right, and `sub` says who it is.

use std::path::Path;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

use super::Role;
use crate::config::settings::AuthSettings;
use crate::config::value::JwtAlgorithm;

/// Longest token that is looked at: claims are few.
const MAX_TOKEN_LEN: usize = 8192;
/// Shortest secret of HS256: as long as its hash (RFC 7518, 3.2).
const MIN_SECRET_LEN: usize = 32;
/// Largest file of a key.
const MAX_KEY_BYTES: u64 = 65_536;
/// Longest `sub`: it is kept with the limits of its owner.
const MAX_SUBJECT_LEN: usize = 256;

/// Checks tokens.
pub struct JwtVerifier {
    key: DecodingKey,
    validation: Validation,
}

/// Who a good token is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// `sub`
    pub id: String,
    /// `role`, or the lesser one.
    pub role: Role,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    role: Option<Role>,
}

/// The key of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("auth.jwt_key_file {path}: {reason}")]
pub struct JwtKeyError {
    path: String,
    reason: String,
}

impl JwtVerifier {
    /// Reads the key; `None` when tokens are not turned on.
    ///
    /// # Errors
    /// When the file cannot be read, is no key of the algorithm, or is too short a secret.
    pub fn open(settings: &AuthSettings) -> Result<Option<JwtVerifier>, JwtKeyError> {
        let Some(path) = &settings.jwt_key_file else {
            return Ok(None);
        };
        let failed = |reason: String| JwtKeyError {
            path: path.display().to_string(),
            reason,
        };
        let bytes = read_key(path).map_err(|e| failed(e.to_string()))?;
        let (algorithm, key) = match settings.jwt_algorithm {
            JwtAlgorithm::Hs256 => {
                // Editors and `echo` end a file with a line feed that is no part of the secret.
                let secret = bytes.trim_ascii_end();
                if secret.len() < MIN_SECRET_LEN {
                    return Err(failed(format!(
                        "the secret of HS256 has at least {MIN_SECRET_LEN} bytes"
                    )));
                }
                if secret.starts_with(b"-----BEGIN") {
                    return Err(failed(
                        "HS256 needs a secret, and this is a PEM file".into(),
                    ));
                }
                (Algorithm::HS256, Ok(DecodingKey::from_secret(secret)))
            }
            JwtAlgorithm::Rs256 => (Algorithm::RS256, DecodingKey::from_rsa_pem(&bytes)),
            JwtAlgorithm::Es256 => (Algorithm::ES256, DecodingKey::from_ec_pem(&bytes)),
            JwtAlgorithm::EdDsa => (Algorithm::EdDSA, DecodingKey::from_ed_pem(&bytes)),
        };
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(settings.jwt_issuer.as_slice());
        validation.set_audience(settings.jwt_audience.as_slice());
        validation.validate_nbf = true;
        validation.leeway = whole_seconds(settings.jwt_leeway);
        Ok(Some(JwtVerifier {
            key: key.map_err(|e| failed(format!("no public key for {algorithm:?} in PEM: {e}")))?,
            validation,
        }))
    }

    /// Who the token is about; `None` when it is not good, for whatever reason: a caller must not learn which.
    pub fn verify(&self, token: &str) -> Option<Subject> {
        if token.len() > MAX_TOKEN_LEN {
            return None;
        }
        let claims = decode::<Claims>(token, &self.key, &self.validation)
            .ok()?
            .claims;
        let well_formed = (1..=MAX_SUBJECT_LEN).contains(&claims.sub.len());
        well_formed.then_some(Subject {
            id: claims.sub,
            role: claims.role.unwrap_or(Role::Infer),
        })
    }
}

/// Tokens count whole seconds; fewer than asked for would refuse good ones.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

fn read_key(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_KEY_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
