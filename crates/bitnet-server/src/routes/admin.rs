//! `/admin`: one page that watches the server, gives orders about models, and chats.
//!
//! Its files are inside the program and hold nothing of this server: what the page shows it fetches from the routes
//! that everybody uses, with the key that its reader types in, which stays in the page's memory. The content security
//! policy lets nothing run, load or be asked but what this server serves.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::{ApiError, ErrorCode};

/// Nothing but our own script, style, picture and routes; no inline script or style, no frame around the page.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of all its files.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    // Another version of the program has another page.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// The page.
///
/// # Errors
/// [`ErrorCode::NotFound`] when the configuration turns it off; so do the others.
pub async fn page(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let html = include_str!("../../assets/admin/index.html");
    file(&app, "text/html; charset=utf-8", html)
}

/// What moves it.
///
/// # Errors
/// As [`page`].
pub async fn script(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let script = include_str!("../../assets/admin/page.js");
    file(&app, "text/javascript; charset=utf-8", script)
}

/// What moves its view of the models.
///
/// # Errors
/// As [`page`].
pub async fn models_script(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let script = include_str!("../../assets/admin/models.js");
    file(&app, "text/javascript; charset=utf-8", script)
}

/// How it looks.
///
/// # Errors
/// As [`page`].
pub async fn style(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let style = include_str!("../../assets/admin/page.css");
    file(&app, "text/css; charset=utf-8", style)
}

/// Its picture.
///
/// # Errors
/// As [`page`].
pub async fn icon(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let icon = include_str!("../../assets/admin/icon.svg");
    file(&app, "image/svg+xml", icon)
}

fn file(app: &App, media_type: &'static str, body: &'static str) -> Result<Response, ApiError> {
    if !app.limits.shows_admin_page {
        let message = "monitoring.admin_page is off";
        return Err(ApiError::new(ErrorCode::NotFound, message));
    }
    let media_type = [(header::CONTENT_TYPE, HeaderValue::from_static(media_type))];
    Ok((HEADERS, media_type, body).into_response())
}
