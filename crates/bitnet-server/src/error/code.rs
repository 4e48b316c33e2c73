//! The one table of errors: what programs tell apart, with which status, and what to do about each.
//!
//! `docs/errors.md` is made from it. Whether a client may try again follows from the status alone: 408, 409, 429, 503
//! and 504 say so.

use axum::http::StatusCode;

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct ErrorRow {
    /// Which.
    pub code: ErrorCode,
    /// The status that it is answered with.
    pub status: StatusCode,
    /// `type` of the body, as OpenAI has it.
    pub kind: &'static str,
    /// `code` of the body.
    pub name: &'static str,
    /// What has happened, a line each.
    pub doc: &'static [&'static str],
    /// What to do, where the error itself knows nothing better.
    pub hint: &'static str,
}

impl ErrorRow {
    /// What the documents say of it: `doc` in one line.
    pub fn meaning(&self) -> String {
        let lines: Vec<&str> = self.doc.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }
}

/// A status that no standard has and nginx, Google's interfaces and the access log here use: the client no longer wants
/// the answer. SDKs try again after 408 and 409, and must not after this.
trait ClientClosed {
    const CLIENT_CLOSED_REQUEST: StatusCode;
}

impl ClientClosed for StatusCode {
    const CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
        Ok(status) => status,
        Err(_) => panic!("three digits are a status"),
    };
}

const REQUEST: &str = "invalid_request_error";
const AUTHENTICATION: &str = "authentication_error";
const PERMISSION: &str = "permission_error";
const RATE_LIMIT: &str = "rate_limit_error";
const SERVER: &str = "server_error";

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $code:ident: $status:ident $kind:ident $name:literal $hint:literal;)+) => {
        /// What went wrong, as programs tell it apart.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $code,)+
        }

        /// Every error, in the order of the documents.
        pub static ERRORS: &[ErrorRow] = &[
            $(ErrorRow {
                code: ErrorCode::$code,
                status: StatusCode::$status,
                kind: $kind,
                name: $name,
                doc: &[$($doc),+],
                hint: $hint,
            },)+
        ];
    };
}

error_codes! {
    /// The body is no JSON, or not an object.
    InvalidJson: BAD_REQUEST REQUEST "invalid_json"
        "send one JSON object in UTF-8";
    /// The head of the request is not that of HTTP/1.1, or its path has an escape that means no text.
    InvalidRequest: BAD_REQUEST REQUEST "invalid_request"
        "send HTTP/1.1, with the path percent-encoded as UTF-8";
    /// A field that is needed is absent.
    MissingField: BAD_REQUEST REQUEST "missing_field"
        "add the field that param names";
    /// A field has a value that it cannot have.
    InvalidValue: BAD_REQUEST REQUEST "invalid_value"
        "change the field that param names";
    /// A field is known and what it asks for is not offered; in orders of management, also a field that is not known.
    UnsupportedParameter: BAD_REQUEST REQUEST "unsupported_parameter"
        "leave out the field that param names";
    /// The prompt, or it and the tokens asked for, do not fit into the context.
    ContextLengthExceeded: BAD_REQUEST REQUEST "context_length_exceeded"
        "shorten the prompt or ask for fewer tokens";
    /// No loaded variant of the model is stored as it is wanted.
    QuantizationUnavailable: BAD_REQUEST REQUEST "quantization_unavailable"
        "leave out quantization_preference, or say auto";
    /// No credentials were given and some are needed.
    MissingApiKey: UNAUTHORIZED AUTHENTICATION "missing_api_key"
        "send a key as 'Authorization: Bearer KEY'; the operator makes one with `bitnet keys add`";
    /// The credentials are not known.
    InvalidApiKey: UNAUTHORIZED AUTHENTICATION "invalid_api_key"
        "ask the operator whether the key was revoked, or the token has expired or is another service's";
    /// The credentials are good for other routes only.
    InsufficientRole: FORBIDDEN PERMISSION "insufficient_role"
        "use a key of the role admin: `bitnet keys add --role admin`";
    /// The `Host` header names a host that this server is not, or a web page of another origin sent the request.
    HostNotAllowed: FORBIDDEN PERMISSION "host_not_allowed"
        "ask for localhost or a loopback address; server.allowed_hosts adds names, server.allowed_origins pages";
    /// The path or name of a model lies outside what the operator allows.
    ModelNotAllowed: FORBIDDEN PERMISSION "model_not_allowed"
        "paths are relative to the operator's models.directories: GET /v1/model_files lists what is there";
    /// There is no such model, or the key is not good for it.
    ModelNotFound: NOT_FOUND REQUEST "model_not_found"
        "GET /v1/models lists the models";
    /// No request by this name is under way, or it is somebody else's.
    RequestNotFound: NOT_FOUND REQUEST "request_not_found"
        "a request under way is cancelled by its x-request-id, with the key that sent it";
    /// There is no such route.
    NotFound: NOT_FOUND REQUEST "not_found"
        "GET /openapi.json describes every route";
    /// The route exists under other methods.
    MethodNotAllowed: METHOD_NOT_ALLOWED REQUEST "method_not_allowed"
        "the header Allow has the methods of this route; GET /openapi.json describes every route";
    /// The client took too long to send its request.
    ClientTimeout: REQUEST_TIMEOUT REQUEST "client_timeout"
        "send the request again, without pauses";
    /// The client read so slowly that what it had not read was too much to keep.
    SlowReader: REQUEST_TIMEOUT REQUEST "slow_reader"
        "read the answer as it comes, or ask for less";
    /// The model is being used by something that excludes this and ends, such as being unloaded.
    ModelBusy: CONFLICT REQUEST "model_busy"
        "try again when the model's status is loaded";
    /// Another model is being put in this one's place.
    SwapInProgress: CONFLICT REQUEST "swap_in_progress"
        "try again when the swap under way has ended";
    /// The body is larger than the limit.
    BodyTooLarge: PAYLOAD_TOO_LARGE REQUEST "body_too_large"
        "send less, or ask the operator to raise server.max_body_bytes";
    /// The request's target is longer than a head may be.
    UriTooLong: URI_TOO_LONG REQUEST "uri_too_long"
        "put what is long into the body";
    /// The body is said to be something else than JSON.
    UnsupportedMediaType: UNSUPPORTED_MEDIA_TYPE REQUEST "unsupported_media_type"
        "send the header 'Content-Type: application/json'";
    /// The name has a model in memory, so none is loaded under it.
    ModelAlreadyLoaded: UNPROCESSABLE_ENTITY REQUEST "model_already_loaded"
        "POST /v1/models/swap puts another version in its place";
    /// The name means a model of another file, so none is loaded under it.
    ModelIdTaken: UNPROCESSABLE_ENTITY REQUEST "model_id_taken"
        "POST /v1/models/swap puts another file behind the name; or load it under an id of its own";
    /// There is no version that a rollback could go back to.
    NoPreviousVersion: UNPROCESSABLE_ENTITY REQUEST "no_previous_version"
        "a rollback is done once: POST /v1/models/swap puts any version in place, by its path";
    /// The new model does not say what the reference says, so the old one stays.
    ValidationFailed: UNPROCESSABLE_ENTITY REQUEST "validation_failed"
        "look at the differences that the message tells; the model in use is unchanged";
    /// The file is no model that this server can run.
    ModelIncompatible: UNPROCESSABLE_ENTITY REQUEST "model_incompatible"
        "`bitnet compat-check` says what is wrong with the file";
    /// `models.cache_size` is too small for the model, or for it beside models that never make room.
    NoRoomForModel: UNPROCESSABLE_ENTITY REQUEST "no_room_for_model"
        "ask for a smaller model; the operator may raise models.cache_size, pin fewer models, or unload one";
    /// The head of the request is larger than 128 KiB, or has more than 100 headers.
    HeadersTooLarge: REQUEST_HEADER_FIELDS_TOO_LARGE REQUEST "headers_too_large"
        "send fewer or shorter headers";
    /// This client has sent too much.
    RateLimitExceeded: TOO_MANY_REQUESTS RATE_LIMIT "rate_limit_exceeded"
        "wait as long as Retry-After says";
    /// All clients together have: the queue is full.
    QueueFull: TOO_MANY_REQUESTS RATE_LIMIT "queue_full"
        "wait as long as Retry-After says";
    /// The request was cancelled by its name.
    RequestCancelled: CLIENT_CLOSED_REQUEST REQUEST "request_cancelled"
        "send the request again if its answer is wanted after all";
    /// A fault of the server.
    InternalError: INTERNAL_SERVER_ERROR SERVER "internal_error"
        "tell the operator the request_id; the log has the reason";
    /// No model is loaded, or the engine has failed.
    NotReady: SERVICE_UNAVAILABLE SERVER "not_ready"
        "try again when /health/ready answers 200";
    /// The server ends.
    ShuttingDown: SERVICE_UNAVAILABLE SERVER "shutting_down"
        "try again, at another server if there is one";
    /// The model is being loaded.
    ModelLoading: SERVICE_UNAVAILABLE SERVER "model_loading"
        "wait as long as Retry-After says";
    /// The request waited longer for its turn than `performance.queue_timeout`.
    Overloaded: SERVICE_UNAVAILABLE SERVER "overloaded"
        "wait as long as Retry-After says, or ask another server";
    /// The request took longer than it was given.
    DeadlineExceeded: GATEWAY_TIMEOUT SERVER "deadline_exceeded"
        "give the request more time or fewer tokens";
    /// The new model was not validated in the time that was given, so the old one stays.
    ValidationTimeout: GATEWAY_TIMEOUT SERVER "validation_timeout"
        "give validation more time or fewer prompts; the model in use is unchanged";
}

impl ErrorCode {
    /// Its row of the table.
    pub fn info(self) -> &'static ErrorRow {
        let row = &ERRORS[self as usize];
        debug_assert_eq!(row.code, self);
        row
    }

    /// `code` of the body, and of metrics and logs.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(self) -> bool {
        matches!(self.info().status.as_u16(), 408 | 409 | 429 | 503 | 504)
    }
}
