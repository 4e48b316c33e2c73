//! Medians and ratios over the rounds.

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sample {
    /// Tokens per second; of the first-token phase seconds.
    pub value: f64,
    /// Of the machine's read bandwidth, where the engine tells.
    pub bandwidth_share: Option<f64>,
    /// Of its int8 peak.
    pub compute_share: Option<f64>,
}

/// Middle and ends of a few numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle; of an even number the mean of the two middle ones.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// `None` for no values.
pub fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (n, half) = (sorted.len(), sorted.len() / 2);
    Some(Spread {
        min: *sorted.first()?,
        max: *sorted.last()?,
        median: if n % 2 == 1 {
            sorted[half]
        } else {
            (sorted[half - 1] + sorted[half]) / 2.0
        },
    })
}

/// How many times faster `ours` was, round by round. `lower_is_better` for times.
pub fn ratios(ours: &[f64], peer: &[f64], lower_is_better: bool) -> Vec<f64> {
    let pairs = ours.iter().zip(peer);
    pairs
        .map(|(&ours, &peer)| {
            if lower_is_better {
                peer / ours
            } else {
                ours / peer
            }
        })
        .collect()
}

/// The index of the fastest of several series, by their medians.
pub fn fastest(series: &[Vec<f64>], lower_is_better: bool) -> Option<usize> {
    let medians: Vec<f64> = series
        .iter()
        .map(|s| Some(spread(s)?.median))
        .collect::<Option<_>>()?;
    let better = |a: f64, b: f64| if lower_is_better { a < b } else { a > b };
    (0..medians.len()).reduce(|best, i| {
        if better(medians[i], medians[best]) {
            i
        } else {
            best
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(spread(&[]), None);
        let of = |values: &[f64]| spread(values).unwrap();
        assert_eq!(of(&[3.0]).median, 3.0);
        assert_eq!(of(&[9.0, 1.0]).median, 5.0);
        let three = of(&[9.0, 1.0, 2.0]);
        assert_eq!((three.min, three.median, three.max), (1.0, 2.0, 9.0));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was twice as fast in the second round: the ratio does not see it.
        assert_eq!(ratios(&[20.0, 40.0], &[10.0, 20.0], false), [2.0, 2.0]);
        assert_eq!(ratios(&[0.5], &[2.0], true), [4.0]);
    }

    #[test]
    fn the_fastest_is_chosen_by_median() {
        let series = [vec![1.0, 1.0, 9.0], vec![2.0, 2.0, 2.0]];
        assert_eq!(fastest(&series, false), Some(1));
        assert_eq!(fastest(&series, true), Some(0));
        assert_eq!(fastest(&[vec![]], false), None);
        assert_eq!(fastest(&[], false), None);
    }
}
