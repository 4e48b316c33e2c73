//! Who sends a request, and what its headers say about it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use bitnet_inference::TenantId;

use crate::auth::allowed_models::AllowedModels;
use crate::auth::quota::QuotaState;
use crate::auth::rate::{Exceeded, Permit};
use crate::auth::{Principal, Refusal, Role};
use crate::error::{ApiError, ErrorCode};

/// The sender of a request that the guard has let through.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The request's headers.
    pub headers: HeaderMap,
    /// On whose account it runs.
    pub tenant: TenantId,
    /// With whom it shares the prefix cache.
    pub cache_salt: u64,
    /// What its tokens are charged to.
    pub permit: Option<Arc<Permit>>,
    /// Whether it may manage the server.
    pub is_admin: bool,
    /// The models that it may use and see.
    pub models: AllowedModels,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Caller, Infallible> {
        let principal = parts.extensions.get::<Principal>();
        Ok(Caller {
            headers: parts.headers.clone(),
            tenant: TenantId(principal.map_or(0, |principal| principal.tenant)),
            cache_salt: principal.map_or(0, |principal| principal.cache_salt),
            permit: parts.extensions.get::<Arc<Permit>>().cloned(),
            models: principal.map_or_else(Default::default, |principal| principal.models.clone()),
            is_admin: principal.is_some_and(|principal| principal.role == Some(Role::Admin)),
        })
    }
}

impl From<&Refusal> for ApiError {
    fn from(refusal: &Refusal) -> ApiError {
        let code = match refusal {
            Refusal::HostNotAllowed | Refusal::CrossSite => ErrorCode::HostNotAllowed,
            Refusal::MissingCredentials | Refusal::NobodyHasCredentials => ErrorCode::MissingApiKey,
            Refusal::InvalidCredentials | Refusal::Expired { .. } => ErrorCode::InvalidApiKey,
            Refusal::InsufficientRole => ErrorCode::InsufficientRole,
            Refusal::MethodNotAllowed { .. } => ErrorCode::MethodNotAllowed,
            Refusal::TooMuch(_) => ErrorCode::RateLimitExceeded,
        };
        let error = ApiError::new(code, refusal.to_string());
        match refusal {
            Refusal::TooMuch(too_much) if too_much.exceeded == Exceeded::Credentials => error
                .retry_after(too_much.retry_after)
                .with_limit(too_much.exceeded.name())
                .with_hint("send a key or token that is good: that is answered at once"),
            Refusal::TooMuch(too_much) => {
                let error = error
                    .retry_after(too_much.retry_after)
                    .with_limit(too_much.exceeded.name());
                match &too_much.quota {
                    Some(quota) => of_quota(error, quota),
                    None => error,
                }
            }
            Refusal::Expired { .. } => error.with_hint("get a new one from whoever gave you this one"),
            Refusal::NobodyHasCredentials => error.with_hint(
                "make a key with `bitnet keys add --file keys.json --name NAME --role admin`, and start the server with \
                 --keys-file keys.json",
            ),
            _ => error,
        }
    }
}

/// The same, with the figures of the quota that is used up.
fn of_quota(mut error: ApiError, quota: &QuotaState) -> ApiError {
    if let Some(details) = &mut error.details {
        details["period"] = quota.period.name().into();
        details["tokens"] = quota.limit.into();
        details["used"] = quota.used.into();
        details["resets_at"] = quota.resets_at.into();
    }
    error.with_hint("wait until the quota begins anew, or ask the operator for a larger one")
}
