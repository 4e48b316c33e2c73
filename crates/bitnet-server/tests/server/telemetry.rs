//! Traces and metrics, as a collector receives them: a small one on loopback reads what is sent.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bitnet_server::telemetry::{Telemetry, TelemetryError, TelemetryOptions};
use serde_json::json;

use crate::client::{Answer, Connection};
use crate::fixture::{TestServer, until};

/// A span as it was sent.
#[derive(Debug, Clone, Default)]
struct Received {
    trace: String,
    id: String,
    parent: String,
    name: String,
    nanoseconds: (u64, u64),
    attributes: BTreeMap<String, String>,
}

/// A collector that keeps what it is sent.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Received>>>,
    histograms: Arc<Mutex<Vec<Point>>>,
}

/// A histogram with one set of attributes, as it was sent last.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    name: String,
    unit: String,
    attributes: BTreeMap<String, String>,
    count: u64,
    sum: f64,
    bounds: Vec<f64>,
    buckets: Vec<u64>,
}

impl Collector {
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let spans: Arc<Mutex<Vec<Received>>> = Arc::default();
        let histograms: Arc<Mutex<Vec<Point>>> = Arc::default();
        let (kept, kept_points) = (spans.clone(), histograms.clone());
        // It ends with the process: nobody connects after the test.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut bytes = Vec::new();
                let mut buffer = [0; 4096];
                let (path, body) = loop {
                    let n = stream.read(&mut buffer).unwrap();
                    bytes.extend_from_slice(&buffer[..n]);
                    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n")
                    else {
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
                match path.as_str() {
                    "/v1/traces" => kept.lock().unwrap().extend(spans_of(&body)),
                    // Sums since the start: the last ones have everything.
                    "/v1/metrics" => *kept_points.lock().unwrap() = points_of(&body),
                    other => panic!("nobody collects {other}"),
                }
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
            }
        });
        Collector {
            address,
            spans,
            histograms,
        }
    }

    fn spans(&self, n: usize) -> Vec<Received> {
        until("the spans have come", || {
            self.spans.lock().unwrap().len() >= n
        });
        self.spans.lock().unwrap().clone()
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

fn traced(collector: SocketAddr, sampling_percent: u32, gen_ai: bool) -> TestServer {
    let options = TelemetryOptions {
        endpoint: format!("http://{collector}"),
        sampling_percent,
        gen_ai,
        metrics_interval: Duration::from_millis(100),
    };
    TestServer::with_telemetry(Telemetry::start(&options).unwrap())
}

fn complete(server: &TestServer, headers: &str) -> Answer {
    let mut connection = Connection::open(server.address);
    let body = json!({"prompt": "Once upon a secret time", "max_tokens": 5, "ignore_eos": true});
    let headers = format!("Content-Type: application/json\r\n{headers}");
    connection.send("POST", "/v1/completions", &headers, &body.to_string());
    connection.answer()
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[test]
fn a_request_is_a_span_with_its_phases_in_the_trace_of_its_sender() {
    let collector = Collector::start();
    let server = traced(collector.address, 0, true);
    // Not sampled by itself, at 0 %; its sender's flag says so.
    let headers = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\nX-Request-Id: seven\r\n");
    let answer = complete(&server, &headers);
    assert_eq!(answer.status, 200);
    let told = answer.header("traceparent").unwrap().to_owned();
    let spans = collector.spans(4);
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:?}");
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let root = named("POST /v1/completions");
    assert_eq!(root.parent, "00f067aa0ba902b7");
    assert_eq!(told, format!("00-{TRACE}-{}-01", root.id));
    for (key, value) in [
        ("gen_ai.operation.name", "text_completion"),
        ("gen_ai.request.model", "stories"),
        ("gen_ai.usage.output_tokens", "5"),
        ("http.route", "/v1/completions"),
        ("bitnet.request_id", "seven"),
    ] {
        assert_eq!(root.attributes.get(key).unwrap(), value, "{key}");
    }
    let phases = ["queue", "prefill", "decode"].map(named);
    let mut end = None;
    for phase in phases {
        assert_eq!(phase.parent, root.id);
        let (start, stop) = phase.nanoseconds;
        assert!(start <= stop, "{phase:?}");
        assert!(
            end.is_none_or(|end| end == start),
            "one after the other: {spans:?}"
        );
        end = Some(stop);
    }
    let text = format!("{spans:?}");
    assert!(!text.contains("secret"), "no prompt is in a trace");
}

#[test]
fn attributes_that_may_still_change_are_asked_for() {
    let collector = Collector::start();
    let server = traced(collector.address, 100, false);
    assert_eq!(complete(&server, "").status, 200);
    let spans = collector.spans(4);
    let root = spans.iter().find(|span| span.parent.is_empty()).unwrap();
    assert_eq!(root.attributes.get("bitnet.generated_tokens").unwrap(), "5");
    let mut keys = spans.iter().flat_map(|span| span.attributes.keys());
    assert!(keys.all(|key| !key.starts_with("gen_ai.")));
}

#[test]
fn what_is_not_sampled_is_not_sent_and_looking_is_not_traced() {
    let collector = Collector::start();
    let server = traced(collector.address, 0, false);
    let answer = complete(&server, "");
    assert!(answer.header("traceparent").unwrap().ends_with("-00"));
    assert_eq!(server.get("/health").header("traceparent"), None);
    drop(server); // which sends what there is
    assert!(collector.spans.lock().unwrap().is_empty());
}

#[test]
fn a_collector_that_is_gone_or_silent_holds_nobody_up() {
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    // Its queue takes connections, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [gone, silent.local_addr().unwrap()] {
        let server = traced(address, 100, false);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(complete(&server, "").status, 200);
        }
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn an_address_that_cannot_be_sent_to_is_refused_at_the_start() {
    for endpoint in ["https://collector:4318", "collector", "http://a@b:1", ""] {
        let refused = Telemetry::start(&TelemetryOptions {
            endpoint: endpoint.into(),
            sampling_percent: 1,
            gen_ai: false,
            metrics_interval: Duration::from_secs(10),
        });
        assert!(
            matches!(refused, Err(TelemetryError::Endpoint(_))),
            "{endpoint}"
        );
    }
}

/// Two requests that run, and one that is refused, none of them traced: what the metrics have of it in the end.
fn measured(gen_ai: bool) -> Vec<Point> {
    let collector = Collector::start();
    let server = traced(collector.address, 0, gen_ai);
    for _ in 0..2 {
        assert_eq!(complete(&server, "").status, 200);
    }
    let refused = server.post(
        "/v1/completions",
        &json!({"prompt": "Once", "temperature": 9}),
    );
    assert_eq!(refused.status, 400);
    assert_eq!(server.post("/tokenize", &json!({"content": 7})).status, 400);
    // Sums are sent while the server runs too.
    until("some have come", || {
        !collector.histograms.lock().unwrap().is_empty()
    });
    drop(server);
    collector.histograms.lock().unwrap().clone()
}

#[test]
fn every_request_counts_in_the_histograms_of_the_conventions() {
    let points = measured(true);
    let ran = BTreeMap::from(
        [
            ("gen_ai.operation.name", "text_completion"),
            ("gen_ai.provider.name", "bitnet"),
            ("gen_ai.request.model", "stories"),
            ("gen_ai.response.model", "stories"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let named = |name: &str| -> Vec<&Point> {
        let name = format!("gen_ai.server.{name}");
        points.iter().filter(|point| point.name == name).collect()
    };
    for (name, n_bounds) in [
        ("request.duration", 14),
        ("time_to_first_token", 16),
        ("time_per_output_token", 13),
    ] {
        let named = named(name);
        let of_runs: Vec<_> = named
            .iter()
            .filter(|point| point.attributes == ran)
            .collect();
        assert_eq!(of_runs.len(), 1, "{points:?}");
        let point = of_runs[0];
        assert_eq!((point.count, point.unit.as_str()), (2, "s"), "{point:?}");
        assert!(point.sum > 0.0, "{point:?}");
        assert_eq!(point.bounds.len(), n_bounds);
        assert_eq!(point.buckets.iter().sum::<u64>(), 2, "{point:?}");
    }
    let whole = named("request.duration");
    let refused: Vec<_> = whole
        .iter()
        .filter(|point| point.attributes.contains_key("error.type"))
        .collect();
    assert_eq!((whole.len(), refused.len()), (2, 1), "{whole:?}");
    assert_eq!(refused[0].attributes["error.type"], "invalid_value");
    assert_eq!(refused[0].count, 1);
    assert_eq!((named("time_to_first_token").len(), points.len()), (1, 4));
}

#[test]
fn attributes_of_metrics_that_may_still_change_are_asked_for_too() {
    let points = measured(false);
    let keys: Vec<&String> = points
        .iter()
        .flat_map(|point| point.attributes.keys())
        .collect();
    assert!(
        keys.iter().all(|key| !key.starts_with("gen_ai.")),
        "{keys:?}"
    );
    let models = points
        .iter()
        .filter_map(|point| point.attributes.get("bitnet.model"));
    assert_eq!(models.collect::<Vec<_>>(), ["stories"; 3]);
}
