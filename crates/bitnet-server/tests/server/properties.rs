//! Any JSON in any field of any route has a well-formed answer, and never one that blames the server.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::client::{Answer, Connection};
use crate::fixture::TestServer;

/// Fields that all routes of generation know, and one that nobody does.
const SHARED: &[&str] = &[
    "model",
    "max_tokens",
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
    "stop_token_ids",
    "guided_json",
    "structured_outputs",
    "grammar",
    "json_schema",
    "use_beam_search",
    "priority",
    "user",
    "metadata",
    "unheard_of",
];
const ROUTES: &[(&str, &[&str])] = &[
    (
        "/v1/chat/completions",
        &[
            "messages",
            "stream",
            "stream_options",
            "n",
            "max_completion_tokens",
            "logprobs",
            "top_logprobs",
            "tools",
            "functions",
            "tool_choice",
            "function_call",
            "response_format",
            "prediction",
            "audio",
            "modalities",
            "web_search_options",
            "reasoning_effort",
            "verbosity",
            "store",
            "service_tier",
            "echo",
            "chat_template",
            "chat_template_kwargs",
        ],
    ),
    (
        "/v1/completions",
        &[
            "prompt",
            "stream",
            "stream_options",
            "n",
            "echo",
            "logprobs",
            "suffix",
            "best_of",
            "response_format",
        ],
    ),
    ("/v1/inference", &["prompt", "quantization_preference"]),
    (
        "/v1/inference/stream",
        &["prompt", "quantization_preference"],
    ),
    (
        "/tokenize",
        &[
            "content",
            "prompt",
            "messages",
            "add_special",
            "add_special_tokens",
            "parse_special",
            "with_pieces",
        ],
    ),
    ("/detokenize", &["tokens"]),
    ("/apply-template", &["messages"]),
];

/// A request of this route that is good.
fn good(path: &str) -> Value {
    let messages = json!([{"role": "user", "content": "Once"}]);
    match path {
        "/v1/chat/completions" => json!({"messages": messages, "max_tokens": 1}),
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
    prop::sample::select(ROUTES).prop_flat_map(|(path, own)| {
        let fields: Vec<&'static str> = own.iter().chain(SHARED).copied().collect();
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
    let server = TestServer::start();
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
