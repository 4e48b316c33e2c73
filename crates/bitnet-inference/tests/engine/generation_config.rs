//! A checkpoint's `generation_config.json` decides what the caller leaves open.

use crate::{reference_path, tokens};
use bitnet_inference::{Engine, FinishReason, GenerateOptions, LoadOptions};

fn engine() -> Engine {
    Engine::load(reference_path("tiny-bitnet"), &LoadOptions::default()).expect("loads")
}

#[test]
fn the_models_sampling_is_used_unless_overridden() {
    let engine = engine();
    let left_open = GenerateOptions {
        seed: Some(3),
        max_tokens: Some(50),
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let spelled_out = GenerateOptions {
        temperature: Some(0.6),
        top_p: Some(0.9),
        ..left_open.clone()
    };
    let overridden = GenerateOptions {
        temperature: Some(5.0),
        top_p: Some(1.0),
        top_k: Some(0),
        min_p: Some(0.0),
        ..left_open.clone()
    };
    let of = |options| tokens(&engine, "The", options);
    assert_eq!(of(&left_open), of(&spelled_out));
    assert_ne!(of(&left_open), of(&overridden));
}

#[test]
fn every_end_token_of_the_model_ends_the_text() {
    let engine = engine();
    for id in [497, 505] {
        assert!(engine.end_of_generation().contains(&id));
        let options = GenerateOptions {
            logit_bias: vec![(id, 1e6)],
            ..GenerateOptions::greedy()
        };
        let mut generation = engine.generate("The", &options).expect("valid");
        let token = generation.next().expect("a token").expect("no error");
        assert_eq!((token.id, token.text.as_str()), (id, ""));
        assert!(generation.next().is_none());
        assert_eq!(generation.finish_reason(), Some(FinishReason::EndOfText));
        let on = GenerateOptions {
            ignore_eos: true,
            max_tokens: Some(3),
            ..options
        };
        assert_eq!(tokens(&engine, "The", &on).len(), 3);
    }
}
