//! The layer that refuses paths which mean no text: routes take their parameters from them.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::{ApiError, ErrorCode};

/// Refuses a request whose path has an escape that is none, or that stands for bytes which are no UTF-8.
pub async fn layer(request: Request, next: Next) -> Response {
    match wrong(request.uri().path()) {
        None => next.run(request).await,
        Some(reason) => {
            let message = format!("the path of the request {reason}");
            ApiError::new(ErrorCode::InvalidRequest, message).into_response()
        }
    }
}

fn wrong(path: &str) -> Option<&'static str> {
    if !path.contains('%') {
        return None;
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) => (high << 4 | low) as u8,
                _ => return Some("has a % that two hexadecimal digits do not follow"),
            },
            byte => byte,
        });
    }
    let is_text = std::str::from_utf8(&decoded).is_ok();
    (!is_text).then_some("has percent-escapes that are no UTF-8")
}

fn digit(byte: Option<u8>) -> Option<u32> {
    char::from(byte?).to_digit(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_must_be_hexadecimal_and_mean_text() {
        for good in [
            "/",
            "/v1/models",
            "/v1/models/a%2Fb",
            "/v1/models/%C3%A9",
            "/%00",
        ] {
            assert_eq!(wrong(good), None, "{good}");
        }
        for bad in [
            "/%",
            "/%f",
            "/%zz",
            "/%+1",
            "/v1/models/%ff",
            "/%C3",
            "/a%2",
        ] {
            assert!(wrong(bad).is_some(), "{bad}");
        }
    }
}
