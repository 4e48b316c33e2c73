//! A request's answer is the same alone and in a crowd.

use serde_json::{Value, json};

use crate::fixture::TestServer;

fn texts(answer: &Value) -> Vec<String> {
    let choices = answer["choices"].as_array().unwrap();
    let text = |choice: &Value| choice["text"].as_str().unwrap().to_owned();
    choices.iter().map(text).collect()
}

#[test]
fn the_same_request_has_the_same_answer_alone_and_among_sixteen() {
    let server = TestServer::start();
    let body = |seed: usize| json!({"prompt": "One day a little fox", "max_tokens": 40, "seed": seed, "temperature": 1.2});
    let alone: Vec<_> = (0..16)
        .map(|seed| texts(&server.post("/v1/completions", &body(seed)).json()))
        .collect();
    assert!(alone.iter().any(|text| *text != alone[0]), "seeds matter");
    let server = &server;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|seed| {
                scope.spawn(move || texts(&server.post("/v1/completions", &body(seed)).json()))
            })
            .collect();
        for (thread, alone) in threads.into_iter().zip(&alone) {
            assert_eq!(thread.join().unwrap(), *alone);
        }
    });
}

#[test]
fn choices_differ_and_come_again_with_their_seed() {
    let server = TestServer::start();
    let body = json!({"prompt": ["Once", "Then"], "n": 3, "max_tokens": 20, "seed": 7});
    let first = texts(&server.post("/v1/completions", &body).json());
    assert_eq!(first.len(), 6);
    assert_ne!(first[0], first[1]);
    assert_eq!(first, texts(&server.post("/v1/completions", &body).json()));
    // The second choice of a seed is the first of the next one.
    let next = json!({"prompt": "Once", "max_tokens": 20, "seed": 8});
    let next = texts(&server.post("/v1/completions", &next).json());
    assert_eq!(next[0], first[1]);
}

#[test]
fn streams_and_whole_answers_have_the_same_text() {
    let server = TestServer::start();
    let mut body =
        json!({"prompt": "Once upon a time", "max_tokens": 60, "seed": 3, "stop": ["\n"]});
    let whole = server.post("/v1/completions", &body).json();
    body["stream"] = true.into();
    let pieces: String = server
        .post("/v1/completions", &body)
        .events()
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(texts(&whole), [pieces]);
    let ours = json!({"prompt": "Once upon a time", "max_tokens": 60, "seed": 3, "stop_sequences": ["\n"]});
    let ours = server.post("/v1/inference", &ours).json();
    assert_eq!(ours["text"], whole["choices"][0]["text"]);
    assert_eq!(ours["seed"], 3);
    assert_eq!(ours["accuracy_metrics"], Value::Null);
}
