#![forbid(unsafe_code)]
//! Text to token ids and back, for the vocabularies of ternary language models.
//!
//! A [`Tokenizer`] is built from a GGUF file's metadata ([`GgufVocabulary`]) or from the files of a Hugging Face
//! directory, and gives the ids that the model was trained on, or an error that says why it cannot. [`ChatTemplate`]
//! turns a conversation into the text that the model expects; [`DecodeStream`] turns ids into whole characters while
//! they are being generated.
//!
//! Vocabularies and templates are files of strangers: no input makes this crate panic, and what had to be guessed is
//! listed in [`Tokenizer::repairs`] or, in strict mode, refused.
//!
//! ```
//! use bitnet_tokenizers::{EncodeOptions, GgufVocabulary, Tokenizer, TokenizerOptions};
//!
//! let vocabulary = GgufVocabulary {
//!     model: "gpt2".into(),
//!     pre: Some("gpt-2".into()),
//!     tokens: ["h", "i", "Ġ", "hi", "Ġhi"].map(String::from).to_vec(),
//!     token_types: vec![1; 5],
//!     merges: ["h i", "Ġ hi"].map(String::from).to_vec(),
//!     ..GgufVocabulary::default()
//! };
//! let tokenizer = Tokenizer::from_gguf(vocabulary, &TokenizerOptions { strict: true })?;
//! let ids = tokenizer.encode("hi hi", EncodeOptions::default())?;
//! assert_eq!(ids, [3, 4]);
//! assert_eq!(tokenizer.decode(&ids, true)?, "hi hi");
//! # Ok::<(), bitnet_tokenizers::TokenizerError>(())
//! ```
//!
//! # Layout
//! - [`Tokenizer`] (`tokenizer`): the face of the crate; `decode_stream`: decoding while generating.
//! - Builders: `hf` (`tokenizer.json`), `vocabulary` and `gguf_tokens` with `gguf_bpe` and `gguf_spm` (GGUF),
//!   `sentencepiece` (`tokenizer.model`), `repair` (what may be guessed, and what ends generation).
//! - Converters: `hf::to_gguf`, `gguf_to_hf`.
//! - Parts: `added_tokens` (special tokens in text), `split` and `bpe` (ranked merges), `byte_level` (bytes as
//!   characters), `token_table` (what each id means).
//! - `chat_template`: Jinja with limits.

mod tokenizer;

mod decode_stream;

mod gguf_bpe;
mod gguf_spm;
mod gguf_to_hf;
mod gguf_tokens;
mod hf;
mod repair;
mod sentencepiece;
mod vocabulary;

mod added_tokens;
mod bpe;
mod byte_level;
mod reach;
mod split;
mod token_table;

mod chat_template;
mod error;

pub use chat_template::{ChatTemplate, Message};
pub use decode_stream::{DecodeState, DecodeStream};
pub use error::TokenizerError;
pub use gguf_to_hf::HfTokenizerFiles;
pub use hf::to_gguf::ConvertedVocabulary;
pub use repair::{Repair, RepairedKeys};
pub use sentencepiece::SentencePieceFiles;
pub use tokenizer::{EncodeOptions, Tokenizer, TokenizerOptions};
pub use vocabulary::GgufVocabulary;
