//! `bitnet score` against the C++ engines: the same tokens, chunks and scored positions, and nearly the same figure.
//!
//! llama.cpp's is computed by the package `crossval` from llama.cpp's logits, for its crate does not bring the program
//! along; what the program `llama-perplexity` itself prints is taken from a build of llama.cpp or bitnet.cpp.

use super::distance::Agreement;
use super::engine::ProofEngines;
use super::llama_perplexity::LlamaPerplexity;
use super::options::ProofOptions;
use super::recorded::PERPLEXITY_TOLERANCE;
use super::references::read_text;
use super::report::{Check, ModelProof};
use anyhow::Result;
use serde_json::Value;
use std::path::Path;

/// `bitnet score` predicts the positions that were compared: its figure and the one from our logits differ by the
/// rounding of differences of f32 logits.
const SAME_POSITIONS: f64 = 1e-6;

/// What saving logits in 16 bits leaves of a perplexity, and four printed places of one near 1. Positions that are off
/// by one multiply it.
const SAVED_ROUNDING: f64 = 1e-3;

/// Chunks whose logits are saved: 130 MB for a vocabulary of 128,000, and the second one shows where a chunk begins.
const SAVED_CHUNKS: usize = 2;

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
        "score: counts unlike those from llama.cpp's logits",
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
        "score: perplexity apart from that of llama.cpp's logits",
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

/// Our figure against the one that the `llama-perplexity` of somebody's build prints, whose name is `whose`.
///
/// # Errors
/// When the program fails or prints something else; what our engine reports.
pub fn against_program(
    engines: &ProofEngines,
    model: &Path,
    text: &Path,
    (whose, build): (&str, &Path),
    options: &ProofOptions,
    finding: &mut ModelProof,
) -> Result<()> {
    let program = LlamaPerplexity::find(build, options.ctx, options.threads)?;
    let theirs = program.figure(model, text)?;
    let file = engines.scratch("saved-logits");
    let saved = program.saved(model, text, SAVED_CHUNKS, &file)?;
    let ours = engines.bitnet_score(model, text, options.ctx)?;
    let our_tokens = engines.bitnet_tokens(model, &read_text(text)?)?;
    let mut check = |what: &str, found: f64, most: f64| {
        let what = format!("score: {what} {whose}'s");
        finding.checks.push(Check::at_most(what, found, most));
    };
    let count = |name: &str| ours[name].as_u64().and_then(|n| usize::try_from(n).ok());
    let (chunks, predictions) = (
        theirs.running.len(),
        saved.n_scored() / saved.n_chunks().max(1),
    );
    let counts = [
        count("n_chunks") == Some(chunks),
        count("ctx") == Some(theirs.ctx),
        count("n_predictions") == Some(chunks * predictions),
    ];
    let unlike = counts.iter().filter(|same| !**same).count();
    check("counts unlike", unlike as f64, 0.0);
    let other = saved.tokens.iter().zip(&our_tokens);
    let other = other.filter(|(theirs, ours)| theirs != ours).count();
    let missing = saved.tokens.len().saturating_sub(our_tokens.len());
    check("tokens unlike", (other + missing) as f64, 0.0);
    // A text on which the model is very wrong has tokens of which the saved logits say too little.
    if let Some(here) = saved.perplexity_of_second_halves()? {
        let printed_then = saved.n_chunks().checked_sub(1);
        let printed_then = printed_then.and_then(|last| theirs.running.get(last));
        check(
            "perplexity of its logits at our positions from",
            printed_then.map_or(f64::NAN, |then| (here / then - 1.0).abs()),
            SAVED_ROUNDING,
        );
    }
    let found = ours["perplexity"].as_f64().unwrap_or(f64::NAN);
    check(
        "perplexity apart from",
        (found / theirs.value - 1.0).abs(),
        PERPLEXITY_TOLERANCE,
    );
    finding.notes.push(format!(
        "score: {} against {:.4} +/- {:.4} of {}: {chunks} chunks of {}, {predictions} predictions in each",
        printed(&ours),
        theirs.value,
        theirs.error,
        program.path().display(),
        theirs.ctx,
    ));
    Ok(())
}

fn printed(score: &Value) -> String {
    let number = |name: &str| score[name].as_f64().unwrap_or(f64::NAN);
    format!("{:.4} +/- {:.4}", number("perplexity"), number("error"))
}
