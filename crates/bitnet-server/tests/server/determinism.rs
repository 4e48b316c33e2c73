//! A request's answer is the same alone and in a crowd.

use bitnet_inference::{Engine, KvPool, LoadOptions};
use bitnet_server::limits::ServerLimits;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::fixture::{Gated, MODEL, TestServer, load_options, until};

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

#[test]
fn an_answer_does_not_depend_on_memory_cache_or_threads() {
    let body = |n: usize| {
        json!({
            "prompt": format!("Once upon a time there was a little fox. It had {n} friends"),
            "max_tokens": 40, "ignore_eos": true, "seed": n, "temperature": 1.0, "priority": n % 3,
        })
    };
    let alone = TestServer::start();
    let alone: Vec<_> = (0..12)
        .map(|n| texts(&alone.post("/v1/completions", &body(n)).json()))
        .collect();
    for (kv_pool, prefix_cache, threads) in [
        (KvPool::Blocks(8), false, 1),
        (KvPool::Blocks(8), true, 2),
        (KvPool::Contexts, true, 2),
    ] {
        let options = LoadOptions {
            kv_pool,
            prefix_cache,
            threads: Some(threads),
            ..load_options()
        };
        let engine = Arc::new(Engine::load(MODEL, &options).unwrap());
        let gated = Gated::idle(engine.clone());
        let server = TestServer::with_turns(engine, gated.clone(), ServerLimits::default());
        let ask = |n| texts(&server.post("/v1/completions", &body(n)).json());
        let ask = &ask;
        std::thread::scope(|scope| {
            let crowd: Vec<_> = (0..12).map(|n| scope.spawn(move || ask(n))).collect();
            until("all wait together", || {
                server.model().handle.load().waiting == 12
            });
            gated.open();
            for (answer, alone) in crowd.into_iter().zip(&alone) {
                assert_eq!(
                    answer.join().unwrap(),
                    *alone,
                    "{kv_pool:?} {prefix_cache} {threads}"
                );
            }
        });
        let load = server.model().handle.load();
        // Four places, each of which needs more blocks than a quarter of eight.
        let is_short = kv_pool == KvPool::Blocks(8);
        assert!(load.preemptions > 0 || !is_short, "{load:?}");
    }
}
