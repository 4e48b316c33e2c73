//! From a checkpoint to an engine's parts: backend, weights, cache, tokenizer.
//!
//! Everything that can be refused is refused here, before the first token: a file that is no model, a context larger
//! than the model's, a tokenizer that would need a guess when guesses are forbidden.

mod room;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_kernels::{
    Backend, CpuBackend, CpuOptions, KV_BLOCK, KernelError, KvType, LEAST_HEAD_ROWS, LayoutProbe,
};
use bitnet_models::mmap::Access;
use bitnet_models::{
    Checkpoint, CheckpointOptions, Finding, GenerationDefaults, LoadProgress, Model, ModelConfig,
    ModelError, PackError, PackedArrays, PackedFile, PackedFileError, TokenizerSource, WeightBytes,
    kv_block_bytes,
};
use bitnet_tokenizers::{GgufVocabulary, SentencePieceFiles, Tokenizer, TokenizerOptions};

use crate::error::Error;
use crate::packed_cache::{CacheEntry, CachePurpose, PackedCache};
use crate::runner::{ModelRunner, Runner, RunnerSizes};
use crate::scheduler::ScheduleLimits;
use crate::shared_tokenizers;
use crate::speculative::MAX_DRAFT;
pub use room::check_room;
use room::context_and_blocks;

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

/// Rows of logits that an evaluation computes at once: 16 MiB at the largest vocabulary in use (128 k), and enough
/// rows to make the head's weights worth reading.
const EVALUATION_ROWS: usize = 32;

/// Rows of logits a pass for prompts whose log probabilities are wanted: the rows that the ternary kernels take at
/// once, twice, and 8 MiB at the largest vocabulary in use.
const PROMPT_LOGIT_ROWS: usize = 16;

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
    /// The same for passes in which others decode, who wait for the pass; more than `prefill_chunk` counts as that. By
    /// default no fewer, for whoever wants all answers soonest; servers take [`SERVING_PREFILL_BESIDE`].
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

/// Where the packed weights of a model came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PackedWeights {
    /// They were packed at this start.
    Made,
    /// They were packed at this start and written to the cache, or are to be written
    /// ([`Engine::take_unwritten`](crate::Engine::take_unwritten)).
    Written,
    /// An earlier start had kept them.
    Kept,
}

/// Where packed weights are while a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightsPlace {
    /// In memory of the process.
    Memory,
    /// In a file of the cache, which is mapped: its pages are clean, and other processes may share them.
    Cache,
}

/// What a loaded model consists of.
pub(crate) struct Loaded {
    pub runner: Box<dyn Runner>,
    pub limits: ScheduleLimits,
    pub config: ModelConfig,
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub chat_template: Option<String>,
    pub generation_defaults: GenerationDefaults,
    pub findings: Vec<Finding>,
    pub kernel: String,
    pub layouts: Option<LayoutProbe>,
    pub threads: usize,
    pub warnings: Vec<String>,
    pub context: usize,
    pub n_kv_blocks: usize,
    pub kv_cache_bytes: usize,
    pub weight_bytes: WeightBytes,
    pub packed_weights: PackedWeights,
    pub weights_in: WeightsPlace,
    pub unwritten: Option<PackedArrays>,
    pub kv_position_bytes: usize,
}

/// What is loaded.
pub(crate) enum Origin<'a> {
    /// All of a checkpoint, now, or what was kept of it.
    AtOnce(&'a Checkpoint, Option<&'a CacheEntry>),
    /// Everything but the layers, which come when a pass comes to them.
    Lazily(Arc<Checkpoint>),
}

/// Loads everything on the CPU.
pub(crate) fn load(
    from: &Origin<'_>,
    options: &LoadOptions,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Loaded, Error> {
    let (checkpoint, entry) = match from {
        Origin::AtOnce(checkpoint, entry) => (*checkpoint, *entry),
        Origin::Lazily(checkpoint) => (&**checkpoint, None),
    };
    let config = checkpoint.config().clone();
    positive("max_sequences", options.max_sequences)?;
    positive("prefill_chunk", options.prefill_chunk)?;
    positive("prefill_beside", options.prefill_beside)?;
    // What weights take is known when they are loaded; what cannot do even without them is refused before.
    let (context, _) = context_and_blocks(options, &config, 0)?;
    // The tokenizer first: it is refused in milliseconds, weights take seconds.
    let tokenizer = load_tokenizer(checkpoint, options)?;

    let mut backend = CpuBackend::new(CpuOptions {
        threads: options.threads,
        kernel: options.kernel.clone(),
        dense: options.dense,
    })?;
    let mut warnings = backend.warnings().to_vec();
    let kept = entry.and_then(|entry| kept_weights(entry, &mut backend, &mut warnings));
    let mut packed_weights = PackedWeights::Made;
    let mut unwritten = None;
    let choose_layout = |backend: &mut CpuBackend| match options.kernel {
        None if checkpoint.has_one_scale_a_tensor()? => {
            Ok::<_, Error>(backend.choose_layout(config.n_ternary_weights())?)
        }
        _ => Ok(()),
    };
    let kept = match (kept, entry) {
        (None, Some(entry)) if serves(options) => {
            choose_layout(&mut backend)?;
            packed_weights = PackedWeights::Written;
            pack_into(&backend, checkpoint, entry, &mut warnings)?
        }
        (kept, _) => {
            if kept.is_some() {
                packed_weights = PackedWeights::Kept;
            }
            kept
        }
    };
    let weights_in = match kept {
        Some(_) => WeightsPlace::Cache,
        None => WeightsPlace::Memory,
    };
    let model = match kept {
        Some(mut packed) => {
            let model = Model::load_packed(backend, checkpoint, context, &mut packed, progress);
            match (model, entry) {
                // Whole, and of this model by its own word, yet not what this version reads: it is of no use to
                // anybody.
                (Err(ModelError::Kernel(KernelError::PackedArray { .. })), Some(entry))
                    if packed_weights == PackedWeights::Kept =>
                {
                    let entry = fs::remove_file(&entry.path).ok().map(|()| entry);
                    return load(&Origin::AtOnce(checkpoint, entry), options, progress);
                }
                (model, _) => model?,
            }
        }
        None => {
            packed_weights = PackedWeights::Made;
            let mut model = match from {
                Origin::AtOnce(..) => {
                    choose_layout(&mut backend)?;
                    Model::load(backend, checkpoint, context, progress)?
                }
                // The race of layouts would look at a layer.
                Origin::Lazily(checkpoint) => {
                    Model::load_lazily(backend, Arc::clone(checkpoint), context)?
                }
            };
            match options.head {
                HeadMode::Auto => model.copy_head(LEAST_HEAD_ROWS)?,
                HeadMode::Full => {}
                HeadMode::Search => model.copy_head(0)?,
            }
            if let (Some(entry), Some(cache)) = (entry, &options.packed_cache)
                && cache.purpose == CachePurpose::NextStart
                && worth_keeping(&model, cache.least_bytes)
            {
                packed_weights = PackedWeights::Written;
                entry.claim();
                unwritten = Some(model.packed_arrays(&entry.path, &entry.key));
            }
            model
        }
    };
    let backend = model.backend();
    let (kernel, threads) = (backend.kernel_name().to_owned(), backend.threads());
    let layouts = backend.probe();
    let weight_bytes = model.weight_bytes();
    let (context, n_blocks) = context_and_blocks(options, &config, weight_bytes.total())?;
    // A prompt is never longer than the context, so neither is a useful chunk.
    let prefill_chunk = options.prefill_chunk.min(context);
    let limits = ScheduleLimits {
        max_running: options.max_sequences.min(n_blocks), // each has at least a block
        max_drafted: MAX_DRAFT,
        prefill_chunk,
        prefill_beside: options.prefill_beside.min(prefill_chunk),
        prompt_logit_rows: PROMPT_LOGIT_ROWS,
    };
    let runner = ModelRunner::new(
        model,
        RunnerSizes {
            n_blocks,
            kv_type: options.kv_type,
            max_batch_tokens: limits.max_rows(),
            max_logit_rows: limits.max_logit_rows().max(EVALUATION_ROWS),
        },
    )?;
    let chat_template = options
        .chat_template
        .clone()
        .or_else(|| Some(tokenizer.as_ref()?.chat_template()?.to_owned()));
    Ok(Loaded {
        runner: Box::new(runner),
        limits,
        tokenizer,
        chat_template,
        generation_defaults: checkpoint.generation_defaults().clone(),
        findings: checkpoint.findings().to_vec(),
        kernel,
        layouts,
        threads,
        warnings,
        context,
        n_kv_blocks: n_blocks,
        kv_cache_bytes: n_blocks * kv_block_bytes(&config, options.kv_type),
        kv_position_bytes: kv_block_bytes(&config, options.kv_type) / KV_BLOCK,
        weight_bytes,
        packed_weights,
        weights_in,
        unwritten,
        config,
    })
}

/// Whether weights are to be used from the cache and not from memory.
fn serves(options: &LoadOptions) -> bool {
    let cache = options.packed_cache.as_ref();
    cache.is_some_and(|cache| cache.purpose == CachePurpose::Serving)
}

/// Packs the weights into the file of `entry` and opens that; `None` and a warning where it cannot be written.
fn pack_into(
    backend: &CpuBackend,
    checkpoint: &Checkpoint,
    entry: &CacheEntry,
    warnings: &mut Vec<String>,
) -> Result<Option<PackedFile>, Error> {
    let CacheEntry { path, key, .. } = entry;
    entry.claim();
    let packed = Model::pack_into(backend, checkpoint, path, key, LEAST_HEAD_ROWS);
    backend.end_packing();
    let opened = match packed {
        Ok(_) => PackedFile::open(path, key, backend.threads()),
        Err(PackError::Model(error)) => return Err(error.into()),
        Err(PackError::File(error)) => Err(error),
    };
    Ok(opened.unwrap_or_else(|error| {
        warnings.push(format!("weights are packed in memory: {error}"));
        None
    }))
}

/// The packed weights that an earlier start has kept, if they fit this model and this machine; why not goes to
/// `warnings`, unless there are none.
fn kept_weights(
    entry: &CacheEntry,
    backend: &mut CpuBackend,
    warnings: &mut Vec<String>,
) -> Option<PackedFile> {
    let packed = match PackedFile::open(&entry.path, &entry.key, backend.threads()) {
        Ok(packed) => packed?,
        // What changed is the model, not the file.
        Err(PackedFileError::OtherKey { .. }) => return None,
        Err(error) => {
            warnings.push(format!("packed again: {error}"));
            return None;
        }
    };
    match backend.take_packing(packed.packing()) {
        Ok(true) => Some(packed),
        // Packed by another version, or on another machine that shares the folder.
        Ok(false) => None,
        Err(error) => {
            warnings.push(format!("packed again: {error}"));
            None
        }
    }
}

/// Whether the packed weights of `model` are `least_bytes` or more.
fn worth_keeping(model: &Model<CpuBackend>, least_bytes: usize) -> bool {
    let bytes = model.weight_bytes();
    bytes.layers + bytes.layer_copies + bytes.head_copy >= least_bytes
}

fn positive(option: &str, value: usize) -> Result<(), Error> {
    if value > 0 {
        return Ok(());
    }
    Err(Error::InvalidOption {
        option: option.into(),
        value: value.to_string(),
        expected: "at least 1".into(),
    })
}

/// The tokenizer that `options` want for a checkpoint; that of another model, if it is the same.
pub(crate) fn load_tokenizer(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
) -> Result<Option<Arc<Tokenizer>>, Error> {
    let strict = TokenizerOptions {
        strict: options.strict_tokenizers,
    };
    let with_template = |mut tokenizer: Tokenizer| {
        if let Some(template) = &options.chat_template {
            tokenizer.set_chat_template(Some(template.clone()));
        }
        tokenizer
    };
    if let Some(path) = &options.tokenizer {
        let opened = tokenizer_at(path, &strict, options.checkpoint.access)?;
        return Ok(Some(Arc::new(with_template(opened))));
    }
    let source = checkpoint.tokenizer_source()?;
    let own_template = own_template(checkpoint, &source)?;
    let parts = (
        &source,
        &own_template,
        strict.strict,
        &options.chat_template,
    );
    let digested = shared_tokenizers::digest(&parts);
    shared_tokenizers::find_or(digested, || {
        let made = with_own_template(source, own_template, &strict)?;
        Ok(made.map(with_template))
    })
}

/// The tokenizer that comes with a checkpoint, with the checkpoint's chat template; `None` when it has none.
///
/// # Errors
/// [`Error::Model`] when its files cannot be read, [`Error::Tokenizer`] when they make no tokenizer.
pub fn checkpoint_tokenizer(
    checkpoint: &Checkpoint,
    options: &TokenizerOptions,
) -> Result<Option<Tokenizer>, Error> {
    let source = checkpoint.tokenizer_source()?;
    let own_template = own_template(checkpoint, &source)?;
    with_own_template(source, own_template, options)
}

/// A directory may keep its template in a file of its own. That of a GGUF file is in its vocabulary, where the
/// tokenizer repairs known mistakes: it must not be replaced by the original.
fn own_template(
    checkpoint: &Checkpoint,
    source: &TokenizerSource,
) -> Result<Option<String>, ModelError> {
    match source {
        TokenizerSource::Hf { .. } | TokenizerSource::SentencePiece { .. } => {
            checkpoint.chat_template()
        }
        TokenizerSource::Gguf(_) | TokenizerSource::Missing => Ok(None),
    }
}

fn with_own_template(
    source: TokenizerSource,
    own_template: Option<String>,
    options: &TokenizerOptions,
) -> Result<Option<Tokenizer>, Error> {
    let mut tokenizer = from_source(source, options)?;
    if let (Some(tokenizer), Some(template)) = (&mut tokenizer, own_template) {
        tokenizer.set_chat_template(Some(template));
    }
    Ok(tokenizer)
}

/// Opens a tokenizer by itself: a `tokenizer.json` (its neighbours `tokenizer_config.json` and
/// `special_tokens_map.json` are read too), a folder that holds one, or the vocabulary of a GGUF file.
///
/// # Errors
/// [`Error::Model`] when the file cannot be read, [`Error::Tokenizer`] when it is of no use, [`Error::NoTokenizer`]
/// for a folder or a GGUF file without one.
pub fn open_tokenizer(path: &Path, options: &TokenizerOptions) -> Result<Tokenizer, Error> {
    tokenizer_at(path, options, Access::Map)
}

fn tokenizer_at(
    path: &Path,
    options: &TokenizerOptions,
    access: Access,
) -> Result<Tokenizer, Error> {
    let source = TokenizerSource::open(path, access)?;
    from_source(source, options)?.ok_or_else(|| Error::NoTokenizer {
        model: path.display().to_string(),
    })
}

fn from_source(
    source: TokenizerSource,
    options: &TokenizerOptions,
) -> Result<Option<Tokenizer>, Error> {
    Ok(match source {
        TokenizerSource::Gguf(vocabulary) => Some(Tokenizer::from_gguf(*vocabulary, options)?),
        TokenizerSource::Hf {
            tokenizer_json,
            tokenizer_config,
            special_tokens_map,
        } => Some(Tokenizer::from_hf(
            &tokenizer_json,
            tokenizer_config.as_deref(),
            special_tokens_map.as_deref(),
            options,
        )?),
        TokenizerSource::SentencePiece {
            model,
            tokenizer_config,
            special_tokens_map,
            added_tokens,
        } => {
            let vocabulary = GgufVocabulary::from_sentencepiece(&SentencePieceFiles {
                model: &model,
                tokenizer_config: tokenizer_config.as_deref(),
                special_tokens_map: special_tokens_map.as_deref(),
                added_tokens: added_tokens.as_deref(),
            })?;
            Some(Tokenizer::from_gguf(vocabulary, options)?)
        }
        TokenizerSource::Missing => None,
    })
}
