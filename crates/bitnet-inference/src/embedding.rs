//! One vector for a text: its hidden states after the final norm, pooled.
//!
//! An embedding is a request like any other. Its prompt is cut into chunks, shares forward passes with whoever else is
//! there, waits its turn and can be cancelled; only at its end nothing is drawn. Hidden states do not depend on batch
//! mates or chunks, and they are added up in the order of their positions, so neither does the vector.
//!
//! The prefix cache keeps keys and values, no hidden states: what pooling still has to see is run, whatever the cache
//! holds.

use std::sync::Arc;

use bitnet_models::{EmbeddingConfig, Pooling};

use crate::engine::Engine;
use crate::error::Error;
use crate::metrics::{Clock, Timings};
use crate::request::{GenerateOptions, Prompt};
use crate::sequence::RequestId;
use crate::step::Event;
use crate::valid_request::ValidRequest;

/// Takes note of a prompt's hidden states as they are computed.
#[derive(Debug, Clone)]
pub struct Pooler {
    config: EmbeddingConfig,
    row: Vec<f32>, // [hidden_size], scratch
    sum: Vec<f64>, // [hidden_size]
    n_seen: usize, // leading positions whose states are in `sum`; only the mean needs all
}

impl Pooler {
    /// Nothing seen yet of vectors of `hidden_size`.
    pub fn new(config: EmbeddingConfig, hidden_size: usize) -> Pooler {
        Pooler {
            config,
            row: vec![0.0; hidden_size],
            sum: vec![0.0; hidden_size],
            n_seen: 0,
        }
    }

    /// Whether the tokens before `end`, which is not the prompt's, need not be run: nothing new would be seen of them.
    pub(crate) fn may_skip_to(&self, end: usize) -> bool {
        match self.config.pooling {
            Pooling::Last => true,
            Pooling::Mean => end <= self.n_seen,
            Pooling::Cls => self.n_seen > 0,
        }
    }

    /// Takes note of the state at `position` of a prompt of `n_prompt` tokens, which `read` copies, if it is wanted and
    /// was not seen before (a prompt may run again).
    pub(crate) fn see(&mut self, position: usize, n_prompt: usize, read: impl FnOnce(&mut [f32])) {
        let wanted = match self.config.pooling {
            Pooling::Last => position + 1 == n_prompt,
            Pooling::Mean => position == self.n_seen,
            Pooling::Cls => position == 0 && self.n_seen == 0,
        };
        if wanted {
            read(&mut self.row);
            for (sum, &value) in self.sum.iter_mut().zip(&self.row) {
                *sum += f64::from(value);
            }
            self.n_seen += 1;
        }
    }

    /// The vector, once everything wanted was seen.
    ///
    /// # Errors
    /// [`Error::BadHiddenState`] when a number of it is not finite.
    fn finish(&self, position: usize) -> Result<Arc<[f32]>, Error> {
        let mut divisor = self.n_seen as f64; // 1, except for the mean
        if self.config.normalize {
            let square: f64 = self.sum.iter().map(|sum| sum * sum).sum();
            // A vector of zeros has no direction: it stays one.
            divisor = if square == 0.0 { 1.0 } else { square.sqrt() };
        }
        let vector: Arc<[f32]> = self.sum.iter().map(|sum| (sum / divisor) as f32).collect();
        match vector.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(Error::BadHiddenState { position, index }),
            None => Ok(vector),
        }
    }

    /// [`Pooler::finish`] if `n_done` tokens are all of the prompt's `n_prompt`.
    pub(crate) fn result(
        &self,
        n_done: usize,
        n_prompt: usize,
    ) -> Option<Result<Arc<[f32]>, Error>> {
        (n_done >= n_prompt).then(|| self.finish(n_prompt - 1))
    }
}

/// The vector of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// `[hidden_size]`; of length 1 where the model's description says so.
    pub vector: Arc<[f32]>,
    /// Tokens of the text, those included that the tokenizer adds.
    pub n_tokens: usize,
    /// Where the time went.
    pub timings: Timings,
}

impl Engine {
    /// How the model's own files pool hidden states; `None` for a model that was made to generate.
    pub fn pooling(&self) -> Option<Pooling> {
        self.config().embedding.map(|config| config.pooling)
    }

    /// Checks a prompt whose embedding is wanted, without waiting for a forward pass. The tokens that the tokenizer
    /// adds to a text, at its beginning and at its end, are added; ids are taken as they are.
    ///
    /// The request draws nothing. Its one event carries [`Drawn::embedding`](crate::Drawn::embedding), the hidden
    /// states after the final norm pooled by `pooling`, divided by its length if the model's description says so
    /// ([`EmbeddingConfig::normalize`]; a model that generates has none: its vectors keep their length).
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::PromptExceeds`], [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], and what
    /// the tokenizer reports.
    pub fn check_embedding(
        &self,
        prompt: &Prompt,
        pooling: Pooling,
    ) -> Result<ValidRequest, Error> {
        let started = self.clock().now();
        let mut ids = self.encode_fitting(prompt)?;
        if !matches!(prompt, Prompt::Ids(_)) {
            let suffix = self.tokenizer()?.suffix();
            if !ids.ends_with(suffix) {
                ids.extend_from_slice(suffix);
            }
        }
        let tokenize = self.clock().now() - started;
        let config = EmbeddingConfig {
            pooling,
            normalize: self.config().embedding.is_some_and(|own| own.normalize),
        };
        let pooler = Pooler::new(config, self.config().hidden_size);
        let options = GenerateOptions::greedy();
        self.valid_request(ids, tokenize, &options, Some(pooler))
    }

    /// The vectors of `prompts`, computed together and in their order.
    ///
    /// # Errors
    /// As [`Engine::check_embedding`], for the first prompt that is refused; [`Error::NeverFits`], and what the model
    /// reports.
    pub fn embed(&self, prompts: &[Prompt], pooling: Pooling) -> Result<Vec<Embedding>, Error> {
        let requests = prompts
            .iter()
            .map(|prompt| self.check_embedding(prompt, pooling))
            .collect::<Result<Vec<_>, Error>>()?;
        let lengths: Vec<usize> = requests.iter().map(|r| r.prompt_ids().len()).collect();
        let mut under_way = UnderWay::new(self);
        for request in requests {
            under_way.0.push(self.submit(request)?);
        }
        let mut embeddings = Vec::with_capacity(lengths.len());
        for (&request, n_tokens) in under_way.0.iter().zip(lengths) {
            let Event {
                outcome, timings, ..
            } = self
                .next_event(&[request])
                .expect("a request that was not cancelled ends with an event");
            let vector = outcome?
                .embedding
                .expect("an embedding's only event carries it");
            embeddings.push(Embedding {
                vector,
                n_tokens,
                timings,
            });
        }
        Ok(embeddings)
    }
}

/// Requests that end with this, whatever ends it.
struct UnderWay<'e>(Vec<RequestId>, &'e Engine);

impl<'e> UnderWay<'e> {
    fn new(engine: &'e Engine) -> Self {
        UnderWay(Vec::new(), engine)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        for &request in &self.0 {
            self.1.forget(request);
        }
    }
}
