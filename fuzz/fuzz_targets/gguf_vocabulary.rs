//! Any bytes as a GGUF model whose vocabulary becomes a tokenizer: what is accepted encodes and decodes without a panic.
//! A target of its own, because making a tokenizer takes a hundred times as long as reading the file.
#![no_main]

use bitnet_models::{Checkpoint, CheckpointOptions, TokenizerSource};
use bitnet_tokenizers::{EncodeOptions, Tokenizer, TokenizerOptions};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(checkpoint) = Checkpoint::from_gguf_bytes("fuzz", bytes, &CheckpointOptions::default())
    else {
        return;
    };
    let Ok(TokenizerSource::Gguf(vocabulary)) = checkpoint.tokenizer_source() else {
        return;
    };
    let Ok(tokenizer) = Tokenizer::from_gguf(*vocabulary, &TokenizerOptions::default()) else {
        return;
    };
    for parse_special in [false, true] {
        let options = EncodeOptions {
            add_special: true,
            parse_special,
        };
        if let Ok(ids) = tokenizer.encode("ab c\n<s>\u{1f600}", options) {
            _ = tokenizer.decode(&ids, false);
        }
    }
});
