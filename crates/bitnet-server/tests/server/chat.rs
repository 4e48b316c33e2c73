//! `/v1/chat/completions` as SDKs read it.

use serde_json::{Value, json};

use crate::fixture::TestServer;

const CHAT: &str = "/v1/chat/completions";

fn body() -> Value {
    json!({
        "model": "stories",
        "messages": [{"role": "user", "content": "Tell me a story"}],
        "temperature": 0, "max_tokens": 12,
    })
}

#[test]
fn a_whole_answer_has_what_the_stream_has() {
    let server = TestServer::start();
    let whole = server.post(CHAT, &body());
    let json = whole.json();
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["choices"][0]["message"]["role"], "assistant");
    assert_eq!(json["choices"][0]["finish_reason"], "length");
    let usage = &json["usage"];
    assert_eq!(usage["completion_tokens"], 12);
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        12 + usage["prompt_tokens"].as_u64().unwrap()
    );
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    assert!(json["timings"]["ttft_ms"].as_f64().unwrap() > 0.0);
    assert!(
        json["system_fingerprint"]
            .as_str()
            .unwrap()
            .starts_with("bitnet-")
    );

    let mut body = body();
    body["stream"] = true.into();
    let text: String = server
        .post(CHAT, &body)
        .events()
        .iter()
        .filter_map(|event| {
            event["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect();
    assert_eq!(json["choices"][0]["message"]["content"], text);
}

#[test]
fn parts_developers_and_unknown_fields_are_understood() {
    let server = TestServer::start();
    let plain = json!({
        "messages": [{"role": "system", "content": "a\nb"}, {"role": "user", "content": "hi"}],
        "temperature": 0, "max_tokens": 5,
    });
    let same = json!({
        "model": "default", "user": "me", "metadata": {"a": "b"}, "some_new_field": [1, {"x": 2}],
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "name": "me", "content": "hi"},
        ],
        "temperature": 0, "max_completion_tokens": 5, "tools": [], "response_format": {"type": "text"},
        "tool_choice": null, "store": false,
    });
    let (plain, same) = (
        server.post(CHAT, &plain).json(),
        server.post(CHAT, &same).json(),
    );
    assert_eq!(
        plain["choices"][0]["message"],
        same["choices"][0]["message"]
    );
    assert_eq!(plain["usage"], same["usage"]);
}

#[test]
fn probabilities_come_with_tokens_bytes_and_alternatives() {
    let server = TestServer::start();
    let mut body = body();
    body["logprobs"] = true.into();
    body["top_logprobs"] = 3.into();
    let answer = server.post(CHAT, &body).json();
    let content = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(content.len(), 12);
    for entry in content {
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(
            top[0]["token"], entry["token"],
            "greedy takes the likeliest"
        );
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
        assert!(entry["bytes"].is_array());
    }
}

#[test]
fn choices_of_a_stream_are_told_apart() {
    let server = TestServer::start();
    let mut body = body();
    body["stream"] = true.into();
    body["n"] = 3.into();
    let events = server.post(CHAT, &body).events();
    for index in 0..3 {
        let of_choice = || {
            events
                .iter()
                .filter(|event| event["choices"][0]["index"] == index)
        };
        assert_eq!(
            of_choice()
                .filter(|e| e["choices"][0]["delta"]["role"] == "assistant")
                .count(),
            1
        );
        assert_eq!(
            of_choice()
                .filter(|e| e["choices"][0]["finish_reason"].is_string())
                .count(),
            1
        );
    }
}
