//! What happens on a connection beside good requests: heads that mean nothing, clients that are slow, odd or gone.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bitnet_server::ServerLimits;
use serde_json::json;
use socket2::SockRef;

use crate::client::Connection;
use crate::fixture::{Gated, TestServer, engine, until};

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn heads_that_no_route_sees_are_answered_like_every_other_error() {
    let server = TestServer::start();
    let long = "x".repeat(70_000);
    let many: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    let cases = [
        ("GARBAGE\r\n\r\n".to_owned(), 400, "invalid_request"),
        ("GET / HTTP/9.9\r\n\r\n".into(), 400, "invalid_request"),
        (
            "GET / HTTP/1.1\r\nBad Name: 1\r\n\r\n".into(),
            400,
            "invalid_request",
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
            400,
            "invalid_request",
        ),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), 414, "uri_too_long"),
        (
            format!("GET / HTTP/1.1\r\nX: {long}{long}{long}{long}\r\n\r\n"),
            431,
            "headers_too_large",
        ),
        (
            format!("GET / HTTP/1.1\r\n{many}\r\n"),
            431,
            "headers_too_large",
        ),
    ];
    for (head, status, code) in cases {
        let shown = &head[..head.len().min(40)];
        let mut connection = Connection::open(server.address);
        connection.send_raw(head.as_bytes());
        let answer = connection.answer();
        assert_eq!(answer.status, status, "{shown}");
        assert_eq!(answer.json()["error"]["code"], code, "{shown}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(connection.line(), "", "it must end: {shown}");
    }
}

#[test]
fn paths_that_are_no_text_are_refused_with_the_name_of_the_request() {
    let server = TestServer::start();
    for path in [
        "/v1/models/%ff",
        "/v1/models/%zz",
        "/nowhere/%",
        "/v1/models/%C3",
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(answer.json()["error"]["code"], "invalid_request", "{path}");
        assert!(answer.header("x-request-id").is_some());
    }
    assert_eq!(server.get("/v1/models/st%6Fries").status, 200);
}

#[test]
fn a_head_that_does_not_end_is_told_and_silence_is_not() {
    let limits = ServerLimits {
        header_timeout: Duration::from_millis(150),
        ..ServerLimits::default()
    };
    let server = TestServer::with_limits(limits);
    let mut silent = Connection::open(server.address);
    let mut half = Connection::open(server.address);
    half.send_raw(b"GET /health/live HTTP/1.1\r\nHost: local");
    let answer = half.answer();
    assert_eq!(answer.status, 408);
    assert_eq!(answer.json()["error"]["code"], "client_timeout");
    assert_eq!(silent.line(), "");
}

#[test]
fn one_byte_a_second_does_not_keep_a_connection() {
    let limits = ServerLimits {
        header_timeout: Duration::from_millis(300),
        ..ServerLimits::default()
    };
    let server = TestServer::with_limits(limits);
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let mut answer = Vec::new();
    let mut ended = false;
    for _ in 0..200 {
        // The write fails once the server has closed.
        let _ = slow.write_all(b"X");
        let mut part = [0; 1024];
        match slow.read(&mut part) {
            Ok(0) => ended = true,
            Ok(n) => answer.extend_from_slice(&part[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => ended = true,
        }
        if ended {
            break;
        }
    }
    assert!(ended, "it was kept");
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{answer:?}");
}

#[test]
fn requests_sent_at_once_are_answered_in_their_order() {
    let server = TestServer::start();
    let mut connection = Connection::open(server.address);
    let one = |path| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let all = [one("/health/live"), one("/nowhere"), one("/version")].concat();
    connection.send_raw(all.as_bytes());
    for status in [200, 404, 200] {
        assert_eq!(connection.answer().status, status);
    }
}

#[test]
fn a_client_that_leaves_behind_a_pipelined_byte_is_missed() {
    for reset in [false, true] {
        let engine = engine();
        let gated = Gated::new(engine.clone());
        let server = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
        let model = server.model();
        let body = json!({"prompt": "Once", "max_tokens": 50, "ignore_eos": true}).to_string();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream
            .write_all(format!("{head}{body}G").as_bytes())
            .unwrap();
        until("it is taken", || model.admission.waiting().0 == 1);
        if reset {
            SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        drop(stream);
        until("it is missed", || model.admission.waiting() == (0, 0));
        gated.open();
        until("everything is free", || {
            let load = model.handle.load();
            (load.waiting, load.running, load.kv_blocks_used) == (0, 0, 0)
        });
    }
}

#[test]
fn a_reset_in_a_stream_frees_everything() {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let server = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
    let model = server.model();
    let body = json!({"prompt": "Once", "max_tokens": 50, "ignore_eos": true, "stream": true});
    let mut stream = TcpStream::connect(server.address).unwrap();
    let body = body.to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .unwrap();
    gated.allow(5);
    let mut part = [0; 256];
    assert!(stream.read(&mut part).unwrap() > 0);
    until("tokens were drawn", || {
        model.handle.load().generated_tokens > 1
    });
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    until("the server noticed", || model.admission.waiting() == (0, 0));
    gated.allow(1);
    until("everything is free", || {
        let load = model.handle.load();
        (load.waiting, load.running, load.kv_blocks_used) == (0, 0, 0)
    });
    assert!(model.handle.load().generated_tokens < 10);
    gated.open();
}

#[test]
fn a_body_of_a_hundred_thousand_chunks_is_read() {
    let server = TestServer::start();
    let mut connection = Connection::open(server.address);
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n"
    );
    let body = r#"{"prompt": "Once", "max_tokens": 1"#;
    let mut bytes = head.into_bytes();
    for byte in body
        .bytes()
        .chain(std::iter::repeat_n(b' ', 100_000))
        .chain([b'}'])
    {
        bytes.extend_from_slice(b"1\r\n");
        bytes.push(byte);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    connection.send_raw(&bytes);
    assert_eq!(connection.answer().status, 200);
}

#[test]
fn who_reads_nothing_is_disconnected_with_bounded_memory() {
    let limits = ServerLimits {
        write_timeout: Duration::from_millis(200),
        ..ServerLimits::default()
    };
    let server = TestServer::with_limits(limits);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    // Answers are hundreds of times longer than requests: the server stops reading long before all of this is taken.
    let mut sent = 0;
    let error = loop {
        match stream.write(&request) {
            Ok(n) => sent += n,
            Err(error) => break error,
        }
        assert!(sent < 64 << 20, "the server reads what it cannot answer");
    };
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(kinds.contains(&error.kind()), "{error}");
    assert_eq!(server.get("/health/live").status, 200);
}

#[test]
fn one_address_has_no_more_connections_than_it_may() {
    let limits = ServerLimits {
        max_connections_per_peer: 2,
        ..ServerLimits::default()
    };
    let server = TestServer::with_limits(limits);
    let mut first = Connection::open(server.address);
    let mut second = Connection::open(server.address);
    for connection in [&mut first, &mut second] {
        connection.send("GET", "/health/live", "", "");
        assert_eq!(connection.answer().status, 200);
    }
    let mut third = TcpStream::connect(server.address).unwrap();
    assert_eq!(third.read(&mut [0]).unwrap_or(0), 0);
    drop(first);
    until("its place is free", || {
        let mut next = TcpStream::connect(server.address).unwrap();
        // Closed before or after it could be written to: no place yet.
        let _ = next.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
        next.read(&mut [0]).unwrap_or(0) == 1
    });
}

#[test]
fn who_has_waited_longest_makes_room_and_who_is_being_answered_does_not() {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let limits = ServerLimits {
        max_connections: 3,
        ..ServerLimits::default()
    };
    let server = TestServer::with_turns(engine, gated.clone(), limits);
    let body = r#"{"prompt": "Once", "max_tokens": 4, "ignore_eos": true, "stream": true}"#;
    let mut answered = Connection::open(server.address);
    answered.send("POST", "/v1/completions", "", body);
    until("it is in the queue", || {
        server.model().admission.waiting().1 > 0
    });
    let mut silent: Vec<TcpStream> = (0..2)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    silent[1].write_all(b"GET /health/live HTT").unwrap(); // half a request is none
    // Every place is taken, and each of these finds one.
    let kept: Vec<Connection> = (0..4)
        .map(|_| {
            let mut connection = Connection::open(server.address);
            connection.send("GET", "/health/live", "", "");
            assert_eq!(connection.answer().status, 200);
            connection
        })
        .collect();
    for mut gone in silent {
        gone.set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        assert_eq!(gone.read(&mut [0]).unwrap_or(0), 0);
    }
    drop(kept);
    gated.open();
    let events = answered.answer().events();
    let last = &events.last().unwrap()["choices"][0];
    assert_eq!(last["finish_reason"], "length");
}
