//! Server-sent events: a request under way as a body that grows.
//!
//! The connection pulls: while a client reads slowly nothing is formatted for it. When the client goes away the body is
//! dropped, and the request with it. Every token that has arrived by the time of a pull goes out in one piece.
//!
//! Source: the `text/event-stream` section of the HTML standard; OpenAI's streams have `data` fields only.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_core::Stream;
use serde::Serialize;
use tokio::time::{Instant, Sleep, sleep};

use crate::error::ApiError;
use crate::request_id::StreamName;
use crate::running::{Piece, Running};

/// How a route writes a stream's events.
pub trait Wire: Send + Unpin + 'static {
    /// What comes before the first token, at once.
    fn begin(&mut self, running: &Running, events: &mut Events);
    /// What comes of a token.
    ///
    /// # Errors
    /// What ends the stream before its time.
    fn piece(
        &mut self,
        piece: Piece,
        running: &Running,
        events: &mut Events,
    ) -> Result<(), ApiError>;
    /// What comes after the last one.
    fn end(&mut self, running: &Running, events: &mut Events);
    /// What comes instead, when the request failed.
    fn fail(&mut self, error: &ApiError, events: &mut Events) {
        events.data(&error.body());
    }
}

/// Events that wait to be sent.
#[derive(Debug, Default)]
pub struct Events {
    bytes: BytesMut,
}

impl Events {
    /// An event of which only the data count.
    pub fn data(&mut self, data: &impl Serialize) {
        self.bytes.put_slice(b"data: ");
        serde_json::to_writer((&mut self.bytes).writer(), data)
            .expect("plain data go into memory as JSON");
        self.bytes.put_slice(b"\n\n");
    }

    /// An event with a name.
    pub fn named(&mut self, name: &'static str, data: &impl Serialize) {
        self.bytes.put_slice(b"event: ");
        self.bytes.put_slice(name.as_bytes());
        self.bytes.put_slice(b"\n");
        self.data(data);
    }

    /// OpenAI's last event.
    pub fn done(&mut self) {
        self.bytes.put_slice(b"data: [DONE]\n\n");
    }

    fn take(&mut self) -> Bytes {
        self.bytes.split().freeze()
    }
}

/// Answers with the events of a request.
pub fn response(running: Running, wire: impl Wire, ping_interval: Duration) -> Response {
    let name = StreamName::default();
    let mut stream = EventStream {
        state: State::Running(Box::new(running)),
        name: name.clone(),
        wire,
        events: Events::default(),
        ping: Box::pin(sleep(ping_interval)),
        ping_interval,
        last_sent: Instant::now(),
    };
    if let State::Running(running) = &stream.state {
        stream.wire.begin(running, &mut stream.events);
    }
    let mut response = Response::new(Body::from_stream(stream));
    response.extensions_mut().insert(name);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would collect the events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct EventStream<W> {
    state: State,
    name: StreamName,
    wire: W,
    events: Events,
    ping: Pin<Box<Sleep>>, // until it has been silent for so long, or a look at whether it has
    ping_interval: Duration,
    last_sent: Instant,
}

enum State {
    Running(Box<Running>),
    Over,
}

/// Most bytes that are collected into one piece of the body.
const PIECE_BYTES: usize = 16 << 10;

impl<W: Wire> Stream for EventStream<W> {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while let State::Running(running) = &mut this.state
            && this.events.bytes.len() < PIECE_BYTES
        {
            let written = match running.poll_piece(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(piece)) => {
                    piece.and_then(|piece| this.wire.piece(piece, running, &mut this.events))
                }
                Poll::Ready(None) => {
                    this.wire.end(running, &mut this.events);
                    this.state = State::Over;
                    break;
                }
            };
            if let Err(mut error) = written {
                running.fail(&error);
                this.name.fails(error.code.name());
                error.request_id = this.name.get().map(Box::from);
                this.wire.fail(&error, &mut this.events);
                this.state = State::Over;
            }
        }
        if this.events.bytes.is_empty() {
            if matches!(this.state, State::Over) {
                return Poll::Ready(None);
            }
            // Moving a timer takes longer than writing a token: it is moved when it runs out.
            loop {
                std::task::ready!(this.ping.as_mut().poll(cx));
                let silent_until = this.last_sent + this.ping_interval;
                if silent_until <= Instant::now() {
                    break;
                }
                this.ping.as_mut().reset(silent_until);
            }
            this.ping
                .as_mut()
                .reset(Instant::now() + this.ping_interval);
            this.events.bytes.put_slice(b": ping\n\n");
        }
        this.last_sent = Instant::now();
        Poll::Ready(Some(Ok(this.events.take())))
    }
}
