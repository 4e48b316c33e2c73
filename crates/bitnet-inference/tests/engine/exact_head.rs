//! Searching the head draws the tokens of the full head: on the story model, whose head is small enough for both.

use crate::{stories_path, tokens};
use bitnet_inference::{Engine, GenerateOptions, HeadMode, LoadOptions};

fn engine(head: HeadMode) -> Engine {
    let options = LoadOptions {
        head,
        max_sequences: 3,
        ..LoadOptions::default()
    };
    Engine::load(stories_path(), &options).expect("loads")
}

/// Greedy, the default filters, min-p alone, changed logits, small top-k, and what needs all logits.
fn options() -> Vec<GenerateOptions> {
    let seeded = GenerateOptions {
        seed: Some(11),
        temperature: Some(0.9),
        ..GenerateOptions::default()
    };
    let changed = GenerateOptions {
        repetition_penalty: Some(1.2),
        presence_penalty: Some(0.4),
        logit_bias: vec![(5, 1.5), (300, f32::NEG_INFINITY), (5, 0.5)],
        ..seeded.clone()
    };
    vec![
        GenerateOptions::greedy(),
        GenerateOptions {
            logit_bias: changed.logit_bias.clone(),
            repetition_penalty: Some(1.3),
            ..GenerateOptions::greedy()
        },
        seeded.clone(),
        changed,
        GenerateOptions {
            top_k: Some(0),
            top_p: Some(1.0),
            ..seeded.clone()
        },
        GenerateOptions {
            top_k: Some(3),
            ..seeded.clone()
        },
        GenerateOptions {
            top_k: Some(0),
            ..seeded.clone()
        },
        GenerateOptions {
            logprobs: true,
            ..seeded
        },
    ]
}

#[test]
fn a_searched_head_draws_the_full_heads_tokens() {
    let (full, searched) = (engine(HeadMode::Full), engine(HeadMode::Search));
    assert_eq!(full.info().head_copy_bytes, 0);
    assert!(searched.info().head_copy_bytes > 0);
    for options in options() {
        let options = GenerateOptions {
            max_tokens: Some(200),
            ignore_eos: true,
            ..options
        };
        let of = |engine: &Engine| tokens(engine, "Once upon a time", &options);
        assert_eq!(of(&searched), of(&full), "{options:?}");
    }
    assert_eq!(full.head_work().searched, 0);
    let work = searched.head_work();
    assert_eq!(work.searched, 6 * 200);
    // The share is large where a head is small.
    assert!(work.full * 20 < work.searched, "{work:?}");
    assert!(work.rescored < work.searched * 1024 / 4, "{work:?}");
}

#[test]
fn a_batch_of_searched_and_full_rows_draws_what_each_draws_alone() {
    let engine = engine(HeadMode::Search);
    let options: Vec<GenerateOptions> = options()
        .into_iter()
        .map(|options| GenerateOptions {
            max_tokens: Some(40),
            ..options
        })
        .collect();
    let alone: Vec<_> = options
        .iter()
        .map(|options| tokens(&engine, "One day", options))
        .collect();
    let mut together: Vec<_> = options
        .iter()
        .map(|options| engine.generate("One day", options).expect("a request"))
        .collect();
    let mut found = vec![Vec::new(); together.len()];
    loop {
        let mut any = false;
        for (generation, found) in together.iter_mut().zip(&mut found) {
            if let Some(token) = generation.next() {
                found.push(token.expect("a token"));
                any = true;
            }
        }
        if !any {
            break;
        }
    }
    assert_eq!(found, alone);
}
