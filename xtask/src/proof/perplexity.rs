//! `bitnet score` against the C++ engines: the same tokens, chunks and scored positions, and nearly the same figure.
//!
//! llama.cpp's is computed by the package `crossval` from llama.cpp's logits, for its crate does not bring the program
//! along; bitnet.cpp's is what its own `llama-perplexity` prints.

use super::distance::Agreement;
use super::engine::ProofEngines;
use super::options::ProofOptions;
use super::recorded::PERPLEXITY_TOLERANCE;
use super::report::{Check, ModelProof};
use crate::process::find_program;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// `bitnet score` predicts the positions that were compared: its figure and the one from our logits differ by the rounding
/// of differences of f32 logits.
const SAME_POSITIONS: f64 = 1e-6;

/// Counts that both have to share.
const COUNTS: [&str; 4] = ["n_tokens", "n_chunks", "n_predictions", "ctx"];

/// Our figure against llama.cpp's; `expected` is of the same chunks, from logits.
///
/// # Errors
/// What the engines report.
pub fn against_llama_cpp(
    engines: &ProofEngines,
    model: &Path,
    text: &Path,
    expected: &Agreement,
    options: &ProofOptions,
    finding: &mut ModelProof,
) -> Result<()> {
    let ours = engines.bitnet_score(model, text, options.ctx)?;
    let theirs = engines.llama_score(model, text, options.ctx)?;
    let other = COUNTS
        .iter()
        .filter(|count| ours[**count] != theirs[**count]);
    finding.checks.push(Check::at_most(
        "score: counts unlike llama-perplexity's",
        other.count() as f64,
        0.0,
    ));
    let nll = |score: &Value| score["nll"].as_f64().unwrap_or(f64::NAN);
    // Chunks that `--samples` left out are in the score and not in the comparison.
    if Some(expected.n_scored as u64) == ours["n_predictions"].as_u64() {
        let from_logits = expected.nll.map_or(f64::NAN, |[_, found, _]| found.value);
        finding.checks.push(Check::at_most(
            "score: nats apart from those of our logits",
            (nll(&ours) - from_logits).abs(),
            SAME_POSITIONS,
        ));
    }
    finding.checks.push(Check::at_most(
        "score: perplexity apart from llama-perplexity's",
        (nll(&ours) - nll(&theirs)).exp_m1().abs(),
        PERPLEXITY_TOLERANCE,
    ));
    finding.notes.push(format!(
        "score: {} against llama.cpp's {} with its default cache and attention, {} chunks of {}, {} predictions, {} tokens",
        printed(&ours),
        printed(&theirs),
        ours["n_chunks"],
        ours["ctx"],
        ours["n_predictions"],
        ours["n_tokens"],
    ));
    Ok(())
}

/// Our figure against the one of a build of bitnet.cpp.
///
/// # Errors
/// When the build has no `llama-perplexity` or it fails; what our engine reports.
pub fn against_bitnet_cpp(
    engines: &ProofEngines,
    model: &Path,
    text: &Path,
    build: &Path,
    options: &ProofOptions,
    finding: &mut ModelProof,
) -> Result<()> {
    let program = find_program(build, "llama-perplexity").with_context(|| {
        format!(
            "found no llama-perplexity in {}: --bitnet-cpp names a build of bitnet.cpp, the folder with `build/bin`",
            build.display()
        )
    })?;
    let (value, error) = run_perplexity(&program, model, text, options)?;
    let ours = engines.bitnet_score(model, text, options.ctx)?;
    let found = ours["perplexity"].as_f64().unwrap_or(f64::NAN);
    finding.checks.push(Check::at_most(
        "score: perplexity apart from bitnet.cpp's",
        (found / value - 1.0).abs(),
        PERPLEXITY_TOLERANCE,
    ));
    finding.notes.push(format!(
        "score: {} against {value} +/- {error} of {}",
        printed(&ours),
        program.display()
    ));
    Ok(())
}

fn run_perplexity(
    program: &Path,
    model: &Path,
    text: &Path,
    options: &ProofOptions,
) -> Result<(f64, f64)> {
    let mut command = Command::new(program);
    command.arg("-m").arg(model).arg("-f").arg(text);
    command.args(["-c", &options.ctx.to_string()]);
    command.args(["-t", &options.threads.to_string()]);
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start {}", program.display()))?;
    // Versions differ in which of the two they print to.
    let text = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let last = |text: &str| text.lines().last().unwrap_or_default().to_owned();
    ensure!(
        done.status.success(),
        "{}: {}: {}",
        done.status,
        program.display(),
        last(text[1].trim())
    );
    text.iter()
        .find_map(|text| estimate(text))
        .with_context(|| {
            format!(
                "{} printed no final estimate: {}",
                program.display(),
                last(text[1].trim())
            )
        })
}

/// Reads `Final estimate: PPL = 17.1090 +/- 0.12800`.
fn estimate(text: &str) -> Option<(f64, f64)> {
    let (_, figures) = text.split_once("Final estimate: PPL = ")?;
    let (value, rest) = figures.split_once(" +/- ")?;
    let error = rest.split_whitespace().next()?;
    Some((value.trim().parse().ok()?, error.parse().ok()?))
}

fn printed(score: &Value) -> String {
    let number = |name: &str| score[name].as_f64().unwrap_or(f64::NAN);
    format!("{:.4} +/- {:.4}", number("perplexity"), number("error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_final_estimate_is_read() {
        let text = "[1]2.1,[2]2.2,\nFinal estimate: PPL = 17.1090 +/- 0.12800\n\nllama_perf: x\n";
        assert_eq!(estimate(text), Some((17.109, 0.128)));
        for text in [
            "",
            "Final estimate: PPL = nan",
            "Final estimate: PPL = x +/- y",
        ] {
            assert_eq!(estimate(text), None, "{text}");
        }
    }
}
