//! Hugging Face files.

use bitnet_tokenizers::{EncodeOptions, Tokenizer, TokenizerOptions};
use proptest::prelude::*;
use serde_json::{Value, json};

fn sound() -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [
            {"id": 5, "content": "<s>", "special": true, "normalized": false},
            {"id": 7, "content": "<u>", "special": false, "normalized": true},
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4},
            "merges": ["a b", ["ab", "c"]],
        },
    })
}

fn load(json: &Value, config: Option<&Value>) -> Result<Tokenizer, String> {
    let bytes = |value: &Value| serde_json::to_vec(value).unwrap();
    let config = config.map(bytes);
    Tokenizer::from_hf(
        &bytes(json),
        config.as_deref(),
        None,
        &TokenizerOptions { strict: true },
    )
    .map_err(|error| error.to_string())
}

#[test]
fn the_file_that_the_cases_break_is_sound() {
    let tokenizer = load(&sound(), None).unwrap();
    let options = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    assert_eq!(tokenizer.encode("abc<u><s>", options).unwrap(), [4, 7, 5]);
    assert_eq!(tokenizer.vocab_size(), 8);
    assert_eq!(tokenizer.decode(&[4, 6, 5], false).unwrap(), "abc<s>");
    assert_eq!(tokenizer.decode(&[4, 6, 5], true).unwrap(), "abc");
}

#[test]
fn malformed_files_are_refused_with_the_place_at_fault() {
    let split = |pattern: Value| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
        ]})
    };
    let template = |single: Value, tokens: Value| json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let bos = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    let cases = [
        (
            "/model",
            json!(3),
            "tokenizer.json is not valid: invalid type: integer `3`",
        ),
        (
            "/model/type",
            json!("Unigram"),
            "tokenizer model `Unigram` is not supported (supported: BPE)",
        ),
        (
            "/model/vocab",
            json!([["a", -1.0]]),
            "tokenizer.json is not valid: invalid type: sequence, expected an object",
        ),
        (
            "/model/vocab",
            json!({}),
            "tokenizer.json: model.vocab is missing or empty",
        ),
        (
            "/model/vocab/a",
            json!(-1),
            "tokenizer.json is not valid: invalid value: integer `-1`",
        ),
        (
            "/model/vocab/a",
            json!(1u64 << 32),
            "tokenizer.json is not valid: invalid value: integer `4294967296`",
        ),
        (
            "/model/vocab/a",
            json!(4_000_000),
            "tokenizer.json: a token id is 4000000, but the vocabulary has only 7 tokens",
        ),
        (
            "/model/vocab/a",
            json!(1),
            "\"a\" and \"b\" have the same token id 1",
        ),
        (
            "/model/merges/0",
            json!("ab"),
            "tokenizer.json is not valid: invalid value: string \"ab\", expected a merge",
        ),
        (
            "/model/merges/0",
            json!(["a"]),
            "tokenizer.json is not valid: invalid length 1, expected a merge",
        ),
        (
            "/model/merges/0",
            json!(["a", "b", "c"]),
            "tokenizer.json is not valid: invalid length 3, expected a merge",
        ),
        (
            "/model/merges/0",
            json!(["c", "c"]),
            "merge 0 (\"c c\") makes a text that is no token",
        ),
        (
            "/model/merges/1",
            json!(["abc", "abc"]),
            "merge 1 (\"abc abc\") makes a text that is no token",
        ),
        (
            "/model/merges/1",
            json!("x y"),
            "merge 1 (\"x y\") starts with a text that is no token",
        ),
        (
            "/model/merges/1",
            json!("a b"),
            "merge 1 (\"a b\") occurs a second time",
        ),
        (
            "/model/unk_token",
            json!("<unk>"),
            "model.unk_token names the token \"<unk>\", which the vocabulary lacks",
        ),
        (
            "/model/dropout",
            json!(0.1),
            "tokenizer.json: model.dropout `0.1` is not supported",
        ),
        (
            "/model/continuing_subword_prefix",
            json!("##"),
            "tokenizer.json: model.continuing_subword_prefix `##` is not",
        ),
        (
            "/model/end_of_word_suffix",
            json!("</w>"),
            "tokenizer.json: model.end_of_word_suffix `</w>` is not supported",
        ),
        (
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "tokenizer.json: normalizer `Precompiled` is not supported",
        ),
        (
            "/normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "a"}, "content": ""}),
            "tokenizer.json: normalizer Replace",
        ),
        (
            "/normalizer",
            json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
            "tokenizer.json: normalizer Replace",
        ),
        (
            "/pre_tokenizer",
            json!({"type": "BertPreTokenizer"}),
            "tokenizer.json: pre_tokenizer `BertPreTokenizer` is not supported",
        ),
        (
            "/pre_tokenizer",
            json!(null),
            "tokenizer.json: pre_tokenizer `none that is ByteLevel",
        ),
        (
            "/pre_tokenizer",
            split(json!({"Regex": "("})),
            "cannot compile the splitting pattern \"(\"",
        ),
        (
            "/pre_tokenizer",
            split(json!({"Glob": "*"})),
            "tokenizer.json is not valid: unknown variant `Glob`",
        ),
        (
            "/decoder",
            json!(null),
            "tokenizer.json: decoder `none that is ByteLevel",
        ),
        (
            "/decoder",
            json!({"type": "WordPiece"}),
            "tokenizer.json: decoder `none that is ByteLevel",
        ),
        (
            "/post_processor",
            json!({"type": "BertProcessing"}),
            "tokenizer.json: post_processor `BertProcessing` is not supported",
        ),
        (
            "/post_processor",
            template(json!([bos, text]), json!({})),
            "tokenizer.json: post_processor.special_tokens names the token \"<s>\", which the vocabulary lacks",
        ),
        (
            "/post_processor",
            template(
                json!([bos, text]),
                json!({"<s>": {"id": "<s>", "ids": [8], "tokens": ["<s>"]}}),
            ),
            "tokenizer.json: post_processor.special_tokens is 8, but the vocabulary has only 8 tokens",
        ),
        (
            "/post_processor",
            template(
                json!([bos]),
                json!({"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}}),
            ),
            "tokenizer.json: post_processor.single `a template without the text`",
        ),
        (
            "/added_tokens/0/id",
            json!(0),
            "\"a\" and \"<s>\" have the same token id 0",
        ),
        (
            "/added_tokens/0/id",
            json!(7),
            "\"<s>\" and \"<u>\" have the same token id 7",
        ),
        (
            "/added_tokens/0/id",
            json!(u32::MAX),
            "tokenizer.json: a token id is 4294967295, but",
        ),
        (
            "/added_tokens/0/content",
            json!("a"),
            "tokens 0 and 5 have the same text \"a\"",
        ),
        (
            "/added_tokens/0/content",
            json!("<u>"),
            "tokens 5 and 7 have the same text \"<u>\"",
        ),
        (
            "/added_tokens/0/content",
            json!("x".repeat(5000)),
            "token 5 is 5000 bytes long, more than the limit of 4096",
        ),
    ];
    for (place, value, expected) in cases {
        let mut json = sound();
        let (parent, key) = place.rsplit_once('/').unwrap();
        match json.pointer_mut(parent).unwrap() {
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
            object => object[key] = value,
        }
        let error = load(&json, None).expect_err(expected);
        assert!(
            error.starts_with(expected),
            "{place}: expected {expected:?}, found {error:?}"
        );
    }
}

#[test]
fn normalizers_that_multiply_the_text_are_stopped() {
    let mut json = sound();
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(50)});
    json["normalizer"] = json!({"type": "Sequence", "normalizers": vec![replace; 12]});
    let bytes = serde_json::to_vec(&json).unwrap();
    let tokenizer = Tokenizer::from_hf(&bytes, None, None, &TokenizerOptions::default()).unwrap();
    let error = tokenizer.encode("a", EncodeOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "bytes of the normalised text has 125000 entries, more than the limit of 65600"
    );
}

#[test]
fn text_that_is_no_json_is_refused_with_line_and_column() {
    let parse = |json: &[u8], config: Option<&[u8]>| {
        let options = TokenizerOptions::default();
        Tokenizer::from_hf(json, config, None, &options)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        parse(b"", None),
        "tokenizer.json is not valid: EOF while parsing a value at line 1 column 0"
    );
    assert!(parse(b"{\"model\": {", None).starts_with("tokenizer.json is not valid: EOF"));
    assert!(parse(b"{\"model\": \xff}", None).contains("line 1 column"));
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    assert!(parse(&deep, None).starts_with("tokenizer.json is not valid: "));
    let mut nested =
        String::from("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}},\"normalizer\":");
    nested.push_str(&"{\"type\":\"Sequence\",\"normalizers\":[".repeat(10_000));
    assert!(parse(nested.as_bytes(), None).contains("recursion limit exceeded"));
    let sound = serde_json::to_vec(&sound()).unwrap();
    assert!(parse(&sound, Some(b"{")).starts_with("tokenizer_config.json is not valid: "));
}

#[test]
fn configured_tokens_must_exist() {
    for (config, expected) in [
        (
            json!({"bos_token": "<x>"}),
            "tokenizer_config.json: bos_token names the token \"<x>\", which the vocabulary lacks",
        ),
        (
            json!({"eos_token": {"content": "<x>"}}),
            "tokenizer_config.json: eos_token names the token \"<x>\"",
        ),
        (
            json!({"add_bos_token": true}),
            "tokenizer_config.json: bos_token is missing or empty",
        ),
        (
            json!({"bos_token": 5}),
            "tokenizer_config.json is not valid: ",
        ),
        (
            json!({"chat_template": "BITNETAssistant"}),
            "strict mode refuses to guess: use the documented chat format",
        ),
    ] {
        let error = load(&sound(), Some(&config)).expect_err(expected);
        assert!(
            error.starts_with(expected),
            "expected {expected:?}, found {error:?}"
        );
    }
}

proptest! {
    /// Any small damage to the file ends in a tokenizer that works or in an error.
    #[test]
    fn damaged_files_never_panic(at in 0..2000usize, byte: u8, cut: bool) {
        let mut bytes = serde_json::to_vec(&sound()).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        if let Ok(tokenizer) = Tokenizer::from_hf(&bytes, None, None, &TokenizerOptions::default()) {
            let options = EncodeOptions { add_special: true, parse_special: true };
            let _ = tokenizer.encode("abc <s>\u{e9}", options);
            for id in 0..9 {
                let _ = tokenizer.decode(&[id], false);
            }
        }
    }
}
