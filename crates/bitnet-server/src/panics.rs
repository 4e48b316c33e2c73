//! A handler that panics is an error of its own request: it is answered as one, and its connection and all others go
//! on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::{ApiError, ErrorCode};

/// The layer.
pub async fn layer(request: Request, next: Next) -> Response {
    Caught(Box::pin(next.run(request)))
        .await
        .unwrap_or_else(|()| {
            // The hook has printed the reason with its place.
            tracing::error!("a handler panicked");
            ApiError::new(ErrorCode::InternalError, "the request failed").into_response()
        })
}

/// A future whose panic is its outcome. It is not polled again after one, so nothing sees what it left half done.
struct Caught<F>(Pin<Box<F>>);

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, ()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use tower::ServiceExt;

    #[test]
    fn a_handler_that_panics_is_an_error_of_its_own_request() {
        let router = Router::new()
            .route(
                "/bad",
                get(|| async { panic!("on purpose") as &'static str }),
            )
            .route("/good", get(|| async { "good" }))
            .layer(axum::middleware::from_fn(layer));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let ask = |path: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            runtime.block_on(async {
                let response = router.clone().oneshot(request).await.unwrap();
                let status = response.status().as_u16();
                let body = to_bytes(response.into_body(), 10_000).await.unwrap();
                (status, String::from_utf8(body.to_vec()).unwrap())
            })
        };
        let (status, body) = ask("/bad");
        assert_eq!(status, 500);
        assert!(
            body.contains("internal_error") && !body.contains("on purpose"),
            "{body}"
        );
        assert_eq!(ask("/good"), (200, "good".to_owned()));
    }
}
