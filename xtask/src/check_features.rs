//! Whether the program builds with every feature alone, with none and with all.
//!
//! Features add up: none may need another that it does not name. The list is Cargo's own, so a new feature is checked
//! from its first day.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{cargo, output, run as run_tool};

/// One line of the usage.
pub const USAGE: &str = "  \
  check-features
         check that `bitnet` builds without features, with each alone and with all of them";

/// The package whose features users choose.
const PACKAGE: &str = "bitnet-cli";

/// Checks all sets.
///
/// # Errors
/// The first set that does not build.
pub fn run(root: &Path) -> Result<()> {
    let args = ["metadata", "--format-version", "1", "--no-deps"];
    let metadata = output(cargo().current_dir(root).args(args))?;
    for set in sets(&features(&serde_json::from_str(&metadata)?)?) {
        let mut command = cargo();
        command.current_dir(root);
        command.args(["check", "--locked", "-p", PACKAGE, "--no-default-features"]);
        run_tool(command.args(["--features", &set]))?;
    }
    Ok(())
}

fn features(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array();
    let package = packages.and_then(|all| all.iter().find(|one| one["name"] == PACKAGE));
    let features = package.and_then(|package| package["features"].as_object());
    let features =
        features.with_context(|| format!("cargo metadata tells no features of {PACKAGE}"))?;
    let names = features.keys().filter(|name| *name != "default");
    Ok(names.cloned().collect())
}

/// None, each, all; as `--features` takes them.
fn sets(features: &[String]) -> Vec<String> {
    let mut sets = vec![String::new()];
    sets.extend(features.iter().cloned());
    if features.len() > 1 {
        sets.push(features.join(","));
    }
    sets
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sets_are_none_each_and_all_of_what_cargo_knows() {
        let metadata = json!({"packages": [
            {"name": "another", "features": {"x": []}},
            {"name": PACKAGE, "features": {"default": ["a"], "a": [], "b": []}},
        ]});
        assert_eq!(sets(&features(&metadata).unwrap()), ["", "a", "b", "a,b"]);
        assert!(features(&json!({"packages": []})).is_err());
    }
}
