//! Any bytes as a SentencePiece `tokenizer.model`: what is accepted becomes a tokenizer or an error, and encodes without a panic.
#![no_main]

use bitnet_tokenizers::{EncodeOptions, GgufVocabulary, SentencePieceFiles, Tokenizer, TokenizerOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let files = SentencePieceFiles {
        model: data,
        ..SentencePieceFiles::default()
    };
    let Ok(vocabulary) = GgufVocabulary::from_sentencepiece(&files) else {
        return;
    };
    assert_eq!(vocabulary.tokens.len(), vocabulary.scores.len());
    assert_eq!(vocabulary.tokens.len(), vocabulary.token_types.len());
    let Ok(tokenizer) = Tokenizer::from_gguf(vocabulary, &TokenizerOptions::default()) else {
        return;
    };
    if let Ok(ids) = tokenizer.encode("ab c\n<s>\u{1f600}", EncodeOptions::default()) {
        _ = tokenizer.decode(&ids, false);
    }
});
