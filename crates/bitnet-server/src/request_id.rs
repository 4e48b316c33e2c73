//! A name for every request, in its answer and in the log, and how long it took to answer.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::App;
use crate::error::{ApiError, ErrorCode};

/// The header that carries it: the client's own name, or ours.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest name that is taken from a client.
const MAX_LENGTH: usize = 128;

/// Milliseconds from the request's headers to its answer's, as OpenAI's clients log them.
const PROCESSING: HeaderName = HeaderName::from_static("openai-processing-ms");

/// Names the request and writes a line about it. Prompts and answers are in no log.
pub async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let id = client_id(&request).unwrap_or_else(|| {
        HeaderValue::try_from(app.new_id("req-")).expect("hexadecimal digits are a header")
    });
    let mut response = next.run(request).await;
    if let Some(name) = response.extensions().get::<StreamName>() {
        // Nobody has polled the stream yet, so nobody has set it.
        let _ = name.0.set(shown(&id).to_owned());
    }
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = error.of_request(shown(&id)).add_to(response);
    }
    let error = response.extensions().get::<ApiError>();
    if let Some(error) = error {
        let (_, _, code) = error.code.row();
        app.metrics.request_failed(code);
        if matches!(
            error.code,
            ErrorCode::QueueFull | ErrorCode::RateLimitExceeded | ErrorCode::ShuttingDown
        ) {
            app.metrics.request_rejected(code);
        }
    }
    tracing::info!(
        request = shown(&id),
        %method,
        route = route.as_ref().map_or("none", MatchedPath::as_str),
        status = response.status().as_u16(),
        code = error.map(|error| error.code.row().2),
        milliseconds = started.elapsed().as_millis() as u64,
        "answered"
    );
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    headers.insert(PROCESSING, HeaderValue::from(milliseconds));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// The name of the request that a stream answers: the stream is made before anybody knows it, and tells it when it fails.
#[derive(Debug, Clone, Default)]
pub struct StreamName(Arc<OnceLock<String>>);

impl StreamName {
    /// The name, once the answer is on its way.
    pub fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

fn shown(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}

fn client_id(request: &Request) -> Option<HeaderValue> {
    let id = request.headers().get(REQUEST_ID)?;
    let printable = id.as_bytes().iter().all(u8::is_ascii_graphic);
    (printable && (1..=MAX_LENGTH).contains(&id.len())).then(|| id.clone())
}
