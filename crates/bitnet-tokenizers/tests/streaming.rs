//! What a decode stream yields is the text of the whole, in whole characters, as early as possible.

use std::sync::LazyLock;

use bitnet_tokenizers::{DecodeState, GgufVocabulary, Tokenizer, TokenizerOptions};
use proptest::prelude::*;

/// Every byte is a token (ids 0 to 255 in both vocabularies), besides whole pieces and specials.
static BYTE_LEVEL: LazyLock<Tokenizer> = LazyLock::new(|| {
    let visible = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    let mut tokens: Vec<String> = (0..=255)
        .map(|byte| {
            let code = if visible(byte) { u32::from(byte) } else { next };
            next += u32::from(!visible(byte));
            char::from_u32(code).unwrap().to_string()
        })
        .collect();
    let mut token_types = vec![1; 256];
    tokens.extend(["<s>", "</s>", "Ġthe", "ä½łå¥½", "ðŁĺ", "<u>\u{e9}"].map(String::from));
    token_types.extend([3, 3, 1, 1, 1, 4]);
    build(GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens,
        token_types,
        ..Default::default()
    })
});

static SENTENCEPIECE: LazyLock<Tokenizer> = LazyLock::new(|| {
    let mut tokens: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut token_types = vec![6; 256];
    tokens.extend(["<s>", "</s>", "▁the", "\u{4f60}\u{597d}", "▁", "<u>\u{e9}"].map(String::from));
    token_types.extend([3, 3, 1, 1, 1, 4]);
    let scores = vec![0.0; tokens.len()];
    build(GgufVocabulary {
        model: "llama".into(),
        tokens,
        scores,
        token_types,
        ..Default::default()
    })
});

const VOCAB_SIZE: u32 = 262;

fn build(vocabulary: GgufVocabulary) -> Tokenizer {
    let vocabulary = GgufVocabulary {
        bos: Some(256),
        eos: Some(257),
        ..vocabulary
    };
    Tokenizer::from_gguf(vocabulary, &TokenizerOptions { strict: true }).unwrap()
}

fn stream(tokenizer: &Tokenizer, prompt: &[u32], ids: &[u32], skip_special: bool) -> String {
    let mut stream = tokenizer.decode_stream(prompt, skip_special).unwrap();
    let mut text = String::new();
    for &id in ids {
        if let Some(part) = stream.push(id).unwrap() {
            assert!(!part.is_empty());
            text.push_str(&part);
        }
    }
    text.extend(stream.finish());
    text
}

/// Ids that often form characters: bytes of real text between random ones.
fn id_sequences() -> impl Strategy<Value = Vec<u32>> {
    let text = "[ a-c\u{e9}\u{20ac}\u{1f600}\u{4f60}]{0,6}"
        .prop_map(|text| text.bytes().map(u32::from).collect());
    let random = prop::collection::vec(0..VOCAB_SIZE, 0..6);
    prop::collection::vec(prop_oneof![text, random], 0..6)
        .prop_map(|parts: Vec<Vec<u32>>| parts.concat())
}

proptest! {
    #[test]
    fn streamed_text_is_the_text_of_the_whole(ids in id_sequences(), split in 0.0..1.0, skip_special: bool) {
        for tokenizer in [&*BYTE_LEVEL, &*SENTENCEPIECE] {
            let whole = tokenizer.decode(&ids, skip_special).unwrap();
            prop_assert_eq!(&stream(tokenizer, &[], &ids, skip_special), &whole);

            // After a prompt: what the prompt's own stream had already yielded, then the rest.
            let (prompt, rest) = ids.split_at((ids.len() as f64 * split) as usize);
            let mut state = DecodeState::new(tokenizer, &[], skip_special).unwrap();
            let mut text = String::new();
            for &id in prompt {
                text.extend(state.push(tokenizer, id).unwrap());
            }
            prop_assert_eq!(text + &stream(tokenizer, prompt, rest, skip_special), whole);
        }
    }
}

#[test]
fn a_character_comes_with_its_last_byte() {
    for tokenizer in [&*BYTE_LEVEL, &*SENTENCEPIECE] {
        let mut stream = tokenizer.decode_stream(&[], true).unwrap();
        let bytes = "\u{1f600}".as_bytes();
        for &byte in &bytes[..3] {
            assert_eq!(stream.push(u32::from(byte)).unwrap(), None);
        }
        assert_eq!(
            stream.push(u32::from(bytes[3])).unwrap().as_deref(),
            Some("\u{1f600}")
        );
        assert_eq!(stream.finish(), None);
    }
}

#[test]
fn bytes_that_cannot_be_completed_are_replaced_at_once() {
    for tokenizer in [&*BYTE_LEVEL, &*SENTENCEPIECE] {
        let mut stream = tokenizer.decode_stream(&[], true).unwrap();
        assert_eq!(stream.push(0xFF).unwrap().as_deref(), Some("\u{fffd}"));
        assert_eq!(stream.push(0xE4).unwrap(), None);
        assert_eq!(
            stream.push(u32::from(b'x')).unwrap().as_deref(),
            Some("\u{fffd}x")
        );
        assert_eq!(stream.push(0xF0).unwrap(), None);
        assert_eq!(stream.push(0x9F).unwrap(), None);
        assert_eq!(stream.finish().as_deref(), Some("\u{fffd}"));
    }
}

#[test]
fn the_first_space_is_dropped_only_at_the_beginning_of_a_text() {
    let (bos, the) = (256, 258);
    let tokenizer = &*SENTENCEPIECE;
    assert_eq!(stream(tokenizer, &[], &[the, the], true), "the the");
    assert_eq!(stream(tokenizer, &[bos], &[the], true), "the");
    assert_eq!(stream(tokenizer, &[bos, the], &[the], true), " the");
    assert_eq!(stream(tokenizer, &[], &[bos, the], false), "<s>the");
    assert_eq!(stream(&BYTE_LEVEL, &[bos], &[the], true), " the");
}

#[test]
fn an_id_outside_the_vocabulary_is_an_error_and_changes_nothing() {
    let mut stream = SENTENCEPIECE.decode_stream(&[], true).unwrap();
    assert!(stream.push(VOCAB_SIZE).is_err());
    assert_eq!(stream.push(258).unwrap().as_deref(), Some("the"));
    assert!(SENTENCEPIECE.decode_stream(&[VOCAB_SIZE], true).is_err());
}
