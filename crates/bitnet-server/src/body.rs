//! Bodies of requests: JSON objects of bounded size, that arrive in bounded time, and not too many of them at once.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use crate::app::{App, BODY_UNIT};
use crate::error::{ApiError, ErrorCode};
use crate::fields::Fields;

/// The body of a request as an object.
#[derive(Debug)]
pub struct JsonBody(pub Fields);

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<JsonBody, ApiError> {
        check_content_type(request.headers())?;
        let max = app.limits.max_body;
        let declared = request.headers().get(header::CONTENT_LENGTH);
        let declared = declared.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > max as u64) {
            return Err(too_large(max));
        }
        let (bytes, _room) = read(request.into_body(), app).await?;
        Ok(JsonBody(Fields::parse(&bytes)?))
    }
}

/// A request without a body, as those are whose path says everything; an empty object is none either.
#[derive(Debug)]
pub struct NoBody;

impl FromRequest<Arc<App>> for NoBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<NoBody, ApiError> {
        let (bytes, _room) = read(request.into_body(), app).await?;
        if !bytes.trim_ascii().is_empty() {
            Fields::parse(&bytes)?.only("", &[])?;
        }
        Ok(NoBody)
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    // Absent is not enough: a page of another origin may send a body without a type and is not asked before.
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json") {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::UnsupportedMediaType,
        "the body must be JSON and say so",
    ))
}

/// The body, and the room that it takes up until it is parsed.
async fn read(body: Body, app: &App) -> Result<(Bytes, Option<SemaphorePermit<'_>>), ApiError> {
    let (max, time) = (app.limits.max_body, app.limits.body_timeout);
    let collect = async {
        let mut stream = pin!(body.into_data_stream());
        let mut bytes = BytesMut::new();
        let mut room: Option<SemaphorePermit<'_>> = None;
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
            let held = room.as_ref().map_or(0, SemaphorePermit::num_permits);
            let needed = (bytes.len() + piece.len()).div_ceil(BODY_UNIT);
            if needed > held {
                let more = u32::try_from(needed - held).unwrap_or(u32::MAX);
                let more = app.bodies.try_acquire_many(more).map_err(|_| no_room())?;
                match &mut room {
                    Some(room) => room.merge(more),
                    None => room = Some(more),
                }
            }
            bytes.extend_from_slice(&piece);
        }
        Ok((bytes.freeze(), room))
    };
    timeout(time, collect).await.unwrap_or_else(|_| {
        let message = format!("the body was not sent within {} s", time.as_secs_f64());
        Err(ApiError::new(ErrorCode::ClientTimeout, message))
    })
}

fn no_room() -> ApiError {
    let message = "too many requests are arriving at once";
    ApiError::new(ErrorCode::QueueFull, message)
        .retry_after(Duration::from_secs(1))
        .with_limit("bodies")
}

fn too_large(max: usize) -> ApiError {
    let message = format!("the body is larger than {max} bytes");
    ApiError::new(ErrorCode::BodyTooLarge, message)
}
