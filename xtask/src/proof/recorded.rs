//! Our logits against those that Hugging Face transformers gave once: no Python is needed to check a model again.
//!
//! Recordings are `STEM.json` (prompts, greedy continuations, log probabilities of a text) and `STEM.safetensors`
//! (logits of every position, hidden states): the format of `crates/bitnet-models/tests/data/reference/README.md`.
//! Those of the tests were made by the scripts beside them, others are made by `crossval/record.py`.

use super::distance::{Agreement, Position, SURE_MARGIN};
use super::engine::ProofEngines;
use super::hidden::{HiddenStates, steps};
use super::options::ProofOptions;
use super::report::{Check, ModelProof, SideBySide, named};
use super::statistics::mean;
use super::tensors::{Rows, TensorFile};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Models of the tests with recordings, below `crates/bitnet-models/tests/data`. The F16 file of Falcon3 is not among
/// them: it holds rounded scales, another model by 4e-4.
const MODELS: [&str; 18] = [
    "reference/tiny-bitnet",
    "reference/tiny-bitnet-bf16",
    "reference/tiny-bitnet-odd",
    "reference/tiny-bitnet-silu",
    "reference/tiny-falcon3-158",
    "reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf",
    "reference/gguf/tiny-bitnet.bitnet-b1.58.F16.gguf",
    "reference/gguf/tiny-bitnet-silu.bitnet.F32.gguf",
    "reference/gguf/tiny-bitnet-silu.bitnet.F16.gguf",
    "reference/gguf/tiny-bitnet-silu.bitnet.TQ1_0.gguf",
    "reference/gguf/tiny-bitnet-silu.bitnet.TQ2_0.gguf",
    "qwen3-tiny/qwen3-tiny.qwen3.Q2_0.gguf",
    "qwen3-tiny/qwen3-tiny.qwen3.TQ2_0.gguf",
    "qwen3-tiny/unpacked",
    "qwen3-tiny/mlx",
    "llama-rope-tiny",
    "llama-rope-tiny/llama-rope-tiny.llama.I2_S.gguf",
    "llama-rope-tiny/llama-rope-tiny.llama.F16.gguf",
];

/// How far a perplexity may be from the recorded one: rule 5 of the reference data's README.
pub const PERPLEXITY_TOLERANCE: f64 = 5e-3;

/// A hidden state further off than this holds an activation that fell to the other side of a rounding tie; what the
/// order of sums does is a thousand times less.
const HIDDEN_LIMIT: f64 = 1e-3;

/// Checks the models that the options name, else all of the tests.
///
/// # Errors
/// A model without a recording, a recording that cannot be read, what the engine reports.
pub fn run(root: &Path, engines: &ProofEngines, options: &ProofOptions) -> Result<Vec<ModelProof>> {
    let data = root.join("crates/bitnet-models/tests/data");
    let models = match options.models.as_slice() {
        [] => MODELS.iter().map(|model| data.join(model)).collect(),
        models => models.to_vec(),
    };
    let findings = models.iter().map(|model| {
        eprintln!("{}", named(root, model));
        let stem = match &options.golden {
            Some(stem) => stem.clone(),
            None => find(model)?,
        };
        verify(engines, root, model, &stem, options)
    });
    findings.collect()
}

/// The recording near a model: in its directory, beside it, or in a folder `golden` under the model's name.
fn find(model: &Path) -> Result<PathBuf> {
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    // `tiny-bitnet.bitnet-b1.58.I2_S.gguf` is of `tiny-bitnet`.
    let first = name.split('.').next().unwrap_or_default();
    let parent = model.parent().unwrap_or(Path::new(""));
    let places = [
        model.join("golden"),
        parent.join("golden"),
        parent.join("golden").join(name.as_ref()),
        parent.join("../golden").join(first),
    ];
    let is_recording = |stem: &PathBuf| {
        ["json", "safetensors"]
            .iter()
            .all(|kind| part(stem, kind).is_file())
    };
    places.into_iter().find(is_recording).with_context(|| {
        format!(
            "found no recording of {}: name one with --golden STEM, or make one with crossval/record.py",
            model.display()
        )
    })
}

/// One of the two files of a recording. The stem may have dots of its own.
fn part(stem: &Path, extension: &str) -> PathBuf {
    PathBuf::from(format!("{}.{extension}", stem.display()))
}

/// The recording of one model.
struct Recording {
    summary: Value,
    tensors: TensorFile,
    /// The ids whose log probabilities were recorded; empty where none were.
    scored: Vec<usize>,
}

impl Recording {
    fn read(stem: &Path) -> Result<Recording> {
        let file = part(stem, "json");
        let summary = read_json(&file)?;
        let n = summary["perplexity"]["logprobs"]
            .as_array()
            .map_or(0, |logprobs| logprobs.len() + 1);
        let own = &summary["perplexity"]["token_ids"];
        let scored = match own {
            _ if n == 0 => Vec::new(),
            // The recordings of the tests share one text.
            Value::Null => shared_ids(stem)?,
            own => ids(own)?,
        };
        ensure!(
            scored.len() >= n,
            "{}: {n} ids are scored, {} are known",
            file.display(),
            scored.len()
        );
        Ok(Recording {
            tensors: TensorFile::read(&part(stem, "safetensors"))?,
            scored: scored[..n].to_vec(),
            summary,
        })
    }
}

/// `perplexity_ids.json` beside the recording, or in the folder of the reference data.
fn shared_ids(stem: &Path) -> Result<Vec<usize>> {
    let folder = stem.parent().unwrap_or(Path::new(""));
    let name = "perplexity_ids.json";
    let places = [
        folder.join(name),
        folder.join("../reference/golden").join(name),
    ];
    let place = places.iter().find(|place| place.is_file());
    let place = place.with_context(|| format!("found no {name} near {}", stem.display()))?;
    ids(&read_json(place)?)
}

fn read_json(file: &Path) -> Result<Value> {
    let text =
        fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("could not read {}", file.display()))
}

fn verify(
    engines: &ProofEngines,
    root: &Path,
    model: &Path,
    stem: &Path,
    options: &ProofOptions,
) -> Result<ModelProof> {
    let recording = Recording::read(stem)?;
    let mut positions = Vec::new();
    let mut hidden = HiddenStates::default();
    let mut greedy = Greedy::default();
    let prompts = recording.summary["prompts"].as_array();
    for prompt in prompts.context("the recording has no prompts")? {
        let id = prompt["id"].as_str().context("a prompt has no name")?;
        let tokens = ids(&prompt["ids"])?;
        let said = ids(&prompt["greedy"])?;
        let margins = numbers(&prompt["greedy_margins"])?;
        let logits = recording.tensors.rows(&format!("{id}.logits"))?;
        ensure!(
            logits.len() == tokens.len() && !tokens.is_empty(),
            "{id} has {} ids and {} rows of logits",
            tokens.len(),
            logits.len()
        );
        // The last greedy token predicts nothing that was recorded.
        let continued = &said[..said.len().saturating_sub(1)];
        let all = [tokens.as_slice(), continued].concat();
        let traced = recording.tensors.has(&format!("{id}.L0.out"));
        let ours = engines.bitnet_logits(model, &all, traced)?;
        let found = ours.rows("logits")?;
        ensure!(
            found.width == logits.width && found.len() == all.len(),
            "{id}: our logits are [{}, {}], the recorded ones [{}, {}]",
            found.len(),
            found.width,
            logits.len(),
            logits.width
        );
        for index in 0..tokens.len() {
            let next = tokens.get(index + 1).map(|&next| (next, false));
            let (reference, found) = (logits.row(index), found.row(index));
            positions.push(Position::compare(id, index, reference, found, next));
        }
        greedy.add(&found, tokens.len() - 1, &said, &margins);
        if traced {
            let named = |name: &str| recorded_name(id, name);
            let steps = steps(&recording.tensors, &ours, named);
            hidden.add(id, tokens.len(), &steps, &recording.tensors, &ours)?;
        }
    }
    let agreement = Agreement::of(&positions);
    let mut checks = vec![
        Check::at_most(
            format!("other top-1, lead above {SURE_MARGIN}, of {}", agreement.n),
            agreement.sure_and_different as f64,
            0.0,
        ),
        Check::at_most(
            format!("other greedy token, likewise, of {}", greedy.sure),
            greedy.different as f64,
            0.0,
        ),
        Check::at_most(
            "KL, mean over the positions",
            agreement.divergence.map_or(f64::NAN, |kl| kl.value),
            options.tolerance,
        ),
    ];
    let mut notes = Vec::new();
    if !recording.scored.is_empty() {
        let (change, note) = perplexity(engines, model, &recording)?;
        checks.push(Check::at_most(
            "perplexity, relative distance",
            change.abs(),
            PERPLEXITY_TOLERANCE,
        ));
        notes.push(note);
    }
    Ok(ModelProof {
        model: named(root, model),
        checks,
        comparisons: vec![SideBySide {
            reference: "transformers".into(),
            found: "bitnet".into(),
            agreement,
            hidden: (!hidden.is_empty()).then_some(hidden),
            hidden_limit: HIDDEN_LIMIT,
        }],
        notes,
    })
}

/// What the reference drew after the prompts.
#[derive(Default)]
struct Greedy {
    /// Tokens that led clearly.
    sure: usize,
    /// Of them those that we would not have drawn.
    different: usize,
}

impl Greedy {
    /// `logits` are ours of the prompt and of what the reference drew, from which row `start` on they choose it.
    fn add(&mut self, logits: &Rows, start: usize, said: &[usize], margins: &[f64]) {
        for (step, (&token, &margin)) in said.iter().zip(margins).enumerate() {
            if margin <= f64::from(SURE_MARGIN) {
                continue;
            }
            let row = logits.row(start + step);
            let above = row.iter().filter(|&&logit| logit > row[token]).count();
            self.sure += 1;
            self.different += usize::from(above > 0);
        }
    }
}

/// What a recording calls our tensor.
fn recorded_name(prompt: &str, ours: &str) -> String {
    match ours.strip_prefix("layer.") {
        Some(layer) => format!("{prompt}.L{layer}.out"),
        None if ours == "embedding" => format!("{prompt}.embed"),
        None => format!("{prompt}.{ours}"),
    }
}

/// How far our perplexity is from the recorded one, as a share of it, and both with their errors.
fn perplexity(
    engines: &ProofEngines,
    model: &Path,
    recording: &Recording,
) -> Result<(f64, String)> {
    let recorded = numbers(&recording.summary["perplexity"]["logprobs"])?;
    let ids = &recording.scored;
    let logits = engines.bitnet_logits(model, ids, false)?.rows("logits")?;
    let ours: Vec<f64> = (0..recorded.len())
        .map(|index| {
            let row = logits.row(index);
            let next = Some((ids[index + 1], true));
            let position = Position::compare("text", index, row, row, next);
            position.next.map_or(f64::NAN, |next| next.found)
        })
        .collect();
    let theirs =
        mean(recorded.iter().map(|logprob| -logprob)).context("too few log probabilities")?;
    let found = mean(ours.iter().copied()).context("too few log probabilities")?;
    let change = (found.value - theirs.value).exp_m1();
    let note = format!(
        "perplexity of the recorded text: {:.5} +/- {:.5} against {:.5} +/- {:.5} ({:+.3} %) over {} tokens",
        found.value.exp(),
        found.value.exp() * found.error,
        theirs.value.exp(),
        theirs.value.exp() * theirs.error,
        100.0 * change,
        recorded.len()
    );
    Ok((change, note))
}

/// Token ids of a recording, none where it has no such list.
fn ids(value: &Value) -> Result<Vec<usize>> {
    let list = value.as_array().into_iter().flatten();
    list.map(|id| {
        Ok(usize::try_from(
            id.as_u64().context("a token id is no number")?,
        )?)
    })
    .collect()
}

/// Numbers of a recording, likewise.
fn numbers(value: &Value) -> Result<Vec<f64>> {
    let list = value.as_array().into_iter().flatten();
    list.map(|number| number.as_f64().context("a number is missing"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_model_of_the_tests_has_a_recording() {
        let data = crate::root().join("crates/bitnet-models/tests/data");
        for model in MODELS {
            let stem = find(&data.join(model)).unwrap();
            let folder = model.split('/').next().unwrap();
            assert!(stem.components().any(|part| part.as_os_str() == folder));
            let recording = Recording::read(&stem).unwrap();
            assert!(recording.scored.len() >= 512, "{model}");
        }
        let error = find(&data.join("reference/texts/corpus.txt")).unwrap_err();
        assert!(error.to_string().contains("crossval/record.py"), "{error}");
    }

    #[test]
    fn greedy_tokens_count_where_they_led() {
        let logits = Rows {
            width: 3,
            values: vec![9.0, 0.0, 0.0, 0.0, 1.0, 2.0, 5.0, 1.0, 0.0],
        };
        let mut greedy = Greedy::default();
        // The second token led by too little, the third is not ours.
        greedy.add(&logits, 0, &[0, 1, 2], &[1.0, 0.1, 0.5]);
        assert_eq!((greedy.sure, greedy.different), (2, 1));
    }

    #[test]
    fn recorded_tensors_have_the_recorders_names() {
        assert_eq!(recorded_name("p7", "layer.3"), "p7.L3.out");
        assert_eq!(recorded_name("p7", "embedding"), "p7.embed");
        assert_eq!(recorded_name("p7", "final_norm"), "p7.final_norm");
    }
}
