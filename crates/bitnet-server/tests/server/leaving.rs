//! Whole answers that nobody reads: bounded together, and each by itself.

use bitnet_server::ServerLimits;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::client::Connection;
use crate::fixture::{TestServer, until};

const PATH: &str = "/tokenize";

fn pieces_of(text: &str, n: usize) -> Value {
    json!({"content": text.repeat(n), "with_pieces": true})
}

/// A connection whose client keeps next to nothing that it has not read.
fn narrow(server: &TestServer) -> Connection {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.address.into()).unwrap();
    Connection::over(socket.into())
}

#[test]
fn answers_that_nobody_reads_are_bounded_together() {
    let limits = ServerLimits {
        max_leaving: 1 << 20,
        ..ServerLimits::default()
    };
    let server = TestServer::with_limits(limits);
    let room = || server.app.leaving.available_permits();
    assert_eq!(room(), 1024);
    // Some seven megabytes, more than sockets keep: it is taken though it is longer than all of the room.
    let mut slow = narrow(&server);
    slow.send("POST", PATH, "", &pieces_of("a ", 300_000).to_string());
    until("the answer waits to be read", || room() == 0);
    let refused = server.post(PATH, &pieces_of("b ", 10_000));
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert_eq!(refused.json()["error"]["code"], "queue_full");
    assert!(refused.header("retry-after").is_some());
    let short = server.post(PATH, &pieces_of("c ", 10));
    assert_eq!(short.status, 200, "short answers take no room");

    let answer = slow.answer();
    assert_eq!(answer.status, 200);
    assert!(answer.body.len() > 6 << 20, "{} bytes", answer.body.len());
    assert!(answer.json()["tokens"].as_array().unwrap().len() >= 300_000);
    until("its room is free", || room() == 1024);
    assert_eq!(server.post(PATH, &pieces_of("b ", 10_000)).status, 200);
}

#[test]
fn an_answer_of_millions_of_log_probabilities_is_refused() {
    let server = TestServer::start();
    let prompt = vec![5; server.model().engine.context() - 1];
    let n_prompts = (1 << 19) / (prompt.len() * 21 * 16) + 1;
    let ask = |prompts: Vec<&Vec<i32>>, n: usize| {
        let body = json!({"prompt": prompts, "n": n, "max_tokens": 1, "prompt_logprobs": 20});
        server.post("/v1/completions", &body)
    };
    let refused = ask(vec![&prompt; n_prompts], 16);
    assert_eq!(refused.status, 400, "{}", refused.body);
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["code"], &error["param"]),
        (&json!("invalid_value"), &json!("prompt"))
    );
    assert_eq!(ask(vec![&vec![5; 8]], 1).status, 200);
}
