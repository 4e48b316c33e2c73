//! A megabyte of anything is encoded in time proportional to its length, without deep recursion.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bitnet_tokenizers::{EncodeOptions, GgufVocabulary, Tokenizer, TokenizerOptions};

const MEGABYTE: usize = 1 << 20;

/// Generous for an unoptimised build on a busy machine; a quadratic step over a million of anything takes hours.
const LIMIT: Duration = Duration::from_secs(120);

static TOKENIZERS: LazyLock<Vec<(&str, Tokenizer)>> = LazyLock::new(|| {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../bitnet-models/tests/data/reference/tiny-bitnet/"
    );
    let json = std::fs::read(format!("{folder}tokenizer.json")).unwrap();
    let options = TokenizerOptions { strict: true };
    let splitting = |regex: &str| {
        let mut json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex.into();
        let json = serde_json::to_vec(&json).unwrap();
        Tokenizer::from_hf(&json, None, None, &options).unwrap()
    };
    vec![
        (
            "llama3",
            Tokenizer::from_hf(&json, None, None, &options).unwrap(),
        ),
        ("unsplit", splitting("[^a]*a?.*")),
        (
            "sentencepiece",
            Tokenizer::from_gguf(sentencepiece(), &options).unwrap(),
        ),
    ]
});

fn sentencepiece() -> GgufVocabulary {
    let mut tokens: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    tokens.extend(
        [
            "▁",
            "a",
            "b",
            "▁▁",
            "aa",
            "aaaa",
            "▁▁▁▁",
            "ab",
            "ba",
            "abab",
        ]
        .map(String::from),
    );
    let mut token_types = vec![6; 256];
    token_types.resize(tokens.len(), 1);
    GgufVocabulary {
        model: "llama".into(),
        scores: (0..tokens.len()).map(|id| -(id as f32)).collect(),
        tokens,
        token_types,
        ..GgufVocabulary::default()
    }
}

fn check(text: &str) {
    for (name, tokenizer) in &*TOKENIZERS {
        let start = Instant::now();
        let ids = tokenizer
            .encode(
                text,
                EncodeOptions {
                    add_special: false,
                    parse_special: true,
                },
            )
            .unwrap();
        let decoded = tokenizer.decode(&ids, true).unwrap();
        let taken = start.elapsed();
        assert!(decoded == text, "{name}: the text does not come back");
        assert!(taken < LIMIT, "{name}: {taken:?}");
    }
}

#[test]
fn a_megabyte_of_one_letter() {
    check(&"a".repeat(MEGABYTE));
}

#[test]
fn a_megabyte_of_spaces() {
    check(&" ".repeat(MEGABYTE));
    check(&format!("{}x", " ".repeat(MEGABYTE)));
}

#[test]
fn a_megabyte_without_spaces() {
    let text: String = (0..MEGABYTE)
        .map(|n| char::from(b'!' + (n * n % 89) as u8))
        .collect();
    check(&text);
}

#[test]
fn a_megabyte_of_newlines_and_of_almost_special_tokens() {
    check(&"\n\r".repeat(MEGABYTE / 2));
    check(&"<|reserved_special_token_".repeat(MEGABYTE / 25));
    check(&"\u{3042}".repeat(MEGABYTE / 3));
}

#[test]
fn no_text_has_fewer_ids_than_is_said_and_none_is_looked_at_for_longer_than_it_must() {
    let texts = [
        String::new(),
        "a".repeat(5000),
        " ".repeat(5000),
        "abab aa  b".repeat(500),
        "\u{212b}\u{1100}\u{1161}\u{11a8}".repeat(200),
        "<|begin_of_text|>".repeat(100),
        "\u{1d400} \u{3042}".repeat(300),
    ];
    let (mut some, mut short) = (false, false);
    for (name, tokenizer) in &*TOKENIZERS {
        for (text, parse_special) in texts.iter().flat_map(|t| [(t, false), (t, true)]) {
            let options = EncodeOptions {
                add_special: false,
                parse_special,
            };
            let ids = tokenizer.encode(text, options).unwrap();
            let fewest = tokenizer.fewest_ids(text, parse_special);
            assert!(fewest <= ids.len(), "{name}: {fewest} of {text:.20}");
            some |= fewest > 1;
            for most in [0, 1, 7, ids.len()] {
                let within = tokenizer.encode_within(text, options, most).unwrap();
                match ids.len() > most {
                    true => assert!(within.len() > most && ids.starts_with(&within), "{name}"),
                    false => assert_eq!(within, ids, "{name}"),
                }
                short |= within.len() < ids.len();
            }
        }
    }
    assert!(
        some && short,
        "something is known, and something was left out"
    );
}
