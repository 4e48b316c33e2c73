//! Every buffer that a forward pass writes, with its shape; made once, reused for every batch.
//!
//! A batch of `n` rows uses the first `n` rows of each buffer, so decoding allocates nothing.

use crate::config::ModelConfig;
use crate::head::HeadOutput;
use bitnet_kernels::{Backend, KernelError};

/// The buffers of a forward pass. All are f32, row-major, one row per token unless said otherwise.
pub struct Activations<B: Backend> {
    /// What flows from layer to layer: `[max_tokens, hidden_size]`.
    pub(crate) residual: B::Buffer,
    /// The residual after a layer's norm: `[max_tokens, hidden_size]`.
    pub(crate) normed: B::Buffer,
    /// The same after the norm inside a linear layer: `[max_tokens, hidden_size]`, empty where those have none.
    pub(crate) input: B::Buffer,
    /// Queries: `[max_tokens, n_heads * head_dim]`.
    pub(crate) queries: B::Buffer,
    /// Keys: `[max_tokens, n_kv_heads * head_dim]`.
    pub(crate) keys: B::Buffer,
    /// Values: `[max_tokens, n_kv_heads * head_dim]`.
    pub(crate) values: B::Buffer,
    /// What the attention gathered, head by head: `[max_tokens, n_heads * head_dim]`.
    pub(crate) context: B::Buffer,
    /// Gate of the feed-forward part: `[max_tokens, intermediate_size]`.
    pub(crate) gate: B::Buffer,
    /// What the gate scales: `[max_tokens, intermediate_size]`.
    pub(crate) up: B::Buffer,
    /// `activation(gate) * up`: `[max_tokens, intermediate_size]`.
    pub(crate) gated: B::Buffer,
    /// What the attention or the feed-forward part adds to the residual: `[max_tokens, hidden_size]`.
    pub(crate) update: B::Buffer,
    /// The last hidden states, after the final norm: `[max_tokens, hidden_size]`.
    pub hidden: B::Buffer,
    /// What the head made of the rows that the batch asked for.
    pub head: HeadOutput<B>,
    max_tokens: usize,
    max_logit_rows: usize,
}

impl<B: Backend> Activations<B> {
    /// Allocates every buffer.
    pub(crate) fn new(
        backend: &B,
        config: &ModelConfig,
        max_tokens: usize,
        max_logit_rows: usize,
    ) -> Result<Activations<B>, KernelError> {
        let buffer = |row_len: usize| backend.buffer(max_tokens * row_len);
        Ok(Activations {
            residual: buffer(config.hidden_size)?,
            normed: buffer(config.hidden_size)?,
            input: buffer(match config.input_norm_eps {
                Some(_) => config.hidden_size,
                None => 0,
            })?,
            queries: buffer(config.query_size())?,
            keys: buffer(config.kv_size())?,
            values: buffer(config.kv_size())?,
            context: buffer(config.query_size())?,
            gate: buffer(config.intermediate_size)?,
            up: buffer(config.intermediate_size)?,
            gated: buffer(config.intermediate_size)?,
            update: buffer(config.hidden_size)?,
            hidden: buffer(config.hidden_size)?,
            head: HeadOutput::new(backend, config, max_logit_rows)?,
            max_tokens,
            max_logit_rows,
        })
    }

    /// The most rows a batch may have.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The most rows whose logits a batch may ask for.
    pub fn max_logit_rows(&self) -> usize {
        self.max_logit_rows
    }
}
