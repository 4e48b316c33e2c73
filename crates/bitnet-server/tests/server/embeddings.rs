//! `/v1/embeddings` as SDKs read it, and its vectors beside the engine's own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitnet_inference::{Pooling, Prompt};
use bitnet_server::config::{ServerConfig, Sources};
use serde_json::{Value, json};

use crate::client::Answer;
use crate::fixture::{TestServer, engine};

/// A server whose model has vectors.
pub fn server() -> TestServer {
    let config = ServerConfig::load(&Sources {
        flags: vec![("pooling".into(), "mean".into())],
        ..Sources::default()
    });
    TestServer::with_config(config.unwrap())
}

fn ask(server: &TestServer, body: &Value) -> Answer {
    server.post("/v1/embeddings", body)
}

pub fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn vectors_are_the_engines_with_length_one() {
    let server = server();
    let texts = ["Once upon a time", "A dog", "Once upon a time"];
    let answer = ask(&server, &json!({"input": texts, "model": "stories"})).json();
    let prompts = texts.map(|text| Prompt::Text(text.into()));
    let expected = engine().embed(&prompts, Pooling::Mean).unwrap();
    for (index, expected) in expected.iter().enumerate() {
        let entry = &answer["data"][index];
        assert_eq!(
            (&entry["index"], &entry["object"]),
            (&json!(index), &json!("embedding"))
        );
        let found = floats(&entry["embedding"]);
        let square: f32 = expected.vector.iter().map(|v| v * v).sum();
        for (found, expected) in found.iter().zip(&*expected.vector) {
            // Two roundings of f32.
            assert!((found - expected / square.sqrt()).abs() < 1e-6);
        }
        assert_eq!(found.len(), engine().config().hidden_size);
    }
    assert_eq!(
        answer["data"][0]["embedding"],
        answer["data"][2]["embedding"]
    );
    let n_tokens: usize = expected.iter().map(|one| one.n_tokens).sum();
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": n_tokens, "total_tokens": n_tokens})
    );
    assert_eq!(answer["model"], "stories");
    let metrics = server.get("/metrics").body;
    let line = "bitnet_generated_tokens_total{model=\"stories\"} 0";
    assert!(
        metrics.lines().any(|found| found == line),
        "nothing is drawn"
    );
}

#[test]
fn texts_ids_and_both_encodings_mean_the_same() {
    let server = server();
    let text = ask(&server, &json!({"input": "A dog"})).json();
    let vector = floats(&text["data"][0]["embedding"]);
    let ids = engine().encode_prompt(&Prompt::from("A dog")).unwrap();
    for input in [json!(["A dog"]), json!(ids), json!([ids])] {
        let body = json!({"input": input, "encoding_format": "base64", "dimensions": vector.len()});
        let answer = ask(&server, &body).json();
        let bytes = STANDARD
            .decode(answer["data"][0]["embedding"].as_str().unwrap())
            .unwrap();
        let found = bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert_eq!(found.collect::<Vec<_>>(), vector);
    }
}

#[test]
fn more_texts_than_the_queue_holds_are_taken_in_turns() {
    let server = server();
    let texts: Vec<String> = (0..300).map(|n| format!("text {n}")).collect();
    let answer = ask(&server, &json!({"input": texts}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    let data = answer["data"].as_array().unwrap();
    assert_eq!(data.len(), 300);
    let alone = ask(&server, &json!({"input": "text 299"})).json();
    assert_eq!(data[299]["embedding"], alone["data"][0]["embedding"]);
}

#[test]
fn what_cannot_be_had_is_refused_by_its_name() {
    let server = server();
    let size = engine().config().hidden_size;
    for (body, code, param) in [
        (json!({}), "missing_field", "input"),
        (json!({"input": []}), "invalid_value", "input"),
        (json!({"input": vec!["a"; 2049]}), "invalid_value", "input"),
        (json!({"input": ["a", 1]}), "invalid_value", "input[1]"),
        (json!({"input": [u32::MAX]}), "invalid_value", "input"),
        (
            json!({"input": [[1], [u32::MAX]]}),
            "invalid_value",
            "input[1]",
        ),
        (
            json!({"input": "fox ".repeat(9000)}),
            "context_length_exceeded",
            "input",
        ),
        (
            json!({"input": "a", "encoding_format": "hex"}),
            "invalid_value",
            "encoding_format",
        ),
        (
            json!({"input": "a", "dimensions": size + 1}),
            "invalid_value",
            "dimensions",
        ),
        (
            json!({"input": "a", "dimensions": 8}),
            "unsupported_parameter",
            "dimensions",
        ),
        (
            json!({"input": "a", "truncate": true}),
            "unsupported_parameter",
            "truncate",
        ),
    ] {
        let answer = ask(&server, &body);
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["code"], &error["param"]),
            (400, &json!(code), &json!(param))
        );
    }
}

#[test]
fn a_model_that_generates_has_no_vectors_until_somebody_says_how() {
    let server = TestServer::start();
    let answer = ask(&server, &json!({"input": "a"}));
    let error = &answer.json()["error"];
    assert_eq!((answer.status, &error["param"]), (400, &json!("model")));
    assert!(error["message"].as_str().unwrap().contains("--pooling"));
}
