//! Names, buckets and both texts, and the document against the table.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitnet_inference::Traffic;

use super::table::{Buckets, Kind, METRICS};
use super::*;

const MODEL: &str = "m\"1\\";
const ENGINE_A: EngineKey = EngineKey(u64::MAX);
const ENGINE_B: EngineKey = EngineKey(u64::MAX - 1);

fn finished() -> Finished<'static> {
    Finished {
        request_id: "req-1",
        model: MODEL,
        ended: RequestEnd::Length,
        failure: None,
        latency: Duration::from_millis(1100),
        first_token: Some(Duration::from_millis(100)),
        queue: Duration::from_millis(20),
        prefill: Duration::from_millis(80),
        decode: Duration::from_millis(900),
        n_prompt: 12,
        n_generated: 11,
        n_generated_longest: 11,
        max_tokens: Some(11),
        n: 1,
        n_drafted: 4,
        n_accepted: 3,
    }
}

fn load() -> EngineLoad {
    EngineLoad {
        waiting: 3,
        waiting_prompt_tokens: 40,
        running: 2,
        kv_blocks: 100,
        kv_blocks_used: 25,
        kv_blocks_cached: 50,
        prefix_queries: 64,
        prefix_hits: 32,
        prompt_tokens: 12,
        generated_tokens: 11,
        steps: 12,
        rows: 23,
        ..EngineLoad::default()
    }
}

/// Metrics on which every update function was called.
fn all() -> Metrics {
    let metrics = Metrics::new(4096);
    metrics.model_loaded(&LoadedInfo {
        model: MODEL,
        hash: "abc",
        quantization: "i2_s",
        kernel: "scalar-i2s",
        load: Some(Duration::from_millis(700)),
        kv_block_size: 16,
        kv_blocks: 100,
        weight_bytes: 1000,
        kv_cache_bytes: 2000,
    });
    metrics.validated(MODEL, 1.0);
    metrics.sleeping(MODEL, true);
    metrics.gpu_utilization(0.5);
    metrics.request_failed("invalid_value");
    metrics.request_rejected("queue_full");
    metrics.request_cancelled(CancelPhase::Queue);
    metrics.token_gap(MODEL, Duration::from_millis(9));
    metrics.tokens_told(MODEL, 44, 11);
    metrics.request_finished(&finished());
    metrics.swapped("swapped");
    metrics.swap_memory(1 << 20);
    metrics.unloaded("request");
    metrics.tokens_of(None, 23);
    let read = Traffic {
        passes: 1,
        ternary_bytes: 900,
        ..Traffic::default()
    };
    let step = StepFigures {
        before: &EngineLoad::default(),
        after: &load(),
        read,
        time: Duration::from_millis(500),
    };
    metrics.step(MODEL, &step);
    let start = Instant::now();
    metrics.measure(&[MODEL], start);
    metrics.engine(MODEL, ENGINE_A, &EngineLoad::default(), &load());
    metrics.measure(&[MODEL], start + Duration::from_secs(1));
    metrics.engine(
        MODEL,
        ENGINE_A,
        &load(),
        &EngineLoad {
            generated_tokens: 31,
            ..load()
        },
    );
    metrics.measure(&[MODEL], start + Duration::from_secs(3));
    metrics.step(MODEL, &step);
    metrics.measure(&[MODEL], start + Duration::from_secs(4));
    metrics
}

#[test]
fn what_nobody_measured_is_absent() {
    let text = Metrics::new(4096).text(Exposition::Text);
    let families: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect();
    assert_eq!(
        families,
        [
            "bitnet_request_failures_total counter",
            "bitnet_requests_rejected_total counter",
            "bitnet_requests_cancelled_total counter",
            "bitnet_swap_total counter",
            "bitnet_build_info gauge",
            "process_start_time_seconds gauge"
        ]
    );
}

#[cfg(target_os = "linux")]
#[test]
fn every_metric_of_the_table_is_told_once_it_is_known() {
    let text = all().text(Exposition::Text);
    for metric in METRICS {
        let line = format!("# TYPE {} {}\n", metric.name, metric.kind.name());
        assert_eq!(text.matches(&line).count(), 1, "{line}");
    }
}

#[test]
fn names_and_labels_are_well_formed_and_unique() {
    let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len());
    for metric in METRICS {
        let total = metric.name.ends_with("_total");
        // vLLM calls this histogram so, and dashboards ask for it.
        let excepted = metric.name == "vllm:iteration_tokens_total";
        assert!(
            excepted || total == (metric.kind == Kind::Counter),
            "{}",
            metric.name
        );
        assert!(
            metric.help.ends_with('.') && !metric.help.contains('\n'),
            "{}",
            metric.name
        );
        assert_eq!(
            metric.name.starts_with("vllm:"),
            metric.labels.starts_with(&["model_name", "engine"])
        );
    }
}

#[test]
fn the_names_that_deployments_were_told_exist() {
    for name in [
        "bitnet_inference_duration_seconds",
        "bitnet_tokens_per_second",
        "bitnet_quantization_accuracy_ratio",
        "bitnet_gpu_utilization_ratio",
        "bitnet_active_inference_requests",
        "bitnet_model_load_duration_seconds",
        "bitnet_cpu_utilization_ratio",
        "bitnet_generated_tokens_total",
    ] {
        assert!(METRICS.iter().any(|metric| metric.name == name), "{name}");
    }
}

#[test]
fn samples_have_labels_buckets_and_sums() {
    let text = all().text(Exposition::Text);
    let model = r#"model_name="m\"1\\",engine="0""#;
    for line in [
        format!("vllm:num_requests_waiting{{{model}}} 3"),
        format!("vllm:kv_cache_usage_perc{{{model}}} 0.25"),
        format!("vllm:prefix_cache_hits_total{{{model}}} 32"),
        format!("vllm:prompt_tokens_total{{{model}}} 44"),
        format!("vllm:generation_tokens_total{{{model}}} 11"),
        format!("vllm:request_success_total{{{model},finished_reason=\"length\"}} 1"),
        format!("vllm:time_to_first_token_seconds_bucket{{{model},le=\"0.08\"}} 0"),
        format!("vllm:time_to_first_token_seconds_bucket{{{model},le=\"0.1\"}} 1"),
        format!("vllm:time_to_first_token_seconds_bucket{{{model},le=\"+Inf\"}} 1"),
        format!("vllm:time_to_first_token_seconds_count{{{model}}} 1"),
        format!("vllm:request_time_per_output_token_seconds_sum{{{model}}} 0.1"),
        format!("vllm:request_prompt_tokens_bucket{{{model},le=\"2000.0\"}} 1"),
        format!("vllm:cache_config_info{{{model},block_size=\"16\",num_gpu_blocks=\"100\"}} 1"),
        r#"bitnet_kv_blocks{model="m\"1\\",state="free"} 25"#.into(),
        r#"bitnet_achieved_bandwidth_bytes_per_second{model="m\"1\\"} 1800"#.into(),
        r#"bitnet_engine_step_seconds_count{model="m\"1\\",phase="prefill"} 2"#.into(),
        "bitnet_request_failures_total{code=\"invalid_value\"} 1".into(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains(
        "vllm:request_prompt_tokens_bucket{model_name=\"m\\\"1\\\\\",engine=\"0\",le=\"5000.0\"}"
    ));
}

#[test]
fn counters_are_named_as_each_text_wants_them() {
    let metrics = all();
    let text = metrics.text(Exposition::Text);
    let open = metrics.text(Exposition::OpenMetrics);
    assert!(text.contains("# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total{"));
    assert!(open.contains("# TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total{"));
    assert!(
        open.contains("# TYPE vllm:iteration_tokens_total histogram\n"),
        "it is no counter"
    );
    assert!(open.ends_with("# EOF\n") && !text.contains("# EOF"));
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    assert_eq!(Exposition::negotiate(Some(accept)), Exposition::OpenMetrics);
    assert_eq!(Exposition::negotiate(None), Exposition::Text);
}

#[test]
fn a_model_that_is_gone_has_no_gauges_and_keeps_its_counts() {
    let metrics = all();
    metrics.model_unloaded(MODEL);
    let text = metrics.text(Exposition::Text);
    for metric in METRICS.iter().filter(|metric| metric.kind == Kind::Gauge) {
        let of_model = metric
            .labels
            .first()
            .is_some_and(|label| label.starts_with("model"));
        let told = text.contains(&format!("# TYPE {} ", metric.name));
        assert!(!of_model || !told, "{}", metric.name);
    }
    assert_eq!(
        metrics.registry().get(Id::GeneratedTokens, &[MODEL]),
        Some(31.0)
    );
}

#[test]
fn label_values_without_end_take_no_memory_without_end() {
    let metrics = Metrics::new(16);
    for i in 0..10_000 {
        metrics.request_failed(&format!("code{i}"));
    }
    assert!(metrics.text(Exposition::Text).len() < 10_000);
    let other = metrics
        .registry()
        .get(Id::RequestFailures, &["other"])
        .unwrap();
    assert_eq!(other, 10_000.0 - 63.0, "nothing is lost");
}

#[test]
fn bounds_rise_and_tokens_end_at_the_context() {
    for metric in METRICS {
        if let Kind::Histogram(buckets) = metric.kind {
            assert!(buckets.bounds(131_072).is_sorted(), "{}", metric.name);
        }
    }
    assert_eq!(
        Buckets::Tokens.bounds(100),
        [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
    );
    assert!(
        !Buckets::Tokens.bounds(0).is_empty(),
        "a histogram has a bucket, whatever the context"
    );
}

#[test]
fn percentiles_lie_evenly_between_bounds_and_end_at_the_last_one() {
    let observed = |counts: &[u64]| registry::Observed {
        bounds: vec![1.0, 2.0, 4.0],
        counts: counts.to_vec(),
        sum: 0.0,
    };
    assert_eq!(observed(&[0, 0, 0, 0]).quantile(0.5), None);
    assert_eq!(observed(&[10, 0, 0, 0]).quantile(0.5), Some(0.5));
    assert_eq!(observed(&[0, 0, 10, 0]).quantile(0.0), Some(2.0));
    assert_eq!(observed(&[0, 0, 10, 0]).quantile(1.0), Some(4.0));
    assert_eq!(observed(&[5, 5, 0, 0]).quantile(0.75), Some(1.5));
    assert_eq!(observed(&[0, 0, 0, 7]).quantile(0.99), Some(4.0));
    assert_eq!(observed(&[1, 1, 1, 1]).count(), 4);
}

#[test]
fn a_gauge_beyond_the_limit_is_not_told_in_the_place_of_others() {
    let metrics = Metrics::new(16);
    let name = |n: usize| format!("model-{n:03}");
    for n in 0..100 {
        metrics
            .registry()
            .set(Id::QueueOldest, &[&name(n)], n as f64);
    }
    let values = metrics.registry().values(Id::QueueOldest);
    assert_eq!(values.len(), 64);
    assert!(values.iter().all(|(labels, _)| labels[0] != "other"));
    // When one is gone there is room for another.
    metrics.registry().forget(Id::QueueOldest, &name(0));
    metrics.registry().set(Id::QueueOldest, &[&name(99)], 99.0);
    let told = |n| metrics.registry().get(Id::QueueOldest, &[&name(n)]);
    assert_eq!((told(0), told(98), told(99)), (None, None, Some(99.0)));
}

#[test]
fn the_list_of_requests_is_bounded_and_keeps_the_slow_ones_in_order() {
    let metrics = Metrics::new(16);
    for milliseconds in 0..2000_u64 {
        metrics.request_finished(&Finished {
            latency: Duration::from_millis(milliseconds % 700),
            ..finished()
        });
    }
    let all = metrics.slowest(usize::MAX);
    assert_eq!(all.len(), recent::KEPT);
    assert!(all.is_sorted_by(|slow, fast| slow.total_seconds >= fast.total_seconds));
    assert_eq!(metrics.slowest(3), all[..3]);
}

#[test]
fn a_waiting_request_ages_until_it_is_dropped() {
    let metrics = Arc::new(all());
    let oldest = || {
        metrics.text(Exposition::Text);
        metrics.registry().get(Id::QueueOldest, &[MODEL]).unwrap()
    };
    assert_eq!(oldest(), 0.0);
    let since = Instant::now() - Duration::from_secs(3);
    let waiting = recent::WaitingRequest::new(metrics.clone(), MODEL, since);
    let other = recent::WaitingRequest::new(metrics.clone(), "other", since);
    assert!(oldest() >= 3.0);
    drop(waiting);
    assert_eq!(oldest(), 0.0);
    drop(other);
}

#[test]
fn a_new_engine_under_the_same_name_counts_on() {
    let metrics = all();
    metrics.engine(
        MODEL,
        ENGINE_A,
        &EngineLoad::default(),
        &EngineLoad::default(),
    );
    let drawn = EngineLoad {
        generated_tokens: 4,
        ..EngineLoad::default()
    };
    metrics.engine(MODEL, ENGINE_A, &EngineLoad::default(), &drawn);
    let counted = metrics.registry().get(Id::GeneratedTokens, &[MODEL]);
    assert_eq!(counted, Some(35.0), "31 of the one before it");
}

#[test]
fn five_minutes_are_looked_back_and_no_more() {
    let metrics = all();
    let begin = Instant::now();
    let after = |seconds| begin + Duration::from_secs(seconds);
    let rolling = |seconds| metrics.rolling(MODEL, after(seconds));
    let info = LoadedInfo {
        model: MODEL,
        hash: "",
        quantization: "",
        kernel: "",
        load: Some(Duration::ZERO),
        kv_block_size: 16,
        kv_blocks: 1,
        weight_bytes: 1,
        kv_cache_bytes: 1,
    };
    // What another version under this name did is not this one's.
    metrics.model_loaded(&info);
    assert_eq!(rolling(10), None);

    let draw = |tokens: u64, first: Duration| {
        let drawn = EngineLoad {
            generated_tokens: tokens,
            ..EngineLoad::default()
        };
        metrics.engine(MODEL, ENGINE_A, &EngineLoad::default(), &drawn);
        metrics.request_finished(&Finished {
            first_token: Some(first),
            ..finished()
        });
    };
    draw(50, Duration::from_millis(30));
    let first = rolling(10).unwrap();
    // The notes are written at the true time, a moment after `begin`.
    assert!((0.0..=10.0).contains(&first.window_seconds), "{first:?}");
    assert_eq!(first.requests, 1.0);
    assert!((first.tokens_per_second * first.window_seconds - 50.0).abs() < 1e-9);
    let between = |time: Option<f64>, low: f64, high: f64| (low..=high).contains(&time.unwrap());
    assert!(between(first.first_token_p50_seconds, 0.02, 0.05));
    assert!(between(first.first_token_p95_seconds, 0.02, 0.05));

    metrics.measure(&[MODEL], after(100));
    draw(7, Duration::from_millis(700));
    let both = rolling(200).unwrap();
    assert_eq!(both.requests, 2.0);
    let second = rolling(420).unwrap();
    assert_eq!((second.window_seconds, second.requests), (320.0, 1.0));
    assert_eq!(second.tokens_per_second, 7.0 / 320.0);
    assert!(between(second.first_token_p50_seconds, 0.5, 1.0));
    let lately = metrics.recent_stats(MODEL, after(420)).unwrap();
    assert_eq!(lately.window_seconds, 320.0);
    let first_token = lately.latency.first_token.unwrap();
    assert_eq!(Some(first_token.p50), second.first_token_p50_seconds);
    assert_eq!((first_token.count, first_token.sum), (1, 0.7));
    assert_eq!(lately.latency.total.unwrap().count, 1);
    let ever = metrics.stats().models[0].latency.clone();
    // With the one that `all` told of.
    assert_eq!(ever.first_token.unwrap().count, 3, "since the start");

    // A text under way has drawn tokens and no end.
    metrics.measure(&[MODEL], after(430));
    let drawn = EngineLoad {
        generated_tokens: 9,
        ..EngineLoad::default()
    };
    metrics.engine(MODEL, ENGINE_A, &EngineLoad::default(), &drawn);
    let third = rolling(740).unwrap();
    assert_eq!((third.requests, third.window_seconds), (0.0, 310.0));
    let idle = metrics.recent_stats(MODEL, after(740)).unwrap();
    assert_eq!(idle.latency.total, None, "nobody ended");
    assert_eq!(third.first_token_p50_seconds, None);
    metrics.measure(&[MODEL], after(740));
    assert_eq!(rolling(1100), None);
    metrics.model_unloaded(MODEL);
    assert_eq!(rolling(1100), None);
}

#[test]
fn what_the_last_five_minutes_need_is_kept_and_nothing_older() {
    let metrics = all();
    let begin = Instant::now();
    for second in 0..3600 {
        metrics.measure(&[MODEL], begin + Duration::from_secs(second));
    }
    let n_notes = metrics.notes.len(MODEL);
    assert!((60..=62).contains(&n_notes), "{n_notes}");
}

#[test]
fn gauges_are_sums_over_the_engines_of_a_model() {
    let metrics = all();
    let gauge = |id| metrics.registry().get(id, &[MODEL, ENGINE]);
    let blocks = |state| metrics.registry().get(Id::KvBlocks, &[MODEL, state]);
    metrics.engine(MODEL, ENGINE_B, &load(), &load());
    assert_eq!(gauge(Id::VllmRunning), Some(4.0));
    assert_eq!(gauge(Id::VllmKvUsage), Some(0.25));
    assert_eq!((blocks("used"), blocks("free")), (Some(50.0), Some(50.0)));
    metrics.engine("other", EngineKey::new(), &load(), &load());
    // The new one is refused, or the old one is done: what is left is the other's.
    metrics.engine_ended(ENGINE_B);
    assert_eq!(gauge(Id::VllmRunning), Some(2.0));
    assert_eq!(blocks("used"), Some(25.0));
    metrics.engine_ended(ENGINE_A);
    assert_eq!((gauge(Id::VllmRunning), blocks("used")), (None, None));
    let other = metrics.registry().get(Id::VllmRunning, &["other", ENGINE]);
    assert_eq!(other, Some(2.0));
}

#[test]
fn times_in_queue_prefill_and_decode_add_up_to_the_whole() {
    let metrics = all();
    let sum = |id| {
        let times = metrics.registry().observed(id, &[MODEL, ENGINE]);
        times.expect("a request has ended").sum
    };
    let parts = [Id::VllmQueueTime, Id::VllmPrefillTime, Id::VllmDecodeTime].map(sum);
    assert_eq!(parts, [0.02, 0.08, 1.0]);
    assert_eq!(sum(Id::VllmInferenceTime), 1.08);
    assert_eq!(sum(Id::VllmLatency), 1.1);
}
