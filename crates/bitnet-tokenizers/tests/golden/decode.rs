//! Ids to bytes and text.

use crate::vocabularies::{LLAMA3, ids};

#[test]
fn llama3_ids_have_the_golden_bytes() {
    for (name, tokenizer) in &LLAMA3.tokenizers {
        for case in LLAMA3.cases("decode") {
            let ids = ids(&case["ids"]);
            let bytes = tokenizer.decode_bytes(&ids).unwrap();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, case["bytes_hex"], "{name}: {ids:?}");
            assert_eq!(
                tokenizer.decode(&ids, false).unwrap(),
                case["lossy"],
                "{name}: {ids:?}"
            );

            let mut stream = tokenizer.decode_stream(&[], false).unwrap();
            let mut text = String::new();
            for &id in &ids {
                text.extend(stream.push(id).unwrap());
            }
            text.extend(stream.finish());
            assert_eq!(text, case["lossy"], "{name}, streamed: {ids:?}");
        }
    }
}

#[test]
fn every_id_decodes_and_ids_outside_are_errors() {
    for (name, tokenizer) in &LLAMA3.tokenizers {
        assert_eq!(tokenizer.vocab_size(), 128_256, "{name}");
        for id in 0..128_256 {
            assert!(
                !tokenizer.decode_bytes(&[id]).unwrap().is_empty(),
                "{name}: {id}"
            );
        }
        assert!(tokenizer.decode(&[128_256], true).is_err(), "{name}");
        assert!(tokenizer.decode(&[u32::MAX], true).is_err(), "{name}");
        assert_eq!(tokenizer.token_text(128_256), None, "{name}");
    }
}
