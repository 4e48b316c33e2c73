//! Any bytes as a tokenizer.json: what is accepted encodes and decodes without a panic.
#![no_main]

use bitnet_tokenizers::{EncodeOptions, Tokenizer, TokenizerOptions};
use libfuzzer_sys::fuzz_target;

const TEXT: &str = "Hello, wörld!  1234\n<s><|eot_id|> 日本 \u{1f600}";

fuzz_target!(|data: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_hf(data, None, None, &TokenizerOptions::default()) else {
        return;
    };
    for parse_special in [false, true] {
        if let Ok(ids) = tokenizer.encode(
            TEXT,
            EncodeOptions {
                add_special: true,
                parse_special,
            },
        ) {
            _ = tokenizer.decode(&ids, false);
        }
    }
    for id in 0..(tokenizer.vocab_size() as u32).min(64) {
        _ = tokenizer.decode(&[id], true);
    }
});
