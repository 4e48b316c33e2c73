//! A GGUF file's tokenizer metadata as plain data.
//!
//! The GGUF reader lives in `bitnet-models`, which depends on this crate; it copies the `tokenizer.*` keys here without
//! judging them, and [`crate::Tokenizer::from_gguf`] checks every field. Source: the GGUF specification
//! (ggml `docs/gguf.md`), section "Tokenizer".

use crate::error::TokenizerError;
use crate::gguf_to_hf::HfTokenizerFiles;
use crate::hf::to_gguf::ConvertedVocabulary;

/// The `tokenizer.*` metadata of one GGUF file, unchecked. Keys absent from the file are `None` or empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the rule that splits text before merging.
    pub pre: Option<String>,
    /// `general.architecture`: needed by the repair rules.
    pub architecture: String,
    /// `tokenizer.ggml.tokens`, `[vocab_size]`: the text of each id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`, `[vocab_size]` or empty: higher merges first (`llama` only).
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`, `[vocab_size]` or empty: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused,
    /// 6 byte.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`: rules `left right`, best first (`gpt2` only).
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: end of turn.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`: end of message.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub padding: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`: SentencePiece's `add_dummy_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`: a Jinja template.
    pub chat_template: Option<String>,
}

impl GgufVocabulary {
    /// The tokenizer section that says what the files of a Hugging Face directory say: the contents of `tokenizer.json`
    /// and, where they exist, `tokenizer_config.json` and `special_tokens_map.json`. `ends` are the ids that end a
    /// generation and `bos` the one that begins a text, for what the tokenizer's files leave open; the architecture
    /// stays empty. What is returned has been read again and gives the same ids.
    ///
    /// # Errors
    /// As [`crate::Tokenizer::from_hf`], and [`TokenizerError::NotConvertible`] for a tokenizer that GGUF has no words
    /// for.
    pub fn from_hf(
        tokenizer_json: &[u8],
        tokenizer_config: Option<&[u8]>,
        special_tokens_map: Option<&[u8]>,
        ends: &[u32],
        bos: Option<u32>,
    ) -> Result<ConvertedVocabulary, TokenizerError> {
        crate::hf::to_gguf::convert(
            tokenizer_json,
            tokenizer_config,
            special_tokens_map,
            ends,
            bos,
        )
    }

    /// The tokenizer section that says what a SentencePiece `tokenizer.model` and the files beside it say; the
    /// architecture stays empty.
    ///
    /// # Errors
    /// A damaged file, one of another kind than BPE, a normalisation that changes texts, added tokens that do not fit.
    pub fn from_sentencepiece(
        files: &crate::SentencePieceFiles<'_>,
    ) -> Result<GgufVocabulary, TokenizerError> {
        crate::sentencepiece::read(files)
    }

    /// What a repaired copy of the section says otherwise.
    pub fn repaired_keys(&self) -> crate::RepairedKeys {
        crate::repair::repaired_keys(self)
    }

    /// Adds unused tokens until there are `n_tokens`: embeddings are often padded to a round number of rows.
    pub fn pad_to(&mut self, n_tokens: usize) {
        for id in self.tokens.len()..n_tokens {
            let mut text = crate::hf::to_gguf::padding_text(id as u32);
            while self.tokens.contains(&text) {
                text.push('_'); // somebody else's padding
            }
            self.tokens.push(text);
            self.token_types.push(GgufTokenType::Unused.number());
            if !self.scores.is_empty() {
                self.scores.push(0.0);
            }
        }
    }

    /// The files of a Hugging Face directory that say what this section says. What is returned has been read again and
    /// gives the same ids.
    ///
    /// # Errors
    /// As [`crate::Tokenizer::from_gguf`], and [`TokenizerError::NotConvertible`].
    pub fn to_hf(&self) -> Result<HfTokenizerFiles, TokenizerError> {
        crate::gguf_to_hf::convert(self)
    }
}

/// The meaning of a `tokenizer.ggml.token_type` number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GgufTokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl GgufTokenType {
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }

    pub(crate) fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}
