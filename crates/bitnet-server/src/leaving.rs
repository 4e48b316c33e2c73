//! Answers that wait for their clients to read them: bounded together, whatever each client does.
//!
//! A stream is written as its tokens come and ends when nobody reads it. A whole answer is made at once and stays in
//! memory until its client has read it, which a client that reads a byte now and then can draw out for as long as it
//! likes; and some, such as the log probabilities of long prompts, have tens of megabytes. So they take up room until
//! they are read, and one for which there is none is refused.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use crate::app::{App, BODY_UNIT};
use crate::error::{ApiError, ErrorCode};

/// Bytes that are handed to the connection at once: as much as it keeps anyway. Shorter answers are not counted.
const PIECE: usize = 64 << 10;

/// The layer, around the handlers.
pub async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let (head, body) = response.into_parts();
    let len = body.size_hint().exact().unwrap_or(0);
    if len <= PIECE as u64 {
        return Response::from_parts(head, body);
    }
    // One is taken however long it is.
    let units = usize::try_from(len).map_or(usize::MAX, |len| len.div_ceil(BODY_UNIT));
    let units = u32::try_from(units.min(app.leaving_units())).unwrap_or(u32::MAX);
    let Ok(room) = app.leaving.clone().try_acquire_many_owned(units) else {
        let message = "too many answers wait for their clients to read them";
        let refused = ApiError::new(ErrorCode::QueueFull, message).with_limit("leaving_bytes");
        return refused.retry_after(Duration::from_secs(1)).into_response();
    };
    match axum::body::to_bytes(body, usize::MAX).await {
        Ok(rest) => Response::from_parts(head, Body::new(Pieces { rest, _room: room })),
        Err(error) => {
            let message = format!("the answer broke off: {error}");
            ApiError::new(ErrorCode::InternalError, message).into_response()
        }
    }
}

/// A whole answer, piece by piece: what keeps its room has not been taken by the connection yet.
struct Pieces {
    rest: Bytes,
    _room: OwnedSemaphorePermit,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let rest = &mut self.get_mut().rest;
        if rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
