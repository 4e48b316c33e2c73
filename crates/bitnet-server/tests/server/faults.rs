//! What clients and probes see when the engine fails or hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bitnet_inference::{Engine, EngineLoad, Error, Event, RequestId, ValidRequest};
use bitnet_server::ServerLimits;
use bitnet_server::engine_thread::Turns;
use serde_json::json;

use crate::client::Connection;
use crate::fixture::{Gated, TestServer, engine, until};

/// An engine that panics in its n-th turn.
pub struct Panicking {
    engine: Arc<Engine>,
    turns_left: AtomicUsize,
}

impl Panicking {
    pub fn after(engine: Arc<Engine>, turns: usize) -> Arc<Panicking> {
        Arc::new(Panicking {
            engine,
            turns_left: AtomicUsize::new(turns),
        })
    }
}

impl Turns for Panicking {
    fn enqueue(&self, request: ValidRequest) -> Result<RequestId, Error> {
        self.engine.enqueue(request)
    }

    fn turn(&self, events: &mut Vec<Event>) -> bool {
        if self.turns_left.fetch_sub(1, Ordering::Relaxed) == 0 {
            panic!("injected by a test");
        }
        self.engine.turn(events)
    }

    fn cancel(&self, request: RequestId) {
        self.engine.cancel(request);
    }

    fn has_run(&self, request: RequestId) -> bool {
        self.engine.has_run(request)
    }

    fn current_load(&self) -> EngineLoad {
        self.engine.current_load()
    }
}

#[test]
fn a_panic_of_the_engine_ends_its_requests_and_not_the_process() {
    let engine = engine();
    let turns = Panicking::after(engine.clone(), 5);
    let server = TestServer::with_turns(engine, turns, ServerLimits::default());
    assert_eq!(server.get("/health/live").status, 200);

    let body = json!({"prompt": "Once", "max_tokens": 50, "ignore_eos": true, "stream": true});
    let cut = server.post("/v1/completions", &body);
    assert_eq!(cut.status, 200);
    let last = cut.body.trim_end().lines().last().unwrap();
    assert!(last.contains("\"code\":\"internal_error\""), "{last}");

    let refused = server.post("/v1/completions", &body);
    assert_eq!(refused.status, 500);
    assert_eq!(refused.json()["error"]["code"], "internal_error");
    for probe in ["/health/live", "/health/ready", "/health"] {
        assert_eq!(server.get(probe).status, 503, "{probe}");
    }
    assert_eq!(server.get("/v1/models").status, 200);
}

#[test]
fn a_step_that_hangs_is_seen_by_the_liveness_probe_and_by_no_other_request() {
    hang_is_seen(Gated::new);
}

#[test]
fn a_command_that_hangs_is_seen_as_a_step_is() {
    hang_is_seen(Gated::before_commands);
}

/// Asks an engine that stands still at a gate, looks at the probe, and opens the gate.
fn hang_is_seen(gate: fn(Arc<Engine>) -> Arc<Gated>) {
    let engine = engine();
    let gated = gate(engine.clone());
    let limits = ServerLimits {
        stall_timeout: Duration::from_millis(20),
        ..ServerLimits::default()
    };
    let server = TestServer::with_turns(engine, gated.clone(), limits);
    let mut connection = Connection::open(server.address);
    let body = json!({"prompt": "Once", "max_tokens": 2}).to_string();
    connection.send(
        "POST",
        "/v1/completions",
        "Content-Type: application/json\r\n",
        &body,
    );
    until("the probe fails", || {
        server.get("/health/live").status == 503
    });
    assert_eq!(server.get("/v1/models").status, 200);
    gated.open();
    assert_eq!(connection.answer().status, 200);
    // The thread may not have ended the step that told the last token.
    until("the probe is well again", || {
        server.get("/health/live").status == 200
    });
}
