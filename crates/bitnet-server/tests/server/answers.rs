//! What every answer tells beside its text, and that it is what the metrics count and the engine measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnet_inference::{GenerateOptions, Prompt, Terms};
use bitnet_server::checking::{Prompts, Truncate};
use bitnet_server::config::{ServerConfig, Sources};
use bitnet_server::request_log::RequestLog;
use bitnet_server::running::{Job, Running};
use bitnet_server::{App, LoadedModel, ServerLimits};
use serde_json::{Value, json};

use crate::client::{Answer, Connection};
use crate::fixture::{Gated, TestServer, engine, engine_that_remembers, until};

const PROMPT: &str = "Once upon a time, there was a little girl named Lily. She had a red ball.";

/// A server that remembers prompts and makes vectors, with room for four choices.
fn server(flags: &[(&str, &str)]) -> (TestServer, Arc<Gated>) {
    let mut all = vec![("pooling".into(), "mean".into())];
    all.extend(
        flags
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into())),
    );
    let config = ServerConfig::load(&Sources {
        flags: all,
        ..Sources::default()
    });
    let engine = engine_that_remembers();
    let gated = Gated::idle(engine.clone());
    let (config, log) = (config.unwrap(), RequestLog::default());
    let server = TestServer::with_turns_and_log(engine, gated.clone(), config, log);
    (server, gated)
}

/// The data of the events of a stream.
fn events(answer: &Answer) -> Vec<Value> {
    let data = answer
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str(data).ok())
        .collect()
}

/// Values of metrics by name, whatever their labels.
fn sums(server: &TestServer) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    let text = server.get("/metrics").body;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = sample.split('{').next().unwrap();
        *sums.entry(name.to_owned()).or_default() += value.parse::<f64>().unwrap();
    }
    sums
}

#[test]
fn every_answer_tells_what_wrote_it_and_what_it_took() {
    let (server, gated) = server(&[]);
    gated.open();
    let fingerprint = &server.model().fingerprint;
    let chat = json!([{"role": "user", "content": "Tell me a story"}]);
    let routes = [
        ("/v1/chat/completions", json!({"messages": chat})),
        ("/v1/completions", json!({"prompt": PROMPT})),
        ("/v1/inference", json!({"prompt": PROMPT})),
        ("/v1/embeddings", json!({"input": PROMPT})),
    ];
    for (path, mut body) in routes {
        body["max_tokens"] = json!(3);
        let answer = server.post(path, &body).json();
        assert_eq!(answer["system_fingerprint"], **fingerprint, "{path}");
        assert!(
            answer["usage"]["prompt_tokens"].as_u64() > Some(0),
            "{path}"
        );
        assert!(answer["timings"]["total_ms"].as_f64() > Some(0.0), "{path}");
        let streamed = match path {
            "/v1/embeddings" => continue,
            "/v1/inference" => "/v1/inference/stream",
            path => path,
        };
        body["stream"] = json!(true);
        let events = events(&server.post(streamed, &body));
        let last = events.last().unwrap();
        assert_eq!(
            last["system_fingerprint"], **fingerprint,
            "{streamed}: {last}"
        );
        assert!(
            last["timings"]["total_ms"].as_f64() > Some(0.0),
            "{streamed}: {last}"
        );
        let with_timings = events.iter().filter(|event| event["timings"].is_object());
        assert_eq!(with_timings.count(), 1, "{streamed}");
    }
}

#[test]
fn a_short_inference_has_its_metrics_and_no_empty_tokens() {
    let (server, gated) = server(&[]);
    gated.open();
    let body =
        json!({"prompt": "Once upon", "max_tokens": 30, "stop": [".", "a"], "temperature": 0});
    let answer = server.post("/v1/inference/stream", &body);
    let names: Vec<&str> = (answer.body.lines())
        .filter_map(|line| line.strip_prefix("event: "))
        .collect();
    assert_eq!(names[names.len() - 2..], ["metrics", "complete"]);
    let tokens = events(&answer)
        .into_iter()
        .filter(|event| event["position"].is_u64());
    for token in tokens {
        assert_ne!(token["text"], "", "{}", answer.body);
    }
}

#[test]
fn usage_of_all_answers_is_what_the_metrics_count() {
    let (server, gated) = server(&[]);
    gated.open();
    let mut told = (0, 0);
    let mut add = |usage: &Value| {
        told.0 += usage["prompt_tokens"].as_u64().unwrap();
        told.1 += usage["completion_tokens"].as_u64().unwrap_or(0);
    };
    // The prompt is found in the prefix cache from the second time on.
    for max_tokens in [0, 1, 40] {
        for n in [1, 3] {
            let body = json!({"prompt": [PROMPT, "A dog"], "n": n, "max_tokens": max_tokens});
            let answer = server.post("/v1/completions", &body);
            add(&answer.json()["usage"]);
        }
    }
    let body = json!({
        "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20, "ignore_eos": true,
        "stream": true, "stream_options": {"include_usage": true},
    });
    let stream = server.post("/v1/chat/completions", &body);
    add(&stream.events().last().unwrap()["usage"]);
    let inference = server.post("/v1/inference", &json!({"prompt": PROMPT, "max_tokens": 5}));
    add(&inference.json()["usage"]);
    let texts = vec![PROMPT; 9];
    add(&server
        .post("/v1/embeddings", &json!({"input": texts}))
        .json()["usage"]);
    let sums = sums(&server);
    assert!(sums["vllm:prefix_cache_hits_total"] > 0.0);
    assert_eq!(sums["vllm:prompt_tokens_total"], told.0 as f64);
    assert_eq!(sums["vllm:generation_tokens_total"], told.1 as f64);
    assert_eq!(sums["bitnet_tenant_tokens_total"], (told.0 + told.1) as f64);
}

#[test]
fn texts_of_one_request_are_one_request_however_small_the_queue_is() {
    let (server, gated) = server(&[("max-queued-requests", "0")]);
    let texts: Vec<String> = (0..10).map(|n| format!("A dog and {n} cats")).collect();
    let mut connection = Connection::open(server.address);
    let body = json!({"input": texts}).to_string();
    connection.send(
        "POST",
        "/v1/embeddings",
        "Content-Type: application/json\r\n",
        &body,
    );
    let model = server.model();
    until("its first texts are queued", || {
        model.handle.load().waiting == 4
    });
    assert_eq!(
        model.admission.waiting().0,
        4,
        "as many as there is room for"
    );
    // What was taken is finished, also by a server that takes no more.
    server.app.start_draining();
    gated.open();
    let answer = connection.answer();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 10);
    let metrics = server.get("/metrics").body;
    let ended: Vec<&str> = (metrics.lines())
        .filter(|line| line.starts_with("vllm:request_success_total"))
        .collect();
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert!(
        ended[0].ends_with("finished_reason=\"stop\"} 1"),
        "{ended:?}"
    );
    assert_eq!(sums(&server)["vllm:request_prompt_tokens_count"], 1.0);
}

#[test]
fn a_request_that_was_not_tokenised_in_time_does_not_run() {
    let server = TestServer::start();
    let held = server.hold_checkers();
    let mut connection = Connection::open(server.address);
    let headers = "Content-Type: application/json\r\nX-Request-Timeout: 0.05\r\n";
    let body = json!({"prompt": "Once", "max_tokens": 1}).to_string();
    connection.send("POST", "/v1/completions", headers, &body);
    let model = server.model();
    until("it waits for a checker", || {
        model.admission.waiting().0 == 1
    });
    let seen = Instant::now();
    until("its time is over", || {
        seen.elapsed() > Duration::from_millis(60)
    });
    drop(held);
    let answer = connection.answer();
    assert_eq!(answer.status, 504, "{}", answer.body);
    assert_eq!(answer.json()["error"]["code"], "deadline_exceeded");
    assert_eq!(model.handle.load().generated_tokens, 0);
}

#[test]
fn a_reader_that_is_late_changes_no_measurement() {
    let app = App::new(ServerLimits::default());
    let model = LoadedModel::start("stories", engine(), None, &app).unwrap();
    let model = Arc::new(model);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let work = Job {
            prompts: Prompts::Plain(vec![Prompt::Text("Once".into())]),
            n: 1,
            options: GenerateOptions {
                max_tokens: Some(6),
                ignore_eos: true,
                ..GenerateOptions::greedy()
            },
            default_max_tokens: None,
            truncate: Truncate::No,
            embed: None,
            terms: Terms::default(),
            permit: None,
        };
        let started = Running::start(model.clone(), app.metrics.clone(), work).await;
        let mut running = started.unwrap();
        until("all is drawn", || model.handle.load().generated_tokens == 6);
        let drawn = running.started.elapsed();
        let late = drawn + Duration::from_millis(100);
        until("the reader is late", || running.started.elapsed() > late);
        while let Some(piece) = running.piece().await {
            piece.unwrap();
        }
        let first = running.first_token.unwrap();
        assert!(first <= drawn, "{first:?} {drawn:?}");
        drop(running);
        let text = app.metrics.text(bitnet_server::metrics::Exposition::Text);
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().parse::<f64>().unwrap()
        };
        let gaps = value("bitnet_inter_token_latency_seconds_sum{model=\"stories\"}");
        let whole = value("bitnet_inference_duration_seconds_sum{model=\"stories\"}");
        // Stamped when the step had ended, which is seen a moment later.
        let drawn = drawn.as_secs_f64() + 0.05;
        assert!(
            gaps > 0.0 && gaps <= drawn && whole <= drawn,
            "{gaps} {whole} {drawn}"
        );
    });
}

#[test]
fn what_a_route_does_not_do_is_refused_by_name() {
    let (server, gated) = server(&[]);
    gated.open();
    const WHOLE: &str = "/v1/inference";
    const STREAM: &str = "/v1/inference/stream";
    const COMPLETIONS: &str = "/v1/completions";
    for (path, field, asks, harmless) in [
        (WHOLE, "stream", json!(true), json!(false)),
        (STREAM, "stream", json!(false), json!(true)),
        (
            WHOLE,
            "stream_options",
            json!({"include_usage": true}),
            json!({}),
        ),
        (WHOLE, "return_token_ids", json!(true), json!(false)),
        (STREAM, "return_token_ids", json!(true), json!(false)),
        (COMPLETIONS, "n_predict", json!(5), json!(null)),
        (COMPLETIONS, "t_max_predict_ms", json!(5), json!(0)),
        (COMPLETIONS, "do_sample", json!(false), json!(true)),
        (COMPLETIONS, "logits_processors", json!(["x"]), json!([])),
        (COMPLETIONS, "cache_salt", json!("s"), json!(null)),
    ] {
        let mut body = json!({"prompt": "Once", "max_tokens": 1});
        body[field] = asks;
        let refused = server.post(path, &body);
        assert_eq!(refused.status, 400, "{path} {field}");
        let error = &refused.json()["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!("unsupported_parameter"), &json!(field)),
            "{path}"
        );
        body[field] = harmless;
        assert_eq!(server.post(path, &body).status, 200, "{path} {field}");
    }
}

#[test]
fn requests_without_a_seed_have_that_of_the_server() {
    let server = TestServer::with_limits(ServerLimits {
        seed: Some(7),
        ..ServerLimits::default()
    });
    let seeds = |body: Value| {
        let answer = server.post("/v1/completions", &body).json();
        let choices = answer["choices"].as_array().unwrap().clone();
        let seeds = choices
            .iter()
            .map(|choice| choice["seed"].as_u64().unwrap());
        seeds.collect::<Vec<_>>()
    };
    let body = json!({"prompt": "Once", "max_tokens": 1, "n": 2});
    assert_eq!(seeds(body.clone()), [7, 8]);
    assert_eq!(seeds(body), [7, 8]);
    let own = json!({"prompt": "Once", "max_tokens": 1, "seed": 3});
    assert_eq!(seeds(own), [3]);
}

#[test]
fn a_whole_answer_tells_in_its_head_where_its_time_went() {
    let server = TestServer::start();
    let body = json!({"prompt": "Once", "max_tokens": 4, "ignore_eos": true});
    let asked = Instant::now();
    let answer = server.post("/v1/completions", &body);
    let timings = &answer.json()["timings"];
    let told: Vec<(&str, f64)> = (answer.header("server-timing").unwrap().split(", "))
        .map(|part| {
            let (name, milliseconds) = part.split_once(";dur=").unwrap();
            (name, milliseconds.parse().unwrap())
        })
        .collect();
    let milliseconds = |name: &str| timings[name].as_f64().unwrap();
    let (check, of_model) = told.split_first().unwrap();
    // Before the scheduler has it: no part of `timings`, and no longer than all of it.
    let elapsed = asked.elapsed().as_secs_f64() * 1e3;
    assert!(
        check.0 == "check" && (0.0..=elapsed).contains(&check.1) && check.1 > 0.0,
        "{told:?}"
    );
    assert_eq!(
        of_model,
        [
            ("queue", milliseconds("queue_ms")),
            ("prefill", milliseconds("prompt_ms")),
            ("decode", milliseconds("predicted_ms")),
        ]
    );
    // The head of a stream goes out first; a route that runs no model has nothing to tell.
    let stream = json!({"prompt": "Once", "max_tokens": 4, "stream": true});
    let stream = server.post("/v1/completions", &stream);
    assert_eq!((stream.status, stream.header("server-timing")), (200, None));
    assert_eq!(server.get("/v1/models").header("server-timing"), None);
}

#[test]
fn tokens_that_the_prefix_cache_took_are_told_once() {
    let (server, gated) = server(&[]);
    gated.open();
    let details = |prompt: &[u32], n: usize| {
        let body = json!({"prompt": prompt, "max_tokens": 20, "ignore_eos": true, "n": n});
        let answer = server.post("/v1/completions", &body).json();
        let details = &answer["usage"]["prompt_tokens_details"];
        ["cached_tokens", "cache_write_tokens"].map(|name| details[name].as_u64().unwrap())
    };
    let prompt: Vec<u32> = (300..340).collect();
    // Two whole blocks of 16; what is drawn behind them is no part of the prompt.
    assert_eq!(details(&prompt, 1), [0, 32]);
    assert_eq!(details(&prompt, 1), [32, 0]);
    assert_eq!(details(&prompt[..39], 2), [32, 0]);
    // Of several choices one writes it.
    let other: Vec<u32> = (400..440).collect();
    assert_eq!(details(&other, 2), [0, 32]);
}
