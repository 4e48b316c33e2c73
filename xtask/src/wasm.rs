//! The engine for wasm32, built and run.
//!
//! `wasm32-unknown-unknown` has no threads, files, clock or output: what builds and runs there depends on none of
//! them. The example `embedded_story` generates from a model in memory and asserts the golden tokens; node calls its
//! `main`, where a failed assertion is a trap.

use crate::cross::{self, cargo_for};
use crate::process::{self, find};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";
const EXAMPLE: &str = "embedded_story";

/// SIMD, and random numbers as a plain import: the JavaScript glue that a browser build gets them from is for
/// wasm-bindgen, which this module does without.
const FLAGS: &str =
    r#"-Ctarget-feature=+simd128 --cfg getrandom_backend="custom" -Clink-arg=--import-undefined"#;

/// Instantiates the module and calls `main`. The import fills a buffer with random bytes and returns 0 for success.
const SCRIPT: &str = r#"
const { readFileSync } = require("fs");
const { webcrypto } = require("crypto");
const random = (start, length) => {
    webcrypto.getRandomValues(new Uint8Array(instance.exports.memory.buffer, start, length));
    return 0;
};
const module_ = new WebAssembly.Module(readFileSync(process.argv[1]));
const instance = new WebAssembly.Instance(module_, { env: { __getrandom_v03_custom: random } });
if (instance.exports.main(0, 0) !== 0) throw new Error("the example returned an error");
console.log("wasm: every byte of the story is the one in README.md");
"#;

/// Builds `bitnet-inference` for wasm32 with SIMD and runs the example where node is installed.
///
/// # Errors
/// When the build fails or the example traps.
pub fn run(root: &Path) -> Result<()> {
    let mut build = cargo_for(root, "build", TARGET, "std,panic_abort")?;
    build.args(["--release", "-p", "bitnet-inference", "--lib"]);
    build.args(["--example", EXAMPLE]);
    build
        .env_remove("RUSTFLAGS")
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", FLAGS);
    process::run(&mut build)?;

    let Some(node) = find("node") else {
        eprintln!("note: node is not installed, so the module was built but not run");
        return Ok(());
    };
    let module = process::target_folder(root)?
        .join(cross::FOLDER)
        .join(TARGET)
        .join("release/examples")
        .join(format!("{EXAMPLE}.wasm"));
    process::run(Command::new(node).args(["-e", SCRIPT]).arg(module))
}
