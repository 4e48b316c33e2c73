//! The package `crossval`: llama.cpp, built for this machine from the source that its crate brings along.
//!
//! It is a workspace of its own, because compiling it takes cmake, a C++ compiler and libclang, which nobody who only
//! builds the engine should need.

use crate::process::{cargo, run};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Flags of rustc that make the crate's build script build llama.cpp with all of this CPU's instructions.
pub const NATIVE_FLAGS: &str = "-C target-cpu=native";

/// Flags that make it build llama.cpp for AVX2 and nothing newer.
pub const AVX2_FLAGS: &str = "-C target-feature=+avx2,+fma,+f16c,+bmi2";

/// The program of one build (`native`, `avx2`) below cargo's target folder.
pub fn program(target: &Path, build: &str) -> PathBuf {
    let name = format!("bitnet-crossval{}", std::env::consts::EXE_SUFFIX);
    folder(target, build).join("release").join(name)
}

/// Builds it with rustc's `flags`.
///
/// # Errors
/// When a tool is missing or the build fails.
pub fn build(root: &Path, target: &Path, build: &str, flags: &str) -> Result<()> {
    run(cargo()
        .current_dir(root.join("crossval"))
        .env("RUSTFLAGS", flags)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        // ggml takes this for a build for another machine.
        .env_remove("SOURCE_DATE_EPOCH")
        .args(["build", "--release", "--locked", "--target-dir"])
        .arg(folder(target, build)))
    .context("llama.cpp could not be built (it needs cmake, a C++ compiler and libclang)")
}

fn folder(target: &Path, build: &str) -> PathBuf {
    target.join("crossval").join(build)
}
