//! Text to ids and back.

use serde_json::json;

use crate::fixture::TestServer;

#[test]
fn text_goes_to_ids_and_back() {
    let server = TestServer::start();
    let text = "One day, a little fox";
    let tokens = server.post("/tokenize", &json!({"content": text})).json();
    assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
    let bare = server
        .post("/tokenize", &json!({"content": text, "add_special": false}))
        .json();
    let back = server
        .post("/detokenize", &json!({"tokens": bare["tokens"]}))
        .json();
    assert_eq!(back["content"].as_str().unwrap().trim_start(), text);
    let pieces = json!({"content": text, "with_pieces": true});
    let pieces = server.post("/tokenize", &pieces).json();
    assert_eq!(pieces["tokens"][0]["id"], tokens["tokens"][0]);
}

#[test]
fn a_template_is_applied() {
    let server = TestServer::start();
    let messages =
        json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]);
    let applied = server
        .post("/apply-template", &json!({"messages": messages}))
        .json();
    let text = applied["prompt"].as_str().unwrap();
    assert!(text.contains("<user>hi\n<assistant>"), "{text}");
    let tokens = server
        .post("/tokenize", &json!({"messages": messages}))
        .json();
    let chat = json!({"messages": messages, "max_tokens": 1});
    let usage = &server.post("/v1/chat/completions", &chat).json()["usage"];
    assert_eq!(usage["prompt_tokens"], tokens["count"]);
}
