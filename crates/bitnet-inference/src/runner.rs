//! The seam between the engine and the model: generics of the backend end here.
//!
//! Above this trait nothing knows which processor runs the model; below it nothing knows about requests.

use std::ops::Range;

use bitnet_kernels::{Backend, HeadWork, KvType, Traffic};
use bitnet_models::{Activations, Batch, KvCache, Model, Observer, RowLogits};

use crate::error::Error;
use crate::logits::Row;

/// The sizes of a loaded model and its buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunnerShape {
    /// Ids of the vocabulary; the length of a row of logits.
    pub vocab_size: usize,
    /// Blocks of the KV cache.
    pub n_blocks: usize,
    /// Most rows (tokens) of a batch.
    pub max_batch_tokens: usize,
    /// Most rows of logits a batch may ask for.
    pub max_logit_rows: usize,
}

/// How much room a [`ModelRunner`] makes.
#[derive(Debug, Clone, Copy)]
pub struct RunnerSizes {
    /// Blocks of the KV cache.
    pub n_blocks: usize,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Most rows (tokens) of a batch.
    pub max_batch_tokens: usize,
    /// Most rows of logits a batch may ask for.
    pub max_logit_rows: usize,
}

/// Runs batches. Object safe.
pub trait Runner: Send {
    /// The sizes that batches have to keep to.
    fn shape(&self) -> RunnerShape;

    /// One forward pass. Keys and values of every row go to the cache; `observer` sees intermediate results.
    ///
    /// # Errors
    /// What the model reports; the rows of `batch` are then not in the cache.
    fn run(&mut self, batch: &Batch, observer: Option<&mut dyn Observer>) -> Result<(), Error>;

    /// The full rows of logits of the last pass, `[n, vocab_size]`, in the order the batch asked for them: all that it
    /// asked for, if it said of none what will be kept.
    fn logits(&self) -> &[f32];

    /// The logits of row `row` of those that the last batch asked for.
    ///
    /// # Panics
    /// When it asked for fewer.
    fn row(&self, row: usize) -> Row<'_>;

    /// What finding candidates took so far.
    fn head_work(&self) -> HeadWork;

    /// Copies the last hidden state (after the final norm) of row `row` of the last pass to `out` `[hidden_size]`.
    fn read_hidden(&self, row: usize, out: &mut [f32]);

    /// What passes of one row have read of the ternary weights so far.
    fn traffic(&self) -> Traffic;

    /// Gives the memory of blocks of the cache back, where it has some to give, until they are written again. What they
    /// held is lost.
    fn forget_kv(&mut self, _blocks: Range<u32>) {}

    /// What it runs on, as results report it.
    fn device(&self) -> &'static str {
        "cpu"
    }

    /// The runner that takes over when this one fails with [`Error::Device`]: of the same shape, with an empty cache.
    /// `None` for one that fails no other way than its machine does, such as the CPU's; asked for once.
    fn fallback(&mut self) -> Option<Box<dyn Runner>> {
        None
    }
}

/// A [`Model`] with its cache and buffers.
pub struct ModelRunner<B: Backend> {
    model: Model<B>,
    cache: KvCache<B>,
    activations: Activations<B>,
    logits: Vec<f32>, // [full rows of the last pass, vocab_size], host copy
}

impl<B: Backend> ModelRunner<B> {
    /// Allocates cache and buffers for `model`.
    ///
    /// # Errors
    /// [`Error::Kernel`] when the memory cannot be had.
    pub fn new(model: Model<B>, sizes: RunnerSizes) -> Result<ModelRunner<B>, Error> {
        Ok(ModelRunner {
            cache: model.new_kv_cache(sizes.n_blocks, sizes.kv_type)?,
            activations: model.activations(sizes.max_batch_tokens, sizes.max_logit_rows)?,
            logits: Vec::new(),
            model,
        })
    }
}

impl<B: Backend> Runner for ModelRunner<B> {
    fn shape(&self) -> RunnerShape {
        RunnerShape {
            vocab_size: self.model.config().vocab_size,
            n_blocks: self.cache.n_blocks(),
            max_batch_tokens: self.activations.max_tokens(),
            max_logit_rows: self.activations.max_logit_rows(),
        }
    }

    fn run(&mut self, batch: &Batch, observer: Option<&mut dyn Observer>) -> Result<(), Error> {
        self.model
            .forward(batch, &mut self.cache, &mut self.activations, observer)?;
        let vocab_size = self.model.config().vocab_size;
        self.logits
            .resize(self.activations.head.n_full() * vocab_size, 0.0);
        for (row, out) in self.logits.chunks_exact_mut(vocab_size).enumerate() {
            self.model.read_logits(&self.activations, row, out);
        }
        Ok(())
    }

    fn logits(&self) -> &[f32] {
        &self.logits
    }

    fn row(&self, row: usize) -> Row<'_> {
        match self.activations.head.row(row) {
            RowLogits::Full(row) => {
                let vocab_size = self.model.config().vocab_size;
                Row::Full(&self.logits[row * vocab_size..][..vocab_size])
            }
            RowLogits::Candidates(candidates) => Row::Candidates(candidates),
        }
    }

    fn head_work(&self) -> HeadWork {
        self.activations.head.work()
    }

    fn read_hidden(&self, row: usize, out: &mut [f32]) {
        self.model.read_hidden(&self.activations, row, out);
    }

    fn forget_kv(&mut self, blocks: Range<u32>) {
        self.model.forget_kv(&mut self.cache, blocks);
    }

    fn traffic(&self) -> Traffic {
        self.model.backend().traffic()
    }
}
