//! One test for each variable: it works, the flag wins over it, and a value that cannot be is refused.

use crate::bitnet::{Ended, bitnet, data_arg, end};
use serde_json::Value;

const RUN: [&str; 7] = ["run", "--prompt", "One day", "-n", "12", "--format", "json"];

fn run(variables: &[(&str, &str)], args: &[&str]) -> Ended {
    end(bitnet().args(args).envs(variables.iter().copied()))
}

fn json(variables: &[(&str, &str)], extra: &[&str]) -> Value {
    run(variables, &[&RUN[..], extra].concat()).json()
}

#[test]
fn bitnet_gguf_names_the_model() {
    let model = data_arg("reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf");
    let other = data_arg("reference/gguf/tiny-bitnet.bitnet-b1.58.F16.gguf");
    assert_eq!(
        json(&[("BITNET_GGUF", &model)], &[])["model"],
        model.as_str()
    );
    assert_eq!(
        json(&[("BITNET_GGUF", &model)], &["--model", &other])["model"],
        other.as_str()
    );
    assert_eq!(
        json(&[("BITNET_GGUF", "")], &[])["model"],
        "stories-5m (embedded)"
    );
    run(&[("BITNET_GGUF", "no-such.gguf")], &RUN).fails(1, "no-such.gguf", "check the path");
}

#[test]
fn bitnet_tokenizer_replaces_the_models_tokenizer() {
    let tiny = data_arg("reference/tiny-bitnet/tokenizer.json");
    let ids = |variables: &[(&str, &str)], extra: &[&str]| {
        run(
            variables,
            &[&["tokenize", "Once upon a time"][..], extra].concat(),
        )
        .ok()
        .to_string()
    };
    let own = ids(&[], &[]);
    let other = ids(&[("BITNET_TOKENIZER", &tiny)], &[]);
    assert_ne!(own, other);
    assert_eq!(ids(&[], &["--tokenizer", &tiny]), other);
    let stories = data_arg("stories-5m/tokenizer.json");
    assert_eq!(
        ids(&[("BITNET_TOKENIZER", &tiny)], &["--tokenizer", &stories]),
        own
    );
}

#[test]
fn bitnet_device_chooses_the_device() {
    assert_eq!(
        json(&[("BITNET_DEVICE", "cpu")], &[])["metrics"]["device"],
        "cpu"
    );
    assert_eq!(
        json(&[("BITNET_DEVICE", "auto")], &["--device", "cpu"])["metrics"]["device"],
        "cpu"
    );
    run(&[("BITNET_DEVICE", "gpu")], &RUN).fails(2, "BITNET_DEVICE is 'gpu'", "BITNET_DEVICE");
}

#[test]
fn bitnet_cpu_threads_sets_the_threads() {
    assert_eq!(
        json(&[("BITNET_CPU_THREADS", "3")], &[])["metrics"]["threads"],
        3
    );
    assert_eq!(
        json(&[("BITNET_CPU_THREADS", "3")], &["--threads", "1"])["metrics"]["threads"],
        1
    );
    run(&[("BITNET_CPU_THREADS", "many")], &RUN).fails(
        2,
        "BITNET_CPU_THREADS is 'many'",
        "BITNET_CPU_THREADS",
    );
}

#[test]
fn bitnet_kernel_chooses_the_kernel() {
    assert_eq!(
        json(&[("BITNET_KERNEL", "scalar-i2s")], &[])["metrics"]["kernel"],
        "scalar-i2s"
    );
    assert_eq!(
        json(&[("BITNET_KERNEL", "nothing")], &["--kernel", "scalar-i2s"])["metrics"]["kernel"],
        "scalar-i2s"
    );
    let refused = run(&[("BITNET_KERNEL", "nothing")], &RUN);
    assert_ne!(refused.code, Some(0));
    assert!(refused.stderr.contains("nothing"), "{refused:?}");
}

#[test]
fn bitnet_seed_seeds_sampling() {
    let seeded = json(&[("BITNET_SEED", "7")], &["--temperature", "1"]);
    assert_eq!(seeded["seed"], 7);
    assert_eq!(
        seeded["text"],
        json(&[], &["--temperature", "1", "--seed", "7"])["text"]
    );
    assert_eq!(json(&[("BITNET_SEED", "7")], &["--seed", "8"])["seed"], 8);
    run(&[("BITNET_SEED", "x")], &RUN).fails(2, "BITNET_SEED is 'x'", "BITNET_SEED");
}

#[test]
fn bitnet_deterministic_pins_the_seed_when_none_is_given() {
    let pinned = json(&[("BITNET_DETERMINISTIC", "1")], &[]);
    assert_eq!(pinned["seed"], 42);
    assert_eq!(
        pinned["text"],
        json(&[("BITNET_DETERMINISTIC", "1"), ("BITNET_SEED", "42")], &[])["text"]
    );
    assert_eq!(
        json(&[("BITNET_DETERMINISTIC", "1")], &["--seed", "8"])["seed"],
        8
    );
    let random = |_| {
        json(&[("BITNET_DETERMINISTIC", "0")], &[])["seed"]
            .as_u64()
            .unwrap()
    };
    assert_ne!(random(()), random(()));
    run(&[("BITNET_DETERMINISTIC", "perhaps")], &RUN).fails(
        2,
        "BITNET_DETERMINISTIC",
        "BITNET_DETERMINISTIC",
    );
}

#[test]
fn bitnet_strict_tokenizers_refuses_guesses() {
    // This file has no tokenizer.ggml.pre: the rule for it is a repair, which strict mode refuses.
    let model = data_arg("reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf");
    json(&[("BITNET_STRICT_TOKENIZERS", "0")], &["--model", &model]);
    let strict = run(
        &[("BITNET_STRICT_TOKENIZERS", "1")],
        &[&RUN[..], &["--model", &model]].concat(),
    );
    strict.fails(3, "strict", "tokenizer.json");
    json(&[("BITNET_STRICT_TOKENIZERS", "1")], &[]);
    run(&[("BITNET_STRICT_TOKENIZERS", "2")], &RUN).fails(
        2,
        "BITNET_STRICT_TOKENIZERS is '2'",
        "unset it",
    );
}

#[test]
fn bitnet_log_logs_to_standard_error() {
    let logged = run(&[("BITNET_LOG", "debug")], &RUN);
    assert!(
        logged.stderr.contains("INFO") && logged.stderr.contains("model loaded"),
        "{logged:?}"
    );
    assert!(
        !logged.stderr.contains('\x1b'),
        "no colour when it is not a terminal: {logged:?}"
    );
    logged.json();
    assert_eq!(run(&[], &RUN).stderr, "");
    run(&[("BITNET_LOG", "=[")], &RUN).fails(2, "BITNET_LOG", "use error, warn");
}

#[test]
fn no_color_leaves_no_escape_anywhere() {
    for variables in [&[("NO_COLOR", "1")][..], &[]] {
        for args in [
            &["--help"][..],
            &["run", "--help"],
            &["frobnicate"],
            &["--version"],
        ] {
            let ended = run(variables, args);
            assert!(
                !ended.stdout.contains('\x1b') && !ended.stderr.contains('\x1b'),
                "{args:?}: {ended:?}"
            );
        }
    }
}
