//! The one error type of the crate.
//!
//! Vocabulary files come from strangers, so every refusal says where the fault lies (file, field, index), what was
//! expected and what to do; none of them is ever a panic.

/// Why a vocabulary was refused, or a text, a token id or a chat template could not be processed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The vocabulary's kind is none of those this crate implements.
    #[error("tokenizer model `{found}` is not supported (supported: {supported})")]
    UnsupportedModel {
        /// The name in the file.
        found: String,
        /// The names that would have worked.
        supported: &'static str,
    },
    /// `tokenizer.ggml.pre` names a splitting rule that is not known here.
    #[error(
        "tokenizer.ggml.pre `{name}` is unknown (known: {known}); use the model's tokenizer.json instead"
    )]
    UnknownPreTokenizer {
        /// The name in the file.
        name: String,
        /// The names that would have worked.
        known: String,
    },
    /// Strict mode met something that only a guess could settle.
    #[error(
        "strict mode refuses to guess: {what} ({why}); turn strict tokenizers off to accept it"
    )]
    Guess {
        /// What would have been assumed.
        what: String,
        /// What in the file made the guess necessary.
        why: String,
    },
    /// A field without which nothing can be encoded is missing or empty.
    #[error("{field} is missing or empty")]
    Missing {
        /// The metadata key or JSON path.
        field: &'static str,
    },
    /// The vocabulary is larger than any real one.
    #[error("{field} has {found} entries, more than the limit of {limit}")]
    TooLarge {
        /// The metadata key or JSON path.
        field: &'static str,
        /// Entries (or bytes) found.
        found: usize,
        /// The most that is accepted.
        limit: usize,
    },
    /// An array that runs parallel to the tokens has another length.
    #[error("{field} has {found} entries but there are {expected} tokens")]
    LengthMismatch {
        /// The metadata key.
        field: &'static str,
        /// The number of tokens.
        expected: usize,
        /// The length found.
        found: usize,
    },
    /// One token's text is over-long.
    #[error("token {id} is {found} bytes long, more than the limit of {limit}")]
    TokenTooLong {
        /// The token's id.
        id: u32,
        /// Its length in bytes.
        found: usize,
        /// The most that is accepted, in bytes.
        limit: usize,
    },
    /// Two ids have the same text, so encoding would be ambiguous.
    #[error("tokens {first} and {second} have the same text {text:?}")]
    DuplicateToken {
        /// The text they share (shortened).
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// Two texts claim the same id, so decoding would be ambiguous.
    #[error("{first:?} and {second:?} have the same token id {id}")]
    DuplicateId {
        /// The id they share.
        id: u32,
        /// The text met first (shortened).
        first: String,
        /// The text met second (shortened).
        second: String,
    },
    /// A field points at a token that does not exist.
    #[error("{field} is {id}, but the vocabulary has only {vocab_size} tokens")]
    IdOutOfRange {
        /// The metadata key or JSON path.
        field: &'static str,
        /// The id found.
        id: u64,
        /// The number of tokens.
        vocab_size: usize,
    },
    /// An id given to be decoded is none of this vocabulary: the caller's mistake, not the file's.
    #[error("token id {id} is outside the vocabulary of {vocab_size} tokens")]
    UnknownId {
        /// The id given.
        id: u32,
        /// The number of ids, which begin with 0.
        vocab_size: usize,
    },
    /// A special token is named that the vocabulary lacks.
    #[error("{field} names the token {text:?}, which the vocabulary lacks")]
    UnknownToken {
        /// The JSON path.
        field: &'static str,
        /// The text that was looked for (shortened).
        text: String,
    },
    /// A token type outside the six of GGUF.
    #[error("tokenizer.ggml.token_type[{id}] is {found}; expected 1 to 6")]
    BadTokenType {
        /// The token's id.
        id: u32,
        /// The value found.
        found: i32,
    },
    /// A token marked as a byte is not spelled `<0xHH>`.
    #[error(
        "token {id} is marked as a byte but its text is {text:?}; expected `<0x00>` to `<0xFF>`"
    )]
    BadByteToken {
        /// The token's id.
        id: u32,
        /// Its text (shortened).
        text: String,
    },
    /// A score that cannot be ordered.
    #[error("tokenizer.ggml.scores[{id}] is {found}; expected a finite number")]
    BadScore {
        /// The token's id.
        id: u32,
        /// The value found.
        found: f32,
    },
    /// A merge rule that cannot be applied.
    #[error("merge {index} ({text:?}) {reason}")]
    BadMerge {
        /// Its position in the list, counted from 0.
        index: usize,
        /// The rule as written (shortened).
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A JSON file is malformed, or a field has another type than expected.
    #[error("{file} is not valid: {message}")]
    Json {
        /// `tokenizer.json`, `tokenizer_config.json` or `special_tokens_map.json`.
        file: &'static str,
        /// What the parser said, with line and column.
        message: String,
    },
    /// `tokenizer.json` uses a component that no model of the supported families has.
    #[error("tokenizer.json: {place} `{found}` is not supported")]
    Unsupported {
        /// The JSON path.
        place: &'static str,
        /// The component or value found.
        found: String,
    },
    /// A splitting pattern could not be compiled.
    #[error("cannot compile the splitting pattern {pattern:?}: {message}")]
    BadPattern {
        /// The pattern (shortened).
        pattern: String,
        /// What the regex compiler said.
        message: String,
    },
    /// A splitting pattern gave up on a text (its backtracking limit).
    #[error("the splitting pattern gave up on this text at byte {offset}: {message}")]
    SplitFailed {
        /// Where in the text.
        offset: usize,
        /// What the regex engine said.
        message: String,
    },
    /// The vocabulary has no token for a part of the text, and no unknown token either.
    #[error("the vocabulary has no tokens for {text:?}")]
    Unencodable {
        /// The part of the text (shortened).
        text: String,
    },
    /// The tokenizer cannot be expressed in the other container.
    #[error("{what} cannot be converted: {why}")]
    NotConvertible {
        /// The part that has no counterpart.
        what: &'static str,
        /// Why it has none.
        why: String,
    },
    /// A binary file breaks off, or holds what it cannot.
    #[error("{file}, byte {offset}: expected {expected}; the file is damaged, or something else")]
    Damaged {
        /// The file.
        file: &'static str,
        /// Where in it.
        offset: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// A chat template does not parse, or failed while rendering.
    #[error("chat template, line {line}: {message}")]
    Template {
        /// Line in the template, counted from 1 (0: unknown).
        line: usize,
        /// The reason.
        message: String,
    },
    /// A chat template would have made more texts and lists than any conversation of its length needs.
    #[error(
        "chat template, line {line}: wants more than {limit_mib} MiB of memory for this conversation: \
         use another template"
    )]
    TemplateMemory {
        /// Line in the template, counted from 1 (0: unknown).
        line: usize,
        /// What it may make, in MiB.
        limit_mib: usize,
    },
}

/// Bytes of hostile text that an error message repeats.
const SHOWN: usize = 60;

/// The beginning of `text`, short enough for an error message.
pub(crate) fn shorten(text: &str) -> String {
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    let mut end = SHOWN;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}
