//! Perplexity: the reference's number in one window, llama-perplexity's method in chunks.

use crate::{floats, ids, json, reference_path, stories};
use bitnet_inference::{Engine, Error, LoadOptions, LogitRows, ScoreOptions};

/// Rule 5 of the reference's README.
const RELATIVE_TOLERANCE: f64 = 5e-3;

fn perplexity_ids() -> Vec<u32> {
    ids(&json(
        "bitnet-models/tests/data/reference/golden/perplexity_ids.json",
    ))
}

#[test]
fn one_window_gives_the_references_perplexity() {
    for name in [
        "tiny-bitnet",
        "tiny-bitnet-bf16",
        "tiny-bitnet-odd",
        "tiny-bitnet-silu",
        "tiny-falcon3-158",
    ] {
        let engine = Engine::load(reference_path(name), &LoadOptions::default()).expect("loads");
        let golden = json(&format!(
            "bitnet-models/tests/data/reference/golden/{name}.json"
        ));
        let golden = &golden["perplexity"];
        let logprobs = engine.logprobs(&perplexity_ids()).expect("it fits");
        assert_eq!(logprobs.len(), floats(&golden["logprobs"]).len());
        let perplexity = (-logprobs.iter().sum::<f64>() / logprobs.len() as f64).exp();
        let expected = golden["ppl"].as_f64().expect("a number");
        assert!(
            (perplexity / expected - 1.0).abs() < RELATIVE_TOLERANCE,
            "{name}: {perplexity}, {expected}"
        );
    }
}

#[test]
fn chunks_are_scored_by_their_second_halves() {
    let path = reference_path("tiny-bitnet");
    let engine = Engine::load(path, &LoadOptions::default()).expect("loads");
    let text = &perplexity_ids()[..333];
    let bos = engine
        .tokenizer()
        .expect("it has one")
        .bos()
        .expect("it has one");
    let vocab_size = engine.config().vocab_size;
    for (ctx, add_bos) in [(4, true), (33, false), (64, true), (166, false)] {
        // The method once more, from whole rows of logits, as its description says.
        let mut nll = Vec::new();
        for chunk in text.chunks_exact(ctx) {
            let mut input = chunk.to_vec();
            if add_bos {
                input[0] = bos;
            }
            let logits = engine.logits(&input, LogitRows::All).expect("it fits");
            for position in ctx / 2..=ctx - 2 {
                let row = &logits[position * vocab_size..][..vocab_size];
                let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|&l| f64::from(l - max).exp()).sum();
                let target = row[chunk[position + 1] as usize];
                nll.push(f64::from(max) + sum.ln() - f64::from(target));
            }
        }
        let n = nll.len() as f64;
        let mean = nll.iter().sum::<f64>() / n;
        let variance = nll.iter().map(|x| x * x).sum::<f64>() / n - mean * mean;

        let mut told = Vec::new();
        let options = ScoreOptions {
            ctx,
            add_bos: Some(add_bos),
        };
        let score = engine
            .score(text, &options, &mut |progress| {
                told.push((progress.done, progress.total))
            })
            .expect("long enough");
        assert_eq!(score.n_chunks, 333 / ctx);
        assert_eq!(score.n_predictions, nll.len());
        assert_eq!(
            told,
            (1..=score.n_chunks)
                .map(|done| (done, score.n_chunks))
                .collect::<Vec<_>>()
        );
        // f64 sums in another order.
        assert!(
            (score.perplexity / mean.exp() - 1.0).abs() < 1e-6,
            "ctx {ctx}"
        );
        let error = mean.exp() * (variance / (n - 1.0)).sqrt();
        assert!((score.error / error - 1.0).abs() < 1e-4, "ctx {ctx}");
    }
}

#[test]
fn at_512_a_chunk_has_255_predictions() {
    let engine =
        Engine::load(reference_path("tiny-falcon3-158"), &LoadOptions::default()).expect("loads");
    let text = [perplexity_ids(), perplexity_ids()].concat();
    let score = engine
        .score(text, &ScoreOptions::default(), &mut |_| {})
        .expect("long enough");
    assert_eq!(
        (score.n_chunks, score.n_predictions, score.n_tokens),
        (3, 3 * 255, 2000)
    );
}

#[test]
fn texts_and_contexts_that_cannot_be_scored_are_refused() {
    let score = |n_tokens, ctx| {
        let options = ScoreOptions { ctx, add_bos: None };
        stories()
            .score(vec![1; n_tokens], &options, &mut |_| {})
            .expect_err("refused")
    };
    assert!(matches!(
        score(127, 64),
        Error::TooFewTokens {
            ctx: 64,
            needed: 128,
            found: 127
        }
    ));
    assert!(matches!(score(1000, 3), Error::InvalidOption { .. }));
    assert!(matches!(score(1000, 257), Error::InvalidOption { .. }));
}
