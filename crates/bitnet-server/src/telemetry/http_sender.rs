//! Sends traces and metrics by HTTP, plain or in TLS, from the exporters' own threads.
//!
//! The SDK's clients bring a whole HTTP stack of their own, or need a runtime that the exporter's thread has not. A
//! collector answers a request of HTTP 1.0 with a status and closes the connection: that is all that is needed.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Response, Uri};
use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Bytes of an answer that are read: it is a status and at most a sentence.
const LONGEST_ANSWER: u64 = 64 << 10;

/// A way to one collector.
#[derive(Debug, Clone)]
pub(super) struct HttpSender {
    authority: String,
    address: (String, u16),
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    timeout: Duration,
}

impl HttpSender {
    /// To the authority of `endpoint`; `None` where that names nobody who could have a certificate.
    pub(super) fn to(
        endpoint: &Uri,
        tls: Option<Arc<ClientConfig>>,
        timeout: Duration,
    ) -> Option<HttpSender> {
        let authority = endpoint.authority()?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = if tls.is_some() { 443 } else { 80 };
        let tls = match tls {
            Some(config) => Some((config, ServerName::try_from(host.clone()).ok()?)),
            None => None,
        };
        Some(HttpSender {
            address: (host, authority.port_u16().unwrap_or(port)),
            authority: authority.as_str().to_owned(),
            tls,
            timeout,
        })
    }

    fn send(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let stream = self.connect()?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        match &self.tls {
            None => self.ask(stream, request),
            Some((config, name)) => {
                let client = ClientConnection::new(config.clone(), name.clone())?;
                self.ask(StreamOwned::new(client, stream), request)
            }
        }
    }

    /// To the first address of its name where somebody listens.
    fn connect(&self) -> Result<TcpStream, HttpError> {
        let mut failed = "the collector has no address".into();
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.timeout) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error.into(),
            }
        }
        Err(failed)
    }

    fn ask(
        &self,
        mut stream: impl Read + Write,
        request: &Request<Bytes>,
    ) -> Result<Response<Bytes>, HttpError> {
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
        stream.flush()?;
        let mut answer = Vec::new();
        let read = stream.take(LONGEST_ANSWER).read_to_end(&mut answer);
        // Many end TLS by closing the connection: the answer's head says whether it came.
        if let Err(error) = read
            && error.kind() != ErrorKind::UnexpectedEof
        {
            return Err(error.into());
        }
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
