//! A client that leaves takes its request with it, wherever that is.

use bitnet_server::ServerLimits;
use serde_json::json;

use crate::client::Connection;
use crate::fixture::{Gated, TestServer, engine, until};

const CHAT: &str = "/v1/chat/completions";

/// When the client leaves.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Queued,
    Prefill,
    Decode,
}

fn leave(moment: Moment, stream: bool) {
    let engine = engine();
    let gated = Gated::new(engine.clone());
    let server = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
    let model = server.model();
    let body = json!({
        "messages": [{"role": "user", "content": "once upon a time ".repeat(25)}],
        "max_tokens": 50, "ignore_eos": true, "stream": stream,
    });
    let mut connection = Connection::open(server.address);
    connection.send(
        "POST",
        CHAT,
        "Content-Type: application/json\r\n",
        &body.to_string(),
    );
    until("the request is in the queue", || {
        model.handle.load().waiting == 1
    });
    match moment {
        Moment::Queued => {}
        // The prompt is longer than the 64 tokens of a pass.
        Moment::Prefill => {
            gated.allow(1);
            until("a part of the prompt ran", || {
                model.handle.load().prompt_tokens > 0
            });
            assert_eq!(model.handle.load().generated_tokens, 0);
        }
        Moment::Decode => {
            gated.allow(6);
            until("tokens were drawn", || {
                model.handle.load().generated_tokens > 1
            });
        }
    }
    drop(connection);
    until("the server noticed", || model.admission.waiting() == (0, 0));
    // The turn that waits at the gate ends; before the next one the command is obeyed.
    gated.allow(1);
    until("everything is free", || {
        let load = model.handle.load();
        (load.waiting, load.running, load.kv_blocks_used) == (0, 0, 0)
    });
    assert!(model.handle.load().generated_tokens < 10, "{moment:?}");
    gated.open();
    let short = json!({"prompt": "Once", "max_tokens": 2});
    assert_eq!(server.post("/v1/completions", &short).status, 200);
}

#[test]
fn a_client_that_leaves_the_queue_frees_its_place() {
    leave(Moment::Queued, false);
    leave(Moment::Queued, true);
}

#[test]
fn a_client_that_leaves_in_prefill_frees_its_blocks() {
    leave(Moment::Prefill, false);
    leave(Moment::Prefill, true);
}

#[test]
fn a_client_that_leaves_in_decode_frees_its_blocks() {
    leave(Moment::Decode, false);
    leave(Moment::Decode, true);
}
