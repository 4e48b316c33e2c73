//! Which web pages of other origins may use the server from a browser: none, or those that the operator lists.
//!
//! A browser asks before (`OPTIONS` with the page's origin) and looks at the answer's headers after. Cookies are never
//! allowed: there are none. A listed origin that asks gets the same answers as anybody else, and needs the same key.
//!
//! Source: the CORS protocol of the Fetch standard.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Guard;

/// What a page may send. Headers are as it asks for: those of its library (`x-stainless-*`, `traceparent`) mean nothing
/// here, and a list would be too short with the library's next version.
const METHODS: &str = "GET, POST, DELETE";
/// What a page may read of an answer's headers, beyond the harmless ones.
const EXPOSED: &str = "x-request-id, retry-after, openai-processing-ms, server-timing, x-ratelimit-limit-requests, \
    x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, \
    x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";
/// Seconds for which a browser need not ask again.
const MAX_AGE: &str = "600";

/// The layer, outside the guard: a browser's question before has no credentials.
pub async fn layer(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let Some(origin) = guard.allowed_origin(request.headers(), request.uri()) else {
        return next.run(request).await;
    };
    let asks = request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if asks {
        let asked = request
            .headers()
            .get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        if let Some(asked) = asked {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    } else {
        next.run(request).await
    };
    allow(response.headers_mut(), origin);
    response
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
}
