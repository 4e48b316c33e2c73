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
    // The prompt is longer than the 64 tokens of a pass.
    let steps_before = match moment {
        Moment::Queued => 0,
        Moment::Prefill => 1,
        Moment::Decode => 6,
    };
    gated.allow(steps_before);
    let steps_before = steps_before as u64;
    until("the steps were taken", || {
        model.handle.load().steps == steps_before
    });
    let load = model.handle.load();
    assert_eq!(load.prompt_tokens > 0, !matches!(moment, Moment::Queued));
    assert_eq!(load.generated_tokens > 1, matches!(moment, Moment::Decode));
    drop(connection);
    until("the server noticed", || model.admission.waiting() == (0, 0));
    // The turn that waits at the gate ends; before the next one the command is obeyed.
    gated.allow(1);
    until("everything is free", || {
        let load = model.handle.load();
        (load.waiting, load.running, load.kv_blocks_used) == (0, 0, 0)
    });
    assert!(model.handle.load().generated_tokens < 10, "{moment:?}");
    // The same, as monitoring sees it: everything was free a step later.
    let metrics = server.get("/metrics").body;
    let value = |sample: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(sample));
        line.map_or(0.0, |value| value.trim().parse::<f64>().unwrap())
    };
    let steps = value("bitnet_engine_steps_total{model=\"stories\"}");
    assert!(steps <= (steps_before + 1) as f64, "{moment:?}: {metrics}");
    let phase = match moment {
        Moment::Queued | Moment::Prefill => "before_first_token",
        Moment::Decode => "decode",
    };
    let cancelled = format!("bitnet_requests_cancelled_total{{phase=\"{phase}\"}}");
    assert_eq!(value(&cancelled), 1.0, "{moment:?}: {metrics}");
    for gone in [
        "bitnet_active_inference_requests{model=\"stories\"}",
        "bitnet_kv_blocks{model=\"stories\",state=\"used\"}",
        "bitnet_waiting_prompt_tokens{model=\"stories\"}",
    ] {
        assert!(metrics.contains(gone), "{metrics}");
        assert_eq!(value(gone), 0.0, "{moment:?}: {gone}");
    }
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
