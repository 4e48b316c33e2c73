//! How much a client may ask for, and how long anything may take: every number that bounds the server's memory.

use std::time::Duration;

/// The limits of a server. `Default` has the documented values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Largest body of a request, in bytes. A prompt of 128 Ki tokens is about half a megabyte of text; parsing numbers
    /// takes some sixteen times the memory that they take as text.
    pub max_body: usize,
    /// Requests (choices of them) that wait, beyond those that run.
    pub max_queued_requests: usize,
    /// Prompt tokens of requests that have no first token yet; one request is taken however long it is.
    pub max_queued_tokens: usize,
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
    /// Connections at once; others wait to be accepted.
    pub max_connections: usize,
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
    /// Longest time that a request may take, from being put in the queue.
    pub request_timeout: Option<Duration>,
}

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits {
            max_body: 2 << 20,
            max_queued_requests: 256,
            max_queued_tokens: 256 << 10,
            max_choices: 128,
            max_stops: 16,
            max_stop_bytes: 256,
            max_biases: 300,
            max_messages: 4096,
            max_connections: 4096,
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
            request_timeout: None,
        }
    }
}
