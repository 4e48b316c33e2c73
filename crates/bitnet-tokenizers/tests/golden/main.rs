//! The golden ids of both reference tokenizers, through `tokenizer.json` and through GGUF vocabularies.
//!
//! The golden data come from tiktoken, cross-checked with Hugging Face tokenizers; `tests/data/README.md` has the
//! story.

mod chats;
mod decode;
mod encode;
mod templates;
mod vocabularies;
