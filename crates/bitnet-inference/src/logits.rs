//! The filters between a row of logits and the draw, each a plain function over the surviving candidates.
//!
//! They run in llama.cpp's order, because that is the order whose numbers users know: logit bias, penalties, top-k,
//! top-p, min-p, temperature. A filter only removes or rescales candidates; [`crate::sampler::Sampler`] owns the
//! order and the draw. Probabilities are formed in `f64` with `libm`'s exponential, so that the same logits keep the
//! same candidates on every machine.
//!
//! Source: llama.cpp `src/llama-sampling.cpp` (formulas and defaults), "The Curious Case of Neural Text Degeneration"
//! (Holtzman et al. 2019) for top-p.

use std::cmp::Ordering;

/// One token that may still be drawn, with its logit after the filters so far.
pub use bitnet_kernels::Candidate;

/// What is known of one position's logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Row<'a> {
    /// All, `[vocab_size]`.
    Full(&'a [f32]),
    /// Those of every token that the sampler's filters could keep, by ascending id.
    Candidates(&'a [Candidate]),
}

impl Row<'_> {
    /// Appends the candidates, by ascending id.
    pub fn append_to(self, candidates: &mut Vec<Candidate>) {
        match self {
            Row::Full(row) => candidates.extend(
                (0u32..)
                    .zip(row)
                    .map(|(id, &logit)| Candidate { id, logit }),
            ),
            Row::Candidates(row) => candidates.extend_from_slice(row),
        }
    }
}

impl<'a> From<&'a [f32]> for Row<'a> {
    fn from(row: &'a [f32]) -> Row<'a> {
        Row::Full(row)
    }
}

impl<'a, const N: usize> From<&'a [f32; N]> for Row<'a> {
    fn from(row: &'a [f32; N]) -> Row<'a> {
        Row::Full(row)
    }
}

/// How tokens seen lately are made less likely. As OpenAI and vLLM have it, a token of the prompt counts for
/// `repetition` alone: a long prompt says nothing about what the answer has repeated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Divides positive and multiplies negative logits of seen tokens, those of the prompt too; 1 is off.
    pub repetition: f32,
    /// Subtracted once for each time a token was drawn; 0 is off.
    pub frequency: f32,
    /// Subtracted once from every token that was drawn; 0 is off.
    pub presence: f32,
}

impl Penalties {
    /// No penalty at all.
    pub const OFF: Penalties = Penalties {
        repetition: 1.0,
        frequency: 0.0,
        presence: 0.0,
    };
}

/// The tokens that penalties look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recent<'a> {
    /// Those of the prompt.
    pub prompt: &'a [u32],
    /// Those drawn behind it.
    pub drawn: &'a [u32],
}

/// The logit of token `id` while candidates are by ascending id. Tokens that a filter changes are always among them.
fn logit_of(candidates: &mut [Candidate], id: u32) -> &mut f32 {
    let index = match candidates.get(id as usize) {
        Some(candidate) if candidate.id == id => id as usize,
        _ => candidates
            .binary_search_by_key(&id, |candidate| candidate.id)
            .expect("a token whose logit is to be changed is a candidate"),
    };
    &mut candidates[index].logit
}

/// Adds each bias to the logit of its token. Candidates are by ascending id, the biased tokens among them: this filter
/// runs first.
pub fn logit_bias(candidates: &mut [Candidate], bias: &[(u32, f32)]) {
    for &(id, value) in bias {
        *logit_of(candidates, id) += value;
    }
}

/// Makes the tokens of `recent`, all of them candidates, less likely. Runs while candidates are by ascending id.
///
/// ```text
/// l = l > 0 ? l / repetition : l * repetition
/// l = l - drawn * frequency - (drawn > 0 ? presence : 0)
/// ```
///
/// `counts` is scratch: it comes back empty, and is here so that a decode step allocates nothing.
pub fn penalize(
    candidates: &mut [Candidate],
    recent: Recent<'_>,
    penalties: &Penalties,
    counts: &mut Vec<(u32, u32)>,
) {
    if *penalties == Penalties::OFF {
        return;
    }
    // The window is a few dozen tokens, so sorting a copy beats any map.
    counts.extend(recent.prompt.iter().map(|&id| (id, 0)));
    counts.extend(recent.drawn.iter().map(|&id| (id, 1)));
    counts.sort_unstable();
    counts.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    for (id, drawn) in counts.drain(..) {
        let logit = logit_of(candidates, id);
        if *logit > 0.0 {
            *logit /= penalties.repetition;
        } else {
            *logit *= penalties.repetition;
        }
        if drawn > 0 {
            *logit -= drawn as f32 * penalties.frequency + penalties.presence;
        }
    }
}

/// Keeps the `k` best candidates, best first; ties go to the lowest id. `k` = 0 keeps all (unsorted).
pub fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k == 0 {
        return;
    }
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, best_first);
        candidates.truncate(k);
    }
    sort(candidates);
}

/// Keeps the smallest prefix of the sorted candidates whose probability reaches `p`, at least one; `p` >= 1 keeps all.
pub fn top_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 || candidates.is_empty() {
        return;
    }
    sort(candidates);
    let best = candidates[0].logit;
    let total: f64 = candidates.iter().map(|c| weight(c.logit, best)).sum();
    let wanted = f64::from(p) * total;
    let mut reached = 0.0;
    let kept = candidates.iter().position(|c| {
        reached += weight(c.logit, best);
        reached >= wanted
    });
    // Rounding can leave the sum a hair below `wanted` at the very end: then everything is kept.
    candidates.truncate(kept.map_or(candidates.len(), |last| last + 1));
}

/// Keeps the candidates whose probability is at least `p` times that of the best one; `p` <= 0 keeps all.
pub fn min_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p <= 0.0 {
        return;
    }
    let best = max_logit(candidates);
    candidates.retain(|c| weight(c.logit, best) >= f64::from(p));
}

/// Divides every logit by `t` > 0: flatter above 1, sharper below.
///
/// Where the best logit would leave the range of f32, its distances to the others are divided instead: the
/// probabilities are the same.
pub fn temperature(candidates: &mut [Candidate], t: f32) {
    let best = max_logit(candidates);
    let origin = if (best / t).is_finite() { 0.0 } else { best };
    for candidate in candidates {
        candidate.logit = (candidate.logit - origin) / t;
    }
}

/// The best candidate's id; ties go to the lowest id. `None` when there is no candidate.
pub fn argmax(candidates: &[Candidate]) -> Option<u32> {
    candidates
        .iter()
        .copied()
        .reduce(|best, c| match best_first(&c, &best) {
            Ordering::Less => c,
            _ => best,
        })
        .map(|c| c.id)
}

/// The largest logit, -inf of nothing.
pub fn max_logit(candidates: &[Candidate]) -> f32 {
    candidates
        .iter()
        .fold(f32::NEG_INFINITY, |max, c| max.max(c.logit))
}

/// `exp(logit - best)`, the unnormalised probability; 0 for a banned token (-inf).
pub fn weight(logit: f32, best: f32) -> f64 {
    if logit == f32::NEG_INFINITY {
        return 0.0;
    }
    libm::exp(f64::from(logit) - f64::from(best))
}

/// Natural logarithm of the probability of `id` under the unfiltered `row` `[vocab_size]`.
pub fn log_probability(row: &[f32], id: u32) -> f64 {
    LogShares::of(row).log_share(row[id as usize])
}

/// What turns the logits of a row into logarithms of probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogShares {
    best: f64,    // the largest logit
    log_sum: f64, // ln of the sum of exp(logit - best)
}

impl LogShares {
    /// Reads the unfiltered `row` `[vocab_size]`.
    pub fn of(row: &[f32]) -> LogShares {
        let best = row.iter().fold(f32::NEG_INFINITY, |max, &l| max.max(l));
        let sum: f64 = row.iter().map(|&l| weight(l, best)).sum();
        LogShares {
            best: f64::from(best),
            log_sum: libm::log(sum),
        }
    }

    /// Natural logarithm of the probability of the token with this logit.
    pub fn log_share(&self, logit: f32) -> f64 {
        f64::from(logit) - self.best - self.log_sum
    }
}

/// Higher logits first, then lower ids: a total order, so sorting never depends on the sort's inner workings.
fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

fn sort(candidates: &mut [Candidate]) {
    if !candidates.is_sorted_by(|a, b| best_first(a, b).is_le()) {
        candidates.sort_unstable_by(best_first);
    }
}

#[cfg(test)]
mod tests;
