//! Which tokenizer an engine uses, and what it does without one.

use crate::{in_crates, reference_path, stories, stories_path, tokens};
use bitnet_inference::{
    Engine, Error, GenerateOptions, LoadOptions, Tokenizer, TokenizerOptions, open_tokenizer,
};
use std::path::PathBuf;

fn with_tokenizer(path: impl Into<PathBuf>) -> Result<Engine, Error> {
    let options = LoadOptions {
        tokenizer: Some(path.into()),
        ..LoadOptions::default()
    };
    Engine::load(stories_path(), &options)
}

fn encode(tokenizer: &Tokenizer) -> Vec<u32> {
    tokenizer
        .encode("One day a little fox", Default::default())
        .expect("encodes")
}

#[test]
fn a_tokenizer_file_replaces_the_models() {
    let own = encode(stories().tokenizer().expect("it has one"));
    // The same vocabulary as a file, as a folder and in a GGUF file; another one in another folder.
    let data = in_crates("bitnet-models/tests/data/stories-5m");
    for path in [data.join("tokenizer.json"), data, stories_path()] {
        let engine = with_tokenizer(&path).expect("a tokenizer");
        assert_eq!(
            encode(engine.tokenizer().expect("it was given")),
            own,
            "{}",
            path.display()
        );
        let alone = open_tokenizer(&path, &TokenizerOptions::default()).expect("a tokenizer");
        assert_eq!(encode(&alone), own);
    }
    let other = with_tokenizer(reference_path("tiny-bitnet")).expect("a tokenizer");
    assert_ne!(encode(other.tokenizer().expect("it was given")), own);
}

#[test]
fn tokenizers_that_are_not_there_are_refused() {
    let error = with_tokenizer("no/such/tokenizer.json")
        .err()
        .expect("there is none");
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let error = with_tokenizer(folder).err().expect("there is none");
    assert!(matches!(error, Error::NoTokenizer { .. }), "{error}");
    assert!(error.to_string().contains(folder), "{error}");
}

#[test]
fn a_checkpoint_without_tokenizer_runs_on_ids_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        let from = reference_path("tiny-bitnet").join(name);
        std::fs::copy(from, folder.path().join(name)).expect("copied");
    }
    let engine = Engine::load(folder.path(), &LoadOptions::default()).expect("loads");
    let whole =
        Engine::load(reference_path("tiny-bitnet"), &LoadOptions::default()).expect("loads");
    let options = GenerateOptions {
        max_tokens: Some(10),
        ..GenerateOptions::greedy()
    };
    let drawn = tokens(&engine, vec![496, 65], &options);
    let ids =
        |tokens: Vec<bitnet_inference::Token>| tokens.iter().map(|t| t.id).collect::<Vec<_>>();
    assert!(drawn.iter().all(|token| token.text.is_empty()));
    assert_eq!(ids(drawn), ids(tokens(&whole, vec![496, 65], &options)));

    let stop = GenerateOptions {
        stop: vec!["x".into()],
        ..options.clone()
    };
    for refused in [
        engine.generate("text", &options).err(),
        engine.generate(vec![1], &stop).err(),
        engine.stream(vec![1], &options).err(),
        engine.chat_prompt(&[]).err(),
    ] {
        let error = refused.expect("text without tokenizer");
        assert!(matches!(error, Error::NoTokenizer { .. }), "{error}");
        assert_eq!(error.exit_code(), 3);
    }
}
