//! Generations under way, as iterators: tokens, text pieces, or the tokens of several prompts together.
//!
//! Dropping one cancels it and frees its KV blocks at once; that is all that cancellation takes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::Engine;
use crate::error::Error;
use crate::logprobs::TokenLogprobs;
use crate::metrics::Timings;
use crate::request::{FinishReason, GenerateOptions, Prompt, Token};
use crate::sequence::RequestId;
use crate::step::Event;

impl Engine {
    /// Continues a prompt; the result yields tokens as they are drawn.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::InvalidOption`],
    /// [`Error::NeverFits`], and what the tokenizer reports.
    pub fn generate(
        &self,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
    ) -> Result<Generation<'_>, Error> {
        let request = self.check(prompt, options)?;
        let mut generation = Generation {
            engine: self,
            request: None,
            prompt_ids: request.prompt_ids().to_vec(),
            seed: request.seed(),
            timings: request.timings(),
            finish_reason: None,
            prompt_logprobs: None,
        };
        if options.max_tokens == Some(0) {
            generation.finish_reason = Some(FinishReason::Length);
            return Ok(generation);
        }
        generation.request = Some(self.submit(request)?);
        Ok(generation)
    }

    /// Continues a prompt; the result yields text as soon as it is certain.
    ///
    /// # Errors
    /// As [`Engine::generate`], and [`Error::NoTokenizer`].
    pub fn stream(
        &self,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
    ) -> Result<TextStream<'_>, Error> {
        self.tokenizer()?;
        let generation = self.generate(prompt, options)?;
        Ok(TextStream { generation })
    }

    /// Continues several prompts in shared forward passes. Each yields exactly what it would yield alone. At most
    /// [`crate::LoadOptions::max_sequences`] run at once; the others wait their turn.
    ///
    /// # Errors
    /// As [`Engine::generate`], for the first prompt that is refused; none of them runs then.
    pub fn batch(
        &self,
        requests: Vec<(Prompt, GenerateOptions)>,
    ) -> Result<BatchGeneration<'_>, Error> {
        let generations = requests
            .into_iter()
            .map(|(prompt, options)| self.generate(prompt, &options))
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(BatchGeneration::new(self, generations))
    }
}

/// Tokens as they are drawn. Every drawn token is yielded, the one that ends the text included. Ends after an error.
pub struct Generation<'e> {
    engine: &'e Engine,
    request: Option<RequestId>, // `None` once ended
    prompt_ids: Vec<u32>,
    seed: u64,
    timings: Timings,
    finish_reason: Option<FinishReason>,
    prompt_logprobs: Option<Arc<[Option<TokenLogprobs>]>>,
}

impl Generation<'_> {
    /// Why it ended; `None` while it goes on and after an error.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish_reason
    }

    /// Where the time went so far.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// The seed of its random stream: the caller's, or the one that was drawn for it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The prompt as the model sees it.
    pub fn prompt_ids(&self) -> &[u32] {
        &self.prompt_ids
    }

    /// The log probabilities of the prompt's tokens, `[n_prompt]` (the first has none), once a token was drawn and
    /// where [`GenerateOptions::prompt_logprobs`] asks for them.
    pub fn prompt_logprobs(&self) -> Option<&[Option<TokenLogprobs>]> {
        self.prompt_logprobs.as_deref()
    }

    /// Runs to the end and joins the text.
    ///
    /// # Errors
    /// The error that ended it, if one did.
    pub fn text(&mut self) -> Result<String, Error> {
        self.map(|token| token.map(|token| token.text)).collect()
    }

    fn accept(&mut self, event: Event) -> Result<Token, Error> {
        self.timings = event.timings;
        let drawn = event.outcome.inspect_err(|_| self.leave())?;
        if drawn.prompt.is_some() {
            self.prompt_logprobs = drawn.prompt;
        }
        if drawn.finish.is_some() {
            self.finish_reason = drawn.finish;
            self.leave();
        }
        Ok(drawn.token.expect("an event of a generation has a token"))
    }

    fn leave(&mut self) {
        if let Some(request) = self.request.take() {
            self.engine.forget(request);
        }
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Token, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.engine.next_event(self.request.as_slice())?;
        Some(self.accept(event))
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Pieces of text as they become certain; none of them is empty.
pub struct TextStream<'e> {
    generation: Generation<'e>,
}

impl<'e> TextStream<'e> {
    /// The generation behind it: finish reason, timings, seed, prompt.
    pub fn generation(&self) -> &Generation<'e> {
        &self.generation
    }
}

impl Iterator for TextStream<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.generation
            .by_ref()
            .map(|token| token.map(|token| token.text))
            .find(|text| !matches!(text, Ok(text) if text.is_empty()))
    }
}

/// The tokens of several prompts, each with the index of its prompt.
pub struct BatchGeneration<'e> {
    engine: &'e Engine,
    generations: Vec<Generation<'e>>,
    active: Vec<RequestId>,
    index_of: HashMap<RequestId, usize>,
}

/// A token of one of the prompts.
#[derive(Debug, Clone)]
pub struct BatchItem {
    /// Which prompt, from 0.
    pub index: usize,
    /// Its next token, or the error that ended it.
    pub token: Result<Token, Error>,
}

impl<'e> BatchGeneration<'e> {
    fn new(engine: &'e Engine, generations: Vec<Generation<'e>>) -> BatchGeneration<'e> {
        let requests = || generations.iter().map(|generation| generation.request);
        BatchGeneration {
            engine,
            active: requests().flatten().collect(),
            index_of: requests()
                .enumerate()
                .filter_map(|(index, request)| Some((request?, index)))
                .collect(),
            generations,
        }
    }

    /// The generations, in the order of their prompts: finish reason, timings, seed, prompt.
    pub fn generations(&self) -> &[Generation<'e>] {
        &self.generations
    }
}

impl Iterator for BatchGeneration<'_> {
    type Item = BatchItem;

    fn next(&mut self) -> Option<BatchItem> {
        let event = self.engine.next_event(&self.active)?;
        let request = event.request;
        let index = self.index_of[&request];
        let generation = &mut self.generations[index];
        let token = generation.accept(event);
        if generation.request.is_none() {
            self.active.retain(|&active| active != request);
        }
        Some(BatchItem { index, token })
    }
}
