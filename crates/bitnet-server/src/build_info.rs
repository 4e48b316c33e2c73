//! What this program was built from: told by `/version`, `bitnet_build_info` and `bitnet --version`, so that a report
//! of a fault names what it is about. `build.rs` finds it out.

use serde::Serialize;

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildInfo {
    /// Of the release.
    pub version: &'static str,
    /// The commit of its source, in full; `unknown` where it was built outside of its repository.
    pub commit: &'static str,
    /// The machine that it is for.
    pub target: &'static str,
    /// The compiler.
    pub rustc: &'static str,
    /// Features of the server that it has beyond the usual ones.
    pub features: Vec<&'static str>,
}

impl BuildInfo {
    /// This program's.
    pub fn of_this() -> BuildInfo {
        let features = env!("BITNET_BUILD_FEATURES").split(',');
        BuildInfo {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("BITNET_BUILD_COMMIT"),
            target: env!("BITNET_BUILD_TARGET"),
            rustc: env!("BITNET_BUILD_RUSTC"),
            features: features.filter(|name| !name.is_empty()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_build_is_this_one() {
        let build = BuildInfo::of_this();
        assert!(build.target.contains(std::env::consts::ARCH), "{build:?}");
        assert!(build.rustc.starts_with("rustc 1."), "{build:?}");
        assert_eq!(
            build.features.contains(&"opentelemetry"),
            cfg!(feature = "opentelemetry")
        );
        assert_eq!(
            build.features.contains(&"degraded-ok"),
            cfg!(feature = "degraded-ok")
        );
        let is_hash = |text: &str| text.len() >= 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let here = Command::new("git")
            .args(["ls-files", "--error-unmatch", "Cargo.toml"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        if here.is_ok_and(|here| here.status.success()) || build.commit != "unknown" {
            assert!(is_hash(build.commit), "{build:?}");
        }
    }
}
