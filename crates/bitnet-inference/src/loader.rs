//! From a checkpoint to an engine's parts: backend, weights, cache, tokenizer.
//!
//! Everything that can be refused is refused here, before the first token: a file that is no model, a context larger
//! than the model's, a tokenizer that would need a guess when guesses are forbidden.

mod options;
mod room;
mod tokenizer;

use std::fs;
use std::sync::Arc;

use bitnet_kernels::{
    Backend, CpuBackend, CpuOptions, KV_BLOCK, KernelError, LEAST_HEAD_ROWS, LayoutProbe,
};
use bitnet_models::{
    Checkpoint, Finding, GenerationDefaults, LoadProgress, Model, ModelConfig, ModelError,
    PackError, PackedArrays, PackedFile, PackedFileError, WeightBytes, kv_block_bytes,
};
use bitnet_tokenizers::Tokenizer;

use crate::error::{Error, option};
use crate::packed_cache::{CacheEntry, CachePurpose};
use crate::runner::{ModelRunner, Runner, RunnerSizes};
use crate::scheduler::ScheduleLimits;
use crate::speculative::MAX_DRAFT;
pub use options::{
    DEFAULT_CONTEXT, DEFAULT_PREFILL_CHUNK, HeadMode, KvPool, LoadOptions, SERVING_PREFILL_BESIDE,
};
pub use room::check_room;
use room::context_and_blocks;
pub(crate) use tokenizer::load_tokenizer;
pub use tokenizer::{checkpoint_tokenizer, open_tokenizer};

/// Rows of logits that an evaluation computes at once: 16 MiB at the largest vocabulary in use (128 k), and enough
/// rows to make the head's weights worth reading.
const EVALUATION_ROWS: usize = 32;

/// Rows of logits a pass for prompts whose log probabilities are wanted: the rows that the ternary kernels take at
/// once, twice, and 8 MiB at the largest vocabulary in use.
const PROMPT_LOGIT_ROWS: usize = 16;

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
    positive(option::MAX_SEQUENCES, options.max_sequences)?;
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
