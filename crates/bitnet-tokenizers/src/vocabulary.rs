//! A GGUF file's tokenizer metadata as plain data.
//!
//! The GGUF reader lives in `bitnet-models`, which depends on this crate; it copies the `tokenizer.*` keys here without
//! judging them, and [`crate::Tokenizer::from_gguf`] checks every field. Source: the GGUF specification
//! (ggml `docs/gguf.md`), section "Tokenizer".

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
