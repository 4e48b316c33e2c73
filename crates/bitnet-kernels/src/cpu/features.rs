//! What this CPU is, for `--version` and for benchmark reports.

use super::cores::{available_cores, available_cpus};
use super::isa::available_kernels;

/// What a vector kernel needs on this architecture, for the warning when it is missing.
#[cfg(target_arch = "x86_64")]
pub const NEEDED: &str = "it needs AVX2 and F16C";
/// What a vector kernel needs on this architecture, for the warning when it is missing.
#[cfg(target_arch = "aarch64")]
pub const NEEDED: &str = "it needs NEON";
/// What a vector kernel needs on this architecture, for the warning when it is missing.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const NEEDED: &str = "they exist for x86-64 and AArch64";

/// The CPU as the kernels see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuFeatures {
    /// Architecture of this build, e.g. `x86_64`.
    pub arch: &'static str,
    /// The CPU's name, where the system tells it.
    pub model: Option<String>,
    /// Instruction sets that a kernel of ours could use, found on this CPU.
    pub instruction_sets: Vec<&'static str>,
    /// Ternary kernels that run here, fastest first.
    pub kernels: Vec<&'static str>,
    /// CPUs that this process may use; two of one core count twice.
    pub cpus: usize,
    /// Cores that it may use: as many threads compute unless told otherwise.
    pub cores: usize,
}

/// Asks the CPU and the system.
pub fn cpu_features() -> CpuFeatures {
    CpuFeatures {
        arch: std::env::consts::ARCH,
        model: model_name(),
        instruction_sets: instruction_sets(),
        kernels: available_kernels(),
        cpus: available_cpus(),
        cores: available_cores(),
    }
}

#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<&'static str> {
    macro_rules! found {
        ($($name:tt),*) => {
            [$(($name, std::arch::is_x86_feature_detected!($name))),*]
        };
    }
    let sets = found!(
        "avx2",
        "f16c",
        "fma",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512vnni",
        "avx512vbmi",
        "gfni"
    );
    sets.into_iter()
        .filter_map(|(name, found)| found.then_some(name))
        .collect()
}

#[cfg(target_arch = "aarch64")]
fn instruction_sets() -> Vec<&'static str> {
    macro_rules! found {
        ($($name:tt),*) => {
            [$(($name, std::arch::is_aarch64_feature_detected!($name))),*]
        };
    }
    let sets = found!("neon", "dotprod", "i8mm", "fp16", "sve", "sve2");
    sets.into_iter()
        .filter_map(|(name, found)| found.then_some(name))
        .collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn instruction_sets() -> Vec<&'static str> {
    Vec::new()
}

/// The brand string that the CPU itself reports.
#[cfg(target_arch = "x86_64")]
fn model_name() -> Option<String> {
    use std::arch::x86_64::__cpuid;
    if __cpuid(0x8000_0000).eax < 0x8000_0004 {
        return None;
    }
    let bytes: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .flat_map(|leaf| {
            let r = __cpuid(leaf);
            [r.eax, r.ebx, r.ecx, r.edx].map(u32::to_le_bytes).concat()
        })
        .take_while(|&byte| byte != 0)
        .collect();
    let name = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!name.is_empty()).then_some(name)
}

/// What Linux says about the CPU, where it says anything.
#[cfg(not(target_arch = "x86_64"))]
fn model_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info
        .lines()
        .find(|line| line.starts_with("model name") || line.starts_with("Model"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cpu_has_a_core_and_the_scalar_kernels_last() {
        let features = cpu_features();
        assert!((1..=features.cpus).contains(&features.cores));
        assert_eq!(features.kernels.last(), Some(&"scalar-t5"));
        assert_eq!(features.arch, std::env::consts::ARCH);
    }
}
