//! Every bad input: one clear line, one hint, the documented exit code.

use std::path::PathBuf;

use crate::bitnet::{Ended, bitnet, data, end, run, run_with_input};

fn run_model(path: &std::path::Path) -> Ended {
    run(&["run", "--prompt", "hi", "--model", path.to_str().unwrap()])
}

/// A folder with one bad file in it.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn embedded() -> Vec<u8> {
    std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/assets/stories-5m.I2_S.gguf"
    ))
    .unwrap()
}

#[test]
fn a_missing_file() {
    run_model(&data("no-such-model.gguf")).fails(1, "no-such-model.gguf", "check the path");
}

#[test]
fn a_directory_that_is_no_model() {
    let dir = tempfile::tempdir().unwrap();
    run_model(dir.path()).fails(3, "config.json", "config.json");
}

#[test]
fn a_truncated_download() {
    let bytes = embedded();
    for (kept, what) in [
        (bytes.len() / 2, "in the data"),
        (5000, "in the header"),
        (20, "in the first fields"),
    ] {
        let (_dir, path) = file("half.gguf", &bytes[..kept]);
        let ended = run_model(&path);
        assert_eq!(ended.code, Some(3), "{what}: {ended:?}");
        ended.fails(3, "half.gguf", "again");
    }
}

#[test]
fn an_empty_file_and_a_text_file() {
    let (_dir, path) = file("empty.gguf", b"");
    run_model(&path).fails(3, "not a model file", "fetch the file again");
    let (_dir, path) = file("notes.txt", b"Dear diary, today I downloaded a model.\n");
    run_model(&path).fails(3, "not a model file", "name the .gguf file");
    let (_dir, path) = file(
        "page.gguf",
        b"<!DOCTYPE html><html><body>Sign in</body></html>",
    );
    run_model(&path).fails(3, "not a model file", "download link");
}

#[test]
fn an_unsupported_architecture() {
    let mut bytes = embedded();
    let name = b"bitnet-b1.58";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
    bytes[at..at + name.len()].copy_from_slice(b"mamba-2-big!");
    let (_dir, path) = file("mamba.gguf", &bytes);
    run_model(&path).fails(3, "mamba-2-big!", "architectures");
}

#[test]
fn a_prompt_longer_than_the_context() {
    let long = "Once upon a time there was a fox. ".repeat(100);
    run(&["run", "--prompt", &long]).fails(2, "the context holds 256", "shorten the prompt");
    run(&[
        "run",
        "--prompt",
        "Once upon a time there was",
        "--ctx",
        "3",
    ])
    .fails(2, "the context holds 3", "context");
    run(&["run", "--prompt", "hi", "--ctx", "100000"]).fails(2, "1 to 256", "");
}

#[test]
fn text_that_is_not_utf8() {
    let (_dir, path) = file("latin1.txt", b"caf\xe9 au lait");
    run(&["run", "--file", path.to_str().unwrap()]).fails(2, "byte 0xe9 at offset 3", "iconv");
    run_with_input(&["run"], b"ok\xff").fails(
        2,
        "standard input is not valid UTF-8: byte 0xff at offset 2",
        "iconv",
    );
    run_with_input(&["tokenize"], b"\x80").fails(2, "byte 0x80 at offset 0", "iconv");
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let argument = std::ffi::OsStr::from_bytes(b"ab\xffcd");
    end(bitnet().arg("run").arg("--prompt").arg(argument)).fails(
        2,
        "byte 0xff at offset 2",
        "iconv",
    );
}

#[test]
fn a_prompt_of_length_zero() {
    run(&["run", "--prompt", ""]).fails(2, "the prompt is empty", "at least one character");
    run_with_input(&["run"], b"").fails(2, "the prompt is empty", "at least one character");
}

#[test]
fn options_of_later_versions_and_invalid_values() {
    let cases: [(&[&str], &str); 9] = [
        (
            &["run", "--device", "gpu"],
            "this version runs on the CPU only",
        ),
        (
            &["run", "--device", "cuda:0"],
            "this version runs on the CPU only",
        ),
        (&["run", "--kv-type", "q8_0"], "expected f32, f16 or i8"),
        (
            &["run", "--speculate", "16"],
            "expected a number of tokens, at most 15",
        ),
        (
            &["run", "--threads", "0"],
            "expected a number from 1 to 1024",
        ),
        (
            &["run", "--temperature", "-1"],
            "expected a number, 0 or more",
        ),
        (&["run", "--top-p", "2"], "expected a number from 0 to 1"),
        (
            &["run", "--dialect", "i2s-99"],
            "expected i2s-128, i2s-64, i2s-4row, tl1",
        ),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
    ];
    for (args, message) in cases {
        run(args).fails(2, message, "");
    }
}

#[test]
fn models_that_would_have_to_be_downloaded() {
    let cache = tempfile::tempdir().unwrap();
    let ended = end(bitnet().env("HF_HUB_CACHE", cache.path()).args([
        "run",
        "--prompt",
        "hi",
        "--model",
        "hf:microsoft/bitnet-b1.58-2B-4T-gguf",
    ]));
    ended.fails(
        1,
        "is not in the cache",
        "`bitnet pull microsoft/bitnet-b1.58-2B-4T-gguf` downloads it",
    );
}

#[test]
fn an_unknown_kernel() {
    let ended = run(&["run", "--prompt", "hi", "--kernel", "vax-i2s-mmx"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.stderr.contains("vax-i2s-mmx") && ended.stderr.contains("scalar-i2s"),
        "{ended:?}"
    );
}

#[test]
fn token_ids_that_are_none() {
    run_with_input(&["detokenize"], b"1 two 3").fails(
        2,
        "item 2 of standard input is 'two'",
        "ids are numbers",
    );
    run_with_input(&["detokenize", "--jsonl"], b"[1]\n{}\n").fails(
        2,
        "line 2 of standard input",
        "JSON array",
    );
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.safetensors");
    let args = ["logits", "--tokens", "-", "--out", out.to_str().unwrap()];
    run_with_input(&args, b"1 99999").fails(2, "99999", "this model's tokenizer");
    run_with_input(&args, b"").fails(2, "holds no token ids", "at least one id");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is written on failure"
    );
}

#[test]
fn a_text_too_short_to_score() {
    run_with_input(&["score"], b"Once upon a time.").fails(
        2,
        "needs at least 512 tokens",
        "longer text",
    );
}

#[test]
fn hostile_names_in_files_cannot_reach_the_terminal() {
    let mut bytes = embedded();
    let name = b"bitnet-b1.58";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
    bytes[at..at + name.len()].copy_from_slice(b"\x1b]0;owned\x07\n!");
    let (_dir, path) = file("hostile.gguf", &bytes);
    for args in [
        &["run", "--prompt", "hi", "--model"][..],
        &["inspect"],
        &["compat-check"],
    ] {
        let ended = run(&[args, &[path.to_str().unwrap()]].concat());
        assert_eq!(ended.code, Some(3), "{args:?}: {ended:?}");
        assert!(
            !ended.stderr.contains('\x1b') && !ended.stdout.contains('\x1b'),
            "{args:?}: {ended:?}"
        );
    }
}
