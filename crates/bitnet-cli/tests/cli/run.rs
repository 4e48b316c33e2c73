//! `bitnet run`: the golden story, its inputs and its outputs.

use crate::bitnet::{data_arg, run, run_with_input, stories};

#[test]
fn greedy_stories_equal_the_golden_ones() {
    for story in stories().as_array().unwrap() {
        let prompt = story["prompt"].as_str().unwrap();
        let n = story["greedy"].as_array().unwrap().len().to_string();
        let result = run(&[
            "run", "--prompt", prompt, "--greedy", "-n", &n, "--format", "json",
        ])
        .json();
        // Tokens must agree up to the first step that the reference itself was undecided about.
        let margins = story["greedy_margins"].as_array().unwrap();
        let decided = margins
            .iter()
            .take_while(|m| m.as_f64().unwrap() >= 0.25)
            .count();
        assert!(
            decided >= 3,
            "{prompt:?}: the golden data decides only {decided} steps"
        );
        let found = result["token_ids"].as_array().unwrap();
        let expected = story["greedy"].as_array().unwrap();
        assert_eq!(found[..decided], expected[..decided], "{prompt:?}");
        if decided == expected.len() {
            let text = format!("{prompt}{}", result["text"].as_str().unwrap());
            assert_eq!(text, story["text"].as_str().unwrap());
        }
        assert_eq!(result["finish_reason"], "length");
    }
}

#[test]
fn the_text_comes_from_option_file_or_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, "Once upon a time").unwrap();
    let tail = ["--greedy", "-n", "8"];
    let story = run(&[&["run", "--prompt", "Once upon a time"][..], &tail].concat());
    assert_eq!(story.ok(), " there was a boy called Ben who lived\n");
    let from_file = run(&[&["run", "--file", file.to_str().unwrap()][..], &tail].concat());
    let from_stdin = run_with_input(&[&["run"][..], &tail].concat(), b"Once upon a time");
    let from_dash = run_with_input(
        &[&["run", "--file", "-"][..], &tail].concat(),
        b"Once upon a time",
    );
    for other in [from_file, from_stdin, from_dash] {
        assert_eq!(other.ok(), story.stdout);
    }
    let echoed = run(&[
        &["run", "--echo", "--prompt", "Once upon a time"][..],
        &tail,
    ]
    .concat());
    assert_eq!(
        echoed.ok(),
        "Once upon a time there was a boy called Ben who lived\n"
    );
}

#[test]
fn model_and_text_may_be_named_without_options() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/stories-5m.I2_S.gguf");
    let tail = ["--greedy", "-n", "8"];
    let story = " there was a boy called Ben who lived\n";
    let named = run(&[&["run", model, "Once upon a time"][..], &tail].concat());
    assert_eq!(named.ok(), story);
    let piped = run_with_input(&[&["run", model][..], &tail].concat(), b"Once upon a time");
    assert_eq!(piped.ok(), story);
    run(&["run", "no/such.gguf", "hi"]).fails(1, "no/such.gguf", "check the path");
    for text in ["Once upon a time", "story"] {
        run(&["run", text]).fails(2, &format!("no model '{text}'"), "behind --prompt");
    }
}

#[test]
fn json_has_the_text_the_ids_and_the_metrics() {
    let result = run(&[
        "run",
        "--prompt",
        "Once",
        "-n",
        "5",
        "--seed",
        "3",
        "--threads",
        "1",
        "--format",
        "json",
    ])
    .json();
    assert_eq!(result["prompt"], "Once");
    assert_eq!(result["seed"], 3);
    assert_eq!(result["token_ids"].as_array().unwrap().len(), 5);
    let metrics = &result["metrics"];
    assert_eq!(metrics["threads"], 1);
    assert_eq!(metrics["device"], "cpu");
    assert_eq!(metrics["kv_type"], "f32");
    assert_eq!(metrics["generated_tokens"], 5);
    for time in [
        "load_s",
        "tokenize_s",
        "prefill_s",
        "decode_s",
        "sample_s",
        "prefill_tok_s",
        "decode_tok_s",
        "read_gb_s",
    ] {
        assert!(metrics[time].as_f64().unwrap() > 0.0, "{time}: {metrics}");
    }
    // 5.1 M trits at two bits with a scale for each of 42 tensors, and the F16 head of 1024 x 256.
    let (layers, head) = (
        6 * ((4 * 256 * 256 + 3 * 256 * 768) / 4 + 7 * 4),
        1024 * 256 * 2,
    );
    // Less what the zeros of ReLU^2 spare.
    let bytes = metrics["bytes_per_token"].as_u64().unwrap();
    assert!(head < bytes && bytes <= layers + head, "{metrics}");
    let memory = &metrics["memory"];
    assert_eq!(
        (&memory["layer_bytes"], &memory["head_bytes"]),
        (&layers.into(), &head.into())
    );
    assert_eq!(memory["kv_cache_bytes"], 256 * 6 * 2 * 256 * 4);
    if cfg!(target_os = "linux") {
        assert!(memory["peak_bytes"].as_u64().unwrap() > layers, "{memory}");
    }
}

#[test]
fn metrics_go_to_standard_error() {
    let ended = run(&["run", "--prompt", "Once", "-n", "5", "--metrics"]);
    ended.ok();
    for word in [
        "load",
        "tokenise",
        "prefill",
        "decode",
        "sample",
        "a token",
        "memory",
        "GB/s",
        "token limit reached",
    ] {
        assert!(
            ended.stderr.contains(word) && !ended.stdout.contains("GB/s"),
            "{word}: {ended:?}"
        );
    }
    assert_eq!(run(&["run", "--prompt", "Once", "-n", "5"]).stderr, "");
}

#[test]
fn a_stop_string_ends_the_text_before_itself() {
    let result = run(&[
        "run",
        "--prompt",
        "Once upon a time",
        "--greedy",
        "--stop",
        " called Ben",
        "--format",
        "json",
    ])
    .json();
    assert_eq!(result["text"], " there was a boy");
    assert_eq!(result["finish_reason"], "stop_string");
}

#[test]
fn the_end_of_the_context_is_told() {
    let ended = run(&[
        "run",
        "--prompt",
        "Once upon a time",
        "--ctx",
        "16",
        "--greedy",
    ]);
    ended.ok();
    assert!(
        ended.stderr.contains("the context is full (16 positions)"),
        "{ended:?}"
    );
    let json = run(&[
        "run",
        "--prompt",
        "Once upon a time",
        "--ctx",
        "16",
        "--greedy",
        "--format",
        "json",
    ])
    .json();
    assert_eq!(json["finish_reason"], "context_full");
}

#[test]
fn a_seed_repeats_a_text_and_another_gives_another() {
    let text = |seed: &str| {
        run(&[
            "run",
            "--prompt",
            "One day",
            "-n",
            "30",
            "--temperature",
            "1",
            "--seed",
            seed,
        ])
        .stdout
    };
    assert_eq!(text("1"), text("1"));
    assert_ne!(text("1"), text("2"));
}

#[test]
fn threads_kernels_and_cache_blocks_do_not_change_a_byte() {
    let args = [
        "run",
        "--prompt",
        "Long ago, near the river",
        "-n",
        "40",
        "--seed",
        "5",
        "--temperature",
        "1",
    ];
    let reference = run(&args).ok().to_string();
    for extra in [
        &["--threads", "1"][..],
        &["--threads", "3"],
        &["--kernel", "scalar-i2s"],
    ] {
        assert_eq!(
            run(&[&args[..], extra].concat()).ok(),
            reference,
            "{extra:?}"
        );
    }
}

#[test]
fn a_system_message_makes_the_prompt_a_chat() {
    let model = data_arg("reference/tiny-bitnet");
    let args = [
        "run", "--model", &model, "--greedy", "-n", "2", "--format", "json",
    ];
    let plain = run(&[&args[..], &["--prompt", "Hi"]].concat()).json();
    let chat = run(&[&args[..], &["--prompt", "Hi", "--system", "Be brief."]].concat()).json();
    let count = |result: &serde_json::Value| result["metrics"]["prompt_tokens"].as_u64().unwrap();
    assert!(
        count(&chat) > count(&plain) + 5,
        "{} {}",
        count(&chat),
        count(&plain)
    );
    let none = run(&["run", "--prompt", "Hi", "--system", "Be brief."]);
    none.fails(2, "the model has no chat template", "--template FILE");
}

#[test]
fn escape_sequences_of_the_model_are_removed_unless_raw() {
    // A bias makes the model say nothing but the byte token of ESC, then letters: a model cannot be trusted not to.
    let ids = run(&["tokenize", "\x1b", "--format", "json"]).json();
    let escape = ids["ids"][0].as_u64().unwrap();
    assert_eq!(ids["ids"].as_array().unwrap().len(), 1);
    let bias = format!("{escape}:1000");
    let args = [
        "run",
        "--prompt",
        "Once",
        "--greedy",
        "-n",
        "4",
        "--logit-bias",
        &bias,
    ];
    assert_eq!(run(&args).ok(), "\n");
    assert_eq!(
        run(&[&args[..], &["--raw"]].concat()).ok(),
        "\x1b\x1b\x1b\x1b\n"
    );
    let json = run(&[&args[..], &["--format", "json"]].concat());
    assert!(!json.ok().contains('\x1b'), "JSON escapes it");
    assert_eq!(json.json()["text"], "\x1b\x1b\x1b\x1b");
}

#[test]
fn guessing_ahead_prints_the_same_text() {
    let prompt = "The cat sat. The cat sat. The cat sat. The cat";
    let arguments = [
        "run", "--prompt", prompt, "-n", "40", "--seed", "5", "--format", "json",
    ];
    let plain = run(&arguments).json();
    for option in [&["--speculate"][..], &["--speculate", "3"]] {
        let guessed = run(&[&arguments[..], option].concat()).json();
        assert_eq!(guessed["token_ids"], plain["token_ids"], "{option:?}");
        let metrics = &guessed["metrics"];
        let (drafted, accepted) = (&metrics["drafted_tokens"], &metrics["accepted_tokens"]);
        assert!(drafted.as_u64().unwrap() > 0, "{metrics}");
        assert!(
            accepted.as_u64().unwrap() <= drafted.as_u64().unwrap(),
            "{metrics}"
        );
    }
    assert_eq!(plain["metrics"]["drafted_tokens"], 0);
}
