//! From a row of logits to one token: the filters in their order, then a draw from this crate's own generator.
//!
//! The generator is xoshiro256++ seeded through SplitMix64, written out here instead of taken from a crate, because a
//! seed is a promise: the same model, prompt, options and seed give the same tokens on every machine and in every
//! release, and a dependency may change its stream in a minor version.
//!
//! Source: Blackman and Vigna, "Scrambled linear pseudorandom number generators" (2019), and their public-domain
//! reference files `xoshiro256plusplus.c` and `splitmix64.c`.

use bitnet_kernels::Keep;

use crate::error::Error;
use crate::logits::{self, Candidate, Penalties, Recent, Row};

/// Checked sampling parameters: every number is in its range, every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 means greedy.
    pub temperature: f32,
    /// 0 means off.
    pub top_k: usize,
    /// 1 means off.
    pub top_p: f32,
    /// 0 means off.
    pub min_p: f32,
    /// Penalties on tokens seen lately.
    pub penalties: Penalties,
    /// How many of the last tokens (prompt included) the penalties look at; see [`Penalties`].
    pub penalty_window: usize,
    /// Added to the logits of these tokens; -inf forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Start of the random stream.
    pub seed: u64,
}

/// Added to the distance of min-p, in nats: far more than logarithm, exponential and the rounding to f32 can be off.
const MIN_P_SLACK: f64 = 1e-4;

/// Draws tokens for one sequence. Its state is the random stream and scratch memory; of the text it knows where the
/// prompt ends.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    n_prompt: usize, // tokens that a history begins with which nobody drew
    random: Xoshiro256PlusPlus,
    candidates: Vec<Candidate>, // [<= vocab_size], scratch
    counts: Vec<(u32, u32)>,    // [<= penalty_window], scratch
}

impl Sampler {
    /// A sampler at the start of the stream of `params.seed`.
    pub fn new(params: SamplingParams) -> Sampler {
        Sampler {
            random: Xoshiro256PlusPlus::new(params.seed),
            n_prompt: 0,
            params,
            candidates: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// The same, behind a prompt of this many tokens.
    #[must_use]
    pub fn behind_prompt(self, n_prompt: usize) -> Sampler {
        Sampler { n_prompt, ..self }
    }

    /// The parameters it draws by.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// What the filters can keep of the logits that are not [`named`](Sampler::named); `None` when they need all of
    /// them: top-p, where it comes first, and a plain draw look at the whole distribution.
    pub fn keep(&self) -> Option<Keep> {
        let params = &self.params;
        if params.temperature <= 0.0 {
            return Some(Keep::Best(1));
        }
        if params.top_k > 0 {
            return u32::try_from(params.top_k).ok().map(Keep::Best);
        }
        // A candidate stays when exp(logit - best) >= min_p.
        let distance = -libm::log(f64::from(params.min_p)) + MIN_P_SLACK;
        (params.top_p >= 1.0 && params.min_p > 0.0).then_some(Keep::Near(distance as f32))
    }

    /// The tokens whose logits bias or penalties change; `history` as in [`sample`](Sampler::sample).
    pub fn named<'a>(&'a self, history: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        let penalised = self.recent(history);
        let biased = self.params.logit_bias.iter().map(|&(id, _)| id);
        biased
            .chain(penalised.prompt.iter().copied())
            .chain(penalised.drawn.iter().copied())
    }

    /// The tokens that the penalties look at: none when they are off, and the prompt only for the one that counts it.
    fn recent<'a>(&self, history: &'a [u32]) -> Recent<'a> {
        let penalties = &self.params.penalties;
        if *penalties == Penalties::OFF {
            return Recent::default();
        }
        let start = history.len().saturating_sub(self.params.penalty_window);
        let drawn = self.n_prompt.clamp(start, history.len());
        Recent {
            prompt: match penalties.repetition == Penalties::OFF.repetition {
                true => &[],
                false => &history[start..drawn],
            },
            drawn: &history[drawn..],
        }
    }

    /// Draws one token from `row`: all logits, or the candidates of what [`keep`](Sampler::keep) and
    /// [`named`](Sampler::named) said, which gives the same token. `history` is every token so far, prompt included.
    ///
    /// # Errors
    /// [`Error::BadLogits`] when the row holds a NaN or +inf, with bias and penalties or without, or when the bias has
    /// forbidden every token.
    pub fn sample<'a>(&mut self, row: impl Into<Row<'a>>, history: &[u32]) -> Result<u32, Error> {
        let position = history.len();
        let recent = self.recent(history);
        let params = &self.params;
        let candidates = &mut self.candidates;
        candidates.clear();
        row.into().append_to(candidates);
        for candidate in candidates.iter_mut() {
            candidate.logit += 0.0; // -0 ties with 0
        }

        logits::logit_bias(candidates, &params.logit_bias);
        logits::penalize(candidates, recent, &params.penalties, &mut self.counts);
        // Checked last: a bias or a penalty may also leave the range of f32, whatever the model computed.
        if let Some(bad) = candidates
            .iter()
            .find(|c| c.logit.is_nan() || c.logit == f32::INFINITY)
        {
            return Err(Error::BadLogits {
                position,
                reason: format!("the logit of token {} is {}", bad.id, bad.logit),
            });
        }
        if logits::max_logit(candidates) == f32::NEG_INFINITY {
            return Err(Error::BadLogits {
                position,
                reason: "every token is forbidden (all logits are -inf)".into(),
            });
        }
        if params.temperature <= 0.0 {
            return Ok(logits::argmax(candidates).expect("a vocabulary has tokens"));
        }
        logits::top_k(candidates, params.top_k);
        logits::top_p(candidates, params.top_p);
        logits::min_p(candidates, params.min_p);
        logits::temperature(candidates, params.temperature);
        Ok(draw(candidates, self.random.next_f64()))
    }
}

/// The candidate in whose share of [0, 1) the number `u` falls, shares lying in the order of `candidates`.
fn draw(candidates: &[Candidate], u: f64) -> u32 {
    let best = logits::max_logit(candidates);
    let total: f64 = candidates
        .iter()
        .map(|c| logits::weight(c.logit, best))
        .sum();
    let wanted = u * total;
    let mut reached = 0.0;
    for candidate in candidates {
        let weight = logits::weight(candidate.logit, best);
        reached += weight;
        if wanted < reached {
            return candidate.id;
        }
    }
    // u < 1, yet u * total may round up to total: the last candidate that can be drawn at all owns that edge.
    candidates
        .iter()
        .rev()
        .find(|c| c.logit != f32::NEG_INFINITY)
        .expect("the best candidate is finite")
        .id
}

/// The generator: 256 bits of state, period 2^256 - 1.
#[derive(Debug, Clone)]
struct Xoshiro256PlusPlus {
    state: [u64; 4],
}

impl Xoshiro256PlusPlus {
    /// Fills the state with four steps of SplitMix64, as the authors advise: any seed, also 0, gives a good state.
    fn new(seed: u64) -> Self {
        let mut split_mix = seed;
        Xoshiro256PlusPlus {
            state: std::array::from_fn(|_| split_mix_64(&mut split_mix)),
        }
    }

    fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1): the top 53 bits, one for each bit of an `f64`'s significand.
    fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

fn split_mix_64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
