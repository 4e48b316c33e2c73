//! Text to ids.

use bitnet_tokenizers::EncodeOptions;

use crate::vocabularies::{LLAMA3, Reference, TINY, ids};

/// Strings in each golden file.
const N_STRINGS: usize = 434;

fn check(reference: &Reference) {
    let cases = reference.cases("encode");
    assert_eq!(cases.len(), N_STRINGS);
    for (name, tokenizer) in &reference.tokenizers {
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let encode = |parse_special| {
                tokenizer
                    .encode(
                        text,
                        EncodeOptions {
                            add_special: false,
                            parse_special,
                        },
                    )
                    .unwrap()
            };
            assert_eq!(encode(true), ids(&case["ids"]), "{name}: {text:?}");
            let as_text = case.get("ids_specials_as_text").unwrap_or(&case["ids"]);
            assert_eq!(
                encode(false),
                ids(as_text),
                "{name}, specials as text: {text:?}"
            );
            assert_eq!(
                tokenizer.decode(&ids(as_text), true).unwrap(),
                text,
                "{name}"
            );
        }
    }
}

#[test]
fn llama3_strings_have_the_golden_ids() {
    check(&LLAMA3);
}

#[test]
fn tiny_strings_have_the_golden_ids() {
    check(&TINY);
}

#[test]
fn bos_comes_first_only_when_asked_for() {
    for (reference, bos) in [(&*LLAMA3, 128_000), (&*TINY, 496)] {
        for (name, tokenizer) in &reference.tokenizers {
            let plain = tokenizer.encode("Hello", EncodeOptions::default()).unwrap();
            let options = EncodeOptions {
                add_special: true,
                parse_special: false,
            };
            let mut expected = vec![bos];
            expected.extend(plain);
            assert_eq!(
                tokenizer.encode("Hello", options).unwrap(),
                expected,
                "{name}"
            );
            assert_eq!(tokenizer.bos(), Some(bos), "{name}");
            assert!(tokenizer.adds_bos(), "{name}");
        }
    }
}

#[test]
fn generation_ends_at_eos_and_at_the_end_of_a_turn() {
    for (reference, eos, eot) in [(&*LLAMA3, 128_001, 128_009), (&*TINY, 497, 505)] {
        for (name, tokenizer) in &reference.tokenizers {
            assert_eq!(tokenizer.eos(), Some(eos), "{name}");
            assert_eq!(tokenizer.end_of_generation(), [eos, eot], "{name}");
            assert!(tokenizer.is_special(eot), "{name}");
            assert!(!tokenizer.is_special(eos - 2), "{name}");
        }
    }
}
