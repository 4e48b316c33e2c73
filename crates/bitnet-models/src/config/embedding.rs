//! How a model that was trained for embeddings turns its hidden states into one vector.

/// Which hidden states (after the final norm) become the vector of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// That of the last token: it has seen all others.
    Last,
    /// The mean over all tokens.
    Mean,
    /// That of the first token.
    Cls,
}

impl Pooling {
    /// Every way, in the order that messages list them.
    pub const ALL: [Pooling; 3] = [Pooling::Last, Pooling::Mean, Pooling::Cls];

    /// The name for people and settings: `last`, `mean` or `cls`.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Last => "last",
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
        }
    }

    /// The way with this [`Pooling::name`].
    pub fn from_name(name: &str) -> Option<Pooling> {
        Pooling::ALL.into_iter().find(|way| way.name() == name)
    }

    /// The number in a GGUF file's `pooling_type`.
    pub(crate) fn gguf_number(self) -> u32 {
        match self {
            Pooling::Mean => 1,
            Pooling::Cls => 2,
            Pooling::Last => 3,
        }
    }

    /// The way that a GGUF file's `pooling_type` numbers; `None` for 0, which is none.
    ///
    /// # Errors
    /// The number, where it means something else.
    pub(crate) fn from_gguf(number: u64) -> Result<Option<Pooling>, u64> {
        match number {
            0 => Ok(None),
            1 => Ok(Some(Pooling::Mean)),
            2 => Ok(Some(Pooling::Cls)),
            3 => Ok(Some(Pooling::Last)),
            other => Err(other),
        }
    }
}

/// What a model's own files say about its embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingConfig {
    /// Which hidden states become the vector.
    pub pooling: Pooling,
    /// Whether it is then divided by its length.
    pub normalize: bool,
}
