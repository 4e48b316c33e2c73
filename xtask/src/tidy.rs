//! The rules of the house, checked.
//!
//! Each rule is here because its absence is how projects of this kind rot: edges that point up, root folders used as
//! desks, files that only grow, the same noun defined twice, ignored tests, documents whose commands no longer run.

use crate::documents;
use crate::process::{cargo, output};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Which of our crates a crate may depend on (tests included). Imports point down this list only.
const EDGES: [(&str, &[&str]); 9] = [
    ("bitnet-quantization", &[]),
    ("bitnet-tokenizers", &[]),
    ("bitnet-hub", &[]),
    ("bitnet-kernels", &["bitnet-quantization"]),
    (
        "bitnet-models",
        &["bitnet-kernels", "bitnet-quantization", "bitnet-tokenizers"],
    ),
    (
        "bitnet-inference",
        &[
            "bitnet-models",
            "bitnet-kernels",
            "bitnet-quantization",
            "bitnet-tokenizers",
        ],
    ),
    ("bitnet-server", &["bitnet-inference"]),
    (
        "bitnet-cli",
        &[
            "bitnet-server",
            "bitnet-hub",
            "bitnet-inference",
            "bitnet-models",
            "bitnet-kernels",
            "bitnet-quantization",
            "bitnet-tokenizers",
        ],
    ),
    ("xtask", &[]),
];

/// Everything that may lie in the root.
const ROOT: [&str; 18] = [
    ".cargo",
    ".ci",
    ".gitattributes",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "crates",
    "deny.toml",
    "docs",
    "rust-toolchain.toml",
    "xtask",
];

/// A folder that joins the root when it has something to hold.
const ROOT_LATER: [&str; 3] = ["fuzz", "crossval", "deploy"];

/// Lines: past the soft limit a file is named, past the hard one it fails.
const SOFT_LIMIT: usize = 400;
const HARD_LIMIT: usize = 700;

/// Where `unsafe` may be written: the kernels, one memory map, and the calls of llama.cpp.
const UNSAFE_ROOMS: [&str; 3] = [
    "crates/bitnet-kernels/",
    "crates/bitnet-models/src/mmap.rs",
    "crossval/src/llama",
];

/// Names that every crate may define for itself.
const SHARED_NAMES: [&str; 2] = ["Error", "Result"];

/// Checks all rules and lists every breach.
///
/// # Errors
/// When a rule is broken, or git or cargo cannot be run.
pub fn run(root: &Path) -> Result<()> {
    let files = tracked_files(root)?;
    let mut breaches = Vec::new();
    crate_edges(root, &mut breaches)?;
    root_folder(&files, &mut breaches);
    sources(root, &files, &mut breaches)?;
    documents::check(
        root,
        &files,
        EDGES.map(|(name, _)| name).as_slice(),
        &mut breaches,
    )?;
    if breaches.is_empty() {
        println!("tidy: {} files, no breach", files.len());
        return Ok(());
    }
    for breach in &breaches {
        println!("{breach}");
    }
    bail!(
        "{} breaches of the rules in CONTRIBUTING.md",
        breaches.len()
    );
}

fn tracked_files(root: &Path) -> Result<Vec<String>> {
    let listed = output(Command::new("git").current_dir(root).args(["ls-files"]))?;
    Ok(listed
        .lines()
        .map(str::to_owned)
        .filter(|file| root.join(file).exists())
        .collect())
}

fn crate_edges(root: &Path, breaches: &mut Vec<String>) -> Result<()> {
    let text =
        output(
            cargo()
                .current_dir(root)
                .args(["metadata", "--format-version", "1", "--no-deps"]),
        )?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let ours: Vec<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = EDGES.iter().find(|(of, _)| *of == name) else {
            breaches.push(format!(
                "crate {name}: not in the list of crates in xtask/src/tidy.rs"
            ));
            continue;
        };
        for dependency in package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|d| d["name"].as_str())
        {
            if ours.contains(&dependency) && dependency != name && !allowed.contains(&dependency) {
                breaches.push(format!("crate {name}: must not depend on {dependency}; imports point down the tower only"));
            }
        }
    }
    Ok(())
}

fn root_folder(files: &[String], breaches: &mut Vec<String>) {
    let mut tops: Vec<&str> = files
        .iter()
        .filter_map(|file| file.split('/').next())
        .collect();
    tops.dedup();
    for top in tops
        .into_iter()
        .filter(|top| !ROOT.contains(top) && !ROOT_LATER.contains(top))
    {
        breaches.push(format!(
            "{top}: not one of the root's entries; topics go to docs/, tools to xtask/"
        ));
    }
}

fn sources(root: &Path, files: &[String], breaches: &mut Vec<String>) -> Result<()> {
    // A type that a file defines once per platform is one type: places are a set of files.
    let mut types: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        let text = fs::read_to_string(root.join(file)).with_context(|| file.clone())?;
        let n_lines = text.lines().count();
        if n_lines > HARD_LIMIT {
            breaches.push(format!(
                "{file}: {n_lines} lines, over {HARD_LIMIT}; split it by noun"
            ));
        } else if n_lines > SOFT_LIMIT {
            println!("note: {file}: {n_lines} lines, over {SOFT_LIMIT}");
        }
        let unsafe_allowed = UNSAFE_ROOMS.iter().any(|room| file.starts_with(room));
        for (n, line) in text.lines().enumerate() {
            let place = format!("{file}:{}", n + 1);
            let code = line.split("//").next().unwrap_or_default().trim();
            if !unsafe_allowed
                && [
                    "unsafe {",
                    "unsafe fn",
                    "unsafe impl",
                    "unsafe extern",
                    "#[unsafe(",
                ]
                .iter()
                .any(|word| starts_word(code, word))
            {
                breaches.push(format!(
                    "{place}: unsafe outside bitnet-kernels and bitnet-models/src/mmap.rs"
                ));
            }
            if code == concat!("#[ign", "ore]") {
                breaches.push(format!(
                    "{place}: an ignored test states its reason: #[ignore = \"...\"]"
                ));
            }
            if file.contains("/src/")
                && let Some(name) = public_type(code)
            {
                types.entry(name.to_owned()).or_default().insert(file);
            }
        }
    }
    for (name, places) in types
        .iter()
        .filter(|(name, places)| places.len() > 1 && !SHARED_NAMES.contains(&name.as_str()))
    {
        breaches.push(format!(
            "type {name} is defined {} times: {}",
            places.len(),
            places.iter().copied().collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(())
}

/// Whether `word` occurs in `code` outside a string and not as the end of a longer identifier.
fn starts_word(code: &str, word: &str) -> bool {
    code.find(word).is_some_and(|at| {
        let before = &code[..at];
        before.matches('"').count().is_multiple_of(2)
            && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

/// The name in `pub struct Name`, `pub enum Name`, `pub trait Name`, `pub union Name`; none where a macro puts it.
fn public_type(code: &str) -> Option<&str> {
    let rest = code.strip_prefix("pub ")?;
    let rest = ["struct ", "enum ", "trait ", "union "]
        .iter()
        .find_map(|keyword| rest.strip_prefix(keyword))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .filter(|name| !name.is_empty())
}
