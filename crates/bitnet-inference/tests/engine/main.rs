//! Contracts of the engine, on real model files: the embedded story model and the reference models of bitnet-models.
//!
//! One binary with a module per contract, so that the engine is linked once.

mod batching;
mod cancellation;
mod chat;
mod embedding_models;
mod embeddings;
mod evaluation;
mod exact_head;
mod fairness;
mod generation_config;
mod golden;
mod limits;
mod loading;
mod packed_cache;
mod perplexity;
mod seeds;
mod serving;
mod speculation;
mod stop_strings;
mod tokenizer;

use bitnet_inference::{Engine, GenerateOptions, LoadOptions, Prompt, Token};
use std::path::PathBuf;
use std::sync::OnceLock;

/// A file of another crate of this repository.
fn in_crates(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

fn stories_path() -> PathBuf {
    in_crates("bitnet-cli/assets/stories-5m.I2_S.gguf")
}

/// A checkpoint of the reference data.
fn reference_path(name: &str) -> PathBuf {
    in_crates("bitnet-models/tests/data/reference").join(name)
}

fn json(path: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(in_crates(path)).expect("test data is committed");
    serde_json::from_str(&text).expect("test data is JSON")
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("an array of ids")
}

fn floats(value: &serde_json::Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).expect("an array of numbers")
}

/// The story model with default options, loaded once.
fn stories() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        Engine::load(stories_path(), &LoadOptions::default()).expect("the story model loads")
    })
}

fn tokens(engine: &Engine, prompt: impl Into<Prompt>, options: &GenerateOptions) -> Vec<Token> {
    engine
        .generate(prompt, options)
        .expect("a valid request")
        .collect::<Result<_, _>>()
        .expect("a generation without errors")
}

fn text_of(tokens: &[Token]) -> String {
    tokens.iter().map(|token| token.text.as_str()).collect()
}
