//! A seed repeats its text; the drawn seed of a request without one is told.

use crate::{stories, tokens};
use bitnet_inference::GenerateOptions;

fn sampled(seed: Option<u64>) -> GenerateOptions {
    GenerateOptions {
        seed,
        max_tokens: Some(60),
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_does_not() {
    let of_seed = |seed| tokens(stories(), "Once upon a time", &sampled(Some(seed)));
    assert_eq!(of_seed(42), of_seed(42));
    assert_ne!(of_seed(42), of_seed(43));
}

#[test]
fn a_drawn_seed_can_be_used_again() {
    let mut first = stories()
        .generate("Once upon a time", &sampled(None))
        .expect("valid");
    let text = first.text().expect("no errors");
    let again = tokens(stories(), "Once upon a time", &sampled(Some(first.seed())));
    assert_eq!(crate::text_of(&again), text);
}
