//! A collector on loopback, which reads what it is sent by OTLP.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::fixture::until;

/// A span as it was sent.
#[derive(Debug, Clone, Default)]
pub struct Received {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub nanoseconds: (u64, u64),
    pub attributes: BTreeMap<String, String>,
}

/// Keeps what it is sent.
pub struct Collector {
    pub address: SocketAddr,
    kept: Arc<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    spans: Mutex<Vec<Received>>,
    histograms: Mutex<Vec<Point>>, // sums since the start: the last ones have everything
}

/// A histogram with one set of attributes, as it was sent last.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub name: String,
    pub unit: String,
    pub attributes: BTreeMap<String, String>,
    pub count: u64,
    pub sum: f64,
    pub bounds: Vec<f64>,
    pub buckets: Vec<u64>,
}

impl Collector {
    /// One that is sent to by plain HTTP.
    pub fn start() -> Collector {
        Collector::with_http(None)
    }

    /// One that is sent to by HTTP, in TLS where it is given an identity. It ends with the process: nobody connects
    /// after the test.
    pub fn with_http(tls: Option<Arc<ServerConfig>>) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Arc::<Kept>::default();
        let keeper = kept.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                match &tls {
                    None => keeper.take_request(stream),
                    Some(config) => {
                        let server = ServerConnection::new(config.clone()).unwrap();
                        keeper.take_request(StreamOwned::new(server, stream));
                    }
                }
            }
        });
        Collector { address, kept }
    }

    /// One that is sent to by gRPC, in TLS where it is given an identity.
    pub fn with_grpc(tls: Option<Arc<ServerConfig>>) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let kept = Arc::<Kept>::default();
        let keeper = kept.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let keeper = keeper.clone();
                    match tls.clone() {
                        None => tokio::spawn(keeper.take_calls(stream)),
                        Some(config) => tokio::spawn(async move {
                            let stream = TlsAcceptor::from(config).accept(stream).await;
                            keeper.take_calls(stream.unwrap()).await;
                        }),
                    };
                }
            });
        });
        Collector { address, kept }
    }

    /// The spans, as soon as there are as many.
    pub fn spans(&self, n: usize) -> Vec<Received> {
        until("the spans have come", || self.spans_so_far().len() >= n);
        self.spans_so_far()
    }

    pub fn spans_so_far(&self) -> Vec<Received> {
        self.kept.spans.lock().unwrap().clone()
    }

    pub fn histograms(&self) -> Vec<Point> {
        self.kept.histograms.lock().unwrap().clone()
    }
}

impl Kept {
    fn keep(&self, path: &str, message: &[u8]) {
        match path {
            "/v1/traces" | "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
                self.spans.lock().unwrap().extend(spans_of(message));
            }
            "/v1/metrics" | "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
                *self.histograms.lock().unwrap() = points_of(message);
            }
            other => panic!("nobody collects {other}"),
        }
    }

    /// Takes one request of HTTP 1.0; one that breaks off, as that of a client who does not trust this server, is none.
    fn take_request(&self, mut stream: impl Read + Write) {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        let (path, body) = loop {
            let Ok(n @ 1..) = stream.read(&mut buffer) else {
                return;
            };
            bytes.extend_from_slice(&buffer[..n]);
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let head = std::str::from_utf8(&bytes[..end]).unwrap();
            let path = head.split(' ').nth(1).unwrap().to_owned();
            assert!(
                head.starts_with(&format!("POST {path} HTTP/1.0\r\n")),
                "{head}"
            );
            assert!(
                head.to_lowercase()
                    .contains("content-type: application/x-protobuf")
            );
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "));
            let length: usize = length.unwrap().parse().unwrap();
            if bytes.len() == end + 4 + length {
                break (path, bytes[end + 4..].to_vec());
            }
        };
        self.keep(&path, &body);
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        stream.flush().unwrap();
    }

    /// Takes the calls of a connection of gRPC: a message behind five bytes, and a status in the trailers.
    async fn take_calls(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let path = request.uri().path().to_owned();
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let keeper = self.clone();
            // The connection is to be polled on while the body comes.
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut message = Vec::new();
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    let _ = body.flow_control().release_capacity(data.len());
                    message.extend_from_slice(&data);
                }
                assert_eq!(message[0], 0, "it is not compressed");
                keeper.keep(&path, &message[5..]);
                let head = Response::builder().header("content-type", "application/grpc");
                let mut answer = respond
                    .send_response(head.body(()).unwrap(), false)
                    .unwrap();
                // An answer without anything in it.
                answer.send_data(vec![0; 5].into(), false).unwrap();
                let trailers = [("grpc-status", "0")].map(|(name, value)| {
                    (
                        HeaderName::from_static(name),
                        HeaderValue::from_static(value),
                    )
                });
                answer
                    .send_trailers(HeaderMap::from_iter(trailers))
                    .unwrap();
            });
        }
    }
}

/// Fields of a protobuf message: number, and bytes or number.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>, u64)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let (value, number) = match tag & 7 {
            0 => (Vec::new(), varint(&mut bytes)),
            1 | 5 => {
                let (value, rest) = bytes.split_at(if tag & 7 == 1 { 8 } else { 4 });
                bytes = rest;
                let number = value
                    .iter()
                    .rev()
                    .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                (Vec::new(), number)
            }
            2 => {
                let length = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(length);
                bytes = rest;
                (value.to_vec(), 0)
            }
            kind => panic!("wire type {kind}"),
        };
        found.push((tag >> 3, value, number));
    }
    found
}

fn inside(bytes: &[u8], number: u64) -> Vec<Vec<u8>> {
    let found = fields(bytes).into_iter();
    found
        .filter(|field| field.0 == number)
        .map(|field| field.1)
        .collect()
}

/// `ExportTraceServiceRequest` > `ResourceSpans` > `ScopeSpans` > `Span`, opentelemetry-proto's `trace.proto`.
fn spans_of(request: &[u8]) -> Vec<Received> {
    let scopes = inside(request, 1)
        .into_iter()
        .flat_map(|resource| inside(&resource, 2));
    let spans = scopes.flat_map(|scope| inside(&scope, 2));
    let hexadecimal =
        |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    spans
        .map(|span| {
            let mut received = Received::default();
            for (number, bytes, value) in fields(&span) {
                match number {
                    1 => received.trace = hexadecimal(&bytes),
                    2 => received.id = hexadecimal(&bytes),
                    4 => received.parent = hexadecimal(&bytes),
                    5 => received.name = String::from_utf8(bytes).unwrap(),
                    7 => received.nanoseconds.0 = value,
                    8 => received.nanoseconds.1 = value,
                    9 => received.attributes.extend(attributes_of(vec![bytes])),
                    _ => {}
                }
            }
            received
        })
        .collect()
}

/// Keys and texts or whole numbers of `KeyValue` messages.
fn attributes_of(attributes: Vec<Vec<u8>>) -> BTreeMap<String, String> {
    let attributes = attributes.iter().map(|bytes| {
        let key = String::from_utf8(inside(bytes, 1).remove(0)).unwrap();
        let value = fields(&inside(bytes, 2).remove(0)).remove(0);
        let text = match value.0 {
            1 => String::from_utf8(value.1).unwrap(),
            3 => (value.2 as i64).to_string(),
            _ => String::new(),
        };
        (key, text)
    });
    attributes.collect()
}

/// `ExportMetricsServiceRequest` > `ResourceMetrics` > `ScopeMetrics` > `Metric` > `Histogram` > `HistogramDataPoint`,
/// opentelemetry-proto's `metrics.proto`.
fn points_of(request: &[u8]) -> Vec<Point> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let numbers = |bytes: &[u8]| -> Vec<u64> {
        let eight = bytes.chunks_exact(8);
        eight
            .map(|eight| u64::from_le_bytes(eight.try_into().unwrap()))
            .collect()
    };
    let scopes = inside(request, 1)
        .into_iter()
        .flat_map(|resource| inside(&resource, 2));
    let mut points = Vec::new();
    for metric in scopes.flat_map(|scope| inside(&scope, 2)) {
        let of_metric = |number| text(inside(&metric, number).remove(0));
        for point in inside(&inside(&metric, 9).remove(0), 1) {
            let number = |number| fields(&point).into_iter().find(|field| field.0 == number);
            points.push(Point {
                name: of_metric(1),
                unit: of_metric(3),
                attributes: attributes_of(inside(&point, 9)),
                count: number(4).unwrap().2,
                sum: f64::from_bits(number(5).unwrap().2),
                buckets: numbers(&inside(&point, 6).concat()),
                bounds: numbers(&inside(&point, 7).concat())
                    .into_iter()
                    .map(f64::from_bits)
                    .collect(),
            });
        }
    }
    points
}
