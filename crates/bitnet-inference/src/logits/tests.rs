use super::*;
use proptest::prelude::*;

fn candidates(logits: &[f32]) -> Vec<Candidate> {
    (0u32..)
        .zip(logits)
        .map(|(id, &logit)| Candidate { id, logit })
        .collect()
}

fn ids(candidates: &[Candidate]) -> Vec<u32> {
    candidates.iter().map(|c| c.id).collect()
}

fn probabilities(logits: &[f32]) -> Vec<f64> {
    let best = logits.iter().fold(f32::NEG_INFINITY, |m, &l| m.max(l));
    let weights: Vec<f64> = logits.iter().map(|&l| f64::from(l - best).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

/// Logits whose softmax is the given distribution.
fn logits_of(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

#[test]
fn bias_is_added_and_can_forbid() {
    let mut c = candidates(&[1.0, 2.0, 3.0]);
    logit_bias(&mut c, &[(0, 2.5), (2, f32::NEG_INFINITY)]);
    assert_eq!(
        c.iter().map(|c| c.logit).collect::<Vec<_>>(),
        [3.5, 2.0, f32::NEG_INFINITY]
    );
}

#[test]
fn penalties_follow_the_formulas() {
    // (logit, count in the window, repetition, frequency, presence, expected)
    let cases = [
        (3.0, 0, 1.5, 0.25, 0.5, 3.0),
        (3.0, 1, 1.5, 0.0, 0.0, 2.0),
        (-3.0, 1, 1.5, 0.0, 0.0, -4.5),
        (3.0, 4, 1.5, 0.0, 0.0, 2.0),
        (3.0, 3, 1.0, 0.25, 0.0, 2.25),
        (3.0, 3, 1.0, 0.0, 0.5, 2.5),
        (3.0, 2, 1.5, 0.25, 0.5, 1.0),
        (-1.0, 2, 2.0, 0.25, 0.5, -3.0),
        (0.0, 1, 2.0, 0.0, 0.0, 0.0),
    ];
    for (logit, count, repetition, frequency, presence, expected) in cases {
        let penalties = Penalties {
            repetition,
            frequency,
            presence,
        };
        let mut c = candidates(&[7.0, logit]);
        let mut counts = Vec::new();
        let drawn = vec![1; count];
        let recent = Recent {
            drawn: &drawn,
            ..Recent::default()
        };
        penalize(&mut c, recent, &penalties, &mut counts);
        assert_eq!(c[0].logit, 7.0, "an unseen token changed");
        assert_eq!(
            c[1].logit, expected,
            "{logit} seen {count} times, {penalties:?}"
        );
        assert!(counts.is_empty());
    }
}

#[test]
fn tokens_of_the_prompt_count_for_the_repetition_penalty_alone() {
    let penalties = Penalties {
        repetition: 2.0,
        frequency: 0.25,
        presence: 0.5,
    };
    // Token 0: prompt only. Token 1: twice in the prompt and twice drawn. Token 2: drawn once. Token 3: neither.
    let recent = Recent {
        prompt: &[0, 1, 0, 1],
        drawn: &[1, 2, 1],
    };
    let mut c = candidates(&[8.0, 8.0, -1.0, 8.0]);
    penalize(&mut c, recent, &penalties, &mut Vec::new());
    let logits: Vec<f32> = c.iter().map(|c| c.logit).collect();
    assert_eq!(logits, [4.0, 3.0, -2.75, 8.0]);
}

#[test]
fn top_k_keeps_the_best_and_the_lowest_ids_on_ties() {
    let cases: &[(&[f32], usize, &[u32])] = &[
        (&[1.0, 3.0, 2.0], 0, &[0, 1, 2]),
        (&[1.0, 3.0, 2.0], 1, &[1]),
        (&[1.0, 3.0, 2.0], 2, &[1, 2]),
        (&[1.0, 3.0, 2.0], 3, &[1, 2, 0]),
        (&[1.0, 3.0, 2.0], 9, &[1, 2, 0]),
        (&[5.0, 5.0, 5.0, 5.0], 2, &[0, 1]),
        (&[1.0, 5.0, 1.0, 1.0], 3, &[1, 0, 2]),
    ];
    for (logits, k, expected) in cases {
        let mut c = candidates(logits);
        top_k(&mut c, *k);
        assert_eq!(ids(&c), *expected, "k = {k} of {logits:?}");
    }
}

#[test]
fn top_p_keeps_the_smallest_prefix_that_reaches_p() {
    let logits = logits_of(&[0.1, 0.5, 0.3, 0.1]);
    for (p, expected) in [
        (0.0, &[1][..]),
        (0.49, &[1]),
        (0.51, &[1, 2]),
        (0.79, &[1, 2]),
        (0.81, &[1, 2, 0]),
        (0.95, &[1, 2, 0, 3]),
        (1.0, &[0, 1, 2, 3]),
    ] {
        let mut c = candidates(&logits);
        top_p(&mut c, p);
        assert_eq!(ids(&c), expected, "p = {p}");
    }
}

#[test]
fn min_p_keeps_what_reaches_a_share_of_the_best() {
    let logits = logits_of(&[0.1, 0.5, 0.3, 0.1]);
    for (p, expected) in [
        (0.0, &[0, 1, 2, 3][..]),
        (0.19, &[0, 1, 2, 3]),
        (0.21, &[1, 2]),
        (0.61, &[1]),
        (1.0, &[1]),
    ] {
        let mut c = candidates(&logits);
        min_p(&mut c, p);
        assert_eq!(ids(&c), expected, "p = {p}");
    }
}

#[test]
fn argmax_takes_the_lowest_id_on_ties() {
    assert_eq!(argmax(&candidates(&[])), None);
    assert_eq!(argmax(&candidates(&[1.0, 4.0, 4.0, 2.0])), Some(1));
    assert_eq!(argmax(&candidates(&[f32::NEG_INFINITY, -9.0])), Some(1));
}

#[test]
fn log_probabilities_sum_to_one_even_for_large_logits() {
    let row = [1000.0, 999.0, -1000.0, f32::NEG_INFINITY];
    let sum: f64 = (0..4).map(|id| log_probability(&row, id).exp()).sum();
    assert!((sum - 1.0).abs() < 1e-12);
    assert!((log_probability(&row, 0) + (1.0 + (-1f64).exp()).ln()).abs() < 1e-12);
    assert_eq!(log_probability(&row, 3), f64::NEG_INFINITY);
}

proptest! {
    #[test]
    fn top_p_prefix_is_enough_and_one_less_is_not(
        logits in prop::collection::vec(-8.0f32..8.0, 1..40),
        p in 0.01f32..0.99,
    ) {
        let all = probabilities(&logits);
        let mut c = candidates(&logits);
        top_p(&mut c, p);
        let mass = |c: &[Candidate]| c.iter().map(|c| all[c.id as usize]).sum::<f64>();
        prop_assert!(mass(&c) >= f64::from(p) - 1e-9);
        prop_assert!(mass(&c[..c.len() - 1]) < f64::from(p) + 1e-9);
        let dropped = (0u32..).zip(&logits).filter(|(id, _)| !ids(&c).contains(id));
        let worst = c.last().expect("at least one").logit;
        for (_, &logit) in dropped {
            prop_assert!(logit <= worst);
        }
    }

    #[test]
    fn top_k_equals_sorting_everything(
        logits in prop::collection::vec((-3i8..3).prop_map(f32::from), 1..60),
        k in 1usize..70,
    ) {
        let mut expected: Vec<u32> = (0..logits.len() as u32).collect();
        expected.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize])); // stable
        expected.truncate(k);
        let mut c = candidates(&logits);
        top_k(&mut c, k);
        prop_assert_eq!(ids(&c), expected);
    }

    #[test]
    fn min_p_keeps_exactly_the_likely_ones(
        logits in prop::collection::vec(-8.0f32..8.0, 1..40),
        p in 0.0f32..1.0,
    ) {
        let all = probabilities(&logits);
        let best = all.iter().cloned().fold(0.0, f64::max);
        let mut c = candidates(&logits);
        min_p(&mut c, p);
        for (id, probability) in (0u32..).zip(all) {
            let ratio = probability / best;
            if (ratio - f64::from(p)).abs() > 1e-6 {
                prop_assert_eq!(ids(&c).contains(&id), ratio > f64::from(p));
            }
        }
    }
}
