//! Dropping a generation ends it and gives its KV blocks back at once.

use crate::{stories, stories_path, text_of, tokens};
use bitnet_inference::{Engine, GenerateOptions, LoadOptions, LogitRows};

fn endless() -> GenerateOptions {
    GenerateOptions {
        ignore_eos: true,
        ..GenerateOptions::greedy()
    }
}

#[test]
fn a_dropped_generation_frees_its_blocks() {
    let options = LoadOptions {
        max_sequences: 2,
        ..LoadOptions::default()
    };
    let engine = Engine::load(stories_path(), &options).expect("loads");
    let all = engine.n_free_kv_blocks();
    let mut dropped = engine
        .generate("Once upon a time", &endless())
        .expect("valid");
    let mut kept = engine.generate("One day", &endless()).expect("valid");
    dropped.next().expect("a token").expect("no error");
    let held = |prompt_ids: &[u32]| prompt_ids.len().div_ceil(16);
    let of_kept = held(kept.prompt_ids());
    assert_eq!(
        engine.n_free_kv_blocks(),
        all - held(dropped.prompt_ids()) - of_kept
    );
    drop(dropped);
    assert_eq!(engine.n_free_kv_blocks(), all - of_kept);
    // The mate goes on as if nothing had been.
    assert_eq!(
        kept.text().expect("no error"),
        text_of(&tokens(stories(), "One day", &endless()))
    );
    assert_eq!(engine.n_free_kv_blocks(), all);
}

#[test]
fn a_dropped_generation_that_never_ran_leaves_the_queue() {
    let options = LoadOptions {
        max_sequences: 1,
        ..LoadOptions::default()
    };
    let engine = Engine::load(stories_path(), &options).expect("loads");
    let mut first = engine.generate("Tom", &endless()).expect("valid");
    first.next();
    drop(engine.generate("waiting", &endless()).expect("valid"));
    let mut third = engine.generate("Tom", &endless()).expect("valid");
    drop(first);
    assert!(third.next().is_some());
}

#[test]
fn an_evaluation_gets_its_blocks_from_generations_that_go_on_meanwhile() {
    let engine = Engine::load(stories_path(), &LoadOptions::default()).expect("loads");
    let mut generation = engine.generate("Tom", &endless()).expect("valid");
    generation.next();
    let ids = vec![1; engine.context()];
    assert!(engine.n_free_kv_blocks() * 16 < ids.len());
    assert_eq!(
        engine.logits(&ids, LogitRows::Last).expect("it waits"),
        stories().logits(&ids, LogitRows::Last).expect("fits")
    );
    // What was drawn meanwhile is still there for its owner.
    let all = tokens(stories(), "Tom", &endless());
    let rest: Vec<_> = generation.collect::<Result<_, _>>().expect("no error");
    assert_eq!(rest, all[1..]);
}
