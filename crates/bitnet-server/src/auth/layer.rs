//! The layer that every request passes: the rules of the [guard](super::guard) before it, what is left of its limits
//! behind.
//!
//! It knows no shape of errors: whoever mounts it says how a [`Refusal`] is told. A request's permit lives as long as
//! the body of its answer, so a stream counts as one of its principal's requests until its end.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

use super::clock::Moment;
use super::guard::{Guard, Refusal, RequestHead};
use super::rate::Remaining;
use crate::held_body::HeldBody;
use crate::request_log::RequestNotes;

/// What the layer needs: the rules, and how a refusal is told.
#[derive(Clone)]
pub struct AuthGate {
    /// The rules.
    pub guard: Arc<Guard>,
    /// Status and body of a refusal; the layer adds the headers.
    pub tell: fn(&Refusal) -> Response,
}

/// The layer, for `axum::middleware::from_fn_with_state`. It must be the router's, so that it runs for every route, and
/// needs `ConnectInfo<SocketAddr>` to tell those without credentials apart.
pub async fn layer(State(gate): State<AuthGate>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let peer = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|info| info.0.ip());
    let head = RequestHead {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
        route: route.as_ref().map(MatchedPath::as_str),
        peer,
    };
    let notes = request.extensions().get::<RequestNotes>().cloned();
    let notes = notes.unwrap_or_default(); // nobody reads them where nobody laid them by
    let action = gate.guard.admin_action(head);
    if let Some(action) = &action {
        notes.set_action(action.clone());
    }
    match gate.guard.admit(head, &notes, Moment::now()) {
        Err(refusal) => {
            let mut response = (gate.tell)(&refusal);
            refusal_headers(&refusal, response.headers_mut());
            response
        }
        Ok(None) => next.run(request).await,
        Ok(Some((principal, permit))) => {
            if let Some(action) = &action {
                request.extensions_mut().insert(action.note.clone());
            }
            let permit = Arc::new(permit);
            request.extensions_mut().insert(principal);
            request.extensions_mut().insert(permit.clone());
            let mut response = next.run(request).await;
            rate_headers(&permit.remaining(Moment::now()), response.headers_mut());
            response.map(|body| Body::new(HeldBody::new(body, permit)))
        }
    }
}

fn refusal_headers(refusal: &Refusal, headers: &mut HeaderMap) {
    match refusal {
        Refusal::MissingCredentials
        | Refusal::NobodyHasCredentials
        | Refusal::InvalidCredentials
        | Refusal::Expired { .. } => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Refusal::TooMuch(too_much) => {
            let seconds = too_much.retry_after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(header::RETRY_AFTER, seconds.into());
            rate_headers(&too_much.remaining, headers);
        }
        Refusal::MethodNotAllowed { allowed } => {
            if let Ok(allowed) = HeaderValue::try_from(allowed) {
                headers.insert(header::ALLOW, allowed);
            }
        }
        _ => {}
    }
}

/// `x-ratelimit-*`, in OpenAI's notation.
fn rate_headers(remaining: &Remaining, headers: &mut HeaderMap) {
    const REQUESTS: [HeaderName; 3] = [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ];
    const TOKENS: [HeaderName; 3] = [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ];
    for (names, left) in [(REQUESTS, remaining.requests), (TOKENS, remaining.tokens)] {
        let Some((limit, left, reset)) = left else {
            continue;
        };
        let [limit_name, remaining_name, reset_name] = names;
        headers.insert(limit_name, limit.into());
        headers.insert(remaining_name, left.into());
        if let Ok(reset) = HeaderValue::try_from(format!("{}ms", reset.as_millis())) {
            headers.insert(reset_name, reset);
        }
    }
}
