//! Fields that are wrong, missing or not done here, each named by the answer.

use bitnet_server::unsupported::{self, RefusedField};
use serde_json::{Value, json};

use super::{CHAT, COMPLETIONS, assert_error};
use crate::fixture::TestServer;

#[test]
fn bad_fields_are_named() {
    let server = TestServer::start();
    let user = json!([{"role": "user", "content": "hi"}]);
    let cases: Vec<(&str, Value, &str, Option<&str>)> = vec![
        (CHAT, json!([]), "invalid_json", None),
        (CHAT, json!({}), "missing_field", Some("messages")),
        (COMPLETIONS, json!({}), "missing_field", Some("prompt")),
        (
            CHAT,
            json!({"messages": []}),
            "invalid_value",
            Some("messages"),
        ),
        (
            CHAT,
            json!({"messages": "hi"}),
            "invalid_value",
            Some("messages"),
        ),
        (
            CHAT,
            json!({"messages": [{"content": "x"}]}),
            "missing_field",
            Some("messages[0].role"),
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user"}]}),
            "missing_field",
            Some("messages[0].content"),
        ),
        (
            CHAT,
            json!({"messages": [{"role": "cat", "content": "x"}]}),
            "invalid_value",
            Some("messages[0].role"),
        ),
        (
            CHAT,
            json!({"messages": [{"role": "tool", "content": "x"}]}),
            "unsupported_parameter",
            Some("messages[0].role"),
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "unsupported_parameter",
            Some("messages[0].content[0].type"),
        ),
        (
            CHAT,
            json!({"messages": user, "temperature": 3}),
            "invalid_value",
            Some("temperature"),
        ),
        (
            CHAT,
            json!({"messages": user, "temperature": "hot"}),
            "invalid_value",
            Some("temperature"),
        ),
        (
            CHAT,
            json!({"messages": user, "top_p": -0.1}),
            "invalid_value",
            Some("top_p"),
        ),
        (
            CHAT,
            json!({"messages": user, "n": 0}),
            "invalid_value",
            Some("n"),
        ),
        (
            CHAT,
            json!({"messages": user, "n": 17}),
            "invalid_value",
            Some("n"),
        ),
        (
            CHAT,
            json!({"messages": user, "stop": vec!["a"; 17]}),
            "invalid_value",
            Some("stop"),
        ),
        (
            CHAT,
            json!({"messages": user, "stop": ""}),
            "invalid_value",
            Some("stop"),
        ),
        (
            CHAT,
            json!({"messages": user, "stop": "x".repeat(257)}),
            "invalid_value",
            Some("stop"),
        ),
        (
            CHAT,
            json!({"messages": user, "seed": 0.5}),
            "invalid_value",
            Some("seed"),
        ),
        (
            CHAT,
            json!({"messages": user, "stream": "yes"}),
            "invalid_value",
            Some("stream"),
        ),
        (
            CHAT,
            json!({"messages": user, "top_logprobs": 2}),
            "invalid_value",
            Some("top_logprobs"),
        ),
        (
            CHAT,
            json!({"messages": user, "logprobs": true, "top_logprobs": 21}),
            "invalid_value",
            Some("top_logprobs"),
        ),
        (
            CHAT,
            json!({"messages": user, "logit_bias": {"1": 101}}),
            "invalid_value",
            Some("logit_bias.1"),
        ),
        (
            CHAT,
            json!({"messages": user, "logit_bias": {"x": 1}}),
            "invalid_value",
            Some("logit_bias"),
        ),
        (
            CHAT,
            json!({"messages": user, "logit_bias": {"4000000000": 1}}),
            "invalid_value",
            Some("logit_bias"),
        ),
        (
            CHAT,
            json!({"messages": user, "tools": [{}]}),
            "unsupported_parameter",
            Some("tools"),
        ),
        (
            CHAT,
            json!({"messages": user, "response_format": {"type": "json_object"}}),
            "unsupported_parameter",
            Some("response_format"),
        ),
        (
            CHAT,
            json!({"messages": user, "reasoning_effort": "high"}),
            "unsupported_parameter",
            Some("reasoning_effort"),
        ),
        (
            CHAT,
            json!({"messages": user, "max_tokens": 1_000_000}),
            "context_length_exceeded",
            Some("max_tokens"),
        ),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": "fox ".repeat(9000)}]}),
            "context_length_exceeded",
            Some("messages"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": "fox ".repeat(9000)}),
            "context_length_exceeded",
            Some("prompt"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": []}),
            "invalid_value",
            Some("prompt"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": [1, "a"]}),
            "invalid_value",
            Some("prompt[1]"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": [4_000_000_000u32]}),
            "invalid_value",
            Some("prompt"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": vec!["a"; 10], "n": 13}),
            "invalid_value",
            Some("n"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": "a", "suffix": "b"}),
            "unsupported_parameter",
            Some("suffix"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": "a", "best_of": 3, "stream": true}),
            "unsupported_parameter",
            Some("best_of"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": "a", "logprobs": 21}),
            "invalid_value",
            Some("logprobs"),
        ),
        (
            COMPLETIONS,
            json!({"prompt": "a", "guided_json": {}}),
            "unsupported_parameter",
            Some("guided_json"),
        ),
        (
            CHAT,
            json!({"messages": user, "stream": true, "prompt_logprobs": 1}),
            "unsupported_parameter",
            Some("prompt_logprobs"),
        ),
        (
            CHAT,
            json!({"messages": user, "stream_options": {"include_usage": 1}}),
            "invalid_value",
            Some("stream_options.include_usage"),
        ),
        (
            CHAT,
            json!({"messages": user, "stream_options": {"include_obfuscation": true}}),
            "unsupported_parameter",
            Some("stream_options.include_obfuscation"),
        ),
        (
            CHAT,
            json!({"messages": user, "truncate_prompt_tokens": 0}),
            "invalid_value",
            Some("truncate_prompt_tokens"),
        ),
        (
            CHAT,
            json!({"messages": user, "stop_token_ids": ["a"]}),
            "invalid_value",
            Some("stop_token_ids"),
        ),
        (
            CHAT,
            json!({"messages": user, "stop_token_ids": [4_000_000_000u32]}),
            "invalid_value",
            Some("stop_token_ids"),
        ),
        (
            "/v1/inference",
            json!({"prompt": "a", "n": 2}),
            "unsupported_parameter",
            Some("n"),
        ),
        (
            "/v1/inference",
            json!({"prompt": "a", "quantization_preference": "tl9"}),
            "quantization_unavailable",
            Some("quantization_preference"),
        ),
        (
            "/detokenize",
            json!({"tokens": [4_000_000_000u32]}),
            "invalid_value",
            Some("tokens"),
        ),
        ("/tokenize", json!({}), "missing_field", Some("content")),
    ];
    for (path, body, code, param) in cases {
        assert_error(&server.post(path, &body), 400, code, param);
    }
}

#[test]
fn every_field_of_the_tables_is_refused_by_its_name() {
    let server = TestServer::start();
    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    let prompt = json!({"prompt": "hi"});
    let rows: [(&str, &Value, &[RefusedField]); 5] = [
        (CHAT, &chat, unsupported::GENERATION),
        (CHAT, &chat, unsupported::CHAT),
        (COMPLETIONS, &prompt, unsupported::COMPLETIONS),
        ("/v1/inference", &prompt, unsupported::GENERATION),
        ("/v1/inference", &prompt, unsupported::INFERENCE),
    ];
    for (path, body, refused) in rows {
        for field in refused {
            let mut body = body.clone();
            // Asks for something in every one of them.
            body[field.name] = json!({"x": "y"});
            let answer = server.post(path, &body);
            assert_error(&answer, 400, "unsupported_parameter", Some(field.name));
        }
    }
}
