//! The engine for wasm32, built and run.
//!
//! `wasm32-unknown-unknown` has no threads, files, clock or output: what builds and runs there depends on none of
//! them. The example `embedded_story` generates from a model in memory and asserts the golden tokens; node calls its
//! `main`, where a failed assertion is a trap.

use crate::cross::{cargo_for, target_folder};
use crate::process::{self, find};
use anyhow::Result;
use std::path::Path;
use std::process::Command;

const TARGET: &str = "wasm32-unknown-unknown";
const EXAMPLE: &str = "embedded_story";

/// Builds `bitnet-inference` for wasm32 with SIMD and runs the example where node is installed.
///
/// # Errors
/// When the build fails or the example traps.
pub fn run(root: &Path) -> Result<()> {
    let mut build = cargo_for(root, "build", TARGET, "std,panic_abort")?;
    build.args(["--release", "-p", "bitnet-inference", "--lib"]);
    build.args(["--example", EXAMPLE]);
    build.env(
        "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS",
        "-Ctarget-feature=+simd128",
    );
    process::run(&mut build)?;

    let Some(node) = find("node") else {
        eprintln!("note: node is not installed, so the module was built but not run");
        return Ok(());
    };
    let module = target_folder(root)
        .join("cross")
        .join(TARGET)
        .join("release/examples")
        .join(format!("{EXAMPLE}.wasm"));
    const SCRIPT: &str = "WebAssembly.instantiate(require('fs').readFileSync(process.argv[1]), {})
        .then(({ instance }) => { if (instance.exports.main(0, 0) !== 0) throw new Error('the example failed'); console.log('wasm: the story has the golden tokens'); })
        .catch((error) => { console.error(error); process.exit(1); })";
    process::run(Command::new(node).args(["-e", SCRIPT]).arg(module))
}
