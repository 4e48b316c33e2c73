//! The ARM kernels on emulated processors.
//!
//! Two processors matter: one with the dot-product instructions (`max`) and one without (`cortex-a72`, as in a
//! Raspberry Pi 4), because the kernel is chosen at run time. On an ARM machine the tests simply run.

use crate::cross::cargo_for;
use crate::process::{self, cargo, find};
use anyhow::{Context, Result};
use std::path::Path;

const TARGET: &str = "aarch64-unknown-linux-gnu";
const PROCESSORS: [&str; 2] = ["max", "cortex-a72"];
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// Runs `bitnet-kernels`' tests for every processor.
///
/// # Errors
/// When the cross tools are missing or a test fails.
pub fn run(root: &Path) -> Result<()> {
    if cfg!(target_arch = "aarch64") {
        return process::run(cargo().current_dir(root).args([
            "test",
            "-p",
            "bitnet-kernels",
            "--lib",
            "--tests",
        ]));
    }
    const REMEDY: &str = "is missing; on Debian: apt-get install qemu-user-static gcc-aarch64-linux-gnu libc6-dev-arm64-cross";
    let qemu = find("qemu-aarch64-static")
        .or_else(|| find("qemu-aarch64"))
        .with_context(|| format!("qemu-aarch64 {REMEDY}"))?;
    find(LINKER).with_context(|| format!("{LINKER} {REMEDY}"))?;
    for processor in PROCESSORS {
        eprintln!("ARM processor {processor}:");
        let mut tests = cargo_for(root, "test", TARGET, "std,test")?;
        tests.args(["-p", "bitnet-kernels", "--lib", "--tests"]);
        tests.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
        let runner = format!(
            "{} -L /usr/aarch64-linux-gnu -cpu {processor}",
            qemu.display()
        );
        process::run(tests.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner))?;
    }
    Ok(())
}
