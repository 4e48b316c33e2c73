//! `bitnet --version`: the version, and what this machine and this build run with.

use bitnet_kernels::cpu_features;

use crate::exit::{CliError, Exit};
use crate::output::Out;

/// Prints it.
///
/// # Errors
/// When standard output fails.
pub fn run() -> Result<Exit, CliError> {
    let features = cpu_features();
    let mut out = Out::stdout();
    out.line(&format!("bitnet {}", env!("CARGO_PKG_VERSION")))?;
    out.line(&format!(
        "kernel:   {}",
        features.kernels.first().unwrap_or(&"none")
    ))?;
    out.line(&format!("kernels:  {}", features.kernels.join(" ")))?;
    out.line(&format!(
        "cpu:      {}",
        features.model.as_deref().unwrap_or("unknown")
    ))?;
    out.line(&format!(
        "features: {}",
        features.instruction_sets.join(" ")
    ))?;
    out.line(&format!("threads:  {}", features.cores))?;
    out.line(&format!(
        "target:   {}-{}",
        std::env::consts::ARCH,
        std::env::consts::OS
    ))?;
    out.flush()?;
    Ok(Exit::Ok)
}
