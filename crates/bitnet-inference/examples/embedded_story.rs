//! Tells the story of README.md from a model in memory, and checks that every byte of it is the one shown there.
//!
//! It needs no file, thread, clock or terminal, so it also runs on wasm32, where `cargo run -p xtask -- wasm` calls its
//! `main`: a failed check is a trap there. The same text on x86, ARM and wasm32 is the engine's promise.

use bitnet_inference::{Engine, GenerateOptions, LoadOptions};
use bytes::Bytes;

static MODEL: &[u8] = include_bytes!("../../bitnet-cli/assets/stories-5m.I2_S.gguf");
static README: &str = include_str!("../../../README.md");

fn main() -> Result<(), bitnet_inference::Error> {
    let options = LoadOptions {
        threads: Some(1),
        ..LoadOptions::default()
    };
    let engine = Engine::from_bytes("stories-5m", Bytes::from_static(MODEL), &options)?;
    let options = GenerateOptions {
        max_tokens: Some(100),
        ..GenerateOptions::greedy()
    };
    let mut story = String::from("Once upon a time");
    for token in engine.generate(story.as_str(), &options)? {
        story.push_str(&token?.text);
    }
    println!("{story}");
    let shown = README.split("```text\n").nth(1);
    let shown = shown.and_then(|rest| rest.split("\n```").next());
    assert_eq!(shown, Some(story.as_str()), "README.md shows another story");
    Ok(())
}
