//! Log probabilities that a caller wants to see: of the token at a place, and of those that were likelier there.

use crate::logits::{Candidate, LogShares};

/// Most alternatives that are reported for a token, as in OpenAI's interface: each costs memory for every token.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// What a request reports of probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogprobWishes {
    /// Of every drawn token.
    pub drawn: bool,
    /// Of every prompt token after the first.
    pub prompt: bool,
    /// Alternatives to each of them, at most [`MAX_TOP_LOGPROBS`].
    pub n_top: usize,
}

/// How probable a token was, before any filter.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The most probable tokens of its place with theirs, the best first (the lower id on ties).
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// Token `id` under the unfiltered logits `row` `[vocab_size]`, with the `n_top` best.
    ///
    /// # Panics
    /// When `id` is not in the row.
    pub fn of(row: &[f32], id: u32, n_top: usize) -> TokenLogprobs {
        let shares = LogShares::of(row);
        let logprob = |logit: f32| shares.log_share(logit) as f32;
        TokenLogprobs {
            id,
            logprob: logprob(row[id as usize]),
            top: best(row, n_top)
                .into_iter()
                .map(|candidate| (candidate.id, logprob(candidate.logit)))
                .collect(),
        }
    }
}

/// The `n` largest logits of `row`, the best first. One pass: nearly every token fails the first comparison.
fn best(row: &[f32], n: usize) -> Vec<Candidate> {
    let mut best: Vec<Candidate> = Vec::with_capacity(n + 1);
    for (id, &logit) in (0u32..).zip(row) {
        if best.len() < n || best.last().is_some_and(|worst| logit > worst.logit) {
            let at = best.partition_point(|better| better.logit >= logit);
            best.insert(at, Candidate { id, logit });
            best.truncate(n);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_lower_ids_win_ties() {
        let row = [0.5, 2.0, -1.0, 2.0, 1.0, f32::NEG_INFINITY];
        let ids = |n| -> Vec<u32> { best(&row, n).iter().map(|c| c.id).collect() };
        assert_eq!(ids(0), [0; 0]);
        assert_eq!(ids(1), [1]);
        assert_eq!(ids(3), [1, 3, 4]);
        assert_eq!(ids(6), [1, 3, 4, 0, 2, 5]);
        assert_eq!(ids(20), [1, 3, 4, 0, 2, 5]);
    }

    #[test]
    fn probabilities_are_shares_of_the_whole_row() {
        // e^0 + e^ln 2 + e^ln 5 = 8
        let row = [0.0, 2f32.ln(), 5f32.ln()];
        let found = TokenLogprobs::of(&row, 0, 2);
        let near = |a: f32, share: f32| (a - share.ln()).abs() < 1e-6;
        assert!(near(found.logprob, 1.0 / 8.0));
        assert_eq!((found.top[0].0, found.top[1].0), (2, 1));
        assert!(near(found.top[0].1, 5.0 / 8.0) && near(found.top[1].1, 2.0 / 8.0));
    }
}
