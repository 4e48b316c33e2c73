//! Requests for administrators on a port that is not theirs.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::auth::Guard;
use crate::auth::clock::Moment;
use crate::auth::guard::RequestHead;
use crate::error::{ApiError, ErrorCode};
use crate::request_log::RequestNotes;

/// What whoever looks for them here is told.
pub const HINT: &str = "administrators have a port of their own here (server.admin_port)";

/// Refuses what is answered on the port for administrators alone, with any key, and leaves a line of it in the log as of
/// every order.
pub async fn layer(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    let route = extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    let head = RequestHead {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
        route,
        peer: peer.map(|info| info.0.ip()),
    };
    let notes = extensions.get::<RequestNotes>().cloned();
    let is_page = route.is_some_and(|path| path == "/admin" || path.starts_with("/admin/"));
    if !is_page && !guard.turns_away(head, &notes.unwrap_or_default(), Moment::now()) {
        return next.run(request).await;
    }
    let (method, path) = (request.method(), super::shown(request.uri()));
    let message = format!("{method} {path} is not answered on this port");
    ApiError::new(ErrorCode::NotFound, message)
        .with_hint(HINT)
        .into_response()
}
