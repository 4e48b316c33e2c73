//! How a model is loaded: what callers choose, and what holds when they do not.

use std::path::PathBuf;

#[cfg(doc)]
use bitnet_kernels::KV_BLOCK;
use bitnet_kernels::KvType;
use bitnet_models::CheckpointOptions;

use crate::packed_cache::PackedCache;

/// The largest context that is made room for when the caller names none: as in llama.cpp, a laptop's worth of cache
/// and long enough for any chat. Ask for more with [`LoadOptions::context`].
pub const DEFAULT_CONTEXT: usize = 4096;

/// Prompt tokens per forward pass when the caller does not say: long enough that unpacking the weights once for all
/// of them is paid back many times, short enough for buffers of a few dozen megabytes at 2 B weights.
pub const DEFAULT_PREFILL_CHUNK: usize = 512;

/// Prompt tokens of a forward pass in which others decode, for those who serve many: a few times the rows from which on
/// computing takes longer than reading the weights, so prompts lose little speed, and answers come no slower than
/// beside so many other answers. See [`LoadOptions::prefill_beside`].
pub const SERVING_PREFILL_BESIDE: usize = 64;

/// Whether the few logits that a draw can keep are searched with a small copy of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeadMode {
    /// Where the head is large enough for it to pay.
    #[default]
    Auto,
    /// Never: every logit is computed for every token, and no copy is made.
    Full,
    /// Always.
    Search,
}

/// How much room the KV cache has, for all sequences together. It always holds at least one whole context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvPool {
    /// A whole context of each sequence: nobody ever waits for room.
    #[default]
    Contexts,
    /// This many blocks of [`KV_BLOCK`] positions.
    Blocks(usize),
    /// As many blocks as fit in this many bytes.
    Bytes(usize),
    /// As many blocks as fit in this many bytes of memory beside the weights, a whole context of each sequence at most.
    /// A context that nobody names is then the model's own, as far as one sequence finds room for it.
    Within(usize),
}

/// How a model is loaded. Plain data; nothing here looks at the environment.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Threads that compute. `None`: one for every CPU that this process may use.
    pub threads: Option<usize>,
    /// The kernel to use, by name. `None`: the widest instructions that this machine has, and for models larger than
    /// its caches the faster of the two layouts of weights, by a race of some hundredths of a second.
    pub kernel: Option<String>,
    /// Read every weight, also those of channels that are exactly 0. Changes speed and memory, never a number.
    pub dense: bool,
    /// Positions of a context. `None`: the model's, at most what the KV cache has room for, and at most
    /// [`DEFAULT_CONTEXT`] unless the cache is sized by memory ([`KvPool::Within`]).
    pub context: Option<usize>,
    /// How keys and values are stored: f32 keeps the reference's numbers exactly, f16 takes half the memory.
    pub kv_type: KvType,
    /// Sequences that run at once. Further ones wait.
    pub max_sequences: usize,
    /// Room of the KV cache. Changes speed and memory, never a number.
    pub kv_pool: KvPool,
    /// Keep what was computed of ended texts, for requests that begin alike. Changes speed, never a number.
    pub prefix_cache: bool,
    /// Prompt tokens per forward pass. Changes speed and memory, never a number.
    pub prefill_chunk: usize,
    /// The same for passes in which others decode, who wait for the pass; more than `prefill_chunk` counts as that. From
    /// [`PANEL_ROWS`](bitnet_kernels::PANEL_ROWS) on, more may fill the last panel of rows, up to `prefill_chunk`. The
    /// default is [`DEFAULT_PREFILL_CHUNK`], for whoever wants all answers soonest; servers take
    /// [`SERVING_PREFILL_BESIDE`].
    pub prefill_beside: usize,
    /// How logits are computed where not all of them are wanted. Changes speed and memory, never a token.
    pub head: HeadMode,
    /// How to read the file.
    pub checkpoint: CheckpointOptions,
    /// Refuse tokenizers that need a guess.
    pub strict_tokenizers: bool,
    /// A `tokenizer.json`, a folder that holds one or a GGUF file, instead of the checkpoint's own.
    pub tokenizer: Option<PathBuf>,
    /// Where packed weights are kept; `None`: nowhere. Used for models that are files, with the kernel and the head
    /// that the engine chooses. Changes speed and where memory comes from, never a number.
    pub packed_cache: Option<PackedCache>,
    /// Text of a chat template, instead of the model's own.
    pub chat_template: Option<String>,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions {
            threads: None,
            kernel: None,
            dense: false,
            context: None,
            kv_type: KvType::default(),
            max_sequences: 1,
            kv_pool: KvPool::default(),
            prefix_cache: false,
            prefill_chunk: DEFAULT_PREFILL_CHUNK,
            prefill_beside: DEFAULT_PREFILL_CHUNK,
            head: HeadMode::default(),
            checkpoint: CheckpointOptions::default(),
            strict_tokenizers: false,
            tokenizer: None,
            packed_cache: None,
            chat_template: None,
        }
    }
}

impl LoadOptions {
    /// Whether weights are packed as the engine chooses. Otherwise they are for comparison: nobody waits for them
    /// twice, so they are not kept.
    pub(crate) fn packs_as_chosen(&self) -> bool {
        self.kernel.is_none() && !self.dense && self.head == HeadMode::Auto
    }
}
