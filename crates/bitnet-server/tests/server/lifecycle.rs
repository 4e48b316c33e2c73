//! Ending in good order.

use std::time::Duration;

use bitnet_server::health_check::{HealthCheck, Probe};
use bitnet_server::{ServerLimits, Stopped};
use serde_json::json;

use crate::client::Connection;
use crate::fixture::{Gated, TestServer, engine, until};

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn requests_under_way_are_answered_before_the_server_ends() {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let server = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
    let body = json!({"prompt": "Once", "max_tokens": 20, "ignore_eos": true}).to_string();
    let mut whole = Connection::open(server.address);
    whole.send("POST", "/v1/completions", JSON, &body);
    let mut stream = Connection::open(server.address);
    let streamed = json!({"prompt": "Once", "max_tokens": 20, "ignore_eos": true, "stream": true});
    stream.send("POST", "/v1/completions", JSON, &streamed.to_string());
    let model = server.model();
    until("both are taken", || model.admission.waiting().0 == 2);
    server.ask_to_stop();
    until("it drains", || server.app.is_draining());
    gated.open();
    assert_eq!(whole.answer().json()["usage"]["completion_tokens"], 20);
    assert!(!stream.answer().events().is_empty());
    assert_eq!(server.join(), Stopped::Drained);
}

#[test]
fn a_server_that_drains_takes_no_request() {
    let server = TestServer::start();
    server.app.start_draining();
    let refused = server.post("/v1/completions", &json!({"prompt": "Once"}));
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"]["code"], "shutting_down");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(server.get("/health/ready").status, 503);
    assert_eq!(server.get("/health/live").status, 200);
    // As containers ask it: nobody restarts a server because it drains.
    let check = |probe| HealthCheck {
        address: server.address,
        patience: Duration::from_secs(30),
        probe,
        tls: None,
    };
    assert_eq!(check(Probe::default()).ask().unwrap(), Ok(()));
    assert!(check(Probe::Ready).ask().unwrap().is_err());
}

#[test]
fn while_running_requests_end_new_ones_are_sent_elsewhere() {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let server = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
    let body = json!({"prompt": "Once", "max_tokens": 3, "ignore_eos": true}).to_string();
    let mut running = Connection::open(server.address);
    running.send("POST", "/v1/completions", JSON, &body);
    let mut kept = Connection::open(server.address);
    kept.send("GET", "/health/ready", "", "");
    assert_eq!(kept.answer().status, 200);
    let model = server.model();
    until("it is taken", || model.admission.waiting().0 == 1);
    server.ask_to_stop();
    until("connections are told to end", || {
        server.get("/health/live").header("connection") == Some("close")
    });

    let mut fresh = Connection::open(server.address);
    for connection in [&mut kept, &mut fresh] {
        connection.send("POST", "/v1/completions", JSON, &body);
        let refused = connection.answer();
        assert_eq!(refused.status, 503);
        assert_eq!(refused.json()["error"]["code"], "shutting_down");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.header("connection"), Some("close"));
        assert_eq!(connection.line(), "", "the connection must end");
    }
    assert_eq!(server.get("/health/ready").status, 503);
    assert_eq!(server.get("/health/live").status, 200);

    gated.open();
    assert_eq!(running.answer().status, 200);
    let address = server.address;
    assert_eq!(server.join(), Stopped::Drained);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn half_a_request_is_not_waited_for() {
    let limits = ServerLimits {
        drain_timeout: Duration::from_secs(3600),
        header_timeout: Duration::from_secs(3600),
        ..ServerLimits::default()
    };
    let server = TestServer::with_limits(limits);
    let mut half = Connection::open(server.address);
    half.send_raw(b"GET /health/live HTTP/1.1\r\nHost: local");
    assert_eq!(server.get("/health/live").status, 200);
    server.ask_to_stop();
    assert_eq!(server.join(), Stopped::Drained);
}

#[test]
fn who_is_not_done_in_time_is_cut_off() {
    for hurry in [false, true] {
        let engine = engine();
        let gated = Gated::new(engine.clone());
        let limits = ServerLimits {
            drain_timeout: if hurry {
                Duration::from_secs(3600)
            } else {
                Duration::from_millis(1)
            },
            ..ServerLimits::default()
        };
        let server = TestServer::with_turns(engine, gated.clone(), limits);
        let mut connection = Connection::open(server.address);
        connection.send(
            "POST",
            "/v1/completions",
            JSON,
            &json!({"prompt": "Once"}).to_string(),
        );
        let model = server.model();
        until("it is taken", || model.admission.waiting().0 == 1);
        server.ask_to_stop();
        if hurry {
            until("it drains", || server.app.is_draining());
            server.ask_to_hurry();
        }
        assert_eq!(server.join(), Stopped::CutOff { requests: 1 });
        gated.open();
    }
}

#[test]
fn a_stream_that_is_cut_off_says_so_and_how_far_it_came() {
    let engine = engine();
    let gated = Gated::idle(engine.clone());
    let server = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
    let open = |path: &str, stream: bool| {
        let body = json!({"prompt": "Once", "ignore_eos": true, "max_tokens": 9, "stream": stream});
        let mut connection = Connection::open(server.address);
        connection.send("POST", path, JSON, &body.to_string());
        connection
    };
    let mut streams = [
        open("/v1/completions", true),
        open("/v1/inference/stream", true),
    ];
    let mut whole = open("/v1/completions", false);
    let model = server.model();
    until("all are queued", || model.handle.load().waiting == 3);
    gated.allow(3);
    until("three tokens are drawn", || {
        model.handle.load().generated_tokens == 9
    });
    server.ask_to_stop();
    until("it drains", || server.app.is_draining());
    server.ask_to_hurry();
    for stream in &mut streams {
        let answer = stream.answer();
        assert_eq!(answer.status, 200);
        assert!(
            answer.body.contains("\"code\":\"shutting_down\""),
            "{}",
            answer.body
        );
        assert!(!answer.body.contains("[DONE]"), "{}", answer.body);
    }
    let refused = whole.answer();
    let error = &refused.json()["error"];
    assert_eq!(
        (refused.status, &error["code"]),
        (503, &json!("shutting_down"))
    );
    let usage = &error["details"]["usage"];
    assert_eq!(usage["completion_tokens"], 3, "{error}");
    assert_eq!(server.join(), Stopped::CutOff { requests: 3 });
}
