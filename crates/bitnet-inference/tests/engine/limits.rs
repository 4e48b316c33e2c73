//! Where a generation ends, and which requests are refused.

use crate::{stories, stories_path, tokens};
use bitnet_inference::{Engine, Error, FinishReason, GenerateOptions, LoadOptions, Prompt};

fn with_context(context: usize) -> Engine {
    let options = LoadOptions {
        context: Some(context),
        ..LoadOptions::default()
    };
    Engine::load(stories_path(), &options).expect("loads")
}

fn endless() -> GenerateOptions {
    GenerateOptions {
        ignore_eos: true,
        ..GenerateOptions::greedy()
    }
}

#[test]
fn generation_ends_when_the_context_is_full_and_says_so() {
    let engine = with_context(40);
    for n_prompt in [1, 16, 39, 40] {
        let mut generation = engine
            .generate(vec![0; n_prompt], &endless())
            .expect("fits");
        let n = generation.by_ref().filter(|token| token.is_ok()).count();
        // Every position holds a token that was run; one more token is drawn from the last.
        assert_eq!(n, 40 - n_prompt + 1);
        assert_eq!(generation.finish_reason(), Some(FinishReason::ContextFull));
        assert_eq!(generation.timings().n_prompt, n_prompt);
        assert_eq!(generation.timings().n_decode_steps, n - 1);
    }
    // What was drawn does not depend on how much room there was.
    let drawn = tokens(&engine, vec![0; 20], &endless());
    let options = GenerateOptions {
        max_tokens: Some(drawn.len()),
        ..endless()
    };
    assert_eq!(tokens(stories(), vec![0; 20], &options), drawn);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_numbers() {
    let error = with_context(40)
        .generate(vec![0; 41], &endless())
        .err()
        .expect("too long");
    assert!(
        matches!(
            error,
            Error::PromptTooLong {
                prompt: 41,
                context: 40
            }
        ),
        "{error}"
    );
    assert_eq!(error.exit_code(), 2);
    assert!(error.hint().is_some());
}

#[test]
fn max_tokens_is_exact() {
    for max_tokens in [0, 1, 5] {
        let options = GenerateOptions {
            max_tokens: Some(max_tokens),
            ..endless()
        };
        let mut generation = stories().generate("Tom", &options).expect("valid");
        assert_eq!(generation.by_ref().count(), max_tokens);
        assert_eq!(generation.finish_reason(), Some(FinishReason::Length));
    }
}

#[test]
fn an_empty_prompt_starts_from_bos() {
    let engine = stories();
    for prompt in [Prompt::Text(String::new()), Prompt::Ids(vec![])] {
        let generation = engine
            .generate(prompt, &endless())
            .expect("the model has a BOS");
        assert_eq!(generation.prompt_ids(), [0]);
    }
    let error = engine
        .logits(&[], bitnet_inference::LogitRows::Last)
        .expect_err("nothing to run");
    assert!(matches!(error, Error::EmptyPrompt));
}

#[test]
fn unknown_ids_are_refused_by_place() {
    let error = stories()
        .generate(vec![0, 1024], &endless())
        .err()
        .expect("1024 is past the end");
    assert!(
        matches!(
            error,
            Error::TokenOutOfRange {
                index: 1,
                id: 1024,
                vocab_size: 1024
            }
        ),
        "{error}"
    );
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn a_forbidden_vocabulary_is_an_error_and_ends_the_generation() {
    let logit_bias = (0..1024).map(|id| (id, f32::NEG_INFINITY)).collect();
    let options = GenerateOptions {
        logit_bias,
        ..GenerateOptions::default()
    };
    let mut generation = stories().generate("Tom", &options).expect("valid");
    assert!(matches!(
        generation.next(),
        Some(Err(Error::BadLogits { .. }))
    ));
    assert!(generation.next().is_none());
    assert_eq!(generation.finish_reason(), None);
}

#[test]
fn impossible_load_options_are_refused() {
    let base = LoadOptions::default;
    for (options, words) in [
        (
            LoadOptions {
                context: Some(0),
                ..base()
            },
            "the context is 0, expected 1 to 256",
        ),
        (
            LoadOptions {
                context: Some(257),
                ..base()
            },
            "the context is 257, expected 1 to 256",
        ),
        (
            LoadOptions {
                max_sequences: 0,
                ..base()
            },
            "max_sequences is 0",
        ),
        (
            LoadOptions {
                max_sequences: usize::MAX,
                ..base()
            },
            "max_sequences is",
        ),
        (
            LoadOptions {
                prefill_chunk: 0,
                ..base()
            },
            "prefill_chunk is 0",
        ),
    ] {
        let error = Engine::load(stories_path(), &options).err().expect(words);
        assert!(error.to_string().starts_with(words), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn files_that_are_no_model_keep_their_exit_codes() {
    let load = |path: &str| {
        Engine::load(path, &LoadOptions::default())
            .err()
            .expect(path)
    };
    let missing = load("no/such/model.gguf");
    assert_eq!(missing.exit_code(), 1, "{missing}");
    let text = load(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    assert_eq!(text.exit_code(), 3, "{text}");
}
