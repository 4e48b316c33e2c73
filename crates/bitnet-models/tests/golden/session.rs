//! A loaded model and one sequence in its cache.

use crate::cases::Case;
use bitnet_kernels::{CpuBackend, CpuOptions, KV_BLOCK, KvType};
use bitnet_models::{Activations, Batch, Checkpoint, KvCache, LogitRows, Model};

/// Positions that a session has room for: the 1,000 of the perplexity text, and 21 blocks for each of six prompts that
/// share a batch.
const MAX_POSITIONS: usize = 2048;

/// Positions where a test needs only prompt `p7`.
pub const SHORT_CONTEXT: usize = 16;

/// The longest chunk of a prompt that is computed at once.
pub const MAX_CHUNK: usize = 256;

/// A model, its buffers, and a sequence that grows.
pub struct Session {
    pub model: Model<CpuBackend>,
    cache: KvCache<CpuBackend>,
    activations: Activations<CpuBackend>,
    batch: Batch,
    /// Physical block of each logical block. Backwards, so that a kernel that ignores the table fails.
    block_table: Vec<u32>,
    position: usize,
}

impl Session {
    /// Loads a case's model with the default kernel and two threads.
    pub fn open(case: &Case) -> Session {
        Session::with(&case.checkpoint(), two_threads(), KvType::F32)
    }

    /// Loads a model.
    pub fn with(checkpoint: &Checkpoint, options: CpuOptions, kv_type: KvType) -> Session {
        let backend = CpuBackend::new(options).expect("a backend");
        let model = Model::load(backend, checkpoint, MAX_POSITIONS, &mut |_| {}).expect("a model");
        let n_blocks = MAX_POSITIONS.div_ceil(KV_BLOCK);
        let cache = model.new_kv_cache(n_blocks, kv_type).expect("a cache");
        let activations = model.activations(MAX_CHUNK, MAX_CHUNK).expect("buffers");
        let block_table = (0..n_blocks as u32).rev().collect();
        Session {
            model,
            cache,
            activations,
            batch: Batch::new(),
            block_table,
            position: 0,
        }
    }

    /// Forgets the sequence.
    pub fn restart(&mut self) {
        self.position = 0;
    }

    /// Continues the sequence by `tokens` and returns the logits `[n, vocab_size]` of the rows asked for.
    pub fn feed(&mut self, tokens: &[u32], logits: LogitRows) -> Vec<f32> {
        self.batch.clear();
        self.batch
            .push_sequence(tokens, self.position, &self.block_table, logits);
        self.position += tokens.len();
        self.run()
    }

    /// Runs a batch of the caller's making and returns its logits.
    pub fn run_batch(&mut self, batch: &Batch) -> Vec<f32> {
        self.batch.clone_from(batch);
        self.run()
    }

    /// The logits of every position of a new sequence, computed in chunks of `chunk` tokens.
    pub fn all_logits(&mut self, ids: &[u32], chunk: usize) -> Vec<f32> {
        self.restart();
        ids.chunks(chunk.min(MAX_CHUNK))
            .flat_map(|chunk| self.feed(chunk, LogitRows::All))
            .collect()
    }

    fn run(&mut self) -> Vec<f32> {
        self.model
            .forward(&self.batch, &mut self.cache, &mut self.activations, None)
            .expect("a valid batch");
        let mut logits = vec![0.0; self.batch.logit_rows().len() * self.model.config().vocab_size];
        self.model.read_logits(&self.activations, 0, &mut logits);
        logits
    }
}

/// What most tests run on.
pub fn two_threads() -> CpuOptions {
    CpuOptions {
        threads: Some(2),
        ..CpuOptions::default()
    }
}
