//! Our logits against llama.cpp's, and both against an evaluation that rounds no activation.
//!
//! The weights of a ternary model are exact in every engine; what differs is how activations are rounded before they
//! meet them. We round rows to int8, as the models were trained. llama.cpp rounds blocks to int8 (256 values beside
//! TQ1_0 and TQ2_0, 32 beside Q2_0) and, beside F16, to f16. So a distance between the two engines has two parts, and
//! the third evaluation tells them apart: llama.cpp on the same weights decoded to F32, which rounds nothing.

use super::chunks::{TextChunk, cut, first_difference};
use super::distance::{Agreement, Position};
use super::engine::ProofEngines;
use super::hidden::{HiddenStates, steps};
use super::options::{ProofKind, ProofOptions};
use super::perplexity;
use super::recorded::PERPLEXITY_TOLERANCE;
use super::report::{Check, ModelProof, SideBySide, named};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Models of the tests that llama.cpp runs, below `crates/bitnet-models/tests/data`.
const MODELS: [&str; 6] = [
    "qwen3-tiny/qwen3-tiny.qwen3.Q2_0.gguf",
    "qwen3-tiny/qwen3-tiny.qwen3.TQ2_0.gguf",
    "reference/gguf/tiny-bitnet-silu.bitnet.TQ1_0.gguf",
    "reference/gguf/tiny-bitnet-silu.bitnet.TQ2_0.gguf",
    "reference/gguf/tiny-bitnet-silu.bitnet.F16.gguf",
    "reference/gguf/tiny-falcon3-158.llama.F16.gguf",
];

/// Texts of the tests, two thousand tokens of the tiny models' vocabulary together.
const TEXTS: [&str; 2] = [
    "reference/texts/corpus.txt",
    "reference/texts/perplexity.txt",
];

/// A hidden state further off than this is not explained by the rounding of activations to 8 bits.
const HIDDEN_LIMIT: f64 = 0.1;

/// What is compared at most: the text in a file.
///
/// # Errors
/// When the texts cannot be read or written.
pub fn text(root: &Path, engines: &ProofEngines, options: &ProofOptions) -> Result<PathBuf> {
    if let Some(text) = &options.text {
        return Ok(text.clone());
    }
    let data = root.join("crates/bitnet-models/tests/data");
    let mut all = String::new();
    for name in TEXTS {
        let file = data.join(name);
        all += &fs::read_to_string(&file)
            .with_context(|| format!("could not read {}", file.display()))?;
    }
    let file = engines.scratch("texts.txt");
    fs::write(&file, all)?;
    Ok(file)
}

/// The text of a file as llama.cpp's programs take it: without a line end at its end.
///
/// # Errors
/// When it cannot be read.
pub fn read_text(file: &Path) -> Result<String> {
    let mut text =
        fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// Checks the models that the options name, else those of the tests.
///
/// # Errors
/// A model that llama.cpp does not run, what the engines report.
pub fn run(root: &Path, engines: &ProofEngines, options: &ProofOptions) -> Result<Vec<ModelProof>> {
    let data = root.join("crates/bitnet-models/tests/data");
    let models: Vec<PathBuf> = match options.models.as_slice() {
        [] => MODELS.iter().map(|model| data.join(model)).collect(),
        models => models.to_vec(),
    };
    let text = text(root, engines, options)?;
    let each = models.iter().map(|model| {
        eprintln!("{}", named(root, model));
        one(engines, root, model, &text, options)
    });
    each.collect()
}

fn one(
    engines: &ProofEngines,
    root: &Path,
    model: &Path,
    text: &Path,
    options: &ProofOptions,
) -> Result<ModelProof> {
    let full = options.kind == ProofKind::FullCrossval;
    let mut finding = ModelProof {
        model: named(root, model),
        checks: Vec::new(),
        comparisons: Vec::new(),
        notes: Vec::new(),
    };
    let builds = [
        ("llama-perplexity", &options.llama_perplexity),
        ("bitnet.cpp", &options.bitnet_cpp),
    ];
    for (name, build) in builds {
        if let Some(build) = build {
            let whose = (name, build.as_path());
            perplexity::against_program(engines, model, text, whose, options, &mut finding)?;
        } else if full {
            let option = name.replace('.', "-");
            let note =
                format!("{name}: not compared; --{option} PATH names a build with the program");
            finding.notes.push(note);
        }
    }
    let theirs = match engines.llama_tokens(model, text) {
        Ok(tokens) => tokens,
        Err(error) if options.bitnet_cpp.is_some() => {
            let error = format!("{error:#}");
            // The last line says what failed, those before how.
            let last = error.lines().last().unwrap_or_default();
            let why = last.trim_start_matches("error: ");
            finding
                .notes
                .push(format!("llama.cpp: not compared; {why}"));
            return Ok(finding);
        }
        Err(error) => {
            return Err(error.context(format!(
                "llama.cpp does not run {}: hold it against recorded data (verify) or a build of bitnet.cpp (--bitnet-cpp)",
                model.display()
            )));
        }
    };
    let ours = engines.bitnet_tokens(model, &read_text(text)?)?;
    let parted = first_difference(&theirs.ids, &ours);
    if let Some(index) = parted {
        let id = |ids: &[usize]| ids.get(index).map_or("none".into(), usize::to_string);
        finding.notes.push(format!(
            "tokens part at {index}: {} of llama.cpp's {}, {} of our {}",
            id(&theirs.ids),
            theirs.ids.len(),
            id(&ours),
            ours.len()
        ));
    }
    finding.checks.push(Check::at_most(
        format!("texts tokenized otherwise, {} tokens", ours.len()),
        f64::from(u8::from(parted.is_some())),
        0.0,
    ));
    let chunks = cut(&theirs.ids, theirs.bos, options.ctx, options.samples)?;
    let mut passes = Passes {
        engines,
        model,
        unrounded: engines.dequantized(model)?,
        traced: full,
        ours: Side::default(),
        ours_unrounded: Side::default(),
        llama_unrounded: Side::default(),
    };
    for chunk in &chunks {
        passes.add(chunk)?;
    }
    let comparisons = passes.comparisons();
    finding.checks.extend(logit_checks(&comparisons, options));
    if full {
        let expected = &comparisons[0].agreement;
        perplexity::against_llama_cpp(engines, model, text, expected, options, &mut finding)?;
    }
    finding.comparisons = comparisons;
    Ok(finding)
}

fn logit_checks(comparisons: &[SideBySide], options: &ProofOptions) -> Vec<Check> {
    let divergence = |comparison: &SideBySide| {
        let kl = comparison.agreement.divergence;
        kl.map_or(f64::NAN, |kl| kl.value)
    };
    let mut checks = Vec::new();
    if options.kind == ProofKind::FullCrossval {
        let bound = comparisons[0].agreement.wilson_lower;
        checks.push(Check::at_least(
            "top-1 as llama.cpp's, lower bound",
            bound.unwrap_or(f64::NAN),
            options.target,
        ));
    }
    let distances = comparisons.iter().flat_map(|comparison| {
        let pair = format!("{} | {}", comparison.reference, comparison.found);
        let change = comparison.agreement.perplexity_change();
        [
            Check::at_most(
                format!("KL, {pair}"),
                divergence(comparison),
                options.tolerance,
            ),
            Check::at_most(
                format!("perplexity apart, {pair}"),
                change.map_or(f64::NAN, f64::abs),
                PERPLEXITY_TOLERANCE,
            ),
        ]
    });
    // llama.cpp's own distance from the evaluation without rounding is what ours is measured by, not what we answer
    // for.
    checks.extend(distances.take(2 * (comparisons.len() - 1)));
    checks
}

/// Positions and hidden states of one pair.
#[derive(Default)]
struct Side {
    positions: Vec<Position>,
    hidden: HiddenStates,
}

/// The three passes over each chunk, held against each other.
struct Passes<'a> {
    engines: &'a ProofEngines,
    model: &'a Path,
    unrounded: PathBuf,
    traced: bool,
    ours: Side,
    ours_unrounded: Side,
    llama_unrounded: Side,
}

impl Passes<'_> {
    fn add(&mut self, chunk: &TextChunk) -> Result<()> {
        let traced = self.traced;
        let ours = self
            .engines
            .bitnet_logits(self.model, &chunk.input, traced)?;
        let llama = self
            .engines
            .llama_logits(self.model, &chunk.input, traced)?;
        let exact = self
            .engines
            .llama_logits(&self.unrounded, &chunk.input, traced)?;
        for (side, reference, found) in [
            (&mut self.ours, &llama, &ours),
            (&mut self.ours_unrounded, &exact, &ours),
            (&mut self.llama_unrounded, &exact, &llama),
        ] {
            let (a, b) = (reference.rows("logits")?, found.rows("logits")?);
            side.positions.extend(chunk.compare(&a, &b)?);
            if traced {
                let steps = steps(reference, found, str::to_owned);
                let n = chunk.input.len();
                side.hidden.add(&chunk.name, n, &steps, reference, found)?;
            }
        }
        Ok(())
    }

    /// Ours against llama.cpp first.
    fn comparisons(self) -> Vec<SideBySide> {
        let exact = "f32 activations";
        let sides = [
            ("llama.cpp", "bitnet", self.ours),
            (exact, "bitnet", self.ours_unrounded),
            (exact, "llama.cpp", self.llama_unrounded),
        ];
        let comparison = |(reference, found, side): (&str, &str, Side)| SideBySide {
            reference: reference.into(),
            found: found.into(),
            agreement: Agreement::of(&side.positions),
            hidden: self.traced.then_some(side.hidden),
            hidden_limit: HIDDEN_LIMIT,
        };
        sides.into_iter().map(comparison).collect()
    }
}
