//! Everything that can go wrong between a prompt and its text, each with the numbers that explain it.
//!
//! Errors of the lower floors pass through with their words and their exit class unchanged. They sit behind `Arc`,
//! because one failed forward pass is reported to every request that was in it.

use std::sync::Arc;
use std::time::Duration;

use bitnet_kernels::KernelError;
use bitnet_models::{ErrorClass, ModelError};
use bitnet_tokenizers::TokenizerError;

/// Names that [`Error::InvalidOption`] has for options of loading, for whoever tells them under names of its own.
pub mod option {
    /// [`LoadOptions::context`](crate::LoadOptions::context).
    pub const CONTEXT: &str = "the context";
    /// [`LoadOptions::kv_pool`](crate::LoadOptions::kv_pool).
    pub const KV_CACHE: &str = "the KV cache";
    /// [`LoadOptions::max_sequences`](crate::LoadOptions::max_sequences).
    pub const MAX_SEQUENCES: &str = "max_sequences";
}

/// Why the engine could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The model file, or running it.
    #[error(transparent)]
    Model(Arc<ModelError>),
    /// The compute backend could not start.
    #[error(transparent)]
    Kernel(Arc<KernelError>),
    /// The tokenizer or the chat template.
    #[error(transparent)]
    Tokenizer(Arc<TokenizerError>),
    /// What runs the model has failed in the middle of a pass; its memory is lost.
    #[error("{device} failed: {reason}")]
    Device {
        /// What it is.
        device: String,
        /// What it says.
        reason: String,
    },
    /// Text was given or asked for, but the checkpoint has no tokenizer.
    #[error("{model} has no tokenizer")]
    NoTokenizer {
        /// The model's name.
        model: String,
    },
    /// A chat was asked for, but nothing says how its messages are laid out.
    #[error("{model} has no chat template")]
    NoChatTemplate {
        /// The model's name.
        model: String,
    },
    /// The prompt does not fit.
    #[error("the prompt has {prompt} tokens, the context holds {context}")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Positions of the context.
        context: usize,
    },
    /// The prompt does not fit, and was looked at no further than that.
    #[error("the prompt has {at_least} tokens or more, the context holds {context}")]
    PromptExceeds {
        /// Tokens of what was looked at.
        at_least: usize,
        /// Positions of the context.
        context: usize,
    },
    /// There is nothing to continue: the prompt is empty and the model has no BOS token to begin with.
    #[error("the prompt is empty and the model has no beginning-of-text token to start from")]
    EmptyPrompt,
    /// A token id the model does not know.
    #[error("token {index} of the prompt is {id}, the vocabulary has {vocab_size} ids (from 0)")]
    TokenOutOfRange {
        /// Which token of the prompt, from 0.
        index: usize,
        /// The id.
        id: u32,
        /// Number of ids.
        vocab_size: usize,
    },
    /// An option's value is out of its range.
    #[error("{option} is {value}, expected {expected}")]
    InvalidOption {
        /// The option's name, of those in [`option`] as they have it.
        option: String,
        /// Its value.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// No token can be drawn from a row of logits.
    #[error("no token can be drawn at position {position}: {reason}")]
    BadLogits {
        /// Position of the token that was to be drawn.
        position: usize,
        /// What is wrong with the row.
        reason: String,
    },
    /// An embedding would hold a number that is none.
    #[error("number {index} of the hidden state at position {position} is not finite")]
    BadHiddenState {
        /// The last position of the text.
        position: usize,
        /// Which number of the vector.
        index: usize,
    },
    /// The request would need more of the KV cache than there is, however long it waited.
    #[error("the request needs {needed} KV blocks, the cache has {available}")]
    NeverFits {
        /// Blocks of 16 positions it would need.
        needed: usize,
        /// Blocks there are.
        available: usize,
    },
    /// The KV cache is taken by generations under way.
    #[error("{needed} KV blocks are needed, {free} are free while other generations are under way")]
    Busy {
        /// Blocks of 16 positions needed.
        needed: usize,
        /// Blocks free now.
        free: usize,
    },
    /// The request took longer than its terms allow.
    #[error("the request was not done {after:?} after it was put in the queue")]
    DeadlineExceeded {
        /// The time that it was given.
        after: Duration,
    },
    /// The request waited longer for a place than its terms allow.
    #[error("the request waited {after:?} and no place became free")]
    QueueTimeout {
        /// The time that it was given.
        after: Duration,
    },
    /// Weights and the least cache do not fit in the memory that the model was given.
    #[error(
        "{memory} bytes of memory are not enough: {weights} for weights, and at least {cache} for the keys and values of \
         {context} positions"
    )]
    NotEnoughMemory {
        /// Bytes it was given.
        memory: usize,
        /// Bytes of weights in the layout that they run in; 0 if not even the cache fits.
        weights: usize,
        /// Positions of the shortest context that is of use: the one asked for, else a block.
        context: usize,
        /// Bytes of its keys and values.
        cache: usize,
    },
    /// Weights that were to be used from mapped files would have to be in memory.
    #[error("the weights cannot be used from mapped files: {reason}")]
    NotMapped {
        /// What became of the files.
        reason: String,
    },
    /// The text is too short to score by the chosen method.
    #[error("scoring at context {ctx} needs at least {needed} tokens, the text has {found}")]
    TooFewTokens {
        /// The context asked for.
        ctx: usize,
        /// Two contexts.
        needed: usize,
        /// Tokens of the text.
        found: usize,
    },
}

impl Error {
    /// The process exit code of this failure: 1 failed at run time, 2 usage, 3 the file is unusable.
    pub fn exit_code(&self) -> u8 {
        const RUN_TIME: u8 = 1;
        const USAGE: u8 = 2;
        const UNUSABLE: u8 = 3;
        match self {
            Error::Model(error) => match error.class() {
                ErrorClass::Unreadable => RUN_TIME,
                ErrorClass::Unusable => UNUSABLE,
            },
            // Who names a kernel that is not here has used the command wrongly; all else is the machine's.
            Error::Kernel(error) if matches!(**error, KernelError::Kernel { .. }) => USAGE,
            Error::Kernel(_)
            | Error::Device { .. }
            | Error::BadLogits { .. }
            | Error::BadHiddenState { .. }
            | Error::NotEnoughMemory { .. }
            | Error::NotMapped { .. }
            | Error::Busy { .. }
            | Error::DeadlineExceeded { .. }
            | Error::QueueTimeout { .. } => RUN_TIME,
            // Ids are the caller's; everything else that a tokenizer refuses is in its files.
            Error::Tokenizer(error) if matches!(**error, TokenizerError::UnknownId { .. }) => USAGE,
            Error::Tokenizer(_) | Error::NoTokenizer { .. } | Error::NoChatTemplate { .. } => {
                UNUSABLE
            }
            Error::PromptTooLong { .. }
            | Error::PromptExceeds { .. }
            | Error::EmptyPrompt
            | Error::TokenOutOfRange { .. }
            | Error::InvalidOption { .. }
            | Error::NeverFits { .. }
            | Error::TooFewTokens { .. } => USAGE,
        }
    }

    /// Whether a model file that could be read gives such an error when its weights are damaged.
    pub fn may_come_of_damage(&self) -> bool {
        matches!(self, Error::BadLogits { .. } | Error::BadHiddenState { .. })
    }

    /// What to do about it, when there is something.
    pub fn hint(&self) -> Option<String> {
        if let Error::Tokenizer(error) = self
            && let TokenizerError::UnknownId { vocab_size, .. } = **error
        {
            return Some(format!(
                "the vocabulary has {vocab_size} tokens: give ids from 0 to {}, made by this tokenizer",
                vocab_size.saturating_sub(1)
            ));
        }
        let hint = match self {
            Error::Model(error) => return Some(error.hint()),
            Error::Kernel(_) | Error::InvalidOption { .. } => return None,
            Error::Tokenizer(_) => "give the model's own tokenizer.json as the tokenizer",
            Error::NoTokenizer { .. } => "give a tokenizer.json as the tokenizer, or use token ids",
            Error::NoChatTemplate { .. } => "give a chat template, or use a plain prompt",
            Error::PromptTooLong { .. } | Error::PromptExceeds { .. } => {
                "shorten the prompt or load with a larger context"
            }
            Error::EmptyPrompt => "give at least one character of text",
            Error::TokenOutOfRange { .. } => "use ids made by this model's tokenizer",
            Error::BadLogits { .. } => {
                "if no bias forbids every token, the model file is damaged: check its checksum"
            }
            Error::BadHiddenState { .. } => "the model file is damaged: check its checksum",
            Error::NotEnoughMemory { .. } => {
                "free memory, ask for a shorter context or a smaller type of KV cache, or take a smaller model"
            }
            Error::NotMapped { .. } => {
                "give a folder that this user alone may write, on a disk with room for the model, or load into memory"
            }
            Error::NeverFits { .. } => "ask for fewer tokens or load with a larger KV cache",
            Error::Busy { .. } => {
                "finish or drop the other generations first, or load with room for more sequences"
            }
            Error::DeadlineExceeded { .. } => {
                "give it more time or ask for fewer tokens; a long queue means that more machines are needed"
            }
            Error::QueueTimeout { .. } => {
                "try again later or elsewhere; if it is so often, more machines are needed"
            }
            Error::Device { .. } => "look at the log, and load the model on the CPU",
            Error::TooFewTokens { .. } => "use a longer text or a smaller context",
        };
        Some(hint.to_owned())
    }
}

impl From<ModelError> for Error {
    fn from(error: ModelError) -> Error {
        Error::Model(Arc::new(error))
    }
}

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Error {
        Error::Kernel(Arc::new(error))
    }
}

impl From<TokenizerError> for Error {
    fn from(error: TokenizerError) -> Error {
        Error::Tokenizer(Arc::new(error))
    }
}
