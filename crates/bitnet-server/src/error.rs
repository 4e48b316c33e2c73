//! What a client is told when something goes wrong: the one table from causes to status, type and code.
//!
//! The shape is OpenAI's, `{"error": {"message", "type", "param", "code"}}`, on every route and for every status, so that
//! clients' own error classes work. Whether a client may try again follows from the status alone: 408, 409, 429, 503 and
//! 504 say so.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bitnet_inference::Error;
use serde_json::{Value, json};

/// What went wrong, as programs tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The body is no JSON, or not an object.
    InvalidJson,
    /// A field that is needed is absent.
    MissingField,
    /// A field has a value that it cannot have.
    InvalidValue,
    /// A field is known and what it asks for is not offered.
    UnsupportedParameter,
    /// The prompt, or it and the tokens asked for, do not fit into the context.
    ContextLengthExceeded,
    /// No loaded variant of the model is stored as it is wanted.
    QuantizationUnavailable,
    /// No credentials were given and some are needed.
    MissingApiKey,
    /// The credentials are not known.
    InvalidApiKey,
    /// The credentials are good for other routes only.
    InsufficientRole,
    /// The `Host` header names a host that this server is not.
    HostNotAllowed,
    /// There is no such model.
    ModelNotFound,
    /// There is no such route.
    NotFound,
    /// The route exists under other methods.
    MethodNotAllowed,
    /// The client took too long to send its request.
    ClientTimeout,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The body is said to be something else than JSON.
    UnsupportedMediaType,
    /// This client has sent too much.
    RateLimitExceeded,
    /// All clients together have: the queue is full.
    QueueFull,
    /// A fault of the server.
    InternalError,
    /// The model is not loaded, or its engine has failed.
    NotReady,
    /// The server ends.
    ShuttingDown,
    /// The client read so slowly that what it had not read was too much to keep.
    SlowReader,
    /// The request took longer than it was given.
    DeadlineExceeded,
}

impl ErrorCode {
    /// Status, `type` and `code` of the body.
    pub fn row(self) -> (StatusCode, &'static str, &'static str) {
        use ErrorCode::*;
        const REQUEST: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            InvalidJson => (StatusCode::BAD_REQUEST, REQUEST, "invalid_json"),
            MissingField => (StatusCode::BAD_REQUEST, REQUEST, "missing_field"),
            InvalidValue => (StatusCode::BAD_REQUEST, REQUEST, "invalid_value"),
            UnsupportedParameter => (StatusCode::BAD_REQUEST, REQUEST, "unsupported_parameter"),
            ContextLengthExceeded => (StatusCode::BAD_REQUEST, REQUEST, "context_length_exceeded"),
            QuantizationUnavailable => {
                (StatusCode::BAD_REQUEST, REQUEST, "quantization_unavailable")
            }
            MissingApiKey => (
                StatusCode::UNAUTHORIZED,
                "authentication_error",
                "missing_api_key",
            ),
            InvalidApiKey => (
                StatusCode::UNAUTHORIZED,
                "authentication_error",
                "invalid_api_key",
            ),
            InsufficientRole => (
                StatusCode::FORBIDDEN,
                "permission_error",
                "insufficient_role",
            ),
            HostNotAllowed => (
                StatusCode::FORBIDDEN,
                "permission_error",
                "host_not_allowed",
            ),
            ModelNotFound => (StatusCode::NOT_FOUND, REQUEST, "model_not_found"),
            NotFound => (StatusCode::NOT_FOUND, REQUEST, "not_found"),
            MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                REQUEST,
                "method_not_allowed",
            ),
            ClientTimeout => (StatusCode::REQUEST_TIMEOUT, REQUEST, "client_timeout"),
            BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, REQUEST, "body_too_large"),
            UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                REQUEST,
                "unsupported_media_type",
            ),
            RateLimitExceeded => (
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "rate_limit_exceeded",
            ),
            QueueFull => (
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_error",
                "queue_full",
            ),
            InternalError => (StatusCode::INTERNAL_SERVER_ERROR, SERVER, "internal_error"),
            NotReady => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "not_ready"),
            ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, SERVER, "shutting_down"),
            SlowReader => (StatusCode::REQUEST_TIMEOUT, REQUEST, "slow_reader"),
            DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, SERVER, "deadline_exceeded"),
        }
    }
}

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
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error that is about no field in particular.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ApiError {
        ApiError {
            code,
            message: message.into(),
            param: None,
            retry_after: None,
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

    /// The status that it is answered with.
    pub fn status(&self) -> StatusCode {
        self.code.row().0
    }

    /// The body.
    pub fn body(&self) -> Value {
        let (_, kind, code) = self.code.row();
        json!({
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": code,
            }
        })
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
        if self.status() == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // For the log: the body is gone by then.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let message = match error.hint() {
            Some(hint) => format!("{error}: {hint}"),
            None => error.to_string(),
        };
        match &error {
            Error::PromptTooLong { .. } | Error::NeverFits { .. } => {
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
            Error::Tokenizer(_) => ApiError::new(ErrorCode::InvalidValue, error.to_string()),
            Error::DeadlineExceeded { .. } => ApiError::new(ErrorCode::DeadlineExceeded, message),
            Error::Busy { .. } => {
                ApiError::new(ErrorCode::QueueFull, message).retry_after(Duration::from_secs(1))
            }
            // A bias of the client may have forbidden every token.
            Error::BadLogits { .. } => {
                ApiError::about("logit_bias", ErrorCode::InvalidValue, message)
            }
            Error::Model(_)
            | Error::Kernel(_)
            | Error::BadHiddenState { .. }
            | Error::TooFewTokens { .. } => {
                tracing::error!(%error, "the engine failed");
                ApiError::new(ErrorCode::InternalError, "the engine failed")
            }
        }
    }
}

/// How much of a client's value is said back to it, in bytes.
const SHOWN: usize = 80;

fn shortened(value: &Value) -> String {
    match value {
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
