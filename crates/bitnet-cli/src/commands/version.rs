//! `bitnet --version`: the version, and what this machine and this build run with.

use bitnet_kernels::cpu_features;
use bitnet_server::build_info::BuildInfo;

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
    let build = BuildInfo::of_this();
    out.line(&format!("commit:   {}", build.commit))?;
    out.line(&format!("target:   {}", build.target))?;
    out.line(&format!("compiler: {}", build.rustc))?;
    let built_with = match build.features.is_empty() {
        true => "nothing beyond the usual".to_owned(),
        false => build.features.join(" "),
    };
    out.line(&format!("built with: {built_with}"))?;
    out.flush()?;
    Ok(Exit::Ok)
}
