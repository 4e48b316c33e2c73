//! `/v1/completions` as evaluation harnesses read it.

use bitnet_inference::{GenerateOptions, Prompt};
use serde_json::{Value, json};

use crate::fixture::{TestServer, engine};

const COMPLETIONS: &str = "/v1/completions";

#[test]
fn texts_ids_and_lists_of_both_are_prompts() {
    let server = TestServer::start();
    let ids = engine().encode_prompt(&Prompt::from("Once upon")).unwrap();
    let ask = |prompt: Value| {
        let body = json!({"prompt": prompt, "temperature": 0, "max_tokens": 8});
        server.post(COMPLETIONS, &body).json()
    };
    let one = ask(json!("Once upon"));
    let text = &one["choices"][0]["text"];
    assert_eq!(ask(json!(ids))["choices"][0]["text"], *text);
    for prompt in [json!(["Once upon", "Once upon"]), json!([ids, ids])] {
        let answer = ask(prompt);
        for index in 0..2 {
            assert_eq!(answer["choices"][index]["index"], index);
            assert_eq!(answer["choices"][index]["text"], *text);
        }
        assert_eq!(answer["usage"]["prompt_tokens"], 2 * ids.len());
        assert_eq!(answer["usage"]["completion_tokens"], 16);
    }
}

#[test]
fn sixteen_tokens_unless_more_are_asked_for() {
    let server = TestServer::start();
    let body = json!({"prompt": "Once upon a time", "ignore_eos": true});
    assert_eq!(
        server.post(COMPLETIONS, &body).json()["usage"]["completion_tokens"],
        16
    );
}

#[test]
fn an_answer_without_a_token_has_empty_lists_of_probabilities() {
    let server = TestServer::start();
    let body = json!({"prompt": "Once", "logprobs": 2, "max_tokens": 0});
    let choice = server.post(COMPLETIONS, &body).json()["choices"][0].clone();
    let empty = json!({"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []});
    assert_eq!((&choice["text"], &choice["logprobs"]), (&json!(""), &empty));

    let body = json!({"prompt": "Once", "max_tokens": 0});
    let choice = server.post(COMPLETIONS, &body).json()["choices"][0].clone();
    assert!(choice["logprobs"].is_null(), "{choice}");
}

#[test]
fn an_echo_with_probabilities_shows_the_prompts_own() {
    let server = TestServer::start();
    let prompt = "Once upon a time there was";
    let body = json!({"prompt": prompt, "echo": true, "logprobs": 2, "max_tokens": 0});
    let answer = server.post(COMPLETIONS, &body).json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], prompt);
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    let list = |name: &str| choice["logprobs"][name].as_array().unwrap().clone();
    let (found, offsets) = (list("token_logprobs"), list("text_offset"));
    assert_eq!(found.len(), answer["usage"]["prompt_tokens"]);
    assert!(found[0].is_null() && list("top_logprobs")[0].is_null());
    assert_eq!(offsets[0], 0);
    assert!(offsets.is_sorted_by_key(|offset| offset.as_u64()));

    // The engine's own figures.
    let options = GenerateOptions {
        max_tokens: Some(1),
        prompt_logprobs: true,
        ..GenerateOptions::greedy()
    };
    let engine = engine();
    let id = engine
        .enqueue(engine.check(prompt, &options).unwrap())
        .unwrap();
    let mut events = Vec::new();
    while engine.turn(&mut events) {}
    let drawn = events.remove(0);
    assert_eq!(drawn.request, id);
    let expected = drawn.outcome.unwrap().prompt.unwrap();
    for (found, expected) in found.iter().zip(&*expected).skip(1) {
        let expected = f64::from(expected.as_ref().unwrap().logprob);
        assert!((found.as_f64().unwrap() - expected).abs() < 1e-5);
    }
}

#[test]
fn an_echo_is_followed_by_the_continuation() {
    let server = TestServer::start();
    let body = |echo: bool| json!({"prompt": "Once upon", "echo": echo, "logprobs": 0, "max_tokens": 4, "temperature": 0});
    let (with, without) = (
        server.post(COMPLETIONS, &body(true)).json(),
        server.post(COMPLETIONS, &body(false)).json(),
    );
    let text = without["choices"][0]["text"].as_str().unwrap();
    assert_eq!(with["choices"][0]["text"], format!("Once upon{text}"));
    let offsets = with["choices"][0]["logprobs"]["text_offset"]
        .as_array()
        .unwrap();
    assert_eq!(offsets[offsets.len() - 4], "Once upon".len());
    let bare = without["choices"][0]["logprobs"]["tokens"]
        .as_array()
        .unwrap();
    assert_eq!(bare.len(), 4);
}

#[test]
fn stop_strings_are_never_shown() {
    let server = TestServer::start();
    let open = json!({"prompt": "Once upon a time", "max_tokens": 60, "temperature": 0});
    let text = server.post(COMPLETIONS, &open).json()["choices"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned();
    let stop: String = text.chars().skip(20).take(5).collect();
    for stop in [json!(stop), json!(["unlikely words", stop])] {
        let mut body = open.clone();
        body["stop"] = stop;
        let answer = server.post(COMPLETIONS, &body).json();
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let end = text
            .find(&text.chars().skip(20).take(5).collect::<String>())
            .unwrap();
        assert_eq!(answer["choices"][0]["text"], text[..end]);
    }
}

#[test]
fn without_a_word_about_sampling_the_whole_distribution_is_drawn_from() {
    let server = TestServer::start();
    let ask = |extra: Value| {
        let mut body = json!({"prompt": "Once upon a time", "max_tokens": 40, "seed": 11});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        server.post(COMPLETIONS, &body).json()["choices"][0]["text"].clone()
    };
    let spelt_out = json!({"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0});
    assert_eq!(ask(json!({})), ask(spelt_out));
    assert_ne!(ask(json!({})), ask(json!({"top_k": 1})));
}

#[test]
fn every_drawn_token_has_its_probability_the_last_one_too() {
    let server = TestServer::start();
    let engine = engine();
    let end = engine.end_of_generation()[0];
    let body = json!({
        "prompt": "Once upon", "logprobs": 1, "max_tokens": 5, "logit_bias": {end.to_string(): 100},
    });
    let answer = server.post(COMPLETIONS, &body).json();
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["text"]),
        (&json!("stop"), &json!(""))
    );
    let found = choice["logprobs"]["token_logprobs"].as_array().unwrap();
    assert_eq!(found.len(), answer["usage"]["completion_tokens"]);
}

#[test]
fn the_likeliest_of_many_choices_are_returned_and_all_are_counted() {
    let server = TestServer::start();
    let ask = |extra: Value| {
        let mut body = json!({
            "prompt": ["Once upon", "The dog"], "seed": 5, "max_tokens": 12, "logprobs": 0,
        });
        let fields = body.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        let answer = server.post(COMPLETIONS, &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    let (drawn, n) = (8, 3);
    let all = ask(json!({"n": drawn}));
    let best = ask(json!({"n": n, "best_of": drawn}));
    let mean = |choice: &Value| {
        let found = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        let sum: f64 = found.iter().map(|value| value.as_f64().unwrap()).sum();
        sum / found.len() as f64
    };
    let choices = all["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2 * drawn);
    let mut expected = Vec::new();
    for of_prompt in choices.chunks(drawn) {
        let mut ranked: Vec<&Value> = of_prompt.iter().collect();
        ranked.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        expected.extend(ranked[..n].iter().map(|&choice| choice.clone()));
    }
    let seeds = |choices: &[Value]| -> Vec<Value> {
        choices
            .iter()
            .map(|choice| choice["seed"].clone())
            .collect()
    };
    assert_ne!(seeds(&expected[..n]), seeds(&choices[..n]));
    for (index, choice) in expected.iter_mut().enumerate() {
        choice["index"] = json!(index);
    }
    assert_eq!(best["choices"], json!(expected));
    assert_eq!(best["usage"], all["usage"]);

    // Probabilities rank the choices and are shown to whoever asks for them.
    let quiet = ask(json!({"n": n, "best_of": drawn, "logprobs": null}));
    for (quiet, shown) in quiet["choices"].as_array().unwrap().iter().zip(&expected) {
        assert_eq!(quiet["text"], shown["text"]);
        assert_eq!(quiet["logprobs"], Value::Null);
    }
    let every = ask(json!({"n": n, "best_of": n}));
    assert_eq!(every["choices"], ask(json!({"n": n}))["choices"]);
}

#[test]
fn the_best_of_fewer_of_too_many_and_of_a_stream_are_refused() {
    let server = TestServer::start();
    for (extra, code, param) in [
        (json!({"n": 3, "best_of": 2}), "invalid_value", "best_of"),
        (json!({"best_of": 0}), "invalid_value", "best_of"),
        (json!({"best_of": 17}), "invalid_value", "best_of"),
        (
            json!({"best_of": 9, "prompt": vec!["x"; 15]}),
            "invalid_value",
            "best_of",
        ),
        (
            json!({"best_of": 2, "stream": true}),
            "unsupported_parameter",
            "best_of",
        ),
    ] {
        let mut body = json!({"prompt": "Once", "max_tokens": 1});
        let fields = body.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        let answer = server.post(COMPLETIONS, &body);
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["code"], &error["param"]),
            (400, &json!(code), &json!(param)),
            "{extra}"
        );
    }
    let one = json!({"prompt": "Once", "max_tokens": 2, "best_of": 1, "stream": true});
    assert_eq!(server.post(COMPLETIONS, &one).status, 200);
}
