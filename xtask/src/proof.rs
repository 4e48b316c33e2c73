//! `crossval`, `full-crossval`, `verify` and `compare`: our numbers against other engines', position by position.
//!
//! Text that reads well proves little; a model's logits are millions of numbers that either agree or do not. The
//! engines run as programs on the same tokens and write what they computed into files, which are compared here. Nothing
//! here is shared with the engine, so a fault of the engine cannot hide in the comparison.
//!
//! # Layout
//! - [`options`]: the command lines
//! - [`references`]: against llama.cpp, and both against activations that are not rounded
//! - [`recorded`]: against recordings of Hugging Face transformers
//! - [`formats`]: two files of one model
//! - [`perplexity`]: `bitnet score` against llama.cpp and bitnet.cpp
//! - [`llama_perplexity`]: running their program for it
//! - [`chunks`]: which tokens are compared
//! - [`distance`]: how far apart two engines' logits are
//! - [`hidden`]: after which layer they part
//! - [`statistics`]: how sure a figure is
//! - [`engine`]: running the engines
//! - [`tensors`]: reading what they write
//! - [`report`]: what is printed

mod chunks;
mod distance;
mod engine;
mod formats;
mod hidden;
mod llama_perplexity;
mod options;
mod perplexity;
mod recorded;
mod references;
mod report;
mod statistics;
mod tensors;

use anyhow::{Context, Result};
use serde_json::json;
use std::fmt;
use std::fs;
use std::path::Path;

use engine::ProofEngines;
use options::ProofOptions;

pub use options::{ProofKind, USAGE};

/// Everything ran, and a check does not hold: exit code 4.
#[derive(Debug)]
pub struct Disagreement {
    models: usize,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "checks do not hold for {} of the models", self.models)
    }
}

impl std::error::Error for Disagreement {}

/// Runs the command and prints what it found.
///
/// # Errors
/// [`Disagreement`] where a check does not hold; wrong arguments, a failed build, an engine that fails.
pub fn run(root: &Path, kind: ProofKind, args: &[&str]) -> Result<()> {
    let options = ProofOptions::parse(kind, args)?;
    let engines = ProofEngines::build(root, &options)?;
    let findings = match kind {
        ProofKind::Crossval | ProofKind::FullCrossval => references::run(root, &engines, &options)?,
        ProofKind::Verify => recorded::run(root, &engines, &options)?,
        ProofKind::Compare => formats::run(root, &engines, &options)?,
    };
    let models = findings.iter().filter(|finding| !finding.holds()).count();
    let document = json!({
        "agrees": models == 0,
        "models": findings.iter().map(report::ModelProof::json).collect::<Vec<_>>(),
    });
    let document = format!("{document:#}\n");
    if let Some(file) = &options.out {
        fs::write(file, &document)
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    if options.json {
        print!("{document}");
    } else {
        findings
            .iter()
            .for_each(|finding| print!("{}", finding.text()));
    }
    match models {
        0 => Ok(()),
        models => Err(Disagreement { models }.into()),
    }
}
