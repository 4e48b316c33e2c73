//! The vocabulary in every reference GGUF file gives the golden ids, with special tokens and without.

use std::path::{Path, PathBuf};

use bitnet_models::{Checkpoint, CheckpointOptions, TokenizerSource};
use bitnet_tokenizers::{EncodeOptions, Tokenizer, TokenizerOptions};
use serde_json::Value;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

#[test]
fn gguf_vocabularies_encode_to_the_golden_ids() {
    let golden =
        std::fs::read(data("../bitnet-tokenizers/tests/data/tiny/golden_ids.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let cases = golden["encode"].as_array().unwrap();
    assert_eq!(cases.len(), 434);
    let files = std::fs::read_dir(data("tests/data/reference/gguf")).unwrap();
    for file in files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "gguf"))
    {
        let checkpoint = Checkpoint::open(&file, &CheckpointOptions::default()).unwrap();
        let TokenizerSource::Gguf(vocabulary) = checkpoint.tokenizer_source().unwrap() else {
            panic!("{}: expected a vocabulary", file.display())
        };
        let tokenizer = Tokenizer::from_gguf(*vocabulary, &TokenizerOptions::default()).unwrap();
        for case in cases {
            let text = case["text"].as_str().unwrap();
            for (parse_special, golden) in
                [(true, &case["ids"]), (false, &case["ids_specials_as_text"])]
            {
                // The second list is there only where it differs.
                let golden = if golden.is_null() {
                    &case["ids"]
                } else {
                    golden
                };
                let found = tokenizer
                    .encode(
                        text,
                        EncodeOptions {
                            add_special: false,
                            parse_special,
                        },
                    )
                    .unwrap();
                assert_eq!(found, ids(golden), "{}: {text:?}", file.display());
            }
        }
    }
}
