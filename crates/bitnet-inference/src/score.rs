//! Perplexity, by llama-perplexity's method, so that numbers can be compared with what people publish.
//!
//! ```text
//! tokens      the whole text once, BOS as the tokenizer says, no EOS
//! chunks      floor(tokens / ctx) of ctx tokens each, every one from an empty cache; needs tokens >= 2 ctx
//! first       the first token of each chunk is replaced by BOS when the tokenizer adds one
//! predictions positions ctx/2 ..= ctx-2 predict their successors: ctx - 1 - ctx/2 a chunk (255 at 512)
//! nll         -(l[target] - max - ln(sum exp(l - max))), f32 logits, sums in f64
//! perplexity  exp(mean nll), +- perplexity * sqrt((mean nll^2 - mean^2) / (n - 1))
//! ```
//!
//! Strided and sliding windows give other numbers; never mix them.
//!
//! Source: llama.cpp `tools/perplexity/perplexity.cpp`.

use crate::engine::Engine;
use crate::error::Error;
use crate::logits;
use crate::request::Prompt;

/// llama-perplexity's default context.
pub const DEFAULT_SCORE_CONTEXT: usize = 512;

/// The smallest context with a prediction in its second half.
const MIN_SCORE_CONTEXT: usize = 4;

/// How a text is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreOptions {
    /// Tokens of a chunk.
    pub ctx: usize,
    /// Whether a chunk's first token is replaced by BOS. `None`: as the tokenizer says.
    pub add_bos: Option<bool>,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        ScoreOptions {
            ctx: DEFAULT_SCORE_CONTEXT,
            add_bos: None,
        }
    }
}

/// How far a score is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreProgress {
    /// Chunks done.
    pub done: usize,
    /// Chunks in all.
    pub total: usize,
    /// Perplexity of the chunks done.
    pub perplexity: f64,
}

/// The result.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Score {
    /// exp of the mean negative log likelihood.
    pub perplexity: f64,
    /// Its standard error.
    pub error: f64,
    /// Mean negative log likelihood, nats a token.
    pub nll: f64,
    /// Tokens predicted.
    pub n_predictions: usize,
    /// Chunks run.
    pub n_chunks: usize,
    /// Tokens of the text, BOS included.
    pub n_tokens: usize,
    /// Tokens of a chunk.
    pub ctx: usize,
}

impl Engine {
    /// Scores a text (or ids), telling `progress` after each chunk.
    ///
    /// # Errors
    /// [`Error::TooFewTokens`] below two chunks, [`Error::InvalidOption`] for a context that is too small or larger
    /// than the engine's, [`Error::EmptyPrompt`] when BOS is wanted of a model without one, and what
    /// [`Engine::logits`] reports.
    pub fn score(
        &self,
        text: impl Into<Prompt>,
        options: &ScoreOptions,
        progress: &mut dyn FnMut(&ScoreProgress),
    ) -> Result<Score, Error> {
        let ctx = options.ctx;
        if !(MIN_SCORE_CONTEXT..=self.context()).contains(&ctx) {
            return Err(Error::InvalidOption {
                option: "the scoring context".into(),
                value: ctx.to_string(),
                expected: format!(
                    "{MIN_SCORE_CONTEXT} to {}, the context of the engine",
                    self.context()
                ),
            });
        }
        let tokens = self.encode_prompt(&text.into())?;
        let (needed, found) = (2 * ctx, tokens.len());
        if found < needed {
            return Err(Error::TooFewTokens { ctx, needed, found });
        }
        let add_bos = options.add_bos.unwrap_or_else(|| self.adds_bos());
        let bos = if add_bos {
            Some(self.bos().ok_or(Error::EmptyPrompt)?)
        } else {
            None
        };
        let n_chunks = found / ctx;
        let mut tally = Tally::default();
        let mut chunk = Vec::with_capacity(ctx);
        for (index, tokens) in tokens.chunks_exact(ctx).enumerate() {
            chunk.clear();
            chunk.extend_from_slice(tokens);
            if let Some(bos) = bos {
                chunk[0] = bos;
            }
            self.score_chunk(&chunk, &mut tally)?;
            progress(&ScoreProgress {
                done: index + 1,
                total: n_chunks,
                perplexity: tally.perplexity(),
            });
        }
        Ok(Score {
            perplexity: tally.perplexity(),
            error: tally.error(),
            nll: tally.mean(),
            n_predictions: tally.n,
            n_chunks,
            n_tokens: found,
            ctx,
        })
    }

    fn score_chunk(&self, chunk: &[u32], tally: &mut Tally) -> Result<(), Error> {
        let vocab_size = self.config().vocab_size;
        // The last token predicts nothing, so it need not run.
        let (_, run) = chunk.split_last().expect("a chunk has tokens");
        let predicting = chunk.len() / 2..run.len();
        self.evaluate(run, predicting, None, &mut |evaluated| {
            let targets = &chunk[evaluated.positions.start + 1..];
            for (row, &target) in evaluated.logits.chunks_exact(vocab_size).zip(targets) {
                tally.add(-logits::log_probability(row, target));
            }
        })
    }
}

/// Sums of negative log likelihoods.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    n: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Tally {
    fn add(&mut self, nll: f64) {
        self.n += 1;
        self.sum += nll;
        self.sum_of_squares += nll * nll;
    }

    fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }

    fn perplexity(&self) -> f64 {
        libm::exp(self.mean())
    }

    fn error(&self) -> f64 {
        let variance = self.sum_of_squares / self.n as f64 - self.mean() * self.mean();
        // Rounding can leave the variance of equal values a hair below zero.
        self.perplexity() * (variance.max(0.0) / (self.n as f64 - 1.0)).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_and_its_error_follow_the_formulas() {
        let mut tally = Tally::default();
        for nll in [1.0, 2.0, 4.0, 5.0] {
            tally.add(nll);
        }
        assert_eq!(tally.mean(), 3.0);
        assert!((tally.perplexity() - 3f64.exp()).abs() < 1e-12);
        // mean of squares 46 / 4 = 11.5, variance 2.5, over n - 1 = 3
        assert!((tally.error() - 3f64.exp() * (2.5f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn equal_likelihoods_have_no_error() {
        let mut tally = Tally::default();
        (0..1000).for_each(|_| tally.add(0.1));
        assert!(tally.error() < 1e-8);
    }
}
