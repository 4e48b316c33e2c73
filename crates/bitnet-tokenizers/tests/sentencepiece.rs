//! GGUF `llama` vocabularies give the ids of sentencepiece (`tests/data/make_spm.py`).

use std::sync::LazyLock;

use bitnet_tokenizers::{EncodeOptions, GgufVocabulary, Tokenizer, TokenizerOptions};
use serde_json::Value;

/// The reference strings and the script's own.
const N_STRINGS: usize = 434 + 19;

static GOLDEN: LazyLock<Value> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/spm/golden.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
});

fn vocabulary(types: &str) -> GgufVocabulary {
    let list = |key: &str| GOLDEN[key].as_array().unwrap().iter();
    let id = |key: &str| Some(GOLDEN[key].as_u64().unwrap() as u32);
    GgufVocabulary {
        model: "llama".into(),
        architecture: "llama".into(),
        tokens: list("pieces")
            .map(|piece| piece.as_str().unwrap().to_owned())
            .collect(),
        scores: list("scores")
            .map(|score| score.as_f64().unwrap() as f32)
            .collect(),
        token_types: list(types)
            .map(|number| number.as_i64().unwrap() as i32)
            .collect(),
        bos: id("bos"),
        eos: id("eos"),
        unknown: id("unk"),
        ..GgufVocabulary::default()
    }
}

fn strict(vocabulary: GgufVocabulary) -> Tokenizer {
    Tokenizer::from_gguf(vocabulary, &TokenizerOptions { strict: true }).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

fn check(tokenizer: &Tokenizer, key: &str) {
    let cases = GOLDEN["cases"].as_array().unwrap();
    assert_eq!(cases.len(), N_STRINGS);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let encoded = tokenizer.encode(text, EncodeOptions::default()).unwrap();
        // SentencePiece puts its dummy prefix before no text at all; so does this crate.
        assert_eq!(encoded, ids(&case[key]), "{key}: {text:?}");
        // It cannot tell a space from U+2581.
        assert_eq!(
            tokenizer.decode(&encoded, true).unwrap(),
            text.replace('\u{2581}', " "),
            "{key}"
        );
    }
}

#[test]
fn strings_have_the_ids_of_sentencepiece() {
    check(&strict(vocabulary("types")), "ids");
}

#[test]
fn strings_have_the_ids_of_sentencepiece_without_the_dummy_prefix() {
    let vocabulary = GgufVocabulary {
        add_space_prefix: Some(false),
        ..vocabulary("types")
    };
    check(&strict(vocabulary), "ids_no_prefix");
}

#[test]
fn unused_pieces_fall_apart_as_in_sentencepiece() {
    check(&strict(vocabulary("types_unused")), "ids_unused");
}

#[test]
fn control_tokens_begin_a_text_anew() {
    let tokenizer = strict(vocabulary("types"));
    let encode = |text: &str, parse_special| {
        tokenizer
            .encode(
                text,
                EncodeOptions {
                    add_special: true,
                    parse_special,
                },
            )
            .unwrap()
    };
    let hello = encode("hello", false);
    assert_eq!(hello[0], 1);
    let mut twice = hello.clone();
    twice.push(2);
    twice.extend_from_slice(&hello[1..]);
    assert_eq!(encode("hello</s>hello", true), twice);
    assert_eq!(tokenizer.end_of_generation(), [2]);
    assert_eq!(tokenizer.decode(&hello, true).unwrap(), "hello");
    assert_eq!(tokenizer.decode(&hello, false).unwrap(), "<s>hello");
}

#[test]
fn characters_without_bytes_are_one_unknown_token_a_run() {
    let mut vocabulary = vocabulary("types");
    for id in 4..260 {
        vocabulary.token_types[id] = 5;
    }
    let tokenizer = strict(vocabulary.clone());
    let encode = |text: &str| tokenizer.encode(text, EncodeOptions::default());
    assert_eq!(
        encode("\u{3042}\u{3044}a\u{3042}").unwrap(),
        [558, 0, 562, 0]
    );

    vocabulary.unknown = None;
    let error = strict(vocabulary)
        .encode("\u{3042}", EncodeOptions::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the vocabulary has no tokens for \"\u{3042}\""
    );
}

#[test]
fn missing_token_types_are_guessed_or_refused() {
    let bare = GgufVocabulary {
        token_types: Vec::new(),
        ..vocabulary("types")
    };
    let error = Tokenizer::from_gguf(bare.clone(), &TokenizerOptions { strict: true }).unwrap_err();
    assert!(
        error.to_string().contains("token_type is missing"),
        "{error}"
    );
    let tokenizer = Tokenizer::from_gguf(bare, &TokenizerOptions::default()).unwrap();
    assert_eq!(tokenizer.repairs().len(), 1);
    let encoded = tokenizer
        .encode("caf\u{e9}", EncodeOptions::default())
        .unwrap();
    assert_eq!(tokenizer.decode(&encoded, true).unwrap(), "caf\u{e9}");
    assert!(tokenizer.is_special(1) && tokenizer.is_special(2) && !tokenizer.is_special(10));
}
