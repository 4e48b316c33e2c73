//! The forward pass: token ids in, logits out.
//!
//! One graph for every family; what differs is in [`crate::family`]. A token's way:
//!
//! ```text
//! x      = embedding[token]
//! x     += attention(x), x += feed_forward(x)            n_layers times
//! logits = final_norm(x) head
//! ```
//!
//! Between the ternary matrices everything is f32, and every sum has one fixed order, so a sequence gets the same
//! bytes whatever batch it is in and however many threads run. Paper: "The Era of 1-bit LLMs" (2402.17764) and the
//! 2B-4T report (2504.12285); numbers: `transformers` `modeling_bitnet.py`.

use crate::activations::Activations;
use crate::attention::attention;
use crate::batch::{Batch, Bounds};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::feed_forward::feed_forward;
use crate::kv_cache::KvCache;
use crate::observer::{Observer, Site};
use crate::packed_file::{PackError, PackedArrays, PackedFile, PackedFileError, PackedFileWriter};
use crate::pass::Pass;
use crate::tensor_role::TensorRole;
use crate::weights::{LoadProgress, WeightBytes, Weights, pack_weights, rows_to_halves};
use bitnet_kernels::{Backend, KernelError, KvType, RopeStyle, RopeTable};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A model in memory, ready to run. It is only read after loading; what changes is in [`KvCache`] and
/// [`Activations`].
pub struct Model<B: Backend> {
    backend: B,
    config: ModelConfig,
    weights: Weights<B>,
    ropes: Ropes,
    context_length: usize,
}

/// Cosines and sines of every position.
pub(crate) struct Ropes {
    all: RopeTable,
    /// Those of layers that look back a part of the context only, where they differ.
    local: Option<RopeTable>,
}

impl Ropes {
    /// Those of `context_length` positions.
    pub fn new(config: &ModelConfig, context_length: usize) -> Result<Ropes, ModelError> {
        Ok(Ropes {
            all: config.rope.table(context_length)?,
            local: match &config.sliding {
                Some(sliding) => Some(sliding.rope.table(context_length)?),
                None => None,
            },
        })
    }

    /// Those of a layer.
    pub fn of(&self, config: &ModelConfig, layer: usize) -> &RopeTable {
        match (&self.local, &config.sliding) {
            (Some(local), Some(sliding)) if !sliding.full_layers[layer] => local,
            _ => &self.all,
        }
    }
}

/// A checkpoint's configuration with what its tensors add to it, as its weights are loaded.
pub(crate) fn config_to_run(checkpoint: &Checkpoint) -> Result<ModelConfig, ModelError> {
    let mut config = checkpoint.config().clone();
    if checkpoint.has(TensorRole::RopeFactors) {
        config.rope.freq_factors = Some(checkpoint.vector(TensorRole::RopeFactors)?);
    }
    if rows_to_halves(&config) {
        config.rope.style = RopeStyle::Neox;
    }
    Ok(config)
}

impl<B: Backend> Model<B> {
    /// Computes the batch: fills `a.hidden` with every row's last hidden state and `a.head` with the logits of
    /// the rows in [`Batch::logit_rows`] (or with candidates, where that is enough), and writes the batch's keys and
    /// values into `cache`.
    ///
    /// Rows of one sequence must be in order, with every earlier position already in the cache or in this batch.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for a batch that exceeds the room of `a`, the cache, the context or the vocabulary.
    pub fn forward(
        &self,
        batch: &Batch,
        cache: &mut KvCache<B>,
        a: &mut Activations<B>,
        observer: Option<&mut dyn Observer>,
    ) -> Result<(), ModelError> {
        batch.check(&self.bounds(cache, a))?;
        let (w, config) = (&self.weights, &self.config);
        let mut pass = Pass::new(
            &self.backend,
            config,
            self.ropes.of(config, 0),
            batch,
            observer,
        );

        pass.embed(&w.embedding, &mut a.residual);
        for layer in 0..config.n_layers {
            let w = w.layer(&self.backend, layer)?;
            pass.layer = layer;
            pass.rope = self.ropes.of(config, layer);
            attention(&mut pass, &w.attention, cache, a);
            feed_forward(&mut pass, &w.feed_forward, a);
            pass.show(Site::Layer(layer), &a.residual, config.hidden_size);
        }
        pass.final_norm(&w.final_norm, &a.residual, &mut a.hidden);
        pass.head(w.head(), w.head_copy.as_ref(), &a.hidden, &mut a.head);
        Ok(())
    }

    /// Runs the head again on the hidden states that the last pass left in `a`, for what `batch` wants of them now: a
    /// batch of as many rows, such as the one that was run with other [`Batch::keep`]s.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for a batch that exceeds the room of `a`, the context or the vocabulary.
    pub fn head_again(
        &self,
        batch: &Batch,
        cache: &KvCache<B>,
        a: &mut Activations<B>,
    ) -> Result<(), ModelError> {
        batch.check(&self.bounds(cache, a))?;
        let w = &self.weights;
        let mut pass = Pass::new(
            &self.backend,
            &self.config,
            self.ropes.of(&self.config, 0),
            batch,
            None,
        );
        pass.head(w.head(), w.head_copy.as_ref(), &a.hidden, &mut a.head);
        Ok(())
    }

    /// Loads a checkpoint's weights into `backend`, for sequences of up to `context_length` positions (the model's
    /// own length where that is less).
    ///
    /// # Errors
    /// [`ModelError`] for a tensor that is missing, has another shape than the configuration says or cannot be
    /// decoded, and for memory that cannot be had.
    pub fn load(
        backend: B,
        checkpoint: &Checkpoint,
        context_length: usize,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Model<B>, ModelError> {
        Model::load_with(backend, checkpoint, context_length, None, progress)
    }

    /// The same with ternary weights and, if it is there, the head's small copy from a file that keeps them packed.
    ///
    /// # Errors
    /// As [`Model::load`], and [`ModelError::Kernel`] for packed weights that are not this model's.
    pub fn load_packed(
        backend: B,
        checkpoint: &Checkpoint,
        context_length: usize,
        packed: &mut PackedFile,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Model<B>, ModelError> {
        let mut model = Model::load_with(
            backend,
            checkpoint,
            context_length,
            Some(&mut *packed),
            progress,
        )?;
        if packed.has_head_copy() {
            let copy = model.backend.read_head_copy(model.weights.head(), packed)?;
            model.weights.head_copy = Some(copy);
        }
        Ok(model)
    }

    /// Keeps the packed weights in the file `path`, which [`Model::load_packed`] takes for a model of the same `key`;
    /// the bytes of the file.
    ///
    /// # Errors
    /// [`PackedFileError::Io`]; nothing is left behind then.
    pub fn write_packed(&self, path: &Path, key: &str) -> Result<u64, PackedFileError> {
        self.packed_arrays(path, key).write()
    }

    /// What [`Model::write_packed`] writes, for another thread to do so while the model runs.
    pub fn packed_arrays(&self, path: &Path, key: &str) -> PackedArrays {
        let mut arrays = PackedArrays {
            path: path.to_owned(),
            key: key.to_owned(),
            packing: self.backend.packing(),
            head_copy: self.weights.head_copy.is_some(),
            arrays: Vec::new(),
        };
        let kept = self.weights.write(&self.backend, &mut arrays);
        kept.expect("handles are kept in memory");
        arrays
    }

    /// Packs the weights into the file `path` that [`Model::load_packed`] maps, a layer at a time, so that all of them
    /// are never in memory: the same bytes as [`Model::write_packed`]. The head's small copy is among them if the head
    /// has at least `least_head_rows` rows. Returns when the system has it all on its disk.
    ///
    /// # Errors
    /// [`PackError`]; nothing is left behind then.
    pub fn pack_into(
        backend: &B,
        checkpoint: &Checkpoint,
        path: &Path,
        key: &str,
        least_head_rows: usize,
    ) -> Result<u64, PackError> {
        let mut writer = PackedFileWriter::create(path, key, &backend.packing())?;
        pack_weights(backend, checkpoint, least_head_rows, path, &mut writer)?;
        Ok(writer.finish(true)?)
    }

    /// Loads everything but the layers of a checkpoint that was opened with [`Checkpoint::open_lazily`]: each is read
    /// and packed when a pass first comes to it, and [`Model::forward`] then ends with what is wrong with it.
    ///
    /// # Errors
    /// As [`Model::load`], of everything but the layers.
    pub fn load_lazily(
        backend: B,
        checkpoint: Arc<Checkpoint>,
        context_length: usize,
    ) -> Result<Model<B>, ModelError> {
        let config = config_to_run(&checkpoint)?;
        let context_length = context_length.min(config.context_length);
        Ok(Model {
            ropes: Ropes::new(&config, context_length)?,
            weights: Weights::load_lazily(&backend, checkpoint)?,
            backend,
            config,
            context_length,
        })
    }

    fn load_with(
        backend: B,
        checkpoint: &Checkpoint,
        context_length: usize,
        packed: Option<&mut PackedFile>,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Model<B>, ModelError> {
        let config = config_to_run(checkpoint)?;
        let context_length = context_length.min(config.context_length);
        let ropes = Ropes::new(&config, context_length)?;
        let weights = Weights::load(&backend, checkpoint, packed, progress)?;
        Ok(Model {
            backend,
            config,
            weights,
            ropes,
            context_length,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Gives the memory of blocks of the KV cache back until they are written again. What they held is lost.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn forget_kv(&self, cache: &mut KvCache<B>, blocks: Range<u32>) {
        self.backend.forget_kv(&mut cache.storage, blocks);
    }

    /// Number of positions that a sequence may have.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// What computes.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Makes the small copy of the head that finds candidates, if the head has at least `least_rows` rows; without it
    /// every row of logits is computed in full.
    ///
    /// # Errors
    /// [`KernelError`] when the memory cannot be had.
    pub fn copy_head(&mut self, least_rows: usize) -> Result<(), KernelError> {
        let copy = self
            .backend
            .upload_head_copy(self.weights.head(), least_rows)?;
        self.weights.head_copy = copy;
        Ok(())
    }

    /// What the weights take in memory.
    pub fn weight_bytes(&self) -> WeightBytes {
        self.weights.bytes(&self.backend)
    }

    /// Room for the keys and values of `n_blocks` blocks of [`bitnet_kernels::KV_BLOCK`] positions.
    ///
    /// # Errors
    /// [`KernelError`] when the memory cannot be had.
    pub fn new_kv_cache(
        &self,
        n_blocks: usize,
        kv_type: KvType,
    ) -> Result<KvCache<B>, KernelError> {
        KvCache::new(&self.backend, &self.config, n_blocks, kv_type)
    }

    /// Room for batches of up to `max_tokens` rows, of which up to `max_logit_rows` want logits.
    ///
    /// # Errors
    /// [`KernelError`] when the memory cannot be had.
    pub fn activations(
        &self,
        max_tokens: usize,
        max_logit_rows: usize,
    ) -> Result<Activations<B>, KernelError> {
        Activations::new(&self.backend, &self.config, max_tokens, max_logit_rows)
    }

    /// Copies row `row` of the last batch's full rows of logits to `out` `[vocab_size]`: of all rows that wanted logits
    /// if nothing was said about what will be kept of them, else see [`HeadOutput::row`](crate::HeadOutput::row).
    ///
    /// # Panics
    /// When `a` has no such row.
    pub fn read_logits(&self, a: &Activations<B>, row: usize, out: &mut [f32]) {
        self.backend
            .read(&a.head.logits, row * self.config.vocab_size, out);
    }

    /// Copies the last hidden state of row `row` of the last batch to `out` `[hidden_size]`, as the head takes it:
    /// times [`ModelConfig::head_scale`] where the model has one.
    ///
    /// # Panics
    /// When `a` has no such row.
    pub fn read_hidden(&self, a: &Activations<B>, row: usize, out: &mut [f32]) {
        self.backend
            .read(&a.hidden, row * self.config.hidden_size, out);
    }

    fn bounds(&self, cache: &KvCache<B>, a: &Activations<B>) -> Bounds {
        Bounds {
            max_tokens: a.max_tokens(),
            max_logit_rows: a.max_logit_rows(),
            vocab_size: self.config.vocab_size,
            context_length: self.context_length,
            n_blocks: cache.n_blocks(),
        }
    }
}
