//! Whether llama.cpp was built for the instructions that this CPU has, read from its own `system_info` line.

use std::str::FromStr;

use anyhow::{Result, bail, ensure};

/// Which build is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Everything that the CPU has.
    Native,
    /// AVX2 and no AVX-512, to hold against our AVX2 kernels.
    Avx2,
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Wanted> {
        match text {
            "native" => Ok(Wanted::Native),
            "avx2" => Ok(Wanted::Avx2),
            _ => bail!("{text}: expected native or avx2"),
        }
    }
}

/// Instructions that decide the speed on this CPU, as `system_info` names them: the dot products of both widths.
fn of_this_cpu() -> Vec<&'static str> {
    let mut names = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx2") {
            names.push("AVX2");
        }
        if std::arch::is_x86_feature_detected!("avx512f") {
            names.push("AVX512");
        }
        if std::arch::is_x86_feature_detected!("avx512vnni") {
            names.push("AVX512_VNNI");
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        names.push("NEON");
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            names.push("DOTPROD");
        }
    }
    names
}

/// Refuses a build that leaves instructions of the CPU unused, or uses what it must not.
///
/// # Errors
/// Which instructions are missing or too many.
pub fn check(system_info: &str, wanted: Wanted) -> Result<()> {
    match wanted {
        Wanted::Native => require(system_info, &of_this_cpu()),
        Wanted::Avx2 => {
            require(system_info, &["AVX2"])?;
            ensure!(
                !has(system_info, "AVX512"),
                "llama.cpp was built with AVX-512, but the build without it was asked for: {system_info}"
            );
            Ok(())
        }
    }
}

fn require(system_info: &str, names: &[&str]) -> Result<()> {
    for name in names {
        ensure!(
            has(system_info, name),
            "llama.cpp was built without {name}, which this CPU has; build with \
             RUSTFLAGS=\"-C target-cpu=native\": {system_info}"
        );
    }
    Ok(())
}

/// Whether the line says `NAME = 1`.
fn has(system_info: &str, name: &str) -> bool {
    system_info.split(['|', ':']).any(|part| {
        part.split_once('=')
            .is_some_and(|(left, right)| left.trim() == name && right.trim() == "1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: &str =
        "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1 | OPENMP = 1 | ";

    #[test]
    fn names_are_compared_whole() {
        assert!(has(NATIVE, "AVX2") && has(NATIVE, "SSE3") && has(NATIVE, "AVX512"));
        assert!(!has("CPU : AVX512_VNNI = 1 | ", "AVX512"));
        assert!(!has("CPU : AVX2 = 0 | ", "AVX2"));
    }

    #[test]
    fn a_build_that_leaves_instructions_unused_is_refused() {
        assert!(require(NATIVE, &["AVX2", "AVX512"]).is_ok());
        let error = require("CPU : AVX2 = 1 | ", &["AVX2", "AVX512"]).unwrap_err();
        assert!(error.to_string().contains("without AVX512"), "{error}");
    }

    #[test]
    fn the_build_for_avx2_has_no_avx512() {
        assert!(check("CPU : AVX2 = 1 | FMA = 1 | ", Wanted::Avx2).is_ok());
        assert!(check(NATIVE, Wanted::Avx2).is_err());
        assert!(check("CPU : SSE3 = 1 | ", Wanted::Avx2).is_err());
    }
}
