//! Rule 5: perplexity of up to 1,000 ids in one window: no BOS, one prediction less than ids,
//! `exp(mean negative log-likelihood)`.

use crate::cases::{CASES, data};
use crate::session::{MAX_CHUNK, Session};

#[test]
fn perplexity_matches_to_half_a_percent() {
    let ids =
        std::fs::read(data("reference/golden/perplexity_ids.json")).expect("the perplexity ids");
    let ids: Vec<u32> = serde_json::from_slice(&ids).expect("a list of ids");
    for case in CASES {
        let (expected, n) = case.golden().perplexity();
        let found = perplexity(&mut Session::open(case), &ids[..n]);
        assert!(
            (found / expected - 1.0).abs() <= 5e-3,
            "{}: {found}, expected {expected}",
            case.path
        );
    }
}

fn perplexity(session: &mut Session, ids: &[u32]) -> f64 {
    let logits = session.all_logits(ids, MAX_CHUNK);
    let rows = logits.chunks_exact(session.model.config().vocab_size);
    let nll = rows
        .zip(&ids[1..])
        .map(|(row, &next)| negative_log_likelihood(row, next));
    (nll.sum::<f64>() / (ids.len() - 1) as f64).exp()
}

fn negative_log_likelihood(logits: &[f32], id: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - max).exp())
        .sum();
    sum.ln() - f64::from(logits[id as usize] - max)
}
