//! Sends traces and metrics by HTTP, plain or in TLS, from the exporters' own threads.
//!
//! The SDK's clients bring a whole HTTP stack of their own, or need a runtime that the exporter's thread has not. A
//! collector answers a request of HTTP 1.0 with a status and closes the connection: that is all that is needed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
        let stream = self.connect(Deadline(Instant::now() + self.timeout))?;
        match &self.tls {
            None => self.ask(stream, request),
            Some((config, name)) => {
                let client = ClientConnection::new(config.clone(), name.clone())?;
                self.ask(StreamOwned::new(client, stream), request)
            }
        }
    }

    /// To the first address of its name where somebody listens.
    fn connect(&self, deadline: Deadline) -> Result<TimedStream, HttpError> {
        let mut failed = "the collector has no address".into();
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, deadline.left()?) {
                Ok(stream) => return Ok(TimedStream { stream, deadline }),
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

/// When a sending is given up, whatever it is at: a limit for each read would let a collector that sends a byte now and
/// then keep the thread for hours.
#[derive(Debug, Clone, Copy)]
struct Deadline(Instant);

impl Deadline {
    fn left(self) -> io::Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(ErrorKind::TimedOut.into()),
            false => Ok(left),
        }
    }
}

/// A connection that ends with its deadline.
#[derive(Debug)]
struct TimedStream {
    stream: TcpStream,
    deadline: Deadline,
}

impl Read for TimedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.deadline.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for TimedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.deadline.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[async_trait::async_trait]
impl HttpClient for HttpSender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // It may block: nothing else runs on an exporter's thread.
        self.send(&request)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_collector_that_answers_a_byte_at_a_time_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let uri = format!("http://{address}");
        let dripping = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Each comes well within the time.
            for _ in 0..1000 {
                if stream.write_all(b"x").is_err() {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            false
        });
        let timeout = Duration::from_millis(300);
        let sender = HttpSender::to(&uri.parse().unwrap(), None, timeout).unwrap();
        let request = Request::post(format!("{uri}/v1/traces")).body(Bytes::from_static(b"x"));
        assert!(sender.send(&request.unwrap()).is_err());
        drop(TcpStream::connect(address)); // in case that it was given up before it began
        assert!(dripping.join().unwrap(), "it was heard to its end");
    }
}
