//! Bodies of requests: JSON objects of bounded size, that arrive in bounded time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use tokio::time::timeout;

use crate::app::App;
use crate::error::{ApiError, ErrorCode};
use crate::fields::Fields;

/// The body of a request as an object.
#[derive(Debug)]
pub struct JsonBody(pub Fields);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<JsonBody, ApiError> {
        check_content_type(request.headers())?;
        let (max, time) = (app.limits.max_body, app.limits.body_timeout);
        let declared = request.headers().get(header::CONTENT_LENGTH);
        let declared = declared.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > max as u64) {
            return Err(too_large(max));
        }
        let bytes = read(request.into_body(), max, time).await?;
        Ok(JsonBody(Fields::parse(&bytes)?))
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let kind = value.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json") {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::UnsupportedMediaType,
        "the body must be JSON: send the header Content-Type: application/json",
    ))
}

async fn read(body: Body, max: usize, time: Duration) -> Result<Bytes, ApiError> {
    let collect = async {
        let mut stream = pin!(body.into_data_stream());
        let mut bytes = BytesMut::new();
        while let Some(piece) = std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
            let piece = piece.map_err(|error| {
                ApiError::new(
                    ErrorCode::InvalidJson,
                    format!("the body broke off: {error}"),
                )
            })?;
            if bytes.len() + piece.len() > max {
                return Err(too_large(max));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    };
    timeout(time, collect).await.unwrap_or_else(|_| {
        let message = format!(
            "the body was not sent within {} seconds",
            time.as_secs_f64()
        );
        Err(ApiError::new(ErrorCode::ClientTimeout, message))
    })
}

fn too_large(max: usize) -> ApiError {
    let message = format!("the body is larger than {max} bytes");
    ApiError::new(ErrorCode::BodyTooLarge, message)
}
