//! How much a client may ask for, and how long anything may take: every number that bounds the server's memory.

use std::time::Duration;

use bitnet_inference::Pooling;

use crate::config::ServerConfig;
use crate::config::value::PoolingChoice;

/// The limits of a server. They come from the configuration; `Default` is that of nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Largest body of a request, in bytes. A prompt of 128 Ki tokens is about half a megabyte of text; parsing numbers
    /// takes some sixteen times the memory that they take as text.
    pub max_body: usize,
    /// Bytes of bodies that arrive at once, of all requests together.
    pub max_arriving: usize,
    /// Bytes of whole answers that wait to be read, of all requests together; one is taken however long it is.
    pub max_leaving: usize,
    /// Requests (choices of them) that wait, beyond those that run.
    pub max_queued_requests: usize,
    /// Prompt tokens of requests that have no first token yet; one request is taken however long it is.
    pub max_queued_tokens: usize,
    /// Choices of one prompt: `n`.
    pub max_n: usize,
    /// Choices that one request may ask for: prompts times `n`.
    pub max_choices: usize,
    /// Stop strings of a request.
    pub max_stops: usize,
    /// Bytes of a stop string: text that may become one is held back and looked at for each character.
    pub max_stop_bytes: usize,
    /// Tokens of a `logit_bias`, as many as OpenAI takes.
    pub max_biases: usize,
    /// Messages of a conversation.
    pub max_messages: usize,
    /// Connections at once. Past them, who has waited longest for a request makes room, or others wait to be accepted.
    pub max_connections: usize,
    /// Connections of one address at once; 0 is no limit. More are closed.
    pub max_connections_per_peer: usize,
    /// Time for a client to send its headers, and for a connection to be idle.
    pub header_timeout: Duration,
    /// Time for a client to send its body.
    pub body_timeout: Duration,
    /// Time for which a client may leave what was sent to it unread.
    pub write_timeout: Duration,
    /// Silence after which a stream gets a comment, so that proxies keep it open.
    pub ping_interval: Duration,
    /// Time that one step of the engine may take before the server calls itself dead.
    pub stall_timeout: Duration,
    /// Time that requests under way are given when the server ends.
    pub drain_timeout: Duration,
    /// Longest time that a request may take, from its arrival.
    pub request_timeout: Option<Duration>,
    /// Longest time that a request may wait for a place.
    pub queue_timeout: Option<Duration>,
    /// The seed of requests that name none; `None` is a new one for each.
    pub seed: Option<u64>,
    /// Whether everybody may ask for a priority below 0.
    pub allow_urgent: bool,
    /// How vectors are pooled; `None` is as the model's files say.
    pub pooling: Option<Pooling>,
    /// Whether `/metrics` answers.
    pub shows_metrics: bool,
    /// Whether it tells everybody who uses how much, and not administrators alone.
    pub shows_tenants: bool,
    /// Whether `/health` answers 200 while the server is degraded.
    pub degraded_ok: bool,
    /// Whether `/admin` answers.
    pub shows_admin_page: bool,
}

/// What operators do not set: no client has a reason to ask for more.
const MAX_N: usize = 16;
const MAX_CHOICES: usize = 128;
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;
const MAX_BIASES: usize = 300;
const MAX_MESSAGES: usize = 4096;

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits::from(&ServerConfig::default())
    }
}

impl From<&ServerConfig> for ServerLimits {
    fn from(config: &ServerConfig) -> ServerLimits {
        let (server, performance) = (&config.server, &config.performance);
        ServerLimits {
            max_body: usize::try_from(server.max_body_bytes.0).unwrap_or(usize::MAX),
            max_arriving: usize::try_from(server.max_arriving_bytes.0).unwrap_or(usize::MAX),
            max_leaving: usize::try_from(server.max_leaving_bytes.0).unwrap_or(usize::MAX),
            max_queued_requests: performance.max_queued_requests,
            max_queued_tokens: performance.max_queued_prompt_tokens,
            max_n: MAX_N,
            max_choices: MAX_CHOICES,
            max_stops: MAX_STOPS,
            max_stop_bytes: MAX_STOP_BYTES,
            max_biases: MAX_BIASES,
            max_messages: MAX_MESSAGES,
            max_connections: server.max_connections,
            max_connections_per_peer: server.max_connections_per_peer,
            header_timeout: server.header_timeout,
            body_timeout: server.body_timeout,
            write_timeout: server.write_timeout,
            ping_interval: server.sse_ping_interval,
            stall_timeout: config.monitoring.stall_timeout,
            drain_timeout: server.shutdown_timeout,
            request_timeout: server.request_timeout.0,
            queue_timeout: performance.queue_timeout.0,
            seed: config.engine.seed(),
            allow_urgent: performance.allow_urgent,
            pooling: match config.models.pooling {
                PoolingChoice::Model => None,
                PoolingChoice::Last => Some(Pooling::Last),
                PoolingChoice::Mean => Some(Pooling::Mean),
                PoolingChoice::Cls => Some(Pooling::Cls),
            },
            shows_metrics: config.monitoring.prometheus_enabled,
            // Where nobody has a key, nobody has a name.
            shows_tenants: config.auth.open_metrics
                || (config.auth.keys_file.is_none() && config.auth.jwt_key_file.is_none()),
            degraded_ok: config.monitoring.degraded_ok,
            shows_admin_page: config.monitoring.admin_page,
        }
    }
}
