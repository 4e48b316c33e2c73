//! Sends traces and metrics by plain HTTP, from the exporters' own threads.
//!
//! The SDK's clients bring a whole HTTP stack of their own, or need a runtime that the exporter's thread has not. A
//! collector answers a request of HTTP 1.0 with a status and closes the connection: that is all that is needed.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use axum::http::{Request, Response, Uri};
use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError};

/// Bytes of an answer that are read: it is a status and at most a sentence.
const LONGEST_ANSWER: u64 = 64 << 10;

/// A way to one collector.
#[derive(Debug, Clone)]
pub(super) struct HttpSender {
    authority: String,
    address: (String, u16),
    timeout: Duration,
}

impl HttpSender {
    /// To `http://HOST:PORT`; `None` for anything else.
    pub(super) fn to(endpoint: &str, timeout: Duration) -> Option<HttpSender> {
        let uri: Uri = endpoint.parse().ok()?;
        let authority = uri.authority()?;
        let is_plain = uri.scheme_str() == Some("http") && !authority.as_str().contains('@');
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        is_plain.then(|| HttpSender {
            address: (host, authority.port_u16().unwrap_or(80)),
            authority: authority.as_str().to_owned(),
            timeout,
        })
    }

    /// How long one sending may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    fn send(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut addresses = self.address.to_socket_addrs()?;
        let address = addresses.next().ok_or("the collector has no address")?;
        let mut stream = TcpStream::connect_timeout(&address, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        let body = request.body();
        let mut head = format!(
            "POST {} HTTP/1.0\r\nHost: {}\r\nContent-Length: {}\r\n",
            request.uri().path(),
            self.authority,
            body.len()
        );
        for (name, value) in request.headers() {
            head.push_str(&format!("{name}: {}\r\n", value.to_str()?));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let end = end.ok_or("the collector's answer is no HTTP")?;
        let status = std::str::from_utf8(&answer[..end])?
            .split(' ')
            .nth(1)
            .ok_or("the collector's answer has no status")?;
        let body = Bytes::copy_from_slice(&answer[end + 4..]);
        Ok(Response::builder().status(status).body(body)?)
    }
}

#[async_trait::async_trait]
impl HttpClient for HttpSender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // It may block: nothing else runs on an exporter's thread.
        self.send(&request)
    }
}
