//! Guessing ahead never changes a token, a text, a reason to end or a log probability.

use crate::{stories, stories_path, tokens};
use bitnet_inference::speculative::{DEFAULT_DRAFT, MAX_DRAFT};
use bitnet_inference::{Engine, GenerateOptions, LoadOptions, Prompt, Timings, Token};

/// A text that repeats itself, so that there is something to guess.
const REPETITIVE: &str =
    "The little fox met a bear. The little fox met a bear. The little fox met a";

fn requests() -> Vec<(Prompt, GenerateOptions)> {
    let sampled = |seed, max_tokens| GenerateOptions {
        seed: Some(seed),
        max_tokens: Some(max_tokens),
        logprobs: true,
        ..GenerateOptions::default()
    };
    let greedy = |max_tokens| GenerateOptions {
        max_tokens: Some(max_tokens),
        logprobs: true,
        ignore_eos: true,
        ..GenerateOptions::greedy()
    };
    let with = |options: GenerateOptions, change: fn(&mut GenerateOptions)| {
        let mut options = options;
        change(&mut options);
        options
    };
    vec![
        (REPETITIVE.into(), greedy(60)),
        (REPETITIVE.into(), sampled(3, 60)),
        (REPETITIVE.into(), greedy(1)),
        (REPETITIVE.into(), greedy(2)),
        ("Once upon a time".into(), greedy(200)),
        ("Once upon a time".into(), sampled(7, 120)),
        (
            "Tom and Tom and Tom and".into(),
            with(greedy(80), |o| o.stop = vec!["and".into()]),
        ),
        (
            "Tom and Tom and Tom and".into(),
            with(sampled(5, 80), |o| o.repetition_penalty = Some(1.3)),
        ),
        (
            "Tom and Tom and Tom and".into(),
            with(greedy(80), |o| o.logit_bias = vec![(3, 2.0)]),
        ),
    ]
}

fn speculating(options: &GenerateOptions, most: usize) -> GenerateOptions {
    GenerateOptions {
        speculate: most,
        ..options.clone()
    }
}

#[test]
fn tokens_are_those_of_decoding_one_by_one() {
    for (i, (prompt, options)) in requests().into_iter().enumerate() {
        let one_by_one = tokens(stories(), prompt.clone(), &options);
        for most in [1, DEFAULT_DRAFT, 1000] {
            let guessed = tokens(stories(), prompt.clone(), &speculating(&options, most));
            assert_eq!(guessed, one_by_one, "request {i}, up to {most} guesses");
        }
    }
}

#[test]
fn a_text_that_repeats_itself_takes_fewer_passes_than_tokens() {
    // A bias this strong makes the model say one word for ever.
    let options = GenerateOptions {
        max_tokens: Some(150),
        ignore_eos: true,
        logit_bias: vec![(300, 1000.0)],
        speculate: DEFAULT_DRAFT,
        ..GenerateOptions::greedy()
    };
    let timings = timings(stories(), REPETITIVE.into(), &options);
    assert_eq!(timings.n_generated, 150);
    assert_eq!(
        timings.n_decoded(),
        149,
        "the first token is of the prefill"
    );
    assert!(timings.n_accepted <= timings.n_drafted, "{timings:?}");
    // Two words have to be said before there is anything to repeat, and drafts may have to grow again.
    assert!(
        timings.n_decode_steps < 149 / (1 + DEFAULT_DRAFT) + 10,
        "{timings:?}"
    );
}

#[test]
fn guesses_share_batches_without_touching_the_others() {
    let alone: Vec<Vec<Token>> = requests()
        .into_iter()
        .map(|(prompt, options)| tokens(stories(), prompt, &options))
        .collect();
    for (max_sequences, prefill_chunk) in [(2, 512), (4, 3), (9, 64)] {
        let options = LoadOptions {
            max_sequences,
            prefill_chunk,
            ..LoadOptions::default()
        };
        let engine = Engine::load(stories_path(), &options).expect("loads");
        let guessing = requests()
            .into_iter()
            .map(|(prompt, options)| (prompt, speculating(&options, DEFAULT_DRAFT)))
            .collect();
        let mut out = vec![Vec::new(); alone.len()];
        for item in engine.batch(guessing).expect("valid requests") {
            out[item.index].push(item.token.expect("no errors"));
        }
        assert_eq!(
            out, alone,
            "{max_sequences} at once, chunks of {prefill_chunk}"
        );
    }
}

#[test]
fn a_full_context_ends_as_it_does_without_guesses() {
    let options = LoadOptions {
        context: Some(48),
        ..LoadOptions::default()
    };
    let engine = Engine::load(stories_path(), &options).expect("loads");
    let endless = GenerateOptions {
        ignore_eos: true,
        ..GenerateOptions::greedy()
    };
    let one_by_one = tokens(&engine, REPETITIVE, &endless);
    let guessed = tokens(&engine, REPETITIVE, &speculating(&endless, MAX_DRAFT));
    assert_eq!(guessed, one_by_one);
}

fn timings(engine: &Engine, prompt: Prompt, options: &GenerateOptions) -> Timings {
    let mut generation = engine.generate(prompt, options).expect("valid request");
    generation
        .by_ref()
        .for_each(|token| drop(token.expect("no errors")));
    generation.timings()
}
