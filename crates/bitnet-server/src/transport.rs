//! What HTTP is spoken over: a connection, plain or inside TLS, whose automatic answers are JSON.
//!
//! hyper answers a head that it cannot parse by itself, with a status and no body. Clients and operators are owed the
//! same object as for every other error, so such an answer is replaced on its way out. It is told apart for sure: ours
//! all carry the request's name.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::connection::Connection;
use crate::error::{ApiError, ErrorCode};
use crate::request_id::REQUEST_ID;

/// A connection that HTTP is spoken over.
pub struct Transport {
    stream: Stream,
    replaced: Option<Bytes>, // what is left to write instead of an answer of hyper's
    has_refused: bool,
}

enum Stream {
    Plain(Connection),
    Tls(Box<TlsStream<Connection>>),
}

/// Longest head of an answer that hyper writes by itself: a status line, two headers and the date are 120 bytes.
const LONGEST_AUTOMATIC: usize = 256;

impl Transport {
    /// Over a plain connection.
    pub fn plain(connection: Connection) -> Transport {
        Transport::of(Stream::Plain(connection))
    }

    /// Over one that is encrypted.
    pub fn tls(stream: TlsStream<Connection>) -> Transport {
        Transport::of(Stream::Tls(Box::new(stream)))
    }

    fn of(stream: Stream) -> Transport {
        Transport {
            stream,
            replaced: None,
            has_refused: false,
        }
    }

    /// Whether an answer of hyper's was replaced, and so one was given.
    pub fn has_refused(&self) -> bool {
        self.has_refused
    }

    fn io(&mut self) -> Pin<&mut (dyn AsyncWrite + Send + Unpin)> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream),
            Stream::Tls(stream) => Pin::new(&mut **stream),
        }
    }

    /// Writes `bytes`, or what stands in their place.
    fn poll_replaced(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replaced.is_none() {
            self.replaced = automatic(bytes).map(refusal);
        }
        while let Some(left) = self.replaced.clone().filter(|left| !left.is_empty()) {
            self.has_refused = true;
            let n = ready!(self.io().poll_write(cx, &left))?;
            if let Some(left) = &mut self.replaced {
                left.advance(n);
            }
        }
        match self.replaced.take() {
            Some(_) => Poll::Ready(Ok(bytes.len())),
            None => self.io().poll_write(cx, bytes),
        }
    }
}

/// The status of an answer that hyper has made by itself.
fn automatic(bytes: &[u8]) -> Option<StatusCode> {
    if bytes.len() > LONGEST_AUTOMATIC || !bytes.starts_with(b"HTTP/1.1 4") {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    if text.contains(REQUEST_ID.as_str()) || !text.ends_with("\r\n\r\n") {
        return None;
    }
    text.get(9..12)?.parse().ok()
}

/// The answer to a request whose head was not understood.
fn refusal(status: StatusCode) -> Bytes {
    let error = match status {
        StatusCode::URI_TOO_LONG => {
            ApiError::new(ErrorCode::UriTooLong, "the request's target is too long")
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ApiError::new(
            ErrorCode::HeadersTooLarge,
            "the request's headers are too many or too long",
        ),
        _ => ApiError::new(
            ErrorCode::InvalidRequest,
            "the request's head is no HTTP/1.1",
        ),
    };
    whole_answer(&error)
}

/// An answer on a connection that ends with it, for requests that no route ever sees.
pub fn whole_answer(error: &ApiError) -> Bytes {
    let status = error.status();
    let body = error.body().to_string();
    let text = format!(
        "HTTP/1.1 {} {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len(),
    );
    text.into()
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_replaced(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let first = slices.iter().find(|slice| !slice.is_empty());
        match first {
            Some(first) if this.replaced.is_some() || automatic(first).is_some() => {
                this.poll_replaced(cx, first)
            }
            _ => this.io().poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io().poll_shutdown(cx)
    }
}
