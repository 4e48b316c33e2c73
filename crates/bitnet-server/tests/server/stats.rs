//! `/v1/stats` beside `/metrics`, number by number, after a scripted load; `/v1/devices`.

use std::collections::BTreeMap;

use bitnet_server::auth::Role;
use bitnet_server::auth::key_file::{self, NewKey};
use bitnet_server::auth::rate::RateLimits;
use bitnet_server::config::{ServerConfig, Sources};
use bitnet_server::request_log::RequestLog;
use serde_json::{Value, json};

use crate::client::Connection;
use crate::fixture::{Gated, TestServer, engine_that_remembers, until};

/// Samples by name and labels, as they stand.
fn samples(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// Answers of every kind: whole ones, refused ones, and one whose client leaves.
fn scripted_load(server: &TestServer, gated: &Gated) {
    gated.open();
    for seed in 0..6 {
        // Several blocks of the KV cache long: only whole ones are found again.
        let prompt = "Once upon a time, there was a little girl named Lily. ".repeat(3);
        let body = json!({"prompt": prompt, "max_tokens": 8, "seed": seed, "ignore_eos": true});
        assert_eq!(server.post("/v1/completions", &body).status, 200);
    }
    let stopped = json!({"prompt": "Once", "max_tokens": 20, "stop": ["a", "e"], "temperature": 0});
    assert_eq!(server.post("/v1/completions", &stopped).status, 200);
    assert_eq!(server.post("/v1/completions", &json!({})).status, 400);
    let unknown = json!({"prompt": "x", "model": "nobody"});
    assert_eq!(server.post("/v1/completions", &unknown).status, 404);
    let endless =
        json!({"prompt": "Once", "max_tokens": 200, "n": 4, "ignore_eos": true, "stream": true});
    gated.allow_only(3); // it cannot end before its client leaves
    let mut connection = Connection::open(server.address);
    connection.send(
        "POST",
        "/v1/completions",
        "Content-Type: application/json\r\n",
        &endless.to_string(),
    );
    assert!(connection.line().starts_with("HTTP/1.1 200"));
    while !connection.line().starts_with("data: ") {}
    drop(connection);
    // The last thing that is told of a request is its place in the list; the engine may still be busy with it.
    until("all eight that ran have ended", || {
        server.app.metrics.slowest(20).len() == 8
    });
    gated.open();
    let model = server.model();
    until("nothing runs", || {
        let load = model.handle.load();
        model.admission.waiting() == (0, 0)
            && (load.running, load.waiting, load.kv_blocks_used) == (0, 0, 0)
    });
}

#[test]
fn stats_are_the_metrics_number_by_number() {
    let engine = engine_that_remembers();
    let gated = Gated::new(engine.clone());
    let (config, log) = (ServerConfig::default(), RequestLog::default());
    let server = TestServer::with_turns_and_log(engine, gated.clone(), config, log);
    scripted_load(&server, &gated);
    server
        .app
        .metrics
        .measure(&["stories"], std::time::Instant::now());
    // The registry is not changed by looking: nothing runs any more.
    let stats = server.get("/v1/stats").json();
    let metrics = samples(&server.get("/metrics").body);
    let model = &stats["models"][0];
    let own = |name: &str| format!("{name}{{model=\"stories\"}}");
    let vllm = |name: &str| format!("vllm:{name}{{model_name=\"stories\",engine=\"0\"}}");
    let block = |state: &str| format!("bitnet_kv_blocks{{model=\"stories\",state=\"{state}\"}}");
    let memory = |kind: &str| format!("bitnet_memory_bytes{{model=\"stories\",kind=\"{kind}\"}}");
    let ended = |reason: &str| {
        format!(
            "vllm:request_success_total{{model_name=\"stories\",engine=\"0\",finished_reason=\"{reason}\"}}"
        )
    };
    let named = |name: &str, label: &str, value: &str| format!("{name}{{{label}=\"{value}\"}}");
    let failures = "bitnet_request_failures_total";
    let gone = "bitnet_requests_cancelled_total";
    #[rustfmt::skip]
    let pairs: Vec<(&Value, String)> = vec![
        (&stats["process"]["resident_memory_bytes"], "process_resident_memory_bytes".into()),
        (&stats["process"]["cpu_seconds"], "process_cpu_seconds_total".into()),
        (&stats["process"]["open_files"], "process_open_fds".into()),
        (&stats["process"]["start_time"], "process_start_time_seconds".into()),
        (&stats["requests"]["finished"]["length"], ended("length")),
        (&stats["requests"]["finished"]["stop"], ended("stop")),
        (&stats["requests"]["finished"]["abort"], ended("abort")),
        (&stats["requests"]["failures"]["missing_field"], named(failures, "code", "missing_field")),
        (&stats["requests"]["failures"]["model_not_found"], named(failures, "code", "model_not_found")),
        (&model["finished"]["length"], ended("length")),
        (&model["weight_bytes"], memory("weights")),
        (&model["tokens"]["prompt"], own("bitnet_prompt_tokens_total")),
        (&model["tokens"]["generated"], own("bitnet_generated_tokens_total")),
        (&model["tokens"]["recomputed"], own("bitnet_recomputed_tokens_total")),
        (&model["queue"]["running"], vllm("num_requests_running")),
        (&model["queue"]["waiting"], vllm("num_requests_waiting")),
        (&model["queue"]["waiting_prompt_tokens"], own("bitnet_waiting_prompt_tokens")),
        (&model["queue"]["oldest_seconds"], own("bitnet_queue_oldest_seconds")),
        (&model["queue"]["preemptions"], vllm("num_preemptions_total")),
        (&model["queue"]["deadlines_exceeded"], own("bitnet_deadlines_exceeded_total")),
        (&model["kv_cache"]["used_blocks"], block("used")),
        (&model["kv_cache"]["cached_blocks"], block("cached")),
        (&model["kv_cache"]["free_blocks"], block("free")),
        (&model["kv_cache"]["usage_ratio"], vllm("kv_cache_usage_perc")),
        (&model["kv_cache"]["bytes"], memory("kv_cache")),
        (&model["prefix_cache"]["query_tokens"], vllm("prefix_cache_queries_total")),
        (&model["prefix_cache"]["hit_tokens"], vllm("prefix_cache_hits_total")),
        (&model["engine"]["steps"], own("bitnet_engine_steps_total")),
        (&model["engine"]["rows"], own("bitnet_engine_rows_total")),
        (&model["engine"]["last_step_at"], own("bitnet_engine_last_step_timestamp_seconds")),
        (&model["engine"]["bandwidth_bytes_per_second"], own("bitnet_achieved_bandwidth_bytes_per_second")),
    ];
    for (value, sample) in pairs {
        let number = value.as_f64();
        assert!(
            number.is_some(),
            "{sample} is {value} in the statistics\n{stats:#}"
        );
        // A number in JSON may lose its last bit on the way.
        let (number, counted) = (number.unwrap(), metrics[&sample]);
        let lost = f64::EPSILON * counted.abs();
        assert!(
            (number - counted).abs() <= lost,
            "{sample}: {number} {counted}"
        );
    }
    let by_phase = stats["requests"]["cancelled"].as_object().unwrap();
    let mut n_gone = 0.0;
    for (phase, count) in by_phase {
        let sample = metrics[&named(gone, "phase", phase)];
        assert_eq!(count.as_f64(), Some(sample));
        n_gone += sample;
    }
    assert_eq!(n_gone, 1.0);
    let rejected = &stats["requests"]["rejected"]["queue_full"];
    assert_eq!(rejected.as_f64(), Some(0.0));
    assert_eq!(model["quantization_accuracy_ratio"], Value::Null);
    let (hits, queries) = (
        &model["prefix_cache"]["hit_tokens"],
        &model["prefix_cache"]["query_tokens"],
    );
    assert!(
        hits.as_f64().unwrap() > 0.0,
        "one prompt was asked six times"
    );
    assert_eq!(
        model["prefix_cache"]["hit_ratio"].as_f64().unwrap(),
        hits.as_f64().unwrap() / queries.as_f64().unwrap()
    );
    let age = stats["timestamp"].as_f64().unwrap() - metrics["process_start_time_seconds"];
    assert!((stats["uptime_seconds"].as_f64().unwrap() - age).abs() < 1e-3);
    assert_distributions(&model["latency"], &metrics);
    // All of it was less than five minutes ago.
    assert_distributions(&model["recent"]["latency"], &metrics);
    assert_slowest(&stats["slowest_requests"]);
}

fn assert_distributions(latency: &Value, metrics: &BTreeMap<String, f64>) {
    for (name, histogram, labels) in [
        ("total", "bitnet_inference_duration_seconds", ""),
        ("first_token", "bitnet_time_to_first_token_seconds", ""),
        ("inter_token", "bitnet_inter_token_latency_seconds", ""),
        ("queue", "bitnet_request_queue_time_seconds", ""),
        (
            "prefill_step",
            "bitnet_engine_step_seconds",
            ",phase=\"prefill\"",
        ),
        (
            "decode_step",
            "bitnet_engine_step_seconds",
            ",phase=\"decode\"",
        ),
    ] {
        let told = &latency[name];
        let sample =
            |suffix: &str| metrics[&format!("{histogram}{suffix}{{model=\"stories\"{labels}}}")];
        assert_eq!(told["count"].as_f64().unwrap(), sample("_count"), "{name}");
        // A number in JSON may lose its last bit on the way.
        let sum = told["sum"].as_f64().unwrap();
        assert!((sum - sample("_sum")).abs() < 1e-12, "{name}: {sum}");
        let mean = sample("_sum") / sample("_count");
        let told_mean = told["mean"].as_f64().unwrap();
        assert!(
            (told_mean - mean).abs() < 1e-12,
            "{name}: {told_mean} {mean}"
        );
        let prefix = format!("{histogram}_bucket{{model=\"stories\"{labels},le=\"");
        let mut buckets: Vec<(f64, f64)> = metrics
            .iter()
            .filter_map(|(key, value)| {
                let bound = key.strip_prefix(&prefix)?.strip_suffix("\"}")?;
                Some((bound.parse().unwrap_or(f64::INFINITY), *value))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (percentile, q) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)] {
            let told = told[percentile].as_f64().unwrap();
            let expected = histogram_quantile(q, &buckets);
            assert!(
                (told - expected).abs() < 1e-12,
                "{name} {percentile}: {told} {expected}"
            );
        }
    }
}

/// As Prometheus computes it from what it scraped.
fn histogram_quantile(q: f64, buckets: &[(f64, f64)]) -> f64 {
    let rank = q * buckets.last().unwrap().1;
    let index = buckets.iter().position(|(_, count)| *count >= rank);
    let index = index.unwrap();
    if index == buckets.len() - 1 {
        return buckets[index - 1].0;
    }
    let (start, below) = match index {
        0 => (0.0, 0.0),
        _ => buckets[index - 1],
    };
    let (end, count) = buckets[index];
    start + (end - start) * (rank - below) / (count - below)
}

fn assert_slowest(slowest: &Value) {
    let requests = slowest.as_array().unwrap();
    assert_eq!(requests.len(), 8, "those that ran: refused ones did not");
    let times: Vec<f64> = requests
        .iter()
        .map(|request| request["total_seconds"].as_f64().unwrap())
        .collect();
    assert!(times.is_sorted_by(|slow, fast| slow >= fast), "{times:?}");
    for request in requests {
        let id = request["request_id"].as_str().unwrap();
        assert!(id.starts_with("req-"), "{id}");
    }
    assert!(
        !slowest.to_string().contains("Lily"),
        "prompts are in no list"
    );
}

#[test]
fn requests_of_others_are_shown_to_administrators_and_where_nobody_has_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let key = |name: &str, role| {
        let limits = RateLimits::default();
        let key = key_file::add(&path, &NewKey::new(name, role, limits));
        key.unwrap().reveal().to_owned()
    };
    let (user, admin) = (key("user", Role::Infer), key("admin", Role::Admin));
    let config = ServerConfig::load(&Sources {
        flags: vec![("keys-file".into(), path.display().to_string())],
        ..Sources::default()
    });
    let server = TestServer::with_config(config.unwrap());
    let asked = |key: &str, method: &str, path: &str, body: &str| {
        let mut connection = Connection::open(server.address);
        connection.send(
            method,
            path,
            &format!("Authorization: Bearer {key}\r\n"),
            body,
        );
        connection.answer().json()
    };
    asked(
        &user,
        "POST",
        "/v1/completions",
        r#"{"prompt": "Once", "max_tokens": 1}"#,
    );
    let seen = asked(&admin, "GET", "/v1/stats", "");
    assert_eq!(seen["slowest_requests"].as_array().unwrap().len(), 1);
    assert_eq!(
        asked(&user, "GET", "/v1/stats", "")["slowest_requests"],
        Value::Null
    );
    let metrics = |key: &str| {
        let mut connection = Connection::open(server.address);
        let authorization = format!("Authorization: Bearer {key}\r\n");
        connection.send("GET", "/metrics", &authorization, "");
        connection.answer().body
    };
    let text = metrics(&user);
    assert!(
        !text.contains("bitnet_tenant_tokens"),
        "who else asks is told to nobody: {text}"
    );
    assert!(text.contains("bitnet_generated_tokens_total"), "{text}");
    let text = metrics(&admin);
    let tenants: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("bitnet_tenant_tokens_total{tenant=\"key:"))
        .collect();
    assert_eq!(tenants.len(), 1, "{text}");
    assert!(!text.contains(&user), "no key is in the metrics");
}

#[test]
fn models_tell_what_they_did_in_the_last_five_minutes() {
    let server = TestServer::start();
    let told = |path: &str, at: &str| server.get(path).json().pointer(at).cloned().unwrap();
    let of_list = || told("/v1/models", "/models/0/performance_metrics");
    let of_status = || told("/v1/models/stories/status", "/performance_metrics");
    assert_eq!((of_list(), of_status()), (Value::Null, Value::Null));
    let body = json!({"prompt": "Once", "max_tokens": 8, "ignore_eos": true});
    for _ in 0..3 {
        assert_eq!(server.post("/v1/completions", &body).status, 200);
    }
    let stats = server.get("/v1/stats").json();
    let metrics = samples(&server.get("/metrics").body);
    let first_token = &stats["models"][0]["latency"]["first_token"];
    let drawn = metrics["bitnet_generated_tokens_total{model=\"stories\"}"];
    assert_eq!(drawn, 24.0);
    for figures in [of_list(), of_status()] {
        // Everything was less than five minutes ago: the figures are those since the start.
        assert_eq!(figures["requests"], 3.0);
        assert_eq!(figures["first_token_p50_seconds"], first_token["p50"]);
        assert_eq!(figures["first_token_p95_seconds"], first_token["p95"]);
        let seconds = figures["window_seconds"].as_f64().unwrap();
        assert!(seconds > 0.0 && seconds < stats["uptime_seconds"].as_f64().unwrap() + 60.0);
        let tokens = figures["tokens_per_second"].as_f64().unwrap() * seconds;
        assert!((tokens - drawn).abs() < 1e-6, "{figures}");
    }
}

#[test]
fn devices_tell_this_machine_and_what_models_run_on() {
    let server = TestServer::start();
    let devices = server.get("/v1/devices").json();
    assert_eq!(devices["gpus"], json!([]));
    let cpu = &devices["cpu"];
    assert_eq!(cpu["architecture"], std::env::consts::ARCH);
    assert!(cpu["usable_cpus"].as_u64().unwrap() >= 1);
    let kernel = &devices["models"][0]["kernel"];
    let available = cpu["kernels_available"].as_array().unwrap();
    assert!(available.contains(kernel), "{kernel} {available:?}");
    if cfg!(target_os = "linux") {
        assert!(cpu["logical_cpus"].as_u64().unwrap() >= 1);
        assert!(cpu["memory_bytes"].as_u64().unwrap() > 1 << 20);
    }
}
