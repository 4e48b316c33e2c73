//! A `tokenizer.model` by itself: the vocabulary of sentencepiece's own file (`tests/data/make_spm.py`), what stands
//! beside it, and what is refused.

use bitnet_tokenizers::{
    EncodeOptions, GgufVocabulary, SentencePieceFiles, Tokenizer, TokenizerError, TokenizerOptions,
};
use serde_json::Value;

fn data(name: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/spm/");
    std::fs::read(format!("{path}{name}")).unwrap()
}

fn golden() -> Value {
    serde_json::from_slice(&data("golden.json")).unwrap()
}

fn read(files: SentencePieceFiles<'_>) -> Result<GgufVocabulary, TokenizerError> {
    GgufVocabulary::from_sentencepiece(&files)
}

fn plain(model: &[u8]) -> SentencePieceFiles<'_> {
    SentencePieceFiles {
        model,
        ..SentencePieceFiles::default()
    }
}

/// A field of a protocol buffer that holds bytes.
fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, bytes.len() as u8];
    field.extend(bytes);
    field
}

/// The file with one more section, which takes the place of what was said before it.
fn with(model: &[u8], number: u8, section: &[u8]) -> Vec<u8> {
    [model, &bytes_field(number, section)].concat()
}

#[test]
fn pieces_scores_and_types_are_those_of_sentencepiece() {
    let (model, golden) = (data("tokenizer.model"), golden());
    let vocabulary = read(plain(&model)).unwrap();
    let pieces: Vec<&str> = list(&golden["pieces"])
        .map(|v| v.as_str().unwrap())
        .collect();
    assert_eq!(vocabulary.tokens, pieces);
    let scores: Vec<f32> = list(&golden["scores"])
        .map(|v| v.as_f64().unwrap() as f32)
        .collect();
    assert_eq!(vocabulary.scores, scores);
    let types: Vec<i32> = list(&golden["types"])
        .map(|v| v.as_i64().unwrap() as i32)
        .collect();
    assert_eq!(vocabulary.token_types, types);
    let ids = ["unk", "bos", "eos"].map(|key| golden[key].as_u64().map(|id| id as u32));
    assert_eq!([vocabulary.unknown, vocabulary.bos, vocabulary.eos], ids);
    assert_eq!(
        (vocabulary.padding, vocabulary.add_space_prefix),
        (None, Some(true))
    );
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

#[test]
fn texts_have_the_ids_of_sentencepiece() {
    let (model, golden) = (data("tokenizer.model"), golden());
    let without_prefix = with(&model, 3, &[3 << 3, 0, 4 << 3, 0]);
    for (model, key) in [(&model, "ids"), (&without_prefix, "ids_no_prefix")] {
        let vocabulary = read(plain(model)).unwrap();
        let tokenizer =
            Tokenizer::from_gguf(vocabulary, &TokenizerOptions { strict: true }).unwrap();
        for case in list(&golden["cases"]) {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text, EncodeOptions::default()).unwrap();
            let expected: Vec<u32> = list(&case[key])
                .map(|id| id.as_u64().unwrap() as u32)
                .collect();
            assert_eq!(ids, expected, "{key} {text:?}");
        }
    }
}

#[test]
fn tokens_that_transformers_adds_stand_behind_the_pieces() {
    let model = data("tokenizer.model");
    let n = read(plain(&model)).unwrap().tokens.len();
    // As 1bitLLM's directories have them, with a hole before the last.
    let added = format!("{{\"<pad>\": {n}, \"</line>\": {}}}", n + 2);
    let config = format!(
        "{{\"added_tokens_decoder\": {{\"{n}\": {{\"content\": \"<pad>\", \"special\": true}}, \
         \"1\": {{\"content\": \"<s>\", \"special\": true}}}}, \"pad_token\": \"<pad>\", \
         \"bos_token\": {{\"content\": \"</line>\"}}, \"add_bos_token\": true, \"chat_template\": \"hello\"}}"
    );
    let vocabulary = read(SentencePieceFiles {
        model: &model,
        tokenizer_config: Some(config.as_bytes()),
        special_tokens_map: Some(br#"{"bos_token": "<s>", "eos_token": "</s>"}"#),
        added_tokens: Some(added.as_bytes()),
    })
    .unwrap();
    assert_eq!(vocabulary.tokens.len(), n + 3);
    assert_eq!(vocabulary.tokens[n], "<pad>");
    assert_eq!(vocabulary.tokens[n + 2], "</line>");
    assert_eq!(vocabulary.token_types[n..], [3, 5, 4]);
    assert_eq!(vocabulary.scores.len(), n + 3);
    assert_eq!(vocabulary.padding, Some(n as u32));
    assert_eq!(
        (vocabulary.bos, vocabulary.eos),
        (Some(n as u32 + 2), Some(2))
    );
    assert_eq!(vocabulary.add_bos, Some(true));
    assert_eq!(vocabulary.chat_template.as_deref(), Some("hello"));
    let tokenizer = Tokenizer::from_gguf(vocabulary, &TokenizerOptions { strict: true }).unwrap();
    let ids = tokenizer
        .encode("a</line>", EncodeOptions::default())
        .unwrap();
    assert_eq!(ids.last(), Some(&(n as u32 + 2)));
}

#[test]
fn models_that_would_give_other_ids_are_refused_by_name() {
    let model = data("tokenizer.model");
    for (section, fields, expected) in [
        (2, vec![3 << 3, 1], "SentencePiece unigram"),
        (2, vec![3 << 3, 4], "SentencePiece char"),
        (
            3,
            [
                bytes_field(1, b"nmt_nfkc"),
                bytes_field(2, &[0; 4]),
                vec![4 << 3, 0],
            ]
            .concat(),
            "nmt_nfkc",
        ),
        (3, vec![3 << 3, 1], "remove_extra_whitespaces"),
        (3, vec![4 << 3, 0, 5 << 3, 0], "not escaped"),
        // bos_id beyond the pieces.
        (
            2,
            vec![3 << 3, 2, 0xc8, 2, 0xff, 0x7f],
            "tokenizer.model: bos_id is 16383",
        ),
    ] {
        let error = read(plain(&with(&model, section, &fields)))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn damaged_files_and_neighbours_are_refused() {
    let model = data("tokenizer.model");
    for model in [
        &b""[..],
        b"version https://git-lfs.github.com/spec/v1",
        &model[..model.len() - 1],
        b"<html>",
    ] {
        assert!(read(plain(model)).is_err(), "{} bytes", model.len());
    }
    // Not UTF-8.
    let piece = bytes_field(1, &bytes_field(1, &[0xff]));
    assert!(matches!(
        read(plain(&piece)),
        Err(TokenizerError::Damaged { offset: 4, .. })
    ));
    let n = read(plain(&model)).unwrap().tokens.len();
    for (added, expected) in [
        (format!("{{\"<a>\": {}}}", u32::MAX), "4294967295"),
        (format!("{{\"<a>\": {}}}", n + 10_000), "added token"),
        ("{\"<a>\": 1}".into(), "same token id 1"),
        (format!("{{\"<a>\": {n}, \"<b>\": {n}}}"), "same token id"),
        ("[]".into(), "added_tokens.json"),
    ] {
        let files = SentencePieceFiles {
            added_tokens: Some(added.as_bytes()),
            ..plain(&model)
        };
        let error = read(files).unwrap_err().to_string();
        assert!(error.contains(expected), "{added}: {error}");
    }
    let files = SentencePieceFiles {
        special_tokens_map: Some(br#"{"eos_token": "<|nowhere|>"}"#),
        ..plain(&model)
    };
    assert!(matches!(
        read(files),
        Err(TokenizerError::UnknownToken { .. })
    ));
}
