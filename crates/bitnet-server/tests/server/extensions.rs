//! Fields beyond OpenAI's, under vLLM's names, and those that have no effect.

use serde_json::{Value, json};

use crate::fixture::{TestServer, engine};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn ask(server: &TestServer, path: &str, body: &Value, extra: &Value) -> Value {
    let mut body = body.clone();
    let extra = extra.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(extra);
    let answer = server.post(path, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn completion(server: &TestServer, extra: &Value) -> Value {
    let body = json!({"prompt": "Once upon a time", "temperature": 0, "max_tokens": 8});
    ask(server, COMPLETIONS, &body, extra)
}

fn chat(server: &TestServer, extra: &Value) -> Value {
    let messages = json!([{"role": "user", "content": "Tell me a story"}]);
    let body = json!({"messages": messages, "temperature": 0, "max_tokens": 8});
    ask(server, CHAT, &body, extra)
}

#[test]
fn fields_without_effect_have_none() {
    let server = TestServer::start();
    let bare = chat(&server, &json!({}));
    for (name, _) in bitnet_server::unsupported::WITHOUT_EFFECT {
        for value in [json!("x"), json!({"a": "b"}), json!(true)] {
            let with = chat(&server, &json!({*name: value}));
            assert_eq!(with["choices"][0]["message"], bare["choices"][0]["message"]);
        }
    }
}

#[test]
fn the_seed_is_told_and_repeats_the_text() {
    let server = TestServer::start();
    let free = json!({"temperature": 1.5, "n": 2});
    for (answer, path) in [
        (completion(&server, &free), "text"),
        (chat(&server, &free), "message"),
    ] {
        for choice in answer["choices"].as_array().unwrap() {
            let seed = choice["seed"].as_u64().unwrap();
            assert!(seed < 1 << 53, "a float holds it");
            let again = json!({"temperature": 1.5, "seed": seed});
            let again = match path {
                "text" => completion(&server, &again),
                _ => chat(&server, &again),
            };
            assert_eq!(again["choices"][0][path], choice[path]);
        }
    }
    let body = json!({"prompt": "Once", "seed": -1, "n": 2, "max_tokens": 1, "stream": true});
    let events = server.post(COMPLETIONS, &body).events();
    let seeds: Vec<u64> = events
        .iter()
        .filter_map(|event| event["choices"][0]["seed"].as_u64())
        .collect();
    assert!(seeds.contains(&u64::MAX) && seeds.contains(&0), "{seeds:?}");
}

#[test]
fn a_stop_token_ends_the_answer() {
    let server = TestServer::start();
    let ids = json!({"return_token_ids": true});
    let open = completion(&server, &ids);
    let drawn = open["choices"][0]["token_ids"].as_array().unwrap();
    let ended = completion(
        &server,
        &json!({"stop_token_ids": [drawn[3]], "return_token_ids": true}),
    );
    assert_eq!(ended["choices"][0]["finish_reason"], "stop");
    let kept = ended["choices"][0]["token_ids"].as_array().unwrap();
    assert_eq!(*kept, drawn[..kept.len()]);
    assert!(kept.len() <= 4);
}

#[test]
fn ids_of_prompt_and_answer_are_told_on_request() {
    let server = TestServer::start();
    let bare = completion(&server, &json!({}));
    assert!(bare["choices"][0].get("token_ids").is_none());
    let with = completion(&server, &json!({"return_token_ids": true}));
    let choice = &with["choices"][0];
    assert_eq!(choice["token_ids"].as_array().unwrap().len(), 8);
    let prompt = engine()
        .encode_prompt(&bitnet_inference::Prompt::from("Once upon a time"))
        .unwrap();
    assert_eq!(choice["prompt_token_ids"], json!(prompt));
    let chat = chat(&server, &json!({"return_token_ids": true}));
    assert_eq!(
        chat["prompt_token_ids"].as_array().unwrap().len(),
        chat["usage"]["prompt_tokens"]
    );
    assert_eq!(chat["choices"][0]["token_ids"].as_array().unwrap().len(), 8);
}

#[test]
fn probabilities_of_the_prompt_are_those_of_an_echo() {
    let server = TestServer::start();
    let echo = completion(&server, &json!({"echo": true, "logprobs": 1}));
    let echoed = echo["choices"][0]["logprobs"]["token_logprobs"]
        .as_array()
        .unwrap();
    let with = completion(
        &server,
        &json!({"prompt_logprobs": 3, "return_token_ids": true}),
    );
    let choice = &with["choices"][0];
    assert!(choice["logprobs"].is_null(), "nobody asked for those");
    let ids = choice["prompt_token_ids"].as_array().unwrap();
    let found = choice["prompt_logprobs"].as_array().unwrap();
    assert_eq!(found.len(), ids.len());
    assert!(found[0].is_null());
    for at in 1..ids.len() {
        let place = found[at].as_object().unwrap();
        assert!((3..=4).contains(&place.len()));
        let own = &place[&ids[at].to_string()];
        assert_eq!(own["logprob"], echoed[at]);
        let ranks: Vec<_> = place.values().map(|entry| entry["rank"].as_u64()).collect();
        assert!([1, 2, 3].iter().all(|&rank| ranks.contains(&Some(rank))));
    }
    let chat = chat(
        &server,
        &json!({"prompt_logprobs": 0, "logprobs": true, "top_logprobs": 2}),
    );
    let prompt = chat["prompt_logprobs"].as_array().unwrap();
    assert_eq!(prompt.len(), chat["usage"]["prompt_tokens"]);
    assert_eq!(prompt[1].as_object().unwrap().len(), 1);
    let first = &chat["choices"][0]["logprobs"]["content"][0];
    assert_eq!(first["top_logprobs"].as_array().unwrap().len(), 2);
}

#[test]
fn a_prompt_that_is_too_long_loses_its_beginning_when_asked() {
    let server = TestServer::start();
    let context = server.model().engine.context();
    let long = "fox ".repeat(2 * context);
    let ask = |extra: &Value| {
        let body = json!({"prompt": long, "temperature": 0, "return_token_ids": true});
        ask(&server, COMPLETIONS, &body, extra)
    };
    let body = json!({"prompt": long, "max_tokens": 4});
    assert_eq!(server.post(COMPLETIONS, &body).status, 400);
    let fit = ask(&json!({"truncate": true, "max_tokens": 4}));
    assert_eq!(fit["usage"]["prompt_tokens"], context - 3);
    let fit = ask(&json!({"truncate": true, "max_tokens": 4 * context, "stop": "x"}));
    assert_eq!(fit["usage"]["prompt_tokens"], 1);
    let ten = ask(&json!({"truncate_prompt_tokens": 10, "max_tokens": 1}));
    let ids = ten["choices"][0]["prompt_token_ids"].as_array().unwrap();
    let engine = engine();
    let all = engine
        .encode_prompt(&bitnet_inference::Prompt::from(long.as_str()))
        .unwrap();
    let bos = engine.tokenizer().unwrap().bos();
    assert_eq!(bos, Some(all[0]), "this tokenizer begins with one");
    let expected: Vec<u32> = [&all[..1], &all[all.len() - 9..]].concat();
    assert_eq!(*ids, expected);
}

#[test]
fn the_default_number_of_tokens_is_nobodys_wish() {
    let server = TestServer::start();
    let context = server.model().engine.context();
    // Nearly full: sixteen more would not fit, and nobody asked for them.
    let body = json!({"prompt": vec![5; context - 2], "ignore_eos": true});
    let answer = server.post(COMPLETIONS, &body).json();
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    completion(&server, &json!({"max_tokens": 2}));
    let metrics = server.get("/metrics").body;
    let line = "vllm:request_params_max_tokens_count{model_name=\"stories\",engine=\"0\"} 1";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
}
