//! Two files of one model against each other: what another type costs in accuracy, with its bounds.
//!
//! Agreement of the likeliest token has Wilson's lower bound, and the paired test of McNemar tells whether one file
//! finds the text's next token more often than chance would have it. A lossless type agrees everywhere.

use super::chunks::{cut, first_difference};
use super::distance::Agreement;
use super::engine::ProofEngines;
use super::hidden::{HiddenStates, steps};
use super::options::ProofOptions;
use super::references::{read_text, text};
use super::report::{Check, ModelProof, SideBySide, named};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Fewer positions say nothing about a share of 0.99.
const MIN_POSITIONS: f64 = 1000.0;

/// Below this a difference of the two files is more than chance.
const SIGNIFICANCE: f64 = 0.01;

/// As in [`super::references`]: the rounding of activations explains no more.
const HIDDEN_LIMIT: f64 = 0.1;

/// Compares the second model with the first.
///
/// # Errors
/// Models with other tokens, what the engine reports.
pub fn run(root: &Path, engines: &ProofEngines, options: &ProofOptions) -> Result<Vec<ModelProof>> {
    let [a, b] = options.models.as_slice() else {
        anyhow::bail!("compare takes two models");
    };
    let text = read_text(&text(root, engines, options)?)?;
    let tokens = engines.bitnet_tokens(a, &text)?;
    let other = engines.bitnet_tokens(b, &text)?;
    if let Some(index) = first_difference(&tokens, &other) {
        anyhow::bail!("the models have different tokenizers: their tokens part at {index}");
    }
    // An empty text has the token that begins every text, or none.
    let bos = engines.bitnet_tokens(a, "")?.first().copied();
    let mut positions = Vec::new();
    let mut hidden = HiddenStates::default();
    for chunk in cut(&tokens, bos, options.ctx, options.samples)? {
        let first = engines.bitnet_logits(a, &chunk.input, true)?;
        let second = engines.bitnet_logits(b, &chunk.input, true)?;
        let (rows, others) = (first.rows("logits")?, second.rows("logits")?);
        positions.extend(chunk.compare(&rows, &others)?);
        let steps = steps(&first, &second, str::to_owned);
        hidden.add(&chunk.name, chunk.input.len(), &steps, &first, &second)?;
    }
    let agreement = Agreement::of(&positions);
    ensure!(agreement.n > 0, "no chunk was compared");
    let bound = agreement.wilson_lower.context("nothing was compared")?;
    let checks = vec![
        Check::at_least("positions", agreement.n as f64, MIN_POSITIONS),
        Check::at_least("top-1 the same, lower bound", bound, options.target),
        Check::at_least(
            "McNemar's p of the next token",
            agreement.right_alone.2,
            SIGNIFICANCE,
        ),
    ];
    Ok(vec![ModelProof {
        model: format!("{} and {}", named(root, a), named(root, b)),
        checks,
        comparisons: vec![SideBySide {
            reference: "the first".into(),
            found: "the second".into(),
            agreement,
            hidden: Some(hidden),
            hidden_limit: HIDDEN_LIMIT,
        }],
        notes: Vec::new(),
    }])
}
