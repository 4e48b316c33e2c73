//! JSON Web Tokens of an issuer that the operator trusts.
//!
//! One algorithm is configured and nothing of a token's header is believed: `alg` must be the configured one (so
//! neither `none` nor a public key used as a shared secret), and `kid` is looked up among the names of the configured
//! keys and leads nowhere else. `iss`, `aud` and `exp` must be there and right, `nbf` where it is there, and `sub` says
//! who it is. Times are held against the clock that the caller gives: the wall clock, which somebody may set.

pub mod role;
pub mod token_keys;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::Role;
use crate::config::settings::AuthSettings;
use crate::config::value::JwtAlgorithm;
use role::RoleClaim;
use token_keys::TokenKeys;

/// Longest token that is looked at: claims are few.
const MAX_TOKEN_LEN: usize = 8192;
/// Longest `sub`: it is kept with the limits of its owner.
const MAX_SUBJECT_LEN: usize = 256;

/// Checks tokens.
pub struct JwtVerifier {
    keys: TokenKeys,
    validation: Validation,
    leeway: Duration,
    role_claim: RoleClaim,
}

/// Who a good token is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// `sub`
    pub id: String,
    /// What the claim of roles says, or the lesser one.
    pub role: Role,
}

/// Why a token is not good: for the log. Whoever sent it learns no more than that it has expired, which it could have
/// read in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// It is no token, or too long for one.
    #[error("it is no JSON Web Token of at most {MAX_TOKEN_LEN} bytes")]
    Malformed,
    /// `alg` is another one.
    #[error("its alg is not auth.jwt_algorithm")]
    Algorithm,
    /// `kid` is none of the keys'.
    #[error("its kid is not that of one of the {n_keys} keys of auth.jwt_key_file")]
    UnknownKey {
        /// How many there are.
        n_keys: usize,
    },
    /// It has no `kid`.
    #[error("it has no kid, and auth.jwt_key_file has {n_keys} keys")]
    NoKeyNamed {
        /// How many there are.
        n_keys: usize,
    },
    /// Somebody else signed it.
    #[error("its signature is not by the key")]
    Signature,
    /// `exp` is over.
    #[error("it has expired (exp)")]
    Expired,
    /// `nbf` is to come.
    #[error("it is not valid yet (nbf)")]
    NotYet,
    /// `iss` is another one.
    #[error("its iss is not auth.jwt_issuer")]
    Issuer,
    /// `aud` is another one.
    #[error("its aud is not auth.jwt_audience")]
    Audience,
    /// A claim is absent, or of another kind.
    #[error("its claim {claim} is missing, or not what it should be")]
    Claim {
        /// Which.
        claim: &'static str,
    },
    /// The claim of roles names none that is known.
    #[error("its claim {claim} (auth.jwt_role_claim) names neither infer nor admin")]
    Role {
        /// Where the roles were looked for.
        claim: String,
    },
}

/// The keys of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("auth.jwt_key_file {path}: {reason}")]
pub struct JwtKeyError {
    path: String,
    reason: String,
}

impl JwtKeyError {
    fn new(path: &Path, reason: impl ToString) -> JwtKeyError {
        JwtKeyError {
            path: path.display().to_string(),
            reason: reason.to_string(),
        }
    }
}

impl JwtVerifier {
    /// Reads the keys; `None` when tokens are not turned on.
    ///
    /// # Errors
    /// When they cannot be read, are no keys of the algorithm, or are too short as secrets.
    pub fn open(settings: &AuthSettings) -> Result<Option<JwtVerifier>, JwtKeyError> {
        let Some(path) = &settings.jwt_key_file else {
            return Ok(None);
        };
        let algorithm = match settings.jwt_algorithm {
            JwtAlgorithm::Hs256 => Algorithm::HS256,
            JwtAlgorithm::Rs256 => Algorithm::RS256,
            JwtAlgorithm::Es256 => Algorithm::ES256,
            JwtAlgorithm::EdDsa => Algorithm::EdDSA,
        };
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(settings.jwt_issuer.as_slice());
        validation.set_audience(settings.jwt_audience.as_slice());
        // Held against the caller's clock below.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Ok(Some(JwtVerifier {
            keys: TokenKeys::read(path, algorithm)?,
            validation,
            leeway: settings.jwt_leeway,
            role_claim: RoleClaim::new(&settings.jwt_role_claim),
        }))
    }

    /// How many keys it has.
    pub fn n_keys(&self) -> usize {
        self.keys.count()
    }

    /// Who the token is about, at the time `now`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Subject, TokenRefused> {
        if token.len() > MAX_TOKEN_LEN {
            return Err(TokenRefused::Malformed);
        }
        let header = decode_header(token).map_err(|error| refused(error.kind()))?;
        let key = self.keys.of(header.kid.as_deref())?;
        let claims = decode::<Map<String, Value>>(token, key, &self.validation)
            .map_err(|error| refused(error.kind()))?
            .claims;
        self.check_times(&claims, now)?;
        let id = claims.get("sub").and_then(Value::as_str);
        let id = id.filter(|id| (1..=MAX_SUBJECT_LEN).contains(&id.len()));
        Ok(Subject {
            id: id.ok_or(TokenRefused::Claim { claim: "sub" })?.to_owned(),
            role: self.role_claim.role(&claims)?,
        })
    }

    /// Times are seconds since 1970, perhaps with a fraction (RFC 7519, section 2).
    fn check_times(
        &self,
        claims: &Map<String, Value>,
        now: SystemTime,
    ) -> Result<(), TokenRefused> {
        // Before 1970 is a clock that was never set: nothing can be told by it.
        let now = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let leeway = self.leeway.as_secs_f64();
        let time = |claim| {
            let seconds = claims.get(claim).and_then(Value::as_f64);
            seconds.ok_or(TokenRefused::Claim { claim })
        };
        if now >= time("exp")? + leeway {
            return Err(TokenRefused::Expired);
        }
        if claims.contains_key("nbf") && now < time("nbf")? - leeway {
            return Err(TokenRefused::NotYet);
        }
        Ok(())
    }
}

fn refused(error: &ErrorKind) -> TokenRefused {
    match error {
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenRefused::Algorithm,
        ErrorKind::InvalidSignature => TokenRefused::Signature,
        ErrorKind::InvalidIssuer => TokenRefused::Issuer,
        ErrorKind::InvalidAudience => TokenRefused::Audience,
        ErrorKind::MissingRequiredClaim(name) => {
            let known = ["exp", "iss", "aud", "sub"];
            let claim = known.into_iter().find(|known| name == known);
            claim.map_or(TokenRefused::Malformed, |claim| TokenRefused::Claim {
                claim,
            })
        }
        _ => TokenRefused::Malformed,
    }
}

#[cfg(test)]
mod tests;
