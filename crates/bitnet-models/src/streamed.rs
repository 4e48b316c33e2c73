//! Logits of a few prompts without a model in memory: each layer is loaded, run for all of them and dropped.
//!
//! Whoever wants to know what a file says, once, needs neither all of its weights at a time nor a KV cache of more than
//! one layer. The numbers are those of [`Model`](crate::Model): the same steps in the same order.

use crate::activations::Activations;
use crate::attention::attention;
use crate::batch::{Batch, Bounds, LogitRows};
use crate::bitnet::{Ropes, config_to_run};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::feed_forward::feed_forward;
use crate::kv_cache::KvCache;
use crate::pass::Pass;
use crate::tensor_role::TensorRole;
use crate::weights::Loader;
use bitnet_kernels::{Backend, KV_BLOCK, KvType};

/// Rows (tokens) that run at once: more cost memory, fewer load the weights more often. 20 megabytes at 2 B weights.
const ROWS_AT_ONCE: usize = 160;

/// The logits after the last token of each of `prompts`, `[prompts.len()][vocab_size]`; `None` as soon as `wanted`,
/// which is asked before each layer, says no.
///
/// # Errors
/// As [`Model::load`](crate::Model::load); [`ModelError::Batch`] for prompts that are empty, too long, or have tokens
/// beyond the vocabulary.
pub fn streamed_logits<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    prompts: &[Vec<u32>],
    wanted: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<Vec<f32>>>, ModelError> {
    let config = config_to_run(checkpoint)?;
    let mut rows = Vec::with_capacity(prompts.len());
    let mut rest = prompts;
    while !rest.is_empty() {
        let mut n_rows = 0;
        let fits = |prompt: &&Vec<u32>| {
            n_rows += prompt.len();
            n_rows <= ROWS_AT_ONCE
        };
        let n = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(n);
        let loader = Loader::new(backend, checkpoint).keeping_pages(!later.is_empty());
        let Some(logits) = group(backend, &loader, &config, now, wanted)? else {
            return Ok(None);
        };
        rows.extend(logits);
        rest = later;
    }
    Ok(Some(rows))
}

fn group<B: Backend>(
    backend: &B,
    loader: &Loader<'_, '_, B>,
    config: &ModelConfig,
    prompts: &[Vec<u32>],
    wanted: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<Vec<f32>>>, ModelError> {
    let mut batch = Batch::new();
    let mut n_blocks = 0;
    for prompt in prompts {
        let first = n_blocks as u32;
        n_blocks += prompt.len().div_ceil(KV_BLOCK);
        let table: Vec<u32> = (first..n_blocks as u32).collect();
        batch.push_sequence(prompt, 0, &table, LogitRows::Last);
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let context_length = longest.min(config.context_length);
    batch.check(&Bounds {
        max_tokens: batch.len(),
        max_logit_rows: prompts.len(),
        vocab_size: config.vocab_size,
        context_length,
        n_blocks,
    })?;
    // Layers come one after the other, so their keys and values may lie in one place.
    let of_a_layer = ModelConfig {
        n_layers: 1,
        ..config.clone()
    };
    let mut cache = KvCache::new(backend, &of_a_layer, n_blocks, KvType::F32)?;
    let ropes = Ropes::new(config, context_length)?;
    let mut a = Activations::new(backend, config, batch.len(), prompts.len())?;
    let mut pass = Pass::new(backend, config, ropes.of(config, 0), &batch, None);
    let embedding = loader.matrix(TensorRole::Embedding)?;
    pass.embed(&embedding, &mut a.residual);
    for layer in 0..config.n_layers {
        if !wanted() {
            return Ok(None);
        }
        let w = loader.layer(layer)?;
        pass.rope = ropes.of(config, layer);
        attention(&mut pass, &w.attention, &mut cache, &mut a);
        feed_forward(&mut pass, &w.feed_forward, &mut a);
    }
    let final_norm = loader.vector(TensorRole::FinalNorm)?;
    pass.final_norm(&final_norm, &a.residual, &mut a.hidden);
    let head = match config.tied_head {
        true => embedding,
        false => loader.matrix(TensorRole::Head)?,
    };
    pass.head(&head, None, &a.hidden, &mut a.head);
    let mut rows = vec![vec![0.0; config.vocab_size]; prompts.len()];
    for (row, out) in rows.iter_mut().enumerate() {
        backend.read(&a.head.logits, row * config.vocab_size, out);
    }
    Ok(Some(rows))
}
