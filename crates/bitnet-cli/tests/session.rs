//! `chat`, `bench`, `completions`, `--help`, `--version`, Ctrl-C and closed pipes.

#![allow(dead_code)] // each test file uses a part of the harness
mod bitnet;

use std::io::{BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use bitnet::{bitnet, data_arg, run, run_with_input};

#[test]
fn chat_answers_each_line_and_keeps_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("chat.json");
    let script = format!(
        "Once upon a time\n/help\nThen a girl came.\n/save {}\n/reset\n/nonsense\n",
        saved.display()
    );
    let ended = run_with_input(&["chat", "--greedy", "-n", "8"], script.as_bytes());
    assert!(ended.ok().lines().count() >= 2, "{ended:?}");
    assert!(
        ended
            .stdout
            .starts_with(" there was a boy called Ben who lived\n"),
        "{ended:?}"
    );
    for notice in [
        "no chat template",
        "/reset",
        "saved to",
        "forgotten",
        "there is no /nonsense",
    ] {
        assert!(ended.stderr.contains(notice), "{notice}: {ended:?}");
    }
    let conversation: serde_json::Value =
        serde_json::from_slice(&std::fs::read(saved).unwrap()).unwrap();
    let roles: Vec<&str> = conversation
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!(conversation[0]["content"], "Once upon a time");
    assert_eq!(
        conversation[1]["content"],
        " there was a boy called Ben who lived"
    );
}

#[test]
fn chat_uses_the_models_template_and_survives_a_full_context() {
    let model = data_arg("reference/tiny-bitnet");
    let args = ["chat", "--model", &model, "--greedy", "-n", "4"];
    let ended = run_with_input(&args, b"Hello\nAnd you?\n");
    assert!(!ended.ok().is_empty(), "{ended:?}");
    assert!(!ended.stderr.contains("no chat template"), "{ended:?}");
    let small = run_with_input(
        &[&args[..], &["--ctx", "24"]].concat(),
        b"Hello\nA much longer message than fits\n/exit\n",
    );
    small.ok();
    assert!(
        small.stderr.contains("the context holds 24") && small.stderr.contains("hint: "),
        "{small:?}"
    );
}

#[test]
fn bench_prints_the_contract() {
    let args = [
        "bench",
        "-p",
        "8,16",
        "-n",
        "4",
        "-b",
        "1,3",
        "-t",
        "1",
        "--repetitions",
        "2",
    ];
    let report = run(&[&args[..], &["--format", "json"]].concat()).json();
    assert_eq!(report["model"], "stories-5m (embedded)");
    let keys = |value: &serde_json::Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(keys(&report)), ["machine", "model", "results"]);
    assert_eq!(
        sorted(keys(&report["machine"])),
        ["cpu", "int8_gops", "read_gb_s"]
    );
    assert!(report["machine"]["read_gb_s"].as_f64().unwrap() > 0.1);
    assert!(report["machine"]["int8_gops"].as_f64().unwrap() > 0.1);
    let results = report["results"].as_array().unwrap();
    let what: Vec<(&str, u64, u64, u64)> = results
        .iter()
        .map(|r| {
            let number = |key: &str| r[key].as_u64().unwrap();
            (
                r["phase"].as_str().unwrap(),
                number("prompt"),
                number("generate"),
                number("batch"),
            )
        })
        .collect();
    assert_eq!(
        what,
        [
            ("prefill", 8, 0, 1),
            ("prefill", 16, 0, 1),
            ("decode", 1, 4, 1),
            ("decode", 1, 4, 3)
        ]
    );
    for r in results {
        assert_eq!(
            sorted(keys(r)),
            [
                "bandwidth_share",
                "batch",
                "bytes_per_token",
                "compute_share",
                "generate",
                "phase",
                "prompt",
                "threads",
                "tok_s",
                "tok_s_max",
                "tok_s_min"
            ]
        );
        let number = |key: &str| r[key].as_f64().unwrap();
        assert!(
            number("tok_s_min") <= number("tok_s") && number("tok_s") <= number("tok_s_max"),
            "{r}"
        );
        assert!(
            number("tok_s_min") > 0.0 && number("bytes_per_token") > 0.0,
            "{r}"
        );
        let share = number("tok_s") * number("bytes_per_token")
            / (report["machine"]["read_gb_s"].as_f64().unwrap() * 1e9);
        assert!((share - number("bandwidth_share")).abs() < 1e-9, "{r}");
    }
    let markdown = run(&[&args[..], &["--format", "md"]].concat());
    assert_eq!(markdown.ok().lines().count(), 2 + results.len());
}

#[test]
fn every_command_explains_itself_with_examples() {
    let commands = [
        "run",
        "chat",
        "score",
        "logits",
        "tokenize",
        "detokenize",
        "inspect",
        "compat-check",
        "bench",
        "synth",
        "completions",
    ];
    let help = run(&["--help"]).ok().to_string();
    for command in commands {
        assert!(help.contains(command), "{command}");
        let own = run(&[command, "--help"]);
        assert!(
            own.ok().contains("Examples:") && own.stdout.contains(&format!("bitnet {command}")),
            "{command}"
        );
    }
    assert!(help.contains("BITNET_GGUF") && help.contains("Exit codes"));
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(
            run(&["completions", shell]).ok().contains("compat-check"),
            "{shell}"
        );
    }
    let version = run(&["--version"]);
    assert!(
        version
            .ok()
            .starts_with(concat!("bitnet ", env!("CARGO_PKG_VERSION"), "\n")),
        "{version:?}"
    );
    assert!(
        version.stdout.contains("scalar-i2s") && version.stdout.contains("features:"),
        "{version:?}"
    );
}

fn spawn(args: &[&str]) -> Child {
    bitnet()
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_closed_pipe_ends_the_command_quietly() {
    for args in [
        &["run", "--prompt", "Once upon a time", "--ignore-eos"][..],
        &["inspect"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let mut child = spawn(args);
        let mut byte = [0];
        child.stdout.take().unwrap().read_exact(&mut byte).unwrap();
        // The reading end is closed now, as `| head -c 1` does.
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    let status = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_a_text_and_tells_what_there_is() {
    // Slow enough (one thread, the readable kernel) that the text is under way when the signal comes.
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("slow.gguf");
    let model = model.to_str().unwrap();
    run(&[
        "synth", "--shape", "125m", "--layers", "4", "--vocab", "2000", model,
    ])
    .ok();
    let args = [
        "run",
        "--model",
        model,
        "--prompt",
        "x",
        "--ignore-eos",
        "-n",
        "100000",
        "--ctx",
        "2048",
        "--kernel",
        "scalar-i2s",
        "--metrics",
    ];
    let mut child = spawn(&args);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = [0; 4];
    stdout.read_exact(&mut first).unwrap();
    interrupt(&child);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.last(), Some(&b'\n'));
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(
        stderr.contains("end: interrupted") && stderr.contains("decode"),
        "{stderr}"
    );
    assert!(
        stderr
            .lines()
            .last()
            .unwrap()
            .starts_with("error: interrupted: the text ends after"),
        "{stderr}"
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_no_half_written_model() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.gguf");
    let child = spawn(&["synth", "--shape", "2b-4t", out.to_str().unwrap()]);
    // The temporary file appears when writing begins.
    while std::fs::read_dir(dir.path()).unwrap().count() == 0 {
        std::thread::yield_now();
    }
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "the partial file is removed"
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_in_chat_stops_the_answer_only() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("slow.gguf");
    let model = model.to_str().unwrap();
    run(&[
        "synth", "--shape", "125m", "--layers", "4", "--vocab", "2000", model,
    ])
    .ok();
    let args = [
        "chat",
        "--model",
        model,
        "--ignore-eos",
        "-n",
        "1000",
        "--ctx",
        "2048",
        "--kernel",
        "scalar-i2s",
    ];
    let mut child = bitnet()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = [0; 4];
    stdout.read_exact(&mut first).unwrap();
    interrupt(&child);
    stdin.write_all(b"/exit\n").unwrap();
    drop(stdin);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("(stopped)"), "{stderr}");
}
