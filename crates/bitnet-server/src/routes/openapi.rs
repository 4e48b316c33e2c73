//! `GET /openapi.json`: what every route takes and answers, for programs.
//!
//! The document is written by hand beside this file. Tests hold it against the route table, the limits and the tables
//! of refused fields, and `xtask clients --only schemathesis` holds a running server against it.
//!
//! Source: the OpenAPI Specification 3.1.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// The document.
pub const DOCUMENT: &str = include_str!("openapi.json");

/// Shows it.
pub async fn document() -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], DOCUMENT).into_response()
}
