//! `POST /v1/requests/{id}/cancel`: ends a request by its `x-request-id`, wherever it is.
//!
//! Whoever sent it may, and an administrator. A name that somebody else's request has is as unknown as one that
//! nobody's has, so that names cannot be tried out.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::auth::{Principal, Role};
use crate::cancellation::CancelScope;
use crate::error::{ApiError, ErrorCode};

/// Whose request is meant.
#[derive(Debug, Deserialize)]
pub struct CancelQuery {
    /// As the access log names the sender; for administrators.
    who: Option<String>,
}

/// The answer of [`cancel`].
#[derive(Debug, Serialize)]
pub struct CancelReport {
    id: String,
    object: &'static str,
    /// How many requests by this name were ended: a client may give several one name.
    cancelled: usize,
}

/// Ends the requests of this name.
///
/// # Errors
/// As [`crate::cancellation::RequestsUnderWay::cancel`]; [`ErrorCode::InsufficientRole`] for the requests of others.
pub async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: Result<Query<CancelQuery>, QueryRejection>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<CancelReport>, ApiError> {
    let Query(CancelQuery { who }) = query
        .map_err(|error| ApiError::about("who", ErrorCode::InvalidValue, error.body_text()))?;
    let is_admin = principal.role == Some(Role::Admin);
    let scope = match who.as_deref() {
        None if is_admin => CancelScope::OfAnybody,
        None => CancelScope::Of(&principal.id),
        Some(who) if is_admin || who == principal.id => CancelScope::Of(who),
        Some(_) => {
            let message = "only administrators cancel the requests of others";
            return Err(ApiError::new(ErrorCode::InsufficientRole, message));
        }
    };
    let cancelled = app.requests.cancel(&id, scope)?;
    tracing::info!(request = id, cancelled, by = principal.id, "cancelled");
    Ok(Json(CancelReport {
        id,
        object: "request.cancellation",
        cancelled,
    }))
}
