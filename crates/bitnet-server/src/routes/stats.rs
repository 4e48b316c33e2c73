//! `GET /v1/stats`: the metrics as JSON, with percentiles and the slowest requests.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use crate::app::App;
use crate::auth::Role;
use crate::auth::guard::Principal;

/// Requests in the list of slow ones: a screen full.
const N_SLOWEST: usize = 20;

/// Everything measured. Requests one by one, whose ids their senders choose, are for administrators, and for everybody
/// where nobody needs a key.
pub async fn show(
    State(app): State<Arc<App>>,
    principal: Option<Extension<Principal>>,
) -> Response {
    let role = principal.and_then(|Extension(principal)| principal.role);
    let mut stats = app.metrics.stats();
    if role != Some(Role::Infer) {
        stats.slowest_requests = Some(app.metrics.slowest(N_SLOWEST));
    }
    let no_store = HeaderValue::from_static("no-store");
    ([(CACHE_CONTROL, no_store)], Json(stats)).into_response()
}
