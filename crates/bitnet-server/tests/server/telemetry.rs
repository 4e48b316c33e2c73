//! Traces and metrics, as a collector receives them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnet_server::config::value::OtlpProtocol;
use bitnet_server::model_manager::entry::ModelState;
use bitnet_server::model_manager::policy::ModelPolicy;
use bitnet_server::telemetry::{Telemetry, TelemetryError, TelemetryOptions};
use bitnet_server::tls::provider;
use bitnet_server::{App, ServerLimits};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;

use crate::client::{Answer, Connection};
use crate::collector::{Collector, Point};
use crate::fixture::{MODEL, TestServer, until};

/// To `collector` by plain HTTP, with everything traced.
fn options(collector: SocketAddr) -> TelemetryOptions {
    TelemetryOptions {
        endpoint: format!("http://{collector}"),
        protocol: OtlpProtocol::Http,
        authorities: None,
        sampling_percent: 100,
        gen_ai: true,
        metrics_interval: Duration::from_millis(100),
    }
}

fn server(options: &TelemetryOptions) -> TestServer {
    TestServer::with_telemetry(Telemetry::start(options).unwrap())
}

fn traced(collector: SocketAddr, sampling_percent: u32, gen_ai: bool) -> TestServer {
    server(&TelemetryOptions {
        sampling_percent,
        gen_ai,
        ..options(collector)
    })
}

fn complete(server: &TestServer, headers: &str) -> Answer {
    complete_at(server.address, headers)
}

fn complete_at(address: SocketAddr, headers: &str) -> Answer {
    let mut connection = Connection::open(address);
    let body = json!({
        "model": "default", "prompt": "Once upon a secret time", "max_tokens": 5, "ignore_eos": true,
    });
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
        ("gen_ai.request.model", "default"),
        ("gen_ai.response.model", "stories"),
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
    assert!(collector.spans_so_far().is_empty());
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
    let nobody = "127.0.0.1:1".parse().unwrap();
    for endpoint in ["ftp://collector:4318", "collector", "http://a@b:1", ""] {
        for protocol in [OtlpProtocol::Http, OtlpProtocol::Grpc] {
            let refused = Telemetry::start(&TelemetryOptions {
                endpoint: endpoint.into(),
                protocol,
                ..options(nobody)
            });
            assert!(
                matches!(refused, Err(TelemetryError::Endpoint(_))),
                "{endpoint}"
            );
        }
    }
}

/// A collector's certificate, the server configuration that has it, and the file that says so.
struct Identity {
    config: Arc<ServerConfig>,
    certificate: PathBuf,
    _folder: tempfile::TempDir,
}

impl Identity {
    fn new(protocol: OtlpProtocol) -> Identity {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = folder.path().join("collector.pem");
        std::fs::write(&certificate, own.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        if protocol == OtlpProtocol::Grpc {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        Identity {
            config: Arc::new(config),
            certificate,
            _folder: folder,
        }
    }
}

fn collector(protocol: OtlpProtocol, tls: Option<&Identity>) -> Collector {
    let tls = tls.map(|identity| identity.config.clone());
    match protocol {
        OtlpProtocol::Http => Collector::with_http(tls),
        OtlpProtocol::Grpc => Collector::with_grpc(tls),
    }
}

#[test]
fn both_protocols_carry_the_same_with_tls_and_without() {
    for protocol in [OtlpProtocol::Http, OtlpProtocol::Grpc] {
        for identity in [None, Some(Identity::new(protocol))] {
            let collector = collector(protocol, identity.as_ref());
            let scheme = if identity.is_some() { "https" } else { "http" };
            let server = server(&TelemetryOptions {
                endpoint: format!("{scheme}://{}", collector.address),
                protocol,
                authorities: identity.as_ref().map(|own| own.certificate.clone()),
                ..options(collector.address)
            });
            assert_eq!(complete(&server, "").status, 200);
            let mut names: Vec<String> = (collector.spans(4).into_iter())
                .map(|span| span.name)
                .collect();
            names.sort();
            let expected = ["POST /v1/completions", "decode", "prefill", "queue"];
            assert_eq!(names, expected, "{protocol:?} {scheme}");
            until("the histograms have come", || {
                collector.histograms().len() == 3
            });
        }
    }
}

#[test]
fn whom_nobody_trusts_is_sent_nothing() {
    for protocol in [OtlpProtocol::Http, OtlpProtocol::Grpc] {
        let (own, other) = (Identity::new(protocol), Identity::new(protocol));
        let collector = collector(protocol, Some(&own));
        let server = server(&TelemetryOptions {
            endpoint: format!("https://{}", collector.address),
            protocol,
            authorities: Some(other.certificate.clone()),
            ..options(collector.address)
        });
        assert_eq!(complete(&server, "").status, 200);
        drop(server); // which tries
        assert_eq!(collector.spans_so_far().len(), 0, "{protocol:?}");
    }
}

#[test]
fn authorities_that_are_none_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    for authorities in [empty, folder.path().join("absent.pem")] {
        for protocol in [OtlpProtocol::Http, OtlpProtocol::Grpc] {
            let refused = Telemetry::start(&TelemetryOptions {
                endpoint: "https://127.0.0.1:1".into(),
                protocol,
                authorities: Some(authorities.clone()),
                ..options("127.0.0.1:1".parse().unwrap())
            });
            let Err(TelemetryError::Authorities { from, .. }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(from, authorities.display().to_string());
        }
    }
}

#[test]
fn closing_sends_what_is_queued_and_waits_for_nobody_for_long() {
    let collector = Collector::start();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for (address, hears) in [
        (collector.address, true),
        (silent.local_addr().unwrap(), false),
    ] {
        let server = server(&TelemetryOptions {
            metrics_interval: Duration::from_secs(3600),
            ..options(address)
        });
        assert_eq!(complete(&server, "").status, 200);
        // The answer's last byte goes out before the request is told of.
        until("the request is over", || {
            server.model().admission.waiting() == (0, 0)
        });
        let start = Instant::now();
        server.app.telemetry.as_ref().unwrap().close();
        assert!(start.elapsed() < Duration::from_secs(20));
        if hears {
            // On a machine that is slow enough they are still on their way.
            until("the last ones have come", || {
                (collector.histograms().len(), collector.spans_so_far().len()) == (3, 4)
            });
        }
    }
}

/// A server that ends with its test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(unix)]
#[test]
fn a_process_that_is_told_to_end_sends_its_last_spans_first() {
    let collector = Collector::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet-server"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BITNET_") {
            command.env_remove(name);
        }
    }
    let endpoint = format!("http://{}", collector.address);
    command.args([
        "--default-model",
        MODEL,
        "--port",
        "0",
        "--opentelemetry-enabled",
    ]);
    command.args(["--opentelemetry-endpoint", &endpoint]);
    command.args(["--opentelemetry-sampling-percent", "100"]);
    // Nothing of the metrics goes out before the end.
    command.args(["--metrics-interval", "1h"]);
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut served = Served(command.spawn().unwrap());
    let mut stderr = BufReader::new(served.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("serving ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended");
    }
    let (_, rest) = line.split_once("://").unwrap();
    let address = rest.split(": ").next().unwrap().parse().unwrap();
    assert_eq!(complete_at(address, "").status, 200);
    let pid = served.0.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    assert!(served.0.wait().unwrap().success());
    assert_eq!(collector.spans_so_far().len(), 4);
    assert_eq!(collector.histograms().len(), 3);
}

#[test]
fn a_request_that_fails_has_the_code_of_its_error() {
    let collector = Collector::start();
    let server = traced(collector.address, 100, true);
    assert_eq!(complete(&server, "X-Request-Timeout: 1e-6\r\n").status, 504);
    // The request's own span, and that of its time in the queue.
    let spans = collector.spans(2);
    let root = spans.iter().find(|span| span.parent.is_empty()).unwrap();
    assert_eq!(root.attributes["error.type"], "deadline_exceeded");
    assert_eq!(root.attributes["gen_ai.usage.output_tokens"], "0");
}

#[test]
fn a_model_that_nobody_could_have_named_so_fills_no_span() {
    let collector = Collector::start();
    let server = traced(collector.address, 100, true);
    let body = json!({"model": "m".repeat(1 << 20), "prompt": "Once"});
    assert_eq!(server.post("/v1/completions", &body).status, 404);
    let span = &collector.spans(1)[0];
    assert_eq!(span.attributes["error.type"], "model_not_found");
    assert_eq!(span.attributes["gen_ai.request.model"], "m".repeat(128));
}

#[test]
fn a_client_that_leaves_while_its_model_is_loaded_is_counted() {
    let collector = Collector::start();
    let policy = ModelPolicy {
        configured: vec![("slow".into(), MODEL.into())],
        ..ModelPolicy::default()
    };
    let mut app = App::new(ServerLimits::default()).with_policy(policy);
    app.telemetry = Some(Telemetry::start(&options(collector.address)).unwrap());
    let server = TestServer::without_model(app);
    server.app.know_configured();
    let turn = server.runtime.block_on(server.app.manager.turn());
    let mut client = Connection::open(server.address);
    let body = json!({"model": "slow", "prompt": "Once"}).to_string();
    let headers = "Content-Type: application/json\r\n";
    client.send("POST", "/v1/completions", headers, &body);
    until("it is being loaded", || {
        server.app.models.look("slow").unwrap().state == ModelState::Loading
    });
    drop(client);
    let left = |point: &Point| {
        let error = point.attributes.get("error.type");
        error.is_some_and(|error| error == "client_closed")
    };
    until("it is counted", || collector.histograms().iter().any(left));
    let points = collector.histograms();
    let point = points.iter().find(|point| left(point)).unwrap();
    assert_eq!(point.name, "gen_ai.server.request.duration");
    assert_eq!(point.count, 1);
    drop(turn);
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
        &json!({"model": "stories", "prompt": "Once", "temperature": 9}),
    );
    assert_eq!(refused.status, 400);
    assert_eq!(server.post("/tokenize", &json!({"content": 7})).status, 400);
    // Sums are sent while the server runs too.
    let n_measured = || -> u64 {
        let points = collector.histograms();
        points.iter().map(|point| point.count).sum()
    };
    // Two requests in three histograms, and the refused one in that of whole requests.
    until("all have come", || n_measured() >= 7);
    drop(server);
    collector.histograms()
}

#[test]
fn every_request_counts_in_the_histograms_of_the_conventions() {
    let points = measured(true);
    let ran = BTreeMap::from(
        [
            ("gen_ai.operation.name", "text_completion"),
            ("gen_ai.provider.name", "bitnet"),
            ("gen_ai.request.model", "default"),
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
