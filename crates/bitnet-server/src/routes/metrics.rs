//! `/metrics`: everything measured, as Prometheus reads it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::caller::Caller;
use crate::error::{ApiError, ErrorCode};
use crate::metrics::Exposition;

/// The media type by which a client asks for OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text";

/// All metrics, in the format that the client asks for. Who uses how much is told to administrators, and to everybody
/// where the operator has opened the metrics or nobody has a key: names of tokens are often addresses of people.
///
/// # Errors
/// [`ErrorCode::NotFound`] when the configuration turns them off.
pub async fn text(State(app): State<Arc<App>>, caller: Caller) -> Result<Response, ApiError> {
    if !app.limits.shows_metrics {
        let message = "monitoring.prometheus_enabled is off";
        return Err(ApiError::new(ErrorCode::NotFound, message));
    }
    let accepted = caller
        .headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    let exposition = match accepted {
        Some(accepted) if accepted.contains(OPEN_METRICS) => Exposition::OpenMetrics,
        _ => Exposition::Text,
    };
    let content_type = exposition.content_type();
    let text = match caller.is_admin || app.limits.shows_tenants {
        true => app.metrics.text(exposition),
        false => app.metrics.text_without_tenants(exposition),
    };
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}
