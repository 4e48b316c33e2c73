//! Streams byte by byte, as the files of `tests/data` have them: what SDKs were written against must not move.
//!
//! `BITNET_WRITE_GOLDEN=1 cargo test -p bitnet-server --test server wire_sequences` writes the files anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bitnet_inference::{Engine, EngineLoad, Error, Event, RequestId, ValidRequest};
use bitnet_server::ServerLimits;
use bitnet_server::engine_thread::Turns;
use serde_json::{Value, json};

use crate::client::{Answer, Connection};
use crate::fixture::{Gated, TestServer, engine};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const INFERENCE: &str = "/v1/inference/stream";

/// A body of a request whose stream is the same each time.
fn body(extra: Value) -> Value {
    let mut body = json!({"temperature": 0, "seed": 7, "stream": true, "max_tokens": 6});
    let extra = extra.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(extra);
    body
}

fn chat(extra: Value) -> Value {
    let mut body = body(extra);
    body["messages"] = json!([{"role": "user", "content": "Tell me a story"}]);
    body
}

/// What differs from run to run or machine to machine, by the name under which it is sent.
const VARYING: &[&str] = &[
    "id",
    "created",
    "system_fingerprint",
    "timings",
    "inference_time_ms",
    "tokens_per_second",
    "request_id",
];

/// The stream with what varies replaced.
fn golden(text: &str) -> String {
    let mut out = String::new();
    for event in text.split_inclusive("\n\n") {
        assert!(event.ends_with("\n\n"), "an event breaks off: {event}");
        let lines = event.split_inclusive('\n').map(|line| {
            let Some(data) = line.strip_prefix("data: ") else {
                return line.to_owned();
            };
            if serde_json::from_str::<Value>(data).is_err() {
                return line.to_owned();
            }
            let mut line = line.to_owned();
            for name in VARYING {
                let key = format!("\"{name}\":");
                if let Some(at) = line.find(&key) {
                    let start = at + key.len();
                    let end = start + value_length(&line[start..]);
                    if &line[start..end] != "null" {
                        line.replace_range(start..end, &name.to_uppercase());
                    }
                }
            }
            line
        });
        out.extend(lines);
    }
    out
}

/// Bytes of the JSON value that `text` begins with.
fn value_length(text: &str) -> usize {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    values.next().unwrap().unwrap();
    values.byte_offset()
}

#[track_caller]
fn compare(found: &str, file: &str) {
    let found = golden(found);
    let path = format!("{}/tests/data/{file}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BITNET_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(&path).unwrap(), "{file}");
}

fn ask(server: &TestServer, path: &str, body: &Value) -> Answer {
    let answer = server.post(path, body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer
}

#[test]
fn a_chat_has_openais_chunks_in_openais_order() {
    let server = TestServer::start();
    let plain = ask(&server, CHAT, &chat(json!({})));
    for (name, value) in [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(plain.header(name), Some(value));
    }
    let events = plain.events();
    for name in ["id", "created"] {
        assert!(events.iter().all(|event| event[name] == events[0][name]));
    }
    compare(&plain.body, "chat.sse");
}

#[test]
fn a_chat_tells_its_usage_last_and_null_before() {
    let server = TestServer::start();
    let last = json!({"stream_options": {"include_usage": true}});
    compare(&ask(&server, CHAT, &chat(last)).body, "chat_usage.sse");
    let every = json!({
        "stream_options": {"include_usage": true, "continuous_usage_stats": true}, "max_tokens": 2,
    });
    compare(
        &ask(&server, CHAT, &chat(every)).body,
        "chat_usage_every.sse",
    );
}

#[test]
fn a_chat_with_probabilities_has_one_token_a_chunk() {
    let server = TestServer::start();
    let extra = json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 3});
    compare(&ask(&server, CHAT, &chat(extra)).body, "chat_logprobs.sse");
}

#[test]
fn a_completion_repeats_its_prompt_with_the_first_chunk() {
    let server = TestServer::start();
    let extra = json!({
        "prompt": "Once upon a time", "echo": true, "stream_options": {"include_usage": true},
    });
    compare(
        &ask(&server, COMPLETIONS, &body(extra)).body,
        "completion.sse",
    );
}

#[test]
fn token_ids_come_with_their_chunks() {
    let server = TestServer::start();
    let ids = json!({"return_token_ids": true, "max_tokens": 2});
    compare(&ask(&server, CHAT, &chat(ids)).body, "chat_token_ids.sse");
}

#[test]
fn an_inference_ends_with_complete() {
    let server = TestServer::start();
    let extra = json!({"prompt": "Once upon a time", "max_tokens": 17, "ignore_eos": true});
    compare(&ask(&server, INFERENCE, &body(extra)).body, "inference.sse");
}

/// An engine whose n-th turn panics.
struct Failing {
    engine: Arc<Engine>,
    turns_left: AtomicUsize,
}

impl Turns for Failing {
    fn enqueue(&self, request: ValidRequest) -> Result<RequestId, Error> {
        self.engine.enqueue(request)
    }

    fn turn(&self, events: &mut Vec<Event>) -> bool {
        assert!(
            self.turns_left.fetch_sub(1, Ordering::Relaxed) > 0,
            "injected by a test"
        );
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
fn an_error_after_the_headers_is_the_last_event() {
    let cases = [
        (CHAT, chat(json!({})), "chat_error.sse"),
        (
            COMPLETIONS,
            body(json!({"prompt": "Once"})),
            "completion_error.sse",
        ),
        (
            INFERENCE,
            body(json!({"prompt": "Once"})),
            "inference_error.sse",
        ),
    ];
    for (path, body, file) in cases {
        let engine = engine();
        let turns = Arc::new(Failing {
            engine: engine.clone(),
            turns_left: AtomicUsize::new(3),
        });
        let server = TestServer::with_turns(engine, turns, ServerLimits::default());
        compare(&ask(&server, path, &body).body, file);
    }
}

#[test]
fn silence_is_filled_with_comments() {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let limits = ServerLimits {
        ping_interval: Duration::from_millis(20),
        ..ServerLimits::default()
    };
    let server = TestServer::with_turns(engine, gated.clone(), limits);
    let mut connection = Connection::open(server.address);
    let body = chat(json!({"max_tokens": 1})).to_string();
    connection.send("POST", CHAT, "Content-Type: application/json\r\n", &body);
    let mut head = 0;
    while !connection.line().is_empty() {
        head += 1;
    }
    assert!(head > 3);
    let mut stream = String::new();
    let mut pings = 0;
    loop {
        // A chunk: its size, its bytes, an empty line.
        let size = usize::from_str_radix(&connection.line(), 16).unwrap();
        stream += &connection.text(size);
        assert_eq!(connection.line(), "");
        if size == 0 {
            break;
        }
        pings += usize::from(stream.ends_with(": ping\n\n"));
        if pings == 2 {
            gated.open();
        }
    }
    assert!(pings >= 2);
    // A slow machine may send one more before the end.
    let token = stream.find(": ping").unwrap();
    let tail = stream[token..].replace(": ping\n\n", "");
    compare(
        &format!("{}: ping\n\n{tail}", &stream[..token]),
        "chat_ping.sse",
    );
}
