//! Any JSON in any field of any route has a well-formed answer, and never one that blames the server.

use std::path::Path;

use bitnet_inference::Pooling;
use bitnet_server::ServerLimits;
use bitnet_server::unsupported::{self, RefusedField};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::client::{Answer, Connection};
use crate::fixture::TestServer;

/// Fields that all routes of generation read, and two that nobody does.
const GENERATION: &[&str] = &[
    "prompt",
    "messages",
    "stream",
    "stream_options",
    "include_usage",
    "continuous_usage_stats",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
    "repeat_last_n",
    "logit_bias",
    "seed",
    "stop",
    "stop_sequences",
    "ignore_eos",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "return_token_ids",
    "echo",
    "truncate",
    "truncate_prompt_tokens",
    "priority",
    "quantization_preference",
    "stop_token_ids",
    "model",
    "role",
    "unheard_of",
];
const EMBEDDING: &[&str] = &[
    "input",
    "model",
    "encoding_format",
    "dimensions",
    "user",
    "unheard_of",
];
const RERANKING: &[&str] = &[
    "query",
    "documents",
    "top_n",
    "return_documents",
    "model",
    "priority",
    "unheard_of",
];
const TOKENISING: &[&str] = &[
    "content",
    "prompt",
    "messages",
    "tokens",
    "add_special",
    "add_special_tokens",
    "parse_special",
    "with_pieces",
    "model",
    "unheard_of",
];
/// Routes that take a body from anybody, and what they refuse by name.
const ROUTES: &[(&str, &[&str], &[RefusedField])] = &[
    ("/v1/chat/completions", GENERATION, unsupported::CHAT),
    ("/v1/completions", GENERATION, unsupported::COMPLETIONS),
    ("/v1/inference", GENERATION, unsupported::INFERENCE),
    ("/v1/inference/stream", GENERATION, unsupported::INFERENCE),
    ("/v1/embeddings", EMBEDDING, unsupported::EMBEDDINGS),
    ("/v1/rerank", RERANKING, unsupported::RERANK),
    ("/tokenize", TOKENISING, &[]),
    ("/detokenize", TOKENISING, &[]),
    ("/apply-template", TOKENISING, &[]),
];

/// A request of this route that is good.
fn good(path: &str) -> Value {
    let messages = json!([{"role": "user", "content": "Once"}]);
    match path {
        "/v1/chat/completions" => json!({"messages": messages, "max_tokens": 1}),
        "/v1/embeddings" => json!({"input": "Once"}),
        "/v1/rerank" => json!({"query": "Once", "documents": ["upon"]}),
        "/tokenize" => json!({"content": "Once"}),
        "/detokenize" => json!({"tokens": [1, 2]}),
        "/apply-template" => json!({"messages": messages}),
        _ => json!({"prompt": "Once", "max_tokens": 1}),
    }
}

/// Text that breaks things elsewhere.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,12}",
        Just(String::new()),
        Just("\0".into()),
        Just("</s><s>".into()),
        Just("{{ x }}".into()),
        Just("../../etc/passwd".into()),
        Just("default".into()),
        Just("user".into()),
        Just("a".repeat(300)),
        Just("\u{10ffff}\u{202e}\u{fffd}".into()),
    ]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-3i64..130).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from), // infinite ones become null
        (-3.0..3.0).prop_map(|x: f64| Value::from(x)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        text().prop_map(Value::from),
    ];
    let names = prop_oneof![
        text(),
        prop::sample::select(vec![
            "role",
            "content",
            "type",
            "text",
            "include_usage",
            "1",
            "4294967295"
        ])
        .prop_map(str::to_owned),
    ];
    plain.prop_recursive(3, 24, 6, move |inner| {
        let fields = prop::collection::vec((names.clone(), inner.clone()), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(Value::from),
            fields.prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A route and its body, good but for one to three fields.
fn attempt() -> impl Strategy<Value = (&'static str, Value)> {
    (0..ROUTES.len()).prop_flat_map(|route| {
        let (path, read, refused) = ROUTES[route];
        let mut fields = read.to_vec();
        fields.extend(refused.iter().map(|row| row.name));
        if read == GENERATION {
            fields.extend(unsupported::GENERATION.iter().map(|row| row.name));
        }
        let changes = prop::collection::vec((prop::sample::select(fields), value()), 1..=3);
        changes.prop_map(move |changes| {
            let mut body = good(path);
            for (field, value) in changes {
                body[field] = value;
            }
            // A bad length is refused, a long one not waited for.
            let is_long = |asked: &Value| asked.as_u64().is_some_and(|n| (3..5000).contains(&n));
            if body["max_tokens"].is_null() || is_long(&body["max_tokens"]) {
                body["max_tokens"] = json!(1);
            }
            if is_long(&body["max_completion_tokens"]) {
                body["max_completion_tokens"] = json!(2);
            }
            (path, body)
        })
    })
}

fn is_well_formed(answer: &Answer) -> bool {
    let is_json = || serde_json::from_str::<Value>(&answer.body).is_ok();
    match answer.status {
        200 if answer.body.starts_with("data: ") || answer.body.starts_with("event: ") => {
            let data = answer
                .body
                .lines()
                .filter_map(|line| line.strip_prefix("data: "));
            data.filter(|data| *data != "[DONE]")
                .all(|data| serde_json::from_str::<Value>(data).is_ok())
        }
        200 => is_json(),
        400 | 404 => {
            let error = &answer.json()["error"];
            error["code"].is_string() && error["message"].is_string() && error["type"].is_string()
        }
        _ => false,
    }
}

#[test]
fn any_json_in_any_field_has_a_well_formed_answer() {
    // Its model has vectors, or two routes would refuse everything for one reason.
    let server = TestServer::with_limits(ServerLimits {
        pooling: Some(Pooling::Mean),
        ..ServerLimits::default()
    });
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&attempt(), |(path, body)| {
        let mut connection = Connection::open(server.address);
        connection.send("POST", path, "", &body.to_string());
        let answer = connection.answer();
        prop_assert!(
            is_well_formed(&answer),
            "{path} {body}: {} {}",
            answer.status,
            answer.body
        );
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(server.get("/health/live").status, 200);
}

#[test]
fn every_field_that_the_routes_read_is_tried() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = [
        "routes/embeddings.rs",
        "routes/rerank.rs",
        "generation_request.rs",
        "sampling.rs",
        "app.rs",
        "routes/chat.rs",
        "routes/completions.rs",
        "routes/inference.rs",
        "routes/tokens.rs",
    ];
    let mut n_read = 0;
    for file in files {
        let text = std::fs::read_to_string(source.join(file)).unwrap();
        let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        for method in [
            "count", "flag", "text", "number", "integer", "take", "need", "object",
        ] {
            for rest in dense.split(&format!(".{method}(\"")).skip(1) {
                let name = rest.split('"').next().unwrap();
                let lists = [GENERATION, EMBEDDING, RERANKING, TOKENISING];
                let is_tried = lists.iter().any(|list| list.contains(&name));
                assert!(is_tried, "{file} reads {name}, which no property tries");
                n_read += 1;
            }
        }
    }
    assert!(n_read > 40, "{n_read} fields were found");
}
