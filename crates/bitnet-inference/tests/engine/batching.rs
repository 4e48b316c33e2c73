//! Output never depends on batch mates, on the chunking of prompts, on threads, or on how many sequences run at once.

use crate::{json, reference_path, stories, stories_path, text_of, tokens};
use bitnet_inference::{Engine, GenerateOptions, LoadOptions, LogitRows, Prompt, Token};

fn requests() -> Vec<(Prompt, GenerateOptions)> {
    let sampled = |seed, max_tokens| GenerateOptions {
        seed: Some(seed),
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        logprobs: true,
        ..GenerateOptions::default()
    };
    vec![
        ("Once upon a time".into(), sampled(1, 30)),
        (
            "One day a little fox met a bear near the river and they sat down to talk.".into(),
            sampled(2, 3),
        ),
        (
            "Tom".into(),
            GenerateOptions {
                max_tokens: Some(25),
                ..GenerateOptions::greedy()
            },
        ),
        ("Long ago, near the river".into(), sampled(4, 17)),
        (Prompt::Ids(vec![0]), sampled(5, 40)),
    ]
}

fn run_batch(engine: &Engine) -> Vec<Vec<Token>> {
    let mut out = vec![Vec::new(); requests().len()];
    let mut batch = engine.batch(requests()).expect("valid requests");
    for item in batch.by_ref() {
        out[item.index].push(item.token.expect("no errors"));
    }
    assert!(
        batch
            .generations()
            .iter()
            .all(|g| g.finish_reason().is_some())
    );
    out
}

#[test]
fn batched_sequences_yield_what_they_yield_alone() {
    let alone: Vec<Vec<Token>> = requests()
        .into_iter()
        .map(|(prompt, options)| tokens(stories(), prompt, &options))
        .collect();
    for (max_sequences, prefill_chunk, threads) in [(1, 512, 1), (2, 7, 2), (5, 1, 1), (5, 64, 2)] {
        let options = LoadOptions {
            max_sequences,
            prefill_chunk,
            threads: Some(threads),
            ..LoadOptions::default()
        };
        let engine = Engine::load(stories_path(), &options).expect("loads");
        assert_eq!(
            run_batch(&engine),
            alone,
            "{max_sequences} at once, chunks of {prefill_chunk}, {threads} threads"
        );
    }
}

#[test]
fn prompts_in_chunks_give_the_same_bytes() {
    let golden = json("bitnet-models/tests/data/reference/golden/perplexity_ids.json");
    let prompt = &crate::ids(&golden)[..200];
    for name in ["tiny-bitnet", "tiny-falcon3-158"] {
        let logits = |prefill_chunk| {
            let options = LoadOptions {
                prefill_chunk,
                ..LoadOptions::default()
            };
            let engine = Engine::load(reference_path(name), &options).expect("loads");
            let greedy = GenerateOptions {
                max_tokens: Some(5),
                logprobs: true,
                ..GenerateOptions::greedy()
            };
            (
                engine.logits(prompt, LogitRows::Last).expect("fits"),
                tokens(&engine, prompt, &greedy),
            )
        };
        let whole = logits(512);
        for chunk in [1, 7, 64] {
            assert_eq!(logits(chunk), whole, "{name} in chunks of {chunk}");
        }
    }
}

#[test]
fn generations_that_take_turns_do_not_disturb_each_other() {
    let options = LoadOptions {
        max_sequences: 2,
        ..LoadOptions::default()
    };
    let engine = Engine::load(stories_path(), &options).expect("loads");
    let mut under_way: Vec<_> = requests()
        .iter()
        .map(|(prompt, options)| engine.generate(prompt.clone(), options).expect("valid"))
        .collect();
    let mut texts = vec![String::new(); under_way.len()];
    loop {
        let mut any = false;
        // The last one first: the ones before it are still waiting for a place then.
        for (generation, text) in under_way.iter_mut().zip(&mut texts).rev() {
            if let Some(token) = generation.next() {
                *text += &token.expect("no errors").text;
                any = true;
            }
        }
        if !any {
            break;
        }
    }
    for ((prompt, options), text) in requests().into_iter().zip(texts) {
        assert_eq!(text, text_of(&tokens(stories(), prompt, &options)));
    }
}

#[test]
fn threads_share_one_engine() {
    let options = LoadOptions {
        max_sequences: 3,
        ..LoadOptions::default()
    };
    let engine = Engine::load(stories_path(), &options).expect("loads");
    let together: Vec<Vec<Token>> = std::thread::scope(|scope| {
        let workers: Vec<_> = requests()
            .into_iter()
            .map(|(prompt, options)| {
                scope.spawn(|| {
                    let options = options;
                    tokens(&engine, prompt, &options)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("no panic"))
            .collect()
    });
    for ((prompt, options), together) in requests().into_iter().zip(together) {
        assert_eq!(together, tokens(stories(), prompt, &options));
    }
}
