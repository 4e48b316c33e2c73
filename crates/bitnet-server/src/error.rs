//! What a client is told when something goes wrong: the shape of the answer, and which causes lead to which code.
//!
//! The shape is OpenAI's, `{"error": {"message", "type", "param", "code"}}`, on every route and for every status, so
//! that clients' own error classes work; beside it `hint`, `retryable` and `request_id`. The codes are in [`code`].

pub mod code;

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bitnet_inference::Error;
use hyper::ext::ReasonPhrase;
use serde_json::{Value, json};

pub use code::ErrorCode;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Which.
    pub code: ErrorCode,
    /// What is wrong and what to do, for people.
    pub message: String,
    /// The field of the request that it is about, such as `messages[0].role`.
    pub param: Option<Cow<'static, str>>,
    /// What to do, where that is better known than by the code.
    pub hint: Option<Cow<'static, str>>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// The request's name, once it is known.
    pub request_id: Option<Box<str>>,
    /// Figures behind the message, for programs.
    pub details: Option<Box<Value>>,
}

impl ApiError {
    /// An error that is about no field in particular.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError {
            code,
            message: message.into(),
            param: None,
            hint: None,
            retry_after: None,
            request_id: None,
            details: None,
        }
    }

    /// An error about a field of the request.
    pub fn about(
        param: impl Into<Cow<'static, str>>,
        code: ErrorCode,
        message: impl Into<String>,
    ) -> ApiError {
        ApiError {
            param: Some(param.into()),
            ..ApiError::new(code, message)
        }
    }

    /// A field has a value that it cannot have.
    pub fn invalid(
        param: impl Into<Cow<'static, str>>,
        found: &Value,
        expected: impl AsRef<str>,
    ) -> ApiError {
        let param = param.into();
        let message = format!(
            "{param} is {}, expected {}",
            shortened(found),
            expected.as_ref()
        );
        ApiError::about(param, ErrorCode::InvalidValue, message)
    }

    /// A field that is known and not offered.
    pub fn unsupported(param: impl Into<Cow<'static, str>>, why: impl AsRef<str>) -> ApiError {
        let param = param.into();
        let message = format!("{param} is not supported: {}", why.as_ref());
        ApiError::about(param, ErrorCode::UnsupportedParameter, message)
    }

    /// The same, to be tried again after a while.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> ApiError {
        self.retry_after = Some(after);
        self
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> ApiError {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with which limit was reached, for programs: `details.limit`.
    #[must_use]
    pub fn with_limit(mut self, limit: &str) -> ApiError {
        self.details = Some(Box::new(json!({ "limit": limit })));
        self
    }

    /// The same, of the request with this name.
    #[must_use]
    pub fn of_request(mut self, id: &str) -> ApiError {
        self.request_id = Some(id.into());
        self
    }

    /// The status that it is answered with.
    pub fn status(&self) -> StatusCode {
        self.code.info().status
    }

    /// What to do.
    pub fn hint(&self) -> &str {
        self.hint.as_deref().unwrap_or(self.code.info().hint)
    }

    /// The body.
    pub fn body(&self) -> Value {
        let row = self.code.info();
        let mut body = json!({
            "error": {
                "message": self.message,
                "type": row.kind,
                "param": self.param,
                "code": row.name,
                "hint": self.hint(),
                "retryable": self.code.is_retryable(),
                "request_id": self.request_id,
            }
        });
        if let Some(details) = &self.details {
            body["error"]["details"] = Value::clone(details);
        }
        body
    }

    /// Puts itself in place of the body of an answer, whose headers stay.
    pub fn add_to(self, mut response: Response) -> Response {
        let body = self.body().to_string();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = body.into();
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == ErrorCode::RequestCancelled {
            // No standard has words for this status.
            let reason = ReasonPhrase::from_static(b"Client Closed Request");
            response.extensions_mut().insert(reason);
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For the log, and for the layer that knows the request's name.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let hint = match &error {
            // Those are for whoever has the files.
            Error::Tokenizer(_) | Error::Model(_) | Error::Kernel(_) => None,
            error => error.hint(),
        };
        ApiError {
            hint: hint.map(Cow::from),
            ..ApiError::without_hint(&error)
        }
    }
}

impl ApiError {
    fn without_hint(error: &Error) -> ApiError {
        let message = error.to_string();
        match error {
            Error::PromptTooLong { .. } | Error::PromptExceeds { .. } | Error::NeverFits { .. } => {
                ApiError::about("prompt", ErrorCode::ContextLengthExceeded, message)
            }
            Error::EmptyPrompt | Error::TokenOutOfRange { .. } => {
                ApiError::about("prompt", ErrorCode::InvalidValue, message)
            }
            Error::InvalidOption { option, .. } => {
                ApiError::about(option.clone(), ErrorCode::InvalidValue, message)
            }
            Error::NoTokenizer { .. } => {
                ApiError::about("prompt", ErrorCode::UnsupportedParameter, message)
            }
            Error::NoChatTemplate { .. } => {
                ApiError::about("messages", ErrorCode::UnsupportedParameter, message)
            }
            // The template refuses a conversation, or the vocabulary a character: the text is the client's.
            Error::Tokenizer(_) => ApiError::new(ErrorCode::InvalidValue, message),
            Error::DeadlineExceeded { .. } => ApiError::new(ErrorCode::DeadlineExceeded, message),
            Error::QueueTimeout { .. } => {
                ApiError::new(ErrorCode::Overloaded, message).retry_after(Duration::from_secs(1))
            }
            Error::Busy { .. } => ApiError::new(ErrorCode::QueueFull, message)
                .retry_after(Duration::from_secs(1))
                .with_limit("kv_cache"),
            // Biases of clients are finite: what they are added to was no number before.
            Error::BadLogits { .. }
            | Error::Model(_)
            | Error::Kernel(_)
            | Error::BadHiddenState { .. }
            | Error::Device { .. }
            | Error::NotEnoughMemory { .. }
            | Error::NotMapped { .. }
            | Error::TooFewTokens { .. } => {
                tracing::error!(%error, "the engine failed");
                ApiError::new(ErrorCode::InternalError, "the engine failed")
            }
        }
    }
}

/// How much of a client's value is said back to it, in bytes.
const SHOWN: usize = 80;

/// A client's value as it is said back to it.
pub fn shortened(value: &Value) -> String {
    match value {
        Value::Object(pairs) if pairs.is_empty() => "empty".into(),
        Value::Array(list) if list.is_empty() => "empty".into(),
        Value::Object(_) => "an object".into(),
        Value::Array(_) => "an array".into(),
        value => {
            let mut text = value.to_string();
            if text.len() > SHOWN {
                let end = (0..=SHOWN).rev().find(|&at| text.is_char_boundary(at));
                text.truncate(end.unwrap_or(0));
                text.push('…');
            }
            text
        }
    }
}
