//! `tokenize` and `detokenize`: ids of the reference, round trips, special tokens.

use crate::bitnet::{data, data_arg, run, run_with_input, stories};
use serde_json::{Value, json};

#[test]
fn ids_equal_the_golden_ones() {
    for story in stories().as_array().unwrap() {
        let result = run(&[
            "tokenize",
            "--bos",
            "--format",
            "json",
            story["prompt"].as_str().unwrap(),
        ])
        .json();
        assert_eq!(result["ids"], story["ids"]);
        assert_eq!(
            result["pieces"].as_array().unwrap().len(),
            story["ids"].as_array().unwrap().len()
        );
    }
    assert_eq!(
        run(&["tokenize", "Once upon a time"]).ok(),
        "448 670 259 534\n"
    );
    assert_eq!(run(&["tokenize", ""]).ok(), "\n");
}

#[test]
fn jsonl_round_trips_every_reference_string() {
    let strings: Value =
        serde_json::from_slice(&std::fs::read(data("reference/texts/strings.json")).unwrap())
            .unwrap();
    let strings: Vec<&str> = strings["encode"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(strings.len() > 100, "{}", strings.len());
    let lines: String = strings
        .iter()
        .map(|s| json!(s).to_string() + "\n")
        .collect();
    let tokenizer = data_arg("reference/tiny-bitnet/tokenizer.json");
    let ids = run_with_input(
        &["tokenize", "--jsonl", "--tokenizer", &tokenizer],
        lines.as_bytes(),
    );
    assert_eq!(ids.ok().lines().count(), strings.len());
    let back = run_with_input(
        &[
            "detokenize",
            "--jsonl",
            "--special",
            "--tokenizer",
            &tokenizer,
        ],
        ids.stdout.as_bytes(),
    );
    let back: Vec<String> = back
        .ok()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(back, strings);
}

#[test]
fn special_tokens_are_text_unless_asked_for() {
    let ids = |extra: &[&str]| {
        run(&[
            &["tokenize", "<|endoftext|>", "--format", "json"][..],
            extra,
        ]
        .concat())
        .json()["ids"]
            .clone()
    };
    assert_eq!(ids(&["--special"]), json!([0]));
    let as_text = ids(&[]);
    assert!(as_text.as_array().unwrap().len() > 3, "{as_text}");
    assert_eq!(run(&["detokenize", "0 448"]).ok(), "Once\n");
    assert_eq!(
        run(&["detokenize", "--special", "0 448"]).ok(),
        "<|endoftext|>Once\n"
    );
    let text = as_text.to_string();
    assert_eq!(run(&["detokenize", &text]).ok(), "<|endoftext|>\n");
}

#[test]
fn a_gguf_a_folder_and_a_json_file_name_the_same_tokenizer() {
    let text = "There was a boy, and it's 1234!";
    let ids = |option: &str, path: &str| run(&["tokenize", option, path, text]).ok().to_string();
    let from_gguf = ids(
        "--model",
        concat!(env!("CARGO_MANIFEST_DIR"), "/assets/stories-5m.I2_S.gguf"),
    );
    for path in ["stories-5m/tokenizer.json", "stories-5m"] {
        assert_eq!(ids("--tokenizer", &data_arg(path)), from_gguf, "{path}");
    }
    assert_eq!(
        run(&["tokenize", text]).ok(),
        from_gguf,
        "the embedded model is the same"
    );
}

#[test]
fn pieces_show_each_tokens_text() {
    let table = run(&["tokenize", "--pieces", "Once upon"]).ok().to_string();
    assert!(
        table.contains("448  \"Once\"") && table.contains("670  \" upon\""),
        "{table}"
    );
}

#[test]
fn control_characters_are_stripped_from_text_and_escaped_in_json() {
    let ids = run(&["tokenize", "a\x1b[31mb"]).ok().to_string();
    assert_eq!(run(&["detokenize", &ids]).ok(), "ab\n");
    assert_eq!(run(&["detokenize", "--raw", &ids]).ok(), "a\x1b[31mb\n");
    assert_eq!(
        run(&["detokenize", "--format", "json", &ids]).ok(),
        "\"a\\u001b[31mb\"\n"
    );
}

#[test]
fn an_id_outside_the_vocabulary_is_a_usage_error() {
    let hint = "1024 tokens: give ids from 0 to 1023";
    run(&["detokenize", "448 999999"]).fails(2, "token id 999999", hint);
    run(&["detokenize", "1024"]).fails(2, "token id 1024", hint);
    run_with_input(&["detokenize", "--jsonl"], b"[1024]\n").fails(2, "token id 1024", hint);
    run(&["detokenize", "1023"]).ok();
}
