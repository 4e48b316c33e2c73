//! Tokens as log probabilities show them: one by one, with their bytes.

use std::collections::BTreeMap;

use bitnet_inference::{Engine, Token, TokenLogprobs};
use serde::Serialize;
use serde_json::{Map, Value};

/// A token and its log probability, as `/v1/chat/completions` shows them.
#[derive(Debug, Clone, Serialize)]
pub struct TokenLogprob {
    /// Its text; bytes that are no characters alone become U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: Number,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The most probable tokens of its place; absent inside such a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<Vec<TokenLogprob>>,
}

/// A log probability. JSON has no infinity: what cannot be drawn at all gets OpenAI's lowest number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(into = "f32")]
pub struct Number(pub f32);

impl From<Number> for f32 {
    fn from(Number(value): Number) -> f32 {
        value.max(-9999.0)
    }
}

/// The text of one token by itself.
pub fn text(engine: &Engine, id: u32) -> String {
    String::from_utf8_lossy(&bytes(engine, id)).into_owned()
}

/// The bytes of one token; of a token beyond the tokenizer's, none.
pub fn bytes(engine: &Engine, id: u32) -> Vec<u8> {
    let tokenizer = engine.tokenizer().ok();
    tokenizer
        .and_then(|tokenizer| tokenizer.decode_bytes(&[id]).ok())
        .unwrap_or_default()
}

/// A drawn token as chat shows it, with `n_top` alternatives; `None` when its probability was not asked for.
pub fn chat_logprob(engine: &Engine, token: &Token, n_top: usize) -> Option<TokenLogprob> {
    let entry = |id: u32, logprob: f32, top| {
        let bytes = bytes(engine, id);
        TokenLogprob {
            token: String::from_utf8_lossy(&bytes).into_owned(),
            logprob: Number(logprob),
            bytes,
            top_logprobs: top,
        }
    };
    let top = token
        .top_logprobs
        .iter()
        .take(n_top)
        .map(|&(id, logprob)| entry(id, logprob, None))
        .collect();
    Some(entry(token.id, token.logprob?, Some(top)))
}

/// `logprobs` of `/v1/completions`: four lists, an entry for each token.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<Number>>,
    top_logprobs: Vec<Option<Map<String, Value>>>,
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Adds a token that begins `offset` characters into the text. The first token of a text has no probability.
    pub fn push(
        &mut self,
        engine: &Engine,
        offset: usize,
        id: u32,
        found: Option<(f32, &[(u32, f32)])>,
    ) {
        let token = text(engine, id);
        self.top_logprobs.push(found.map(|(logprob, top)| {
            let mut map = Map::new();
            // Two tokens may have one text: the more probable one is shown.
            for &(id, logprob) in top {
                map.entry(text(engine, id))
                    .or_insert_with(|| f32::from(Number(logprob)).into());
            }
            if !top.is_empty() {
                map.entry(token.clone())
                    .or_insert_with(|| f32::from(Number(logprob)).into());
            }
            map
        }));
        self.tokens.push(token);
        self.token_logprobs
            .push(found.map(|(logprob, _)| Number(logprob)));
        self.text_offset.push(offset);
    }

    /// Whether it has no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// vLLM's `prompt_logprobs`: for each token of a prompt but the first an object, by token id, of the token itself and
/// its alternatives.
#[derive(Debug, Clone, Serialize)]
pub struct PromptLogprobs(Vec<Option<BTreeMap<u32, RankedLogprob>>>);

/// A token at a place of a prompt.
#[derive(Debug, Clone, Serialize)]
struct RankedLogprob {
    logprob: Number,
    /// 1 is the most probable; `null` for a token that is not among the alternatives.
    rank: Option<usize>,
    decoded_token: String,
}

impl PromptLogprobs {
    /// Of what the engine found, with `n_top` alternatives.
    pub fn new(engine: &Engine, found: &[Option<TokenLogprobs>], n_top: usize) -> PromptLogprobs {
        let entry = |id, logprob, rank| {
            let entry = RankedLogprob {
                logprob: Number(logprob),
                rank,
                decoded_token: text(engine, id),
            };
            (id, entry)
        };
        let place = |found: &TokenLogprobs| {
            let top = found.top.iter().zip(1..);
            let rank = top.clone().find(|((id, _), _)| *id == found.id);
            let own = entry(found.id, found.logprob, rank.map(|(_, rank)| rank));
            let top = top.take(n_top);
            let top = top.map(|(&(id, logprob), rank)| entry(id, logprob, Some(rank)));
            top.chain([own]).collect()
        };
        PromptLogprobs(
            found
                .iter()
                .map(|found| found.as_ref().map(place))
                .collect(),
        )
    }
}
