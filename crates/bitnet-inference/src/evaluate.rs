//! Running given tokens instead of drawing them: logits, last hidden states, traces.
//!
//! An evaluation takes blocks of the same KV cache for its duration and runs in chunks, so that its memory is bounded
//! whatever the length. Chunking never changes a number. While generations under way hold the blocks it needs, the
//! engine runs them on until there is room.

use std::ops::Range;

use bitnet_models::{LogitRows, Observer, Site};

use crate::block_manager::BlockManager;
use crate::engine::Engine;
use crate::error::Error;
use crate::logits;
use crate::runner::Runner;
use crate::step::Step;

/// One chunk of an evaluation that has just run.
pub struct EvaluatedChunk<'a> {
    /// Positions of its rows.
    pub positions: Range<usize>,
    /// `[positions.len(), vocab_size]` where logits were wanted, else empty.
    pub logits: &'a [f32],
    /// For the hidden states of its rows.
    pub runner: &'a dyn Runner,
}

/// The residual stream of a forward pass, `f32`, row-major.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trace {
    /// Number of tokens.
    pub n_tokens: usize,
    /// Length of a row.
    pub hidden_size: usize,
    /// The embedded tokens, `[n_tokens, hidden_size]`.
    pub embedding: Vec<f32>,
    /// After each layer, `[n_layers]` of `[n_tokens, hidden_size]`.
    pub layers: Vec<Vec<f32>>,
    /// After the final norm, `[n_tokens, hidden_size]`.
    pub final_norm: Vec<f32>,
}

impl Step {
    /// Runs `tokens` from an empty cache and hands every chunk to `sink`, in order; `wanted` are the positions whose
    /// logits are computed.
    ///
    /// # Errors
    /// [`Error::NeverFits`] and [`Error::Busy`] when the cache has no room; what the model reports.
    pub fn evaluate(
        &mut self,
        tokens: &[u32],
        wanted: Range<usize>,
        mut observer: Option<&mut dyn Observer>,
        sink: &mut dyn FnMut(EvaluatedChunk<'_>),
    ) -> Result<(), Error> {
        let (runner, blocks, batch) = self.evaluation_parts();
        let needed = BlockManager::blocks_for(tokens.len());
        if needed > blocks.n_blocks() {
            let available = blocks.n_blocks();
            return Err(Error::NeverFits { needed, available });
        }
        let Some(mut table) = blocks.allocate(tokens.len()) else {
            let free = blocks.n_free();
            return Err(Error::Busy { needed, free });
        };
        let shape = runner.shape();
        let mut start = 0;
        let mut outcome = Ok(());
        while start < tokens.len() && outcome.is_ok() {
            let (segment_end, rows, max_rows) = if wanted.contains(&start) {
                (wanted.end, LogitRows::All, shape.max_logit_rows)
            } else if start < wanted.start {
                (wanted.start, LogitRows::None, shape.max_batch_tokens)
            } else {
                (tokens.len(), LogitRows::None, shape.max_batch_tokens)
            };
            let max_rows = max_rows.min(shape.max_batch_tokens);
            let end = segment_end.min(tokens.len()).min(start + max_rows);
            batch.clear();
            batch.push_sequence(&tokens[start..end], start, &table, rows);
            let watching: Option<&mut dyn Observer> = match &mut observer {
                Some(observer) => Some(&mut **observer),
                None => None,
            };
            outcome = runner.run(batch, watching);
            if outcome.is_ok() {
                sink(EvaluatedChunk {
                    positions: start..end,
                    logits: runner.logits(),
                    runner,
                });
            }
            start = end;
        }
        blocks.release(&mut table);
        outcome
    }
}

impl Engine {
    /// Logits `[n, vocab_size]` of every position of `ids`, or `[1, vocab_size]` of the last; `LogitRows::None`
    /// gives none.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::PromptTooLong`].
    pub fn logits(&self, ids: &[u32], rows: LogitRows) -> Result<Vec<f32>, Error> {
        let wanted = match rows {
            LogitRows::None => ids.len()..ids.len(),
            LogitRows::Last => ids.len().saturating_sub(1)..ids.len(),
            LogitRows::All => 0..ids.len(),
        };
        self.check_ids(ids)?; // before the output is allocated from their number
        let mut out = Vec::with_capacity(wanted.len() * self.config().vocab_size);
        self.evaluate(ids, wanted, None, &mut |chunk| {
            out.extend_from_slice(chunk.logits);
        })?;
        Ok(out)
    }

    /// Natural logarithms of the probabilities of `ids[1..]`, each after all tokens before it, `[n - 1]`.
    ///
    /// # Errors
    /// As [`Engine::logits`].
    pub fn logprobs(&self, ids: &[u32]) -> Result<Vec<f64>, Error> {
        let vocab_size = self.config().vocab_size;
        let mut out = Vec::with_capacity(ids.len().saturating_sub(1));
        self.evaluate(ids, 0..ids.len(), None, &mut |chunk| {
            let targets = ids[chunk.positions.start + 1..].iter();
            let rows = chunk.logits.chunks_exact(vocab_size);
            out.extend(
                rows.zip(targets)
                    .map(|(row, &id)| logits::log_probability(row, id)),
            );
        })?;
        Ok(out)
    }

    /// The last hidden states of every position, after the final norm, `[n, hidden_size]`.
    ///
    /// # Errors
    /// As [`Engine::logits`].
    pub fn hidden_states(&self, ids: &[u32]) -> Result<Vec<f32>, Error> {
        self.check_ids(ids)?; // before the output is allocated from their number
        let hidden_size = self.config().hidden_size;
        let mut out = vec![0.0; ids.len() * hidden_size];
        self.evaluate(ids, ids.len()..ids.len(), None, &mut |chunk| {
            let rows = out
                .chunks_exact_mut(hidden_size)
                .skip(chunk.positions.start);
            for (row, out) in rows.take(chunk.positions.len()).enumerate() {
                chunk.runner.read_hidden(row, out);
            }
        })?;
        Ok(out)
    }

    /// The hidden states after every layer.
    ///
    /// # Errors
    /// As [`Engine::logits`].
    pub fn trace(&self, ids: &[u32]) -> Result<Trace, Error> {
        let config = self.config();
        let mut trace = Trace {
            n_tokens: ids.len(),
            hidden_size: config.hidden_size,
            layers: vec![Vec::new(); config.n_layers],
            ..Trace::default()
        };
        let mut observer = |site: Site, values: &[f32], _n_rows: usize| match site {
            Site::Embed => trace.embedding.extend_from_slice(values),
            Site::Layer(layer) => trace.layers[layer].extend_from_slice(values),
            Site::FinalNorm => trace.final_norm.extend_from_slice(values),
            _ => {}
        };
        self.evaluate(ids, ids.len()..ids.len(), Some(&mut observer), &mut |_| {})?;
        Ok(trace)
    }

    /// Checks `ids` and runs them on the engine's own model; see [`Step::evaluate`].
    pub(crate) fn evaluate(
        &self,
        ids: &[u32],
        wanted: Range<usize>,
        observer: Option<&mut dyn Observer>,
        sink: &mut dyn FnMut(EvaluatedChunk<'_>),
    ) -> Result<(), Error> {
        self.check_ids(ids)?;
        let needed = BlockManager::blocks_for(ids.len());
        let mut shared = self.lock();
        // Like any request, it waits for its blocks; waiting means to work for those who hold them.
        while shared.step.n_free_blocks() < needed && shared.turn(self.clock()) {}
        shared.step.evaluate(ids, wanted, observer, sink)
    }
}
