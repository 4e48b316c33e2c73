//! One connection from its first byte to its last: TLS if there is any, requests and answers, and an end that lets the
//! client read what was said.
//!
//! A socket that is closed with unread bytes in it takes back what was written: the client would see a reset in place
//! of the reason. So after the last answer the client's bytes are read for a moment and thrown away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::app::App;
use crate::connection::{Connection, until_gone};
use crate::error::{ApiError, ErrorCode};
use crate::held_body::HeldBody;
use crate::seats::Seat;
use crate::tally::{CountedOnce, Tally};
use crate::tls::TlsIdentity;
use crate::transport::{Transport, whole_answer};

/// How far the server is with ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServingPhase {
    /// Not at all.
    Serving,
    /// Each connection ends with its next answer.
    Closing,
    /// Connections without a request end now.
    Ending,
}

/// What all connections share.
pub struct Http {
    /// Its limits say how long clients may take.
    pub app: Arc<App>,
    /// The routes.
    pub router: Router,
    /// The certificate, if connections are encrypted.
    pub tls: Option<Arc<TlsIdentity>>,
    /// Requests that are being answered, or whose answers wait for a client.
    pub under_way: Tally,
    /// How far the server is with ending.
    pub phase: watch::Receiver<ServingPhase>,
}

/// Bytes of a connection's read buffer, and so of a request's head: twice the longest target that hyper takes, so that
/// a longer one is told from headers that are too long.
const HEADER_BYTES: usize = 128 << 10;

/// Headers of a request.
const MAX_HEADERS: usize = 100;

/// How long a client may go on sending after the last answer, and how much.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

impl Http {
    /// Serves `stream` to its end, or until it is to make room.
    pub async fn serve(&self, stream: TcpStream, peer: SocketAddr, seat: Arc<Seat>) {
        tokio::select! {
            () = self.serve_to_its_end(stream, peer, &seat) => {}
            () = seat.is_to_leave() => tracing::debug!(%peer, "closed to make room for another connection"),
        }
    }

    async fn serve_to_its_end(&self, stream: TcpStream, peer: SocketAddr, seat: &Arc<Seat>) {
        // Tokens are small and each should leave at once.
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        let under_way = CountedOnce::of(&self.under_way);
        let connection = Connection::new(
            stream.clone(),
            self.app.limits.write_timeout,
            under_way.clone(),
            seat.clone(),
        );
        let transport = match &self.tls {
            None => Transport::plain(connection),
            Some(identity) => {
                let handshake = self.handshake(identity, &stream, connection);
                match timeout(self.app.limits.header_timeout, handshake).await {
                    Ok(Some(transport)) => transport,
                    Ok(None) => return,
                    Err(_) => {
                        tracing::debug!(%peer, "a TLS handshake took too long");
                        return;
                    }
                }
            }
        };
        let busy = Tally::default();
        let service = service_fn(|request: Request<Incoming>| {
            // What is refused anyway is not waited for.
            let waited_for = (!self.app.is_draining()).then(|| under_way.enter());
            self.answer(request, peer, (waited_for, busy.enter(), seat.work()))
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.app.limits.header_timeout)
            .max_headers(MAX_HEADERS)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(transport), service);
        let mut phase = self.phase.clone();
        let is_ending = async {
            // The channel closes when the server is gone, and its connections with it.
            let _ = phase.wait_for(|&phase| phase == ServingPhase::Ending).await;
        };
        let ended = tokio::select! {
            ended = std::pin::Pin::new(&mut connection) => ended,
            () = until_gone(&stream, &busy) => {
                tracing::debug!(%peer, "a client left");
                return;
            }
            () = is_ending => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                tokio::select! {
                    ended = std::pin::Pin::new(&mut connection) => ended,
                    () = until_gone(&stream, &busy) => return,
                }
            }
        };
        let parts = connection.into_parts();
        let mut transport = parts.io.into_inner();
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection broke off");
            let refusal = unanswered(&error, !parts.read_buf.is_empty());
            match refusal.filter(|_| !transport.has_refused()) {
                Some(refusal) => {
                    let answer = whole_answer(&refusal);
                    if transport.write_all(&answer).await.is_err() {
                        return;
                    }
                }
                None if transport.has_refused() => {}
                None => return,
            }
            if transport.shutdown().await.is_err() {
                return;
            }
        }
        linger(transport).await;
    }

    /// Answers one request; `held` lives as long as the answer.
    async fn answer(
        &self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        held: impl Send + Sync + Unpin + 'static,
    ) -> Result<axum::response::Response, std::convert::Infallible> {
        request.extensions_mut().insert(ConnectInfo(peer));
        let request = request.map(Body::new);
        let mut response = self.router.clone().oneshot(request).await?;
        if *self.phase.borrow() != ServingPhase::Serving {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        Ok(response.map(|body| Body::new(HeldBody::new(body, held))))
    }

    /// The encrypted connection; `None` when the client speaks something else or is not let in.
    async fn handshake(
        &self,
        identity: &TlsIdentity,
        stream: &TcpStream,
        mut connection: Connection,
    ) -> Option<Transport> {
        // A handshake begins with byte 22, a request of plain HTTP with a letter.
        let mut first = [0];
        let plain = stream.peek(&mut first).await.ok()? > 0 && first[0].is_ascii_alphabetic();
        if plain {
            let error = ApiError::new(
                ErrorCode::InvalidRequest,
                "this port speaks TLS, and the request came in plain text",
            )
            .with_hint("begin the address with https://");
            connection.write_all(&whole_answer(&error)).await.ok()?;
            connection.shutdown().await.ok()?;
            linger(connection).await;
            return None;
        }
        match identity.acceptor().accept(connection).await {
            Ok(stream) => Some(Transport::tls(stream)),
            Err(error) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
        }
    }
}

/// What a client is told whose request came to no route, where hyper says nothing.
fn unanswered(error: &hyper::Error, has_begun: bool) -> Option<ApiError> {
    if error.is_timeout() && has_begun {
        let message = "the request's head did not arrive in time";
        return Some(ApiError::new(ErrorCode::ClientTimeout, message));
    }
    error.is_parse().then(|| {
        let message = match error.is_parse_version_h2() {
            true => "HTTP/2 is not spoken here",
            false => "the request's head is no HTTP/1.1",
        };
        ApiError::new(ErrorCode::InvalidRequest, message)
    })
}

/// Reads what the client still sends, so that it can read what it was told.
async fn linger(mut stream: impl AsyncRead + Unpin) {
    let read_away = async {
        let mut buffer = [0; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut buffer).await {
                Ok(n) if n > 0 => left = left.saturating_sub(n),
                _ => return,
            }
        }
    };
    // Whoever is still sending then has had its chance.
    let _ = timeout(LINGER, read_away).await;
}
