//! What a request shows to be let in: found in its headers, and held against the keys and the key of tokens, once.

use std::time::SystemTime;

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, header};

use super::access::Role;
use super::allowed_models::AllowedModels;
use super::clock::unix_seconds;
use super::guard::GuardError;
use super::jwt::{JwtKeyError, JwtVerifier, TokenRefused};
use super::key::PREFIX;
use super::key_file::KeyFileError;
use super::key_store::KeyStore;
use super::quota::Quota;
use super::rate::RateLimits;
use crate::config::settings::AuthSettings;

/// Longest credential that is looked at; longer ones are not good ones.
const MAX_CREDENTIAL_LEN: usize = 8192;

/// What credentials are held against.
pub struct CredentialCheck {
    keys: Option<KeyStore>,
    jwt: Option<ArcSwap<JwtVerifier>>,
    settings: AuthSettings, // where keys come from
}

/// Whom a good credential is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Holder {
    /// `key:ID` or `jwt:SUB`.
    pub id: String,
    /// What it may do.
    pub role: Role,
    /// Limits of its own.
    pub limits: RateLimits,
    /// What it may take in a day and in a month.
    pub quota: Quota,
    /// What it may use.
    pub models: AllowedModels,
}

/// What a request shows.
#[derive(Debug, Clone, PartialEq)]
pub enum ShownCredential {
    /// Nothing.
    Nothing,
    /// Something that is not good, or that could be held against nothing.
    Bad(BadCredential),
    /// A good credential.
    Good(Holder),
}

/// Why a credential is not good: for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCredential {
    /// Two of them, another scheme than `Bearer`, or more than is looked at.
    #[error("it is not one key or token, as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'")]
    Unreadable,
    /// No key of the file, or a revoked one.
    #[error("it is none of the keys")]
    NoSuchKey,
    /// A key whose time is over.
    #[error("the key {id} has expired")]
    KeyExpired {
        /// Which.
        id: String,
    },
    /// A token.
    #[error("token: {0}")]
    Token(#[from] TokenRefused),
}

impl BadCredential {
    /// What it is that was good once, and whose time is over: whoever has it may know.
    pub fn expired(&self) -> Option<&'static str> {
        match self {
            BadCredential::KeyExpired { .. } => Some("API key"),
            BadCredential::Token(TokenRefused::Expired) => Some("token"),
            _ => None,
        }
    }
}

impl CredentialCheck {
    /// Reads the keys, and the key of tokens.
    ///
    /// # Errors
    /// When one of the files cannot be used.
    pub fn open(settings: &AuthSettings) -> Result<CredentialCheck, GuardError> {
        let keys = settings.keys_file.as_deref();
        Ok(CredentialCheck {
            keys: keys.map(KeyStore::open).transpose()?,
            jwt: JwtVerifier::open(settings)?.map(ArcSwap::from_pointee),
            settings: settings.clone(),
        })
    }

    /// Whether anybody could have a good one.
    pub fn is_set_up(&self) -> bool {
        self.keys.is_some() || self.jwt.is_some()
    }

    /// Who gets in, for the line that a server begins with; `None` when nobody could.
    pub fn summary(&self) -> Option<String> {
        let counted = |n: usize, what: &str| match n {
            1 => format!("1 {what}"),
            n => format!("{n} {what}s"),
        };
        let keys = self.keys.as_ref();
        let keys = keys.map(|keys| counted(keys.count(), "key"));
        let jwt = self.jwt.as_ref();
        let jwt = jwt.map(|jwt| format!("tokens by {}", counted(jwt.load().n_keys(), "key")));
        let both: Vec<String> = keys.into_iter().chain(jwt).collect();
        (!both.is_empty()).then(|| both.join(", "))
    }

    /// Whether there is a file of keys without a key in it, and no other way in.
    pub fn lets_nobody_in(&self) -> bool {
        self.jwt.is_none() && self.keys.as_ref().is_some_and(|keys| keys.count() == 0)
    }

    /// What a request with these headers shows, at the time `now`.
    pub fn shown(&self, headers: &HeaderMap, now: SystemTime) -> ShownCredential {
        let Some(credential) = credential(headers) else {
            return ShownCredential::Nothing;
        };
        let credential = credential.ok_or(BadCredential::Unreadable);
        match credential.and_then(|text| self.holder(text, now)) {
            Ok(holder) => ShownCredential::Good(holder),
            Err(bad) => ShownCredential::Bad(bad),
        }
    }

    fn holder(&self, text: &str, now: SystemTime) -> Result<Holder, BadCredential> {
        if let Some(entry) = self.keys.as_ref().and_then(|keys| keys.find(text)) {
            if entry.has_expired(unix_seconds(now)) {
                return Err(BadCredential::KeyExpired { id: entry.id });
            }
            return Ok(Holder {
                id: format!("key:{}", entry.id),
                role: entry.role,
                limits: entry.limits,
                quota: entry.quota,
                models: AllowedModels::from(entry.models.as_ref()),
            });
        }
        let jwt = match &self.jwt {
            Some(jwt) if !text.starts_with(PREFIX) => jwt,
            _ => return Err(BadCredential::NoSuchKey),
        };
        let subject = jwt.load().verify(text, now)?;
        Ok(Holder {
            id: format!("jwt:{}", subject.id),
            role: subject.role,
            limits: RateLimits::default(),
            quota: Quota::default(),
            models: AllowedModels::All,
        })
    }

    /// Reads the keys again, on SIGHUP; `None` when there are none.
    pub fn reload_keys(&self) -> Option<Result<usize, KeyFileError>> {
        self.keys.as_ref().map(KeyStore::reload)
    }

    /// Reads the keys again if their file has changed.
    pub fn poll_keys(&self) -> Option<Result<usize, KeyFileError>> {
        self.keys.as_ref()?.poll()
    }

    /// Reads the key of tokens again, on SIGHUP; `None` when there is none. One that cannot be used changes nothing.
    pub fn reload_token_key(&self) -> Option<Result<(), JwtKeyError>> {
        let jwt = self.jwt.as_ref()?;
        let opened = JwtVerifier::open(&self.settings).transpose()?;
        Some(opened.map(|verifier| jwt.store(verifier.into())))
    }
}

/// The credential of a request: `None` when there is none, `Some(None)` when it is none that could be good.
fn credential(headers: &HeaderMap) -> Option<Option<&str>> {
    let mut given = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .chain(headers.get_all("x-api-key"));
    let first = given.next()?;
    // Two credentials: whoever stands in front may have checked the other one.
    let text = match given.next() {
        None => first
            .to_str()
            .ok()
            .filter(|text| text.len() <= MAX_CREDENTIAL_LEN),
        Some(_) => None,
    };
    let is_authorization = headers.contains_key(header::AUTHORIZATION);
    Some(text.and_then(|text| match text.split_once(' ') {
        Some((scheme, rest)) if is_authorization => {
            scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
        }
        Some(_) => None,
        None => (!is_authorization).then_some(text),
    }))
}
