//! What a caller asks for and what comes back: prompt, options, tokens, the reason of the end.
//!
//! Options are plain data with `None` for "as the model wants it". They become [`SamplingParams`] once, in
//! [`GenerateOptions::resolve`], which checks every number; code behind it trusts them. Nothing here reads the
//! environment: a face of the engine (command line, server) does and passes values in.
//!
//! Source of the defaults: llama.cpp `common/common.h`.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use bitnet_models::GenerationDefaults;

use crate::error::Error;
use crate::logits::Penalties;
use crate::logprobs::MAX_TOP_LOGPROBS;
use crate::sampler::SamplingParams;

/// Temperature when neither caller nor model names one.
pub const DEFAULT_TEMPERATURE: f32 = 0.8;
/// Top-k when neither caller nor model names one.
pub const DEFAULT_TOP_K: usize = 40;
/// Top-p when neither caller nor model names one.
pub const DEFAULT_TOP_P: f32 = 0.95;
/// Min-p when the caller names none.
pub const DEFAULT_MIN_P: f32 = 0.05;
/// How many of the last tokens the penalties look at when the caller does not say.
pub const DEFAULT_PENALTY_WINDOW: usize = 64;

/// What to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Plain text: names of special tokens in it are ordinary text. BOS is added when the tokenizer says so.
    Text(String),
    /// Text in which special tokens are recognised. BOS is added when the tokenizer says so.
    Markup(String),
    /// Token ids, taken as they are.
    Ids(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Prompt {
        Prompt::Text(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Prompt {
        Prompt::Text(text)
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(ids: Vec<u32>) -> Prompt {
        Prompt::Ids(ids)
    }
}

impl From<&[u32]> for Prompt {
    fn from(ids: &[u32]) -> Prompt {
        Prompt::Ids(ids.to_vec())
    }
}

/// How to continue it. `Default` follows the model's `generation_config`, then this crate's defaults.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerateOptions {
    /// Most tokens to draw; `None`: until the model ends the text or the context is full.
    pub max_tokens: Option<usize>,
    /// 0 or less draws greedily (the lowest id on ties). `None`: the model's, and greedy when the model says
    /// `do_sample: false`, else [`DEFAULT_TEMPERATURE`].
    pub temperature: Option<f32>,
    /// Keep the `k` best tokens, 0 all. `None`: the model's, else [`DEFAULT_TOP_K`].
    pub top_k: Option<usize>,
    /// Keep the smallest set of best tokens with this probability, 1 all. `None`: the model's, else [`DEFAULT_TOP_P`].
    pub top_p: Option<f32>,
    /// Keep tokens with at least this share of the best token's probability, 0 all. `None`: the model's, else
    /// [`DEFAULT_MIN_P`].
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens in the window. `None`: the model's, else 1 (off).
    pub repetition_penalty: Option<f32>,
    /// Subtracted per occurrence in the window. `None`: 0 (off).
    pub frequency_penalty: Option<f32>,
    /// Subtracted from every token in the window. `None`: 0 (off).
    pub presence_penalty: Option<f32>,
    /// How many of the last tokens, prompt included, the three penalties look at. `None`: [`DEFAULT_PENALTY_WINDOW`].
    pub penalty_window: Option<usize>,
    /// Added to the logits of these tokens before all else; -inf forbids a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Start of the random stream: the same seed gives the same tokens. `None`: a fresh one for each request
    /// (`Generation::seed` tells which).
    pub seed: Option<u64>,
    /// Texts that end the generation; they are never part of the output.
    pub stop: Vec<String>,
    /// Tokens that end the generation as an end-of-text token does, also where `ignore_eos` goes on past those.
    pub stop_token_ids: Vec<u32>,
    /// Go on past end-of-text tokens.
    pub ignore_eos: bool,
    /// Most tokens to guess ahead in a pass, 0 none, at most [`MAX_DRAFT`](crate::speculative::MAX_DRAFT). Changes the
    /// speed, never a token.
    pub speculate: usize,
    /// Report the log probability of every drawn token (before filters; costs a pass over the vocabulary).
    pub logprobs: bool,
    /// Report this many of the most probable tokens beside each drawn one (and each of the prompt, where those are
    /// reported), at most [`MAX_TOP_LOGPROBS`]. Above 0 it implies `logprobs`.
    pub top_logprobs: usize,
    /// Report the log probabilities of the prompt's tokens with the first drawn token. The whole prompt then runs,
    /// whatever the prefix cache holds.
    pub prompt_logprobs: bool,
}

impl GenerateOptions {
    /// Always the most probable token.
    pub fn greedy() -> GenerateOptions {
        GenerateOptions {
            temperature: Some(0.0),
            ..GenerateOptions::default()
        }
    }

    /// Fills in the defaults and checks every value; `model` is the checkpoint's `generation_config`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] naming the option, its value and what is expected.
    pub fn resolve(
        &self,
        model: &GenerationDefaults,
        vocab_size: usize,
    ) -> Result<SamplingParams, Error> {
        if self.stop.iter().any(String::is_empty) {
            return Err(invalid("stop", "\"\"", "a text that is not empty"));
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= vocab_size {
                let expected = format!("token ids below the vocabulary size {vocab_size}");
                return Err(invalid("logit_bias", id, expected));
            }
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(invalid("logit_bias", bias, "finite biases, or -inf"));
            }
        }
        if let Some(&id) = self
            .stop_token_ids
            .iter()
            .find(|&&id| id as usize >= vocab_size)
        {
            let expected = format!("token ids below the vocabulary size {vocab_size}");
            return Err(invalid("stop_token_ids", id, expected));
        }
        if self.top_logprobs > MAX_TOP_LOGPROBS {
            let expected = format!("a number from 0 to {MAX_TOP_LOGPROBS}");
            return Err(invalid("top_logprobs", self.top_logprobs, expected));
        }
        let model_temperature = match model.do_sample {
            Some(false) => Some(0.0),
            _ => model.temperature,
        };
        let share: Rule = ("a number from 0 to 1", |v: f32| (0.0..=1.0).contains(&v));
        let factor: Rule = ("a finite number above 0", |v: f32| v > 0.0 && v.is_finite());
        let finite: Rule = ("a finite number", f32::is_finite);
        Ok(SamplingParams {
            temperature: choose(
                "temperature",
                self.temperature,
                model_temperature,
                DEFAULT_TEMPERATURE,
                finite,
            )?,
            top_k: self.top_k.or(model.top_k).unwrap_or(DEFAULT_TOP_K),
            top_p: choose("top_p", self.top_p, model.top_p, DEFAULT_TOP_P, share)?,
            min_p: choose("min_p", self.min_p, model.min_p, DEFAULT_MIN_P, share)?,
            penalties: Penalties {
                repetition: choose(
                    "repetition_penalty",
                    self.repetition_penalty,
                    model.repetition_penalty,
                    Penalties::OFF.repetition,
                    factor,
                )?,
                frequency: choose(
                    "frequency_penalty",
                    self.frequency_penalty,
                    None,
                    Penalties::OFF.frequency,
                    finite,
                )?,
                presence: choose(
                    "presence_penalty",
                    self.presence_penalty,
                    None,
                    Penalties::OFF.presence,
                    finite,
                )?,
            },
            penalty_window: self.penalty_window.unwrap_or(DEFAULT_PENALTY_WINDOW),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.unwrap_or_else(fresh_seed),
        })
    }
}

/// One drawn token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that became certain with this token: whole characters only, often empty, sometimes the end of
    /// earlier tokens' text. Joined over all tokens it is the generation's text. Stop strings are never part of it.
    pub text: String,
    /// Natural logarithm of its probability before any filter, when [`GenerateOptions::logprobs`] asks for it.
    pub logprob: Option<f32>,
    /// The most probable tokens of its place with the logarithms of their probabilities, the best first; empty unless
    /// [`GenerateOptions::top_logprobs`] asks for some.
    pub top_logprobs: Vec<(u32, f32)>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model drew one of its end-of-text tokens.
    EndOfText,
    /// One of [`GenerateOptions::stop`] appeared.
    StopString,
    /// [`GenerateOptions::max_tokens`] were drawn.
    Length,
    /// The context has no room for another token.
    ContextFull,
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FinishReason::EndOfText => "end of text",
            FinishReason::StopString => "stop string",
            FinishReason::Length => "token limit reached",
            FinishReason::ContextFull => "context full",
        })
    }
}

/// What a value must be, in words and as a test.
type Rule = (&'static str, fn(f32) -> bool);

/// The caller's value, else the model's, else the default; an error names where a bad value came from.
fn choose(
    name: &str,
    caller: Option<f32>,
    model: Option<f32>,
    default: f32,
    (expected, holds): Rule,
) -> Result<f32, Error> {
    let value = caller.or(model).unwrap_or(default);
    if holds(value) {
        return Ok(value);
    }
    let origin = if caller.is_some() {
        ""
    } else {
        "generation_config "
    };
    Err(invalid(&format!("{origin}{name}"), value, expected))
}

fn invalid(option: &str, value: impl fmt::Display, expected: impl Into<String>) -> Error {
    Error::InvalidOption {
        option: option.to_owned(),
        value: value.to_string(),
        expected: expected.into(),
    }
}

/// The seed that a wish for the same output again (`BITNET_DETERMINISTIC=1`) stands for when nothing else gives one:
/// any number would do, this one is documented.
pub const DETERMINISTIC_SEED: u64 = 42;

/// A seed nobody chose: the standard library's per-map hash keys are random on every system that has randomness.
/// Of 53 bits: programs that read JSON's numbers as floats can say it back exactly.
fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 11
}

#[cfg(test)]
mod tests;
