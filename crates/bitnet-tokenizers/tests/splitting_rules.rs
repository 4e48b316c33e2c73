//! The splitting rules behind the names of `tokenizer.ggml.pre`, and when BOS is added.
//!
//! A vocabulary of single bytes and every two-byte merge of one letter shows where text is cut: `aa` across a cut stays
//! two tokens.

use bitnet_tokenizers::{EncodeOptions, GgufVocabulary, Tokenizer, TokenizerOptions};

/// Tokens whose text is a whole piece under some rule.
const WORDS: [&str; 9] = ["12", "123", "1234", "Ġ1", "'S", "..", "ĠĠ", "ĊĊ", "ĠĊ"];

fn vocabulary(pre: &str) -> GgufVocabulary {
    let visible = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    let mut tokens: Vec<String> = (0..=255)
        .map(|byte| {
            let code = if visible(byte) { u32::from(byte) } else { next };
            next += u32::from(!visible(byte));
            char::from_u32(code).unwrap().to_string()
        })
        .collect();
    tokens.extend(WORDS.map(String::from));
    tokens.extend(["<s>", "</s>"].map(String::from));
    let mut token_types = vec![1; tokens.len()];
    token_types[265..].fill(3);
    let merges = [
        "1 2", "12 3", "123 4", "Ġ 1", "' S", ". .", "Ġ Ġ", "Ċ Ċ", "Ġ Ċ",
    ];
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        architecture: "llama".into(),
        tokens,
        token_types,
        merges: merges.map(String::from).to_vec(),
        bos: Some(265),
        eos: Some(266),
        ..GgufVocabulary::default()
    }
}

fn load(pre: &str) -> Tokenizer {
    Tokenizer::from_gguf(vocabulary(pre), &TokenizerOptions { strict: true }).unwrap()
}

/// The tokens of `text`, with `|` between.
fn tokens(tokenizer: &Tokenizer, text: &str) -> String {
    let ids = tokenizer.encode(text, EncodeOptions::default()).unwrap();
    let texts: Vec<_> = ids
        .iter()
        .map(|&id| tokenizer.token_text(id).unwrap())
        .collect();
    texts.join("|")
}

#[test]
fn each_name_cuts_as_its_models_do() {
    for (names, text, expected) in [
        (
            &["llama-bpe", "llama3", "falcon3", "smaug-bpe"][..],
            "1234 1",
            "123|4|Ġ|1",
        ),
        (&["qwen2"], "1234 1", "1|2|3|4|Ġ|1"),
        (&["gpt-2", "mpt", "olmo"], "1234 1", "1234|Ġ1"),
        (&["starcoder", "smollm"], "1234 1", "1|2|3|4|Ġ|1"),
        (&["default"], "1234 1", "123|4|Ġ|1"),
        // Contractions are cut off in any case by LLaMA-3 and Qwen2, in lower case only by GPT-2.
        (&["llama-bpe", "qwen2"], "x'S", "x|'S"),
        (&["gpt-2", "default"], "x'S", "x|'|S"),
        // A run of spaces leaves its last one to the word.
        (
            &["llama-bpe", "qwen2", "gpt-2", "default"],
            "a   b",
            "a|ĠĠ|Ġ|b",
        ),
        (&["llama-bpe", "qwen2", "gpt-2", "default"], "a  ", "a|ĠĠ"),
        // Line ends stay together and take the spaces before them along.
        (&["llama-bpe", "qwen2"], "a \n\nb", "a|Ġ|ĊĊ|b"),
        (&["gpt-2"], "a \n\nb", "a|ĠĊ|Ċ|b"),
        (&["default"], "a..b", "a|..|b"),
    ] {
        for name in names {
            let found = tokens(&load(name), text);
            assert_eq!(found, expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn qwen2_composes_characters_and_others_do_not() {
    assert_eq!(tokens(&load("qwen2"), "e\u{301}"), "Ã|©");
    assert_eq!(tokens(&load("llama-bpe"), "e\u{301}"), "e|Ì|ģ");
}

#[test]
fn bos_is_added_by_default_only_for_llama3() {
    for (pre, add_bos, expected) in [
        ("llama-bpe", None, true),
        ("llama-bpe", Some(false), false),
        ("falcon3", None, false),
        ("falcon3", Some(true), true),
        ("qwen2", None, false),
        ("gpt-2", Some(true), true),
    ] {
        let vocabulary = GgufVocabulary {
            add_bos,
            ..vocabulary(pre)
        };
        let tokenizer =
            Tokenizer::from_gguf(vocabulary, &TokenizerOptions { strict: true }).unwrap();
        assert_eq!(tokenizer.adds_bos(), expected, "{pre}, {add_bos:?}");
    }
    let both = GgufVocabulary {
        add_bos: Some(true),
        add_eos: Some(true),
        ..vocabulary("gpt-2")
    };
    let tokenizer = Tokenizer::from_gguf(both, &TokenizerOptions { strict: true }).unwrap();
    let options = EncodeOptions {
        add_special: true,
        parse_special: false,
    };
    assert_eq!(tokenizer.encode("a", options).unwrap(), [265, 97, 266]);
}

#[test]
fn names_that_say_nothing_are_guessed_and_listed() {
    let guess = |pre: Option<&str>, architecture: &str| {
        let vocabulary = GgufVocabulary {
            pre: pre.map(String::from),
            architecture: architecture.into(),
            ..vocabulary("")
        };
        let tokenizer = Tokenizer::from_gguf(vocabulary, &TokenizerOptions::default()).unwrap();
        (tokens(&tokenizer, "x'S"), tokenizer.repairs().len())
    };
    assert_eq!(guess(None, "bitnet-b1.58"), ("x|'S".into(), 1));
    assert_eq!(guess(Some("default"), "bitnet-25"), ("x|'S".into(), 1));
    assert_eq!(guess(None, "llama"), ("x|'|S".into(), 1));
    assert_eq!(guess(Some("default"), "llama"), ("x|'|S".into(), 0));
    assert_eq!(guess(Some("falcon_e"), "llama"), ("x|'S".into(), 1));
}
