//! Probes and models.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bitnet_server::build_info::BuildInfo;
use bitnet_server::{App, ServerLimits};
use serde_json::json;

use crate::client::Connection;
use crate::fixture::{Gated, TestServer, engine, until};

#[test]
fn a_server_with_a_model_is_live_ready_and_healthy() {
    let server = TestServer::start();
    for probe in [
        "/health",
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/livez",
        "/readyz",
        "/ping",
    ] {
        assert_eq!(server.get(probe).status, 200, "{probe}");
    }
    let health = server.get("/health").json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["components"]["stories"]["engine"]["max_running"], 4);
    let system = &health["system_metrics"];
    assert!(system["start_time"].as_f64().unwrap() > 1e9, "{system}");
    let version = server.get("/version").json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let build = BuildInfo::of_this();
    assert_eq!(version["commit"], build.commit);
    let labels = format!(
        "bitnet_build_info{{version=\"{}\",commit=\"{}\",target=\"{}\",",
        build.version, build.commit, build.target
    );
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains(&labels), "{labels}: {metrics}");
}

/// A server whose queue is full: one request runs, and nothing may wait.
fn full(limits: ServerLimits) -> (TestServer, Arc<Gated>, Vec<Connection>) {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let limits = ServerLimits {
        max_queued_requests: 0,
        ..limits
    };
    let server = TestServer::with_turns(engine, gated.clone(), limits);
    let n_places = server.model().handle.load().max_running;
    let clients = (0..n_places).map(|_| {
        let mut client = Connection::open(server.address);
        let headers = "Content-Type: application/json\r\n";
        client.send(
            "POST",
            "/v1/completions",
            headers,
            r#"{"prompt": "Once", "max_tokens": 2}"#,
        );
        client
    });
    let clients = clients.collect();
    until("the queue is full", || server.get("/readyz").status == 503);
    (server, gated, clients)
}

#[test]
fn a_full_server_is_alive_not_ready_and_degraded() {
    let (server, gated, mut clients) = full(ServerLimits::default());
    assert_eq!(server.get("/livez").status, 200);
    assert_eq!(server.get("/health/startup").status, 200);
    let health = server.get("/health");
    assert_eq!(health.status, 503);
    assert_eq!(health.json()["status"], "degraded");
    gated.open();
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    until("it is ready again", || server.get("/readyz").status == 200);
}

#[test]
fn degradation_is_200_where_the_operator_says_so() {
    let limits = ServerLimits {
        degraded_ok: true,
        ..ServerLimits::default()
    };
    let (server, gated, _clients) = full(limits);
    let health = server.get("/health");
    assert_eq!(health.status, 200);
    assert_eq!(health.json()["status"], "degraded");
    assert_eq!(
        server.get("/readyz").status,
        503,
        "the probe is another matter"
    );
    gated.open();
}

#[test]
fn probes_answer_while_all_cores_are_busy() {
    let server = TestServer::start();
    let over = AtomicBool::new(false);
    let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get());
    std::thread::scope(|scope| {
        let _stop = Stop(&over);
        for _ in 0..2 * cores {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        for _ in 0..4 {
            scope.spawn(|| {
                let body = json!({"prompt": "Once", "max_tokens": 60, "ignore_eos": true});
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(server.post("/v1/completions", &body).status, 200);
                }
            });
        }
        // 50 ms is promised. The machine of a test has other work too, which makes some slow; one that waits for a
        // pass, for a request or for the queue is slow every time.
        let times = (0..100).map(|_| {
            let start = Instant::now();
            assert_eq!(server.get("/health/live").status, 200);
            start.elapsed()
        });
        let mut slow = Vec::new();
        for time in times {
            if time < Duration::from_millis(50) {
                return;
            }
            slow.push(time);
        }
        panic!("not one in 50 ms: {slow:?}");
    });
}

/// Ends those who keep the cores busy, also when an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn models_are_listed_for_both_kinds_of_clients() {
    let server = TestServer::start();
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "stories");
    assert_eq!(list["data"][0]["object"], "model");
    assert_eq!(list["models"][0]["status"], "loaded");
    assert!(list["models"][0]["weight_bytes"].as_u64().unwrap() > 1_000_000);
    let shown = server.get("/v1/models/stories").json();
    assert_eq!(shown, list["data"][0]);
    let missing = server.get("/v1/models/other");
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["error"]["code"], "model_not_found");
}

#[test]
fn ids_are_never_given_twice() {
    let app = App::new(ServerLimits::default());
    let mut ids: Vec<String> = (0..1000).map(|_| app.new_id("x-")).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1000);
}
