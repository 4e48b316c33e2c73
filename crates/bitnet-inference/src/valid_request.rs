//! A request that was checked once: from here on nothing can be wrong with it.
//!
//! Checking needs the tokenizer and the model's shape but not the model: any thread may do it while a forward pass
//! runs, and refuse a bad request without a place in the queue.

use std::sync::Arc;
use std::time::Duration;

use bitnet_tokenizers::Message;

use crate::embedding::Pooler;
use crate::engine::{Engine, encode};
use crate::error::Error;
use crate::logprobs::LogprobWishes;
use crate::metrics::{Clock, Timings};
use crate::request::{GenerateOptions, Prompt};
use crate::sampler::Sampler;
use crate::sequence::{RequestId, Sequence, SequenceParts, TextDecoder};
use crate::speculative::Drafter;
use crate::stop::StopMatcher;
use crate::terms::Terms;

/// What [`Engine::check`] made of a prompt and its options, ready for [`Engine::enqueue`] of the same engine.
pub struct ValidRequest {
    parts: SequenceParts, // under a name that is given when it is put in the queue
    seed: u64,
}

impl ValidRequest {
    /// The prompt as the model sees it.
    pub fn prompt_ids(&self) -> &[u32] {
        &self.parts.prompt
    }

    /// Most tokens that can be drawn: the caller's limit, or what is left of the context; 0 for an embedding.
    pub fn max_tokens(&self) -> usize {
        if self.parts.pooler.is_some() {
            return 0;
        }
        let room = self.parts.context + 1 - self.parts.prompt.len();
        self.parts.max_tokens.min(room)
    }

    /// The seed of its random stream: the caller's, or the one that was drawn for it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Times known so far: load and tokenize.
    pub fn timings(&self) -> Timings {
        self.parts.timings
    }

    /// The same request on other terms than the default ones.
    #[must_use]
    pub fn with_terms(mut self, terms: Terms) -> ValidRequest {
        self.parts.terms = terms;
        self
    }

    pub(crate) fn into_sequence(self, id: RequestId) -> Sequence {
        Sequence::new(SequenceParts { id, ..self.parts })
    }
}

impl Engine {
    /// Checks a prompt and its options, without waiting for a forward pass. A request for 0 tokens is checked too, but
    /// draws one when it is put in the queue.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::EmptyPrompt`], [`Error::TokenOutOfRange`], [`Error::InvalidOption`], and what
    /// the tokenizer reports.
    pub fn check(
        &self,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
    ) -> Result<ValidRequest, Error> {
        let started = self.clock().now();
        let mut prompt = self.encode_prompt(&prompt.into())?;
        if prompt.is_empty() {
            prompt.extend(self.bos());
        }
        let tokenize = self.clock().now() - started;
        self.valid_request(prompt, tokenize, options, None)
    }

    /// The ids of a prompt, BOS included when the tokenizer adds one; EOS never, for it would end what is to be
    /// continued. May be empty.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] and what the tokenizer reports.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
        self.encode_prompt_within(prompt, usize::MAX)
    }

    /// The same, but of a text that has more than `most` ids only its beginning, which has more too: no time is spent
    /// on what does not fit.
    ///
    /// # Errors
    /// As [`Engine::encode_prompt`].
    pub fn encode_prompt_within(&self, prompt: &Prompt, most: usize) -> Result<Vec<u32>, Error> {
        match prompt {
            Prompt::Ids(ids) => Ok(ids.clone()),
            Prompt::Text(text) => encode(self.tokenizer()?, text, false, most),
            Prompt::Markup(text) => encode(self.tokenizer()?, text, true, most),
        }
    }

    /// Ids that a prompt has at least, known without encoding it; 0 where nothing is known.
    pub fn fewest_ids(&self, prompt: &Prompt) -> usize {
        let of_text = |text: &str, parse_special| {
            let tokenizer = self.tokenizer();
            tokenizer.map_or(0, |tokenizer| tokenizer.fewest_ids(text, parse_special))
        };
        match prompt {
            Prompt::Ids(ids) => ids.len(),
            Prompt::Text(text) => of_text(text, false),
            Prompt::Markup(text) => of_text(text, true),
        }
    }

    /// The ids of a prompt that must fit the context, found no further than that takes.
    ///
    /// # Errors
    /// [`Error::PromptExceeds`] for texts, and as [`Engine::encode_prompt`]; ids are not looked at.
    pub fn encode_fitting(&self, prompt: &Prompt) -> Result<Vec<u32>, Error> {
        // The number of ids is known, and told exactly.
        if let Prompt::Ids(ids) = prompt {
            return Ok(ids.clone());
        }
        self.fits(self.fewest_ids(prompt))?;
        let ids = self.encode_prompt_within(prompt, self.context())?;
        self.fits(ids.len())?;
        Ok(ids)
    }

    /// [`Engine::chat_prompt`] of a conversation that must fit the context, found no further than that takes.
    ///
    /// # Errors
    /// [`Error::PromptExceeds`], and as [`Engine::chat_prompt`].
    pub fn chat_prompt_fitting(&self, messages: &[Message]) -> Result<Prompt, Error> {
        let text = self.chat_text(messages)?;
        self.fits(self.tokenizer()?.fewest_ids(&text, true))?;
        let ids = self.encode_chat(&text, self.context())?;
        self.fits(ids.len())?;
        Ok(Prompt::Ids(ids))
    }

    fn fits(&self, at_least: usize) -> Result<(), Error> {
        let context = self.context();
        match at_least > context {
            true => Err(Error::PromptExceeds { at_least, context }),
            false => Ok(()),
        }
    }

    /// Checks the ids of a prompt, which it took `tokenize` to find, and how they are continued or pooled.
    pub(crate) fn valid_request(
        &self,
        prompt: Vec<u32>,
        tokenize: Duration,
        options: &GenerateOptions,
        pooler: Option<Pooler>,
    ) -> Result<ValidRequest, Error> {
        self.check_ids(&prompt)?;
        let params = options.resolve(self.generation_defaults(), self.config().vocab_size)?;
        let decoder = match self.tokenizer_handle() {
            _ if pooler.is_some() => None,
            Some(tokenizer) => Some(TextDecoder::new(tokenizer, &prompt)?),
            None if options.stop.is_empty() => None,
            None => return Err(self.tokenizer().expect_err("there is none")),
        };
        let sampler = Sampler::new(params).behind_prompt(prompt.len());
        Ok(ValidRequest {
            seed: sampler.params().seed,
            parts: SequenceParts {
                id: RequestId(0),
                prompt,
                max_tokens: match &pooler {
                    Some(_) => 1, // none is drawn: the prompt needs its place and no more
                    None => options.max_tokens.unwrap_or(usize::MAX).max(1),
                },
                context: self.context(),
                sampler,
                end_of_generation: self.ends_of(options),
                stop: StopMatcher::new(options.stop.clone()),
                decoder,
                logprobs: LogprobWishes {
                    drawn: options.logprobs || options.top_logprobs > 0,
                    prompt: options.prompt_logprobs,
                    n_top: options.top_logprobs,
                },
                pooler,
                terms: Terms::default(),
                drafter: Drafter::new(options.speculate),
                timings: Timings {
                    load: self.info().load,
                    tokenize,
                    ..Timings::default()
                },
            },
        })
    }

    /// The tokens that end a request's text; those of the model are shared, not copied.
    fn ends_of(&self, options: &GenerateOptions) -> Arc<[u32]> {
        match (options.ignore_eos, &*options.stop_token_ids) {
            (false, []) => self.end_of_generation_handle(),
            (true, own) => own.into(),
            (false, own) => [self.end_of_generation(), own].concat().into(),
        }
    }
}
