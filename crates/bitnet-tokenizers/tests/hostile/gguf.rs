//! GGUF metadata.

use bitnet_tokenizers::{EncodeOptions, GgufVocabulary, Tokenizer, TokenizerOptions};
use proptest::prelude::*;

fn texts(tokens: &[&str]) -> Vec<String> {
    tokens.iter().map(|&token| token.to_owned()).collect()
}

fn byte_level() -> GgufVocabulary {
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        architecture: "llama".into(),
        tokens: texts(&["a", "b", "c", "Ġ", "ab", "abc", "<s>", "</s>", "<u>"]),
        token_types: vec![1, 1, 1, 1, 1, 1, 3, 3, 4],
        merges: texts(&["a b", "ab c"]),
        bos: Some(6),
        eos: Some(7),
        ..GgufVocabulary::default()
    }
}

fn sentencepiece() -> GgufVocabulary {
    GgufVocabulary {
        model: "llama".into(),
        tokens: texts(&["<unk>", "<s>", "</s>", "<0x00>", "a", "b", "ab"]),
        scores: vec![0.0, 0.0, 0.0, 0.0, -3.0, -2.0, -1.0],
        token_types: vec![2, 3, 3, 6, 1, 1, 1],
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        ..GgufVocabulary::default()
    }
}

fn load(vocabulary: GgufVocabulary) -> Result<Tokenizer, String> {
    Tokenizer::from_gguf(vocabulary, &TokenizerOptions { strict: true })
        .map_err(|error| error.to_string())
}

#[test]
fn the_vocabularies_that_the_cases_break_are_sound() {
    let ids = |vocabulary, text| {
        let options = EncodeOptions {
            add_special: true,
            parse_special: true,
        };
        load(vocabulary).unwrap().encode(text, options).unwrap()
    };
    assert_eq!(ids(byte_level(), "abc<u></s>"), [5, 8, 7]);
    assert_eq!(ids(sentencepiece(), "ab</s>"), [1, 0, 6, 2]);
}

#[test]
fn inconsistent_vocabularies_are_refused_with_the_field_at_fault() {
    type Break = fn(&mut GgufVocabulary);
    let byte_level_cases: &[(Break, &str)] = &[
        (
            |v| v.model = "bert".into(),
            "tokenizer model `bert` is not supported (supported: gpt2, llama)",
        ),
        (
            |v| v.model.clear(),
            "tokenizer model `` is not supported (supported: gpt2, llama)",
        ),
        (
            |v| v.tokens.clear(),
            "tokenizer.ggml.tokens is missing or empty",
        ),
        (
            |v| v.pre = Some("deepseek-v9".into()),
            "tokenizer.ggml.pre `deepseek-v9` is unknown (known: ",
        ),
        (
            |v| v.pre = None,
            "strict mode refuses to guess: split text by llama.cpp's `default` rule",
        ),
        (
            |v| v.pre = Some("falcon_e".into()),
            "strict mode refuses to guess: split text as Falcon3",
        ),
        (
            |v| v.token_types.truncate(3),
            "tokenizer.ggml.token_type has 3 entries but there are 9 tokens",
        ),
        (
            |v| v.token_types.push(1),
            "tokenizer.ggml.token_type has 10 entries but there are 9 tokens",
        ),
        (
            |v| v.token_types[2] = 7,
            "tokenizer.ggml.token_type[2] is 7; expected 1 to 6",
        ),
        (
            |v| v.token_types[2] = i32::MIN,
            "tokenizer.ggml.token_type[2] is -2147483648; expected 1 to 6",
        ),
        (
            |v| v.scores = vec![0.0; 2],
            "tokenizer.ggml.scores has 2 entries but there are 9 tokens",
        ),
        (
            |v| v.tokens[4] = "b".into(),
            "tokens 1 and 4 have the same text \"b\"",
        ),
        (
            |v| v.tokens[7] = "<s>".into(),
            "tokens 6 and 7 have the same text \"<s>\"",
        ),
        (
            |v| v.tokens[2] = "x".repeat(70_000),
            "token 2 is 70000 bytes long, more than the limit of 65535",
        ),
        (
            |v| v.tokens[8] = "x".repeat(5000),
            "token 8 is 5000 bytes long, more than the limit of 4096",
        ),
        (
            |v| v.bos = Some(9),
            "tokenizer.ggml.bos_token_id is 9, but the vocabulary has only 9 tokens",
        ),
        (
            |v| v.eos = Some(u32::MAX),
            "tokenizer.ggml.eos_token_id is 4294967295, but the vocabulary has only 9 tokens",
        ),
        (|v| v.eot = Some(9), "tokenizer.ggml.eot_token_id is 9, "),
        (|v| v.eom = Some(9), "tokenizer.ggml.eom_token_id is 9, "),
        (
            |v| v.unknown = Some(9),
            "tokenizer.ggml.unknown_token_id is 9, ",
        ),
        (
            |v| v.padding = Some(9),
            "tokenizer.ggml.padding_token_id is 9, ",
        ),
        (
            |v| (v.bos, v.add_bos) = (None, Some(true)),
            "tokenizer.ggml.bos_token_id is missing or empty",
        ),
        (
            |v| (v.eos, v.add_eos) = (None, Some(true)),
            "tokenizer.ggml.eos_token_id is missing or empty",
        ),
        (
            |v| v.merges.push("x y".into()),
            "merge 2 (\"x y\") starts with a text that is no token",
        ),
        (
            |v| v.merges.push("a y".into()),
            "merge 2 (\"a y\") ends with a text that is no token",
        ),
        (
            |v| v.merges.push("c a".into()),
            "merge 2 (\"c a\") makes a text that is no token",
        ),
        (
            |v| v.merges.push("abc abc".into()),
            "merge 2 (\"abc abc\") makes a text that is no token",
        ),
        (
            |v| v.merges.push("<s> a".into()),
            "merge 2 (\"<s> a\") starts with a text that is no token",
        ),
        (
            |v| v.merges.push("a b".into()),
            "merge 2 (\"a b\") occurs a second time",
        ),
        (
            |v| v.merges.push("ab".into()),
            "merge 2 (\"ab\") is not two texts with a space between",
        ),
        (
            |v| v.merges.push("a b c".into()),
            "merge 2 (\"a b c\") is not two texts with a space between",
        ),
        (
            |v| v.merges.push(" a".into()),
            "merge 2 (\" a\") starts with a text that is no token",
        ),
        (
            |v| v.merges[0].clear(),
            "merge 0 (\"\") is not two texts with a space between",
        ),
        (
            |v| v.token_types.clear(),
            "strict mode refuses to guess: tell special tokens by the declared ids",
        ),
        (
            |v| v.chat_template = Some("BITNETAssistant: ".into()),
            "strict mode refuses to guess: use the documented chat format",
        ),
        (
            |v| (v.pre, v.architecture) = (None, "bitnet-b1.58".into()),
            "strict mode refuses to guess: split text as LLaMA-3 (`llama-bpe`) (tokenizer.ggml.pre is missing;",
        ),
        (
            |v| (v.pre, v.architecture) = (Some("default".into()), "bitnet-25".into()),
            "strict mode refuses to guess: split text as LLaMA-3 (`llama-bpe`) (tokenizer.ggml.pre is `default`;",
        ),
    ];
    let sentencepiece_cases: &[(Break, &str)] = &[
        (
            |v| v.scores.clear(),
            "tokenizer.ggml.scores is missing or empty",
        ),
        (
            |v| v.scores[4] = f32::NAN,
            "tokenizer.ggml.scores[4] is NaN; expected a finite number",
        ),
        (
            |v| v.scores[5] = f32::INFINITY,
            "tokenizer.ggml.scores[5] is inf; expected a finite number",
        ),
        (
            |v| v.tokens[3] = "<0x-1>".into(),
            "token 3 is marked as a byte but its text is \"<0x-1>\"",
        ),
        (
            |v| v.tokens[3] = "<0x100>".into(),
            "token 3 is marked as a byte but its text is \"<0x100>\"",
        ),
        (
            |v| v.tokens[3].clear(),
            "token 3 is marked as a byte but its text is \"\"",
        ),
        (
            |v| v.token_types[4] = 6,
            "token 4 is marked as a byte but its text is \"a\"",
        ),
    ];
    for (vocabulary, cases) in [
        (byte_level as fn() -> GgufVocabulary, byte_level_cases),
        (sentencepiece, sentencepiece_cases),
    ] {
        for (n, (damage, expected)) in cases.iter().enumerate() {
            let mut vocabulary = vocabulary();
            damage(&mut vocabulary);
            let error = load(vocabulary).expect_err(expected);
            assert!(
                error.starts_with(expected),
                "case {n}: expected {expected:?}, found {error:?}"
            );
        }
    }
}

#[test]
fn text_without_tokens_is_an_error_and_not_lost() {
    let tokenizer = load(byte_level()).unwrap();
    let error = tokenizer
        .encode("abd", EncodeOptions::default())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the vocabulary has no tokens for \"abd\""
    );
}

#[test]
fn empty_tokens_are_ids_without_text() {
    let mut vocabulary = byte_level();
    vocabulary.tokens[2].clear();
    vocabulary.tokens[8].clear();
    vocabulary.merges.clear();
    let tokenizer = load(vocabulary).unwrap();
    assert_eq!(tokenizer.decode(&[0, 2, 8, 1], true).unwrap(), "ab");
}

proptest! {
    /// Whatever the metadata, loading and using it ends in a value or an error.
    #[test]
    fn random_vocabularies_never_panic(
        gpt2: bool,
        pre in prop_oneof![Just(None), "llama-bpe|gpt-2|default|qwen2|starcoder|x".prop_map(Some)],
        tokens in prop::collection::vec("[ab▁Ġ<>]{0,3}|<0x[0-9A-F]{2}>", 0..12),
        scores in prop::collection::vec(-2.0f32..2.0, 0..12),
        token_types in prop::collection::vec(1i32..7, 0..12),
        merges in prop::collection::vec("[abĠ<]{1,2} [ab>]{1,2}", 0..3),
        special in prop::collection::vec(prop::option::of(0u32..14), 5),
        space_prefix: Option<bool>,
        text in "[ab \u{e9}<>\n]{0,12}",
    ) {
        let same_length = |mut list: Vec<_>, value| { list.resize(tokens.len(), value); list };
        let vocabulary = GgufVocabulary {
            model: if gpt2 { "gpt2" } else { "llama" }.into(),
            pre,
            scores: if gpt2 { scores } else { let mut s = scores; s.resize(tokens.len(), 0.0); s },
            token_types: if token_types.len() % 2 == 0 { token_types } else { same_length(token_types, 1) },
            merges,
            bos: special[0],
            eos: special[1],
            unknown: special[2],
            eot: special[3],
            padding: special[4],
            add_bos: space_prefix,
            add_space_prefix: space_prefix,
            tokens,
            ..GgufVocabulary::default()
        };
        if let Ok(tokenizer) = Tokenizer::from_gguf(vocabulary, &TokenizerOptions::default()) {
            if let Ok(ids) = tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: true }) {
                prop_assert!(tokenizer.decode(&ids, true).is_ok());
            }
            for id in 0..14 {
                let _ = tokenizer.decode_bytes(&[id]);
            }
        }
    }
}
