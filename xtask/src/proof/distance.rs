//! How far one engine's logits are from another's, position by position and summed up.
//!
//! One side is the reference, by whose probabilities the divergence is weighted and by whose lead a position counts as
//! sure: where the reference's likeliest token leads by less than [`SURE_MARGIN`], rounding alone may exchange the two.

use super::statistics::{Mean, mcnemar, mean, wilson_lower};
use serde_json::{Value, json};

/// A lead of the likeliest logit that one activation on the other side of a rounding tie does not undo: rule 3 of the
/// reference data's README.
pub const SURE_MARGIN: f32 = 0.25;

/// A position whose logits both sides have.
#[derive(Debug, Clone, PartialEq)]
pub struct Position {
    /// Which text or chunk.
    pub sample: String,
    /// Index of the token in it.
    pub index: usize,
    /// Likeliest token of the reference, and how far its logit leads.
    pub reference: (usize, f32),
    /// Likeliest token of the other side.
    pub found: usize,
    /// KL divergence from the reference, nats.
    pub divergence: f64,
    /// Largest difference of two logits.
    pub largest: f32,
    /// Mean square of the differences.
    pub mean_square: f64,
    /// The token that follows, where there is one.
    pub next: Option<NextToken>,
}

/// How likely both sides held the token that follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NextToken {
    /// Its id.
    pub id: usize,
    /// Negative log likelihood of the reference.
    pub reference: f64,
    /// Negative log likelihood of the other side.
    pub found: f64,
    /// Whether it counts towards perplexity.
    pub scored: bool,
}

impl Position {
    /// Compares two rows of logits, `[vocab_size]` each; `next` is the token that follows and whether it is scored.
    pub fn compare(
        sample: &str,
        index: usize,
        reference: &[f32],
        found: &[f32],
        next: Option<(usize, bool)>,
    ) -> Position {
        let (p, q) = (log_softmax(reference), log_softmax(found));
        let (best, second) = best_two(reference);
        let divergence: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        let differences = || reference.iter().zip(found).map(|(a, b)| (a - b).abs());
        let squares: f64 = differences().map(|d| f64::from(d) * f64::from(d)).sum();
        Position {
            sample: sample.to_owned(),
            index,
            reference: (best, reference[best] - second),
            found: best_two(found).0,
            // Rounding leaves equal distributions a hair on either side of zero.
            divergence: divergence.max(0.0),
            largest: differences().fold(0.0, f32::max),
            mean_square: squares / reference.len() as f64,
            next: next.map(|(id, scored)| NextToken {
                id,
                reference: -p[id],
                found: -q[id],
                scored,
            }),
        }
    }

    /// Whether both sides hold the same token likeliest.
    pub fn agrees(&self) -> bool {
        self.reference.0 == self.found
    }

    /// Whether the reference's likeliest token leads clearly.
    pub fn sure(&self) -> bool {
        self.reference.1 > SURE_MARGIN
    }

    /// For a report.
    pub fn json(&self) -> Value {
        json!({
            "sample": self.sample, "index": self.index, "divergence": self.divergence,
            "largest_difference": self.largest, "reference_token": self.reference.0,
            "reference_margin": self.reference.1, "found_token": self.found,
        })
    }
}

/// Logarithms of the probabilities, in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = || logits.iter().map(|&l| f64::from(l) - f64::from(max));
    let ln_sum = shifted().map(f64::exp).sum::<f64>().ln();
    shifted().map(|l| l - ln_sum).collect()
}

/// Index of the largest value (the first of equal ones) and the second largest value.
fn best_two(values: &[f32]) -> (usize, f32) {
    let (mut best, mut second) = (0, f32::NEG_INFINITY);
    for (i, &value) in values.iter().enumerate().skip(1) {
        if value > values[best] {
            second = values[best];
            best = i;
        } else {
            second = second.max(value);
        }
    }
    (best, second)
}

/// What all positions together say.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Positions compared.
    pub n: usize,
    /// Of them with the same likeliest token.
    pub same: usize,
    /// Of them with another likeliest token although the reference was sure.
    pub sure_and_different: usize,
    /// Wilson's lower bound of the share with the same token.
    pub wilson_lower: Option<f64>,
    /// KL divergence, mean over all positions.
    pub divergence: Option<Mean>,
    /// Root of the mean square of the differences of logits.
    pub rms: f64,
    /// Largest difference of two logits.
    pub largest: f32,
    /// Negative log likelihood of the scored tokens: the reference's, the other side's, their difference in pairs.
    pub nll: Option<[Mean; 3]>,
    /// Tokens scored.
    pub n_scored: usize,
    /// Next tokens that only the reference had likeliest, that only the other side had, and McNemar's test of them.
    pub right_alone: (usize, usize, f64),
    /// The first position with another likeliest token.
    pub first: Option<Position>,
    /// The position that diverges most; `None` where none does.
    pub worst: Option<Position>,
}

impl Agreement {
    /// Sums up.
    pub fn of(positions: &[Position]) -> Agreement {
        let n = positions.len();
        let count = |which: fn(&Position) -> bool| positions.iter().filter(|p| which(p)).count();
        let same = count(Position::agrees);
        let scored = || {
            let next = positions.iter().filter_map(|p| p.next);
            next.filter(|next| next.scored)
        };
        let nll = [
            mean(scored().map(|next| next.reference)),
            mean(scored().map(|next| next.found)),
            mean(scored().map(|next| next.found - next.reference)),
        ];
        let right = |p: &Position| {
            let id = p.next?.id;
            Some((p.reference.0 == id, p.found == id))
        };
        let alone = |which| positions.iter().filter(|p| right(p) == Some(which)).count();
        let (only_reference, only_found) = (alone((true, false)), alone((false, true)));
        let squares: f64 = positions.iter().map(|p| p.mean_square).sum();
        let by_divergence = |a: &&Position, b: &&Position| a.divergence.total_cmp(&b.divergence);
        Agreement {
            n,
            same,
            sure_and_different: count(|p| p.sure() && !p.agrees()),
            wilson_lower: wilson_lower(same, n),
            divergence: mean(positions.iter().map(|p| p.divergence)),
            rms: (squares / n.max(1) as f64).sqrt(),
            largest: positions.iter().map(|p| p.largest).fold(0.0, f32::max),
            nll: match nll {
                [Some(reference), Some(found), Some(difference)] => {
                    Some([reference, found, difference])
                }
                _ => None,
            },
            n_scored: scored().count(),
            right_alone: (
                only_reference,
                only_found,
                mcnemar(only_reference, only_found),
            ),
            first: positions.iter().find(|p| !p.agrees()).cloned(),
            worst: positions
                .iter()
                .filter(|p| p.divergence > 0.0)
                .max_by(by_divergence)
                .cloned(),
        }
    }

    /// Perplexities of the reference and of the other side with their standard errors.
    pub fn perplexities(&self) -> Option<[Mean; 2]> {
        let perplexity = |nll: Mean| Mean {
            value: nll.value.exp(),
            error: nll.value.exp() * nll.error,
        };
        self.nll
            .map(|[reference, found, _]| [perplexity(reference), perplexity(found)])
    }

    /// How far the perplexities are apart, as a share of the reference's.
    pub fn perplexity_change(&self) -> Option<f64> {
        self.nll.map(|[_, _, difference]| difference.value.exp_m1())
    }

    /// For a report.
    pub fn json(&self) -> Value {
        let figure = |mean: Mean| json!({ "value": mean.value, "error": mean.error });
        json!({
            "positions": self.n,
            "top1": {
                "same": self.same, "share": (self.n > 0).then(|| self.same as f64 / self.n as f64),
                "wilson_lower": self.wilson_lower, "sure_and_different": self.sure_and_different,
            },
            "kl": self.divergence.map(figure),
            "logits": { "rms": self.rms, "largest": self.largest },
            "perplexity": self.perplexities().map(|[reference, found]| json!({
                "scored": self.n_scored, "reference": figure(reference), "found": figure(found),
                "change": self.perplexity_change(),
            })),
            "nll_difference": self.nll.map(|[_, _, difference]| figure(difference)),
            "mcnemar": {
                "only_reference_right": self.right_alone.0, "only_found_right": self.right_alone.1,
                "p": self.right_alone.2,
            },
            "first_difference": self.first.as_ref().map(Position::json),
            "worst": self.worst.as_ref().map(Position::json),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(reference: &[f32], found: &[f32], next: Option<(usize, bool)>) -> Position {
        Position::compare("s", 0, reference, found, next)
    }

    #[test]
    fn equal_logits_are_no_distance_apart() {
        let row = [0.5, -1.0, 3.0];
        let position = compare(&row, &row, Some((2, true)));
        assert_eq!((position.divergence, position.largest), (0.0, 0.0));
        assert!(position.agrees() && position.sure());
        // A constant added to all logits changes no probability.
        let shifted = row.map(|l| l + 100.0);
        assert!(compare(&row, &shifted, None).divergence < 1e-12);
    }

    #[test]
    fn divergence_is_weighted_by_the_reference() {
        // p = (3/4, 1/4), q = (1/2, 1/2)
        let position = compare(&[3f32.ln(), 0.0], &[0.0, 0.0], Some((1, true)));
        let kl = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((position.divergence - kl).abs() < 1e-6);
        let next = position.next.unwrap();
        assert!((next.reference - 4f64.ln()).abs() < 1e-6);
        assert!((next.found - 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn the_lead_is_over_the_second_largest() {
        assert_eq!(best_two(&[1.0, 4.0, 2.5, 4.0]), (1, 4.0));
        assert_eq!(best_two(&[5.0, 4.0, 2.5]), (0, 4.0));
        assert_eq!(best_two(&[1.0, 2.0, 3.0]), (2, 2.0));
    }

    #[test]
    fn agreement_counts_first_and_worst() {
        let positions = [
            compare(&[2.0, 1.0], &[2.0, 1.0], Some((0, false))),
            compare(&[1.1, 1.0], &[1.0, 1.1], Some((1, true))),
            compare(&[9.0, 1.0], &[1.0, 2.0], Some((0, true))),
        ];
        let agreement = Agreement::of(&positions);
        assert_eq!((agreement.n, agreement.same), (3, 1));
        assert_eq!(agreement.sure_and_different, 1);
        assert_eq!(agreement.right_alone, (1, 1, 1.0));
        assert_eq!(agreement.n_scored, 2);
        assert_eq!(agreement.first.as_ref(), Some(&positions[1]));
        assert_eq!(agreement.worst.as_ref(), Some(&positions[2]));
        let [reference, found] = agreement.perplexities().unwrap();
        let change = agreement.perplexity_change().unwrap();
        assert!((found.value / reference.value - 1.0 - change).abs() < 1e-9);
    }

    #[test]
    fn nothing_compared_is_nothing_said() {
        let agreement = Agreement::of(&[]);
        assert_eq!((agreement.n, agreement.wilson_lower), (0, None));
        assert!(agreement.divergence.is_none() && agreement.nll.is_none());
        assert!(agreement.json()["kl"].is_null());
    }
}
