//! Finds out what the program is built from, for `src/build_info.rs`: commit, target, compiler, features.
//!
//! The commit is the variable `BITNET_BUILD_COMMIT`, for builds whose source came without its repository, else what git
//! says, else `unknown`. It is looked at again when another commit is checked out or made, and not with every build.

use std::env;
use std::path::Path;
use std::process::Command;

/// A commit that the builder names.
const COMMIT: &str = "BITNET_BUILD_COMMIT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={COMMIT}");
    let given = env::var(COMMIT).ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(of_git);
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let rustc = output(Command::new(rustc).arg("--version"));
    let features = env::vars().filter_map(|(name, _)| {
        let feature = name.strip_prefix("CARGO_FEATURE_")?;
        Some(feature.to_lowercase().replace('_', "-"))
    });
    let mut features: Vec<String> = features.filter(|name| name != "default").collect();
    features.sort();
    let target = env::var("TARGET").ok();
    for (name, value) in [
        (COMMIT, commit),
        ("BITNET_BUILD_RUSTC", rustc),
        ("BITNET_BUILD_TARGET", target),
        ("BITNET_BUILD_FEATURES", Some(features.join(","))),
    ] {
        let value = value.unwrap_or_else(|| "unknown".into());
        println!("cargo::rustc-env={name}={value}");
    }
}

/// The commit that is checked out, if this file belongs to a repository: a copy below somebody else's has none.
fn of_git() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    let commit = git(&["rev-parse", "HEAD"])?;
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    // The log of HEAD changes with every commit, also with one to a branch that is kept in packed-refs until then.
    let files = ["HEAD".into(), "logs/HEAD".into(), "packed-refs".into()];
    for file in files.into_iter().chain(branch) {
        let file: String = file;
        let Some(path) = git(&["rev-parse", "--git-path", &file]) else {
            continue;
        };
        // One that does not exist would have this run with every build.
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    Some(commit)
}

fn git(arguments: &[&str]) -> Option<String> {
    output(Command::new("git").args(arguments))
}

/// What a command says, if it succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}
