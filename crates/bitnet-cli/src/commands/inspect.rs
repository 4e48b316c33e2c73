//! `bitnet inspect`: what is in a model file, without loading it.
//!
//! With two files it tells in what they differ.
//!
//! A container of an architecture that this engine does not run is listed all the same; the reason comes after the
//! listing, as the command's error.

mod difference;

use std::collections::BTreeMap;
use std::path::Path;

use bitnet_models::checkpoint::{Description, TensorSummary};
use bitnet_models::gguf::Gguf;
use bitnet_models::{Checkpoint, CheckpointOptions, Finding, ModelConfig};
use bitnet_quantization::{Dialects, TensorType};
use clap::Args;
use serde::Serialize;

use crate::args::parse_dialects;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source::ModelSource;
use crate::output::{Format, Out};
use crate::sanitize;
use crate::table::{Align, Table, wrapped};
use crate::tokenizer_findings;
use crate::units;

/// Options of `bitnet inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet inspect model.gguf\n  \
    bitnet inspect ./hf-directory --format json\n  \
    bitnet inspect old.gguf new.gguf\n  \
    bitnet inspect model-00001-of-00003.gguf\n\n\
    With two files: exit code 0 where they are the same, 4 where they differ.")]
pub struct InspectArgs {
    /// A .gguf file (also the first of a split) or a Hugging Face directory [default: BITNET_GGUF, else the model
    /// inside this program]
    #[arg(value_name = "FILE")]
    pub file: Option<String>,

    /// Another file, directory or model of the Hub: tell in what the two differ (metadata, tensors, their bytes), and
    /// list neither
    #[arg(value_name = "OTHER", conflicts_with = "dialect")]
    pub other: Option<String>,

    /// Byte layout of I2_S tensors, and the format of type numbers that several projects use: i2s-128, i2s-64,
    /// i2s-4row, tl1, tl2, q2_0, pq2_0 or stq1_0, several with commas [default: i2s-128, and by the tensors' sizes]
    #[arg(long, value_name = "NAMES", value_parser = parse_dialects)]
    pub dialect: Option<Dialects>,

    /// Read PyTorch's files (pytorch_model.bin, its shards, .pt) of a directory that has no safetensors: their tensors
    /// alone, nothing in them is run
    #[arg(long)]
    pub allow_pickle: bool,

    /// text or json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Everything that is shown; the JSON document of `--format json`.
#[derive(Serialize)]
struct Inspection {
    file: String,
    container: String,
    files: usize,
    bytes: u64,
    /// `None` when the model cannot be run; `problem` then says why.
    model: Option<ModelSummary>,
    problem: Option<String>,
    tokenizer: Option<String>,
    chat_template: Option<String>,
    types: Vec<TypeSummary>,
    metadata: Vec<MetadataEntry>,
    tensors: Vec<TensorEntry>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct ModelSummary {
    family: &'static str,
    name: String,
    layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab_size: usize,
    context_length: usize,
    rope_base: f32,
    rms_norm_eps: f32,
    tied_head: bool,
    /// How I2_S tensors are read; `None` when there are none.
    dialect: Option<String>,
}

#[derive(Serialize)]
struct TypeSummary {
    #[serde(rename = "type")]
    ty: String,
    tensors: usize,
    elements: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct MetadataEntry {
    key: String,
    #[serde(rename = "type")]
    ty: &'static str,
    value: String,
}

#[derive(Serialize)]
struct TensorEntry {
    name: String,
    #[serde(rename = "type")]
    ty: String,
    shape: Vec<u64>,
    bytes: Option<u64>,
    offset: u64,
    file: usize,
}

/// Lists the file.
///
/// # Errors
/// A file that cannot be read or is no model container; after the listing, a model that cannot be run.
pub fn run(args: &InspectArgs, env: &Environment) -> Result<Exit, CliError> {
    let options = CheckpointOptions {
        dialects: args.dialect.unwrap_or_default(),
        allow_pickle: args.allow_pickle,
        ..CheckpointOptions::default()
    };
    if let (Some(file), Some(other)) = (&args.file, &args.other) {
        let [file, other] = [file, other].map(|name| ModelSource::path(name, env));
        return difference::run(&file?, &other?, &options, args.format);
    }
    let source = ModelSource::choose(args.file.as_deref(), env)?;
    let (description, checkpoint) = match &source {
        ModelSource::Path(path) if !path.is_dir() => {
            (describe_gguf(path, &options)?, source.open(&options))
        }
        _ => {
            let checkpoint = source.open(&options)?;
            (checkpoint.describe(), Ok(checkpoint))
        }
    };
    let (inspection, problem) = match checkpoint {
        Ok(checkpoint) => (
            inspection(
                &source,
                description,
                Some(&checkpoint),
                None,
                options.dialects,
            ),
            None,
        ),
        Err(error) => {
            let message = Some(error.message.clone());
            (
                inspection(&source, description, None, message, options.dialects),
                Some(error),
            )
        }
    };
    let mut out = Out::stdout();
    match args.format {
        Format::Json => out.json(&inspection)?,
        Format::Text => out.text(&text(&inspection))?,
    }
    out.flush()?;
    problem.map_or(Ok(Exit::Ok), Err)
}

fn describe_gguf(path: &Path, options: &CheckpointOptions) -> Result<Description, CliError> {
    let gguf = Gguf::open_with(path, options.access, options.dialects)?;
    Ok(Description::of_gguf(&gguf))
}

fn inspection(
    source: &ModelSource,
    description: Description,
    checkpoint: Option<&Checkpoint>,
    problem: Option<String>,
    dialects: Dialects,
) -> Inspection {
    let types = types(&description.tensors);
    let has_i2s = types.iter().any(|t| t.ty == TensorType::I2S.name());
    let dialect = has_i2s.then(|| dialects.i2s().to_string());
    let tokenizer = description
        .metadata
        .iter()
        .find(|(key, _, _)| key == "tokenizer.ggml.model");
    Inspection {
        file: source.name(),
        container: description.container,
        files: description.n_files,
        bytes: description.total_bytes,
        model: checkpoint.map(|c| model_summary(c.config(), dialect)),
        problem,
        tokenizer: tokenizer.map(|(_, _, value)| value.trim_matches('"').to_string()),
        // A template that cannot be read is among the findings.
        chat_template: checkpoint.and_then(|c| c.chat_template().ok().flatten()),
        types,
        metadata: description
            .metadata
            .into_iter()
            .map(|(key, ty, value)| MetadataEntry { key, ty, value })
            .collect(),
        tensors: description
            .tensors
            .into_iter()
            .map(|t| TensorEntry {
                name: t.name,
                ty: t.type_name,
                shape: t.dims,
                bytes: t.bytes,
                offset: t.offset,
                file: t.shard,
            })
            .collect(),
        findings: checkpoint.map(findings).unwrap_or_default(),
    }
}

fn findings(checkpoint: &Checkpoint) -> Vec<Finding> {
    let mut findings = checkpoint.findings().to_vec();
    tokenizer_findings::add(checkpoint, &mut findings);
    findings
}

fn model_summary(config: &ModelConfig, dialect: Option<String>) -> ModelSummary {
    ModelSummary {
        family: config.family.name,
        name: config.name.clone(),
        layers: config.n_layers,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        heads: config.n_heads,
        kv_heads: config.n_kv_heads,
        head_dim: config.head_dim,
        vocab_size: config.vocab_size,
        context_length: config.context_length,
        rope_base: config.rope.base,
        rms_norm_eps: config.rms_norm_eps,
        tied_head: config.tied_head,
        dialect,
    }
}

fn types(tensors: &[TensorSummary]) -> Vec<TypeSummary> {
    let mut by_type: BTreeMap<&str, TypeSummary> = BTreeMap::new();
    for tensor in tensors {
        let entry = by_type
            .entry(&tensor.type_name)
            .or_insert_with(|| TypeSummary {
                ty: tensor.type_name.clone(),
                tensors: 0,
                elements: 0,
                bytes: 0,
            });
        entry.tensors += 1;
        entry.elements = entry
            .elements
            .saturating_add(tensor.dims.iter().copied().fold(1, u64::saturating_mul));
        entry.bytes = entry.bytes.saturating_add(tensor.bytes.unwrap_or(0));
    }
    by_type.into_values().collect()
}

fn text(inspection: &Inspection) -> String {
    let mut text = overview(inspection).text();
    if let Some(problem) = &inspection.problem {
        text.push_str(&format!(
            "\nThis model cannot be run: {}\n",
            sanitize::one_line(problem)
        ));
    }

    let mut types = Table::new(&[
        ("type", Align::Left),
        ("tensors", Align::Right),
        ("values", Align::Right),
        ("size", Align::Right),
    ]);
    for t in &inspection.types {
        types.row(vec![
            t.ty.clone(),
            t.tensors.to_string(),
            units::count(t.elements),
            units::bytes(t.bytes),
        ]);
    }
    text.push_str(&format!("\nTypes\n{}", types.text()));

    let mut metadata = Table::new(&[
        ("key", Align::Left),
        ("type", Align::Left),
        ("value", Align::Left),
    ]);
    for entry in &inspection.metadata {
        metadata.row(vec![
            entry.key.clone(),
            entry.ty.to_string(),
            entry.value.clone(),
        ]);
    }
    text.push_str(&format!(
        "\nMetadata ({})\n{}",
        inspection.metadata.len(),
        metadata.text()
    ));

    let mut tensors = Table::new(&[
        ("tensor", Align::Left),
        ("type", Align::Left),
        ("shape", Align::Right),
        ("size", Align::Right),
    ]);
    for t in &inspection.tensors {
        let shape: Vec<String> = t.shape.iter().map(u64::to_string).collect();
        let size = t.bytes.map_or_else(|| "?".into(), units::bytes);
        tensors.row(vec![t.name.clone(), t.ty.clone(), shape.join(" x "), size]);
    }
    text.push_str(&format!(
        "\nTensors ({})\n{}",
        inspection.tensors.len(),
        tensors.text()
    ));

    match &inspection.chat_template {
        Some(template) => {
            text.push_str(&format!("\nChat template\n{}\n", sanitize::text(template)))
        }
        None => text.push_str("\nNo chat template\n"),
    }
    for finding in &inspection.findings {
        text.push_str(&wrapped(&finding.to_string(), ""));
    }
    text
}

fn overview(inspection: &Inspection) -> Table {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Left)]);
    let mut row = |name: &str, value: String| table.row(vec![name.into(), value]);
    row("file", inspection.file.clone());
    let files = if inspection.files > 1 {
        format!(" in {} files", inspection.files)
    } else {
        String::new()
    };
    row(
        "container",
        format!(
            "{}, {}{files}",
            inspection.container,
            units::bytes(inspection.bytes)
        ),
    );
    if let Some(model) = &inspection.model {
        row("model", format!("{} ({})", model.name, model.family));
        row("layers", model.layers.to_string());
        row(
            "hidden",
            format!(
                "{}, feed-forward {}",
                model.hidden_size, model.intermediate_size
            ),
        );
        row(
            "heads",
            format!(
                "{} of {}, {} for keys and values",
                model.heads, model.head_dim, model.kv_heads
            ),
        );
        row(
            "vocabulary",
            format!(
                "{}{}",
                model.vocab_size,
                if model.tied_head { ", tied head" } else { "" }
            ),
        );
        row("context", model.context_length.to_string());
        row("rope", format!("base {}", model.rope_base));
        if let Some(dialect) = &model.dialect {
            row("I2_S layout", dialect.clone());
        }
    }
    if let Some(tokenizer) = &inspection.tokenizer {
        row("tokenizer", tokenizer.clone());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    #[test]
    fn either_of_two_files_may_be_a_model_of_the_hub() {
        let folder = tempfile::tempdir().unwrap();
        let mut env = Environment::default();
        env.hub.cache = Some(folder.path().into());
        for [file, other] in [["a.gguf", "o/n:Q2_0"], ["o/n:Q2_0", "a.gguf"]] {
            let args = InspectArgs {
                file: Some(file.into()),
                other: Some(other.into()),
                dialect: None,
                allow_pickle: false,
                format: Format::Text,
            };
            let error = run(&args, &env).unwrap_err();
            assert_eq!(error.hint, "`bitnet pull o/n:Q2_0` downloads it");
        }
    }

    #[test]
    fn the_embedded_model_fits_80_columns() {
        let source = ModelSource::Embedded;
        let checkpoint = match source.open(&Default::default()) {
            Ok(checkpoint) => checkpoint,
            Err(error) => panic!("{error}"),
        };
        let inspection = inspection(
            &source,
            checkpoint.describe(),
            Some(&checkpoint),
            None,
            Dialects::default(),
        );
        assert_eq!(inspection.file, embedded::NAME);
        let text = text(&inspection);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(text.contains("I2_S layout  i2s-128"), "{text}");
        assert_eq!(
            inspection.types.iter().map(|t| t.tensors).sum::<usize>(),
            inspection.tensors.len()
        );
    }
}
