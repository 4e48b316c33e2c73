//! `bitnet convert`: from Hugging Face's container to GGUF, with everything that belongs to a model.

use std::path::PathBuf;

use bitnet_models::{Checkpoint, CheckpointOptions, Export, Targets};
use bitnet_quantization::{I2sDialect, TensorType};
use clap::Args;

use crate::exit::{CliError, Exit};
use crate::export_report::{ExportJob, parse_dense_type, parse_ternary_type};
use crate::output::Format;
use crate::pending::Pending;

/// Options of `bitnet convert`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet convert ./bitnet-b1.58-2B-4T model.gguf\n  \
    bitnet convert ./bitnet-b1.58-2B-4T-bf16 model.gguf --type tq2_0 --embedding-type q6_k\n  \
    bitnet convert ./Falcon-E-1B-Instruct model.gguf --dry-run --format json\n\n\
    Ternary weights keep every trit and every scale; the file gives the same logits as the directory, bit for\n\
    bit, unless embedding or head get another type. It takes its name only when it is complete.")]
pub struct ConvertArgs {
    /// The Hugging Face directory to read: config.json, model.safetensors, tokenizer.json
    #[arg(value_name = "IN")]
    pub input: PathBuf,

    /// The .gguf file to write
    #[arg(value_name = "OUT")]
    pub out: PathBuf,

    /// Type of the ternary tensors: i2_s, tq1_0, tq2_0, q2_0, pq2_0 or ptq1_0
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_ternary_type, default_value = "i2_s")]
    pub ternary: TensorType,

    /// Type of the embedding: f32, f16, bf16, q8_0, q6_k, q5_0, q4_1 or q4_0 [default: as it is]
    #[arg(long, value_name = "TYPE", value_parser = parse_dense_type)]
    pub embedding_type: Option<TensorType>,

    /// Type of the head, where it is not the embedding [default: as it is]
    #[arg(long, value_name = "TYPE", value_parser = parse_dense_type)]
    pub head_type: Option<TensorType>,

    /// Make trits of projections that are dense, by their absolute mean: another model, unless it was trained for it
    #[arg(long)]
    pub ternarize: bool,

    /// Replace OUT if it exists
    #[arg(long)]
    pub force: bool,

    /// Read and check everything, tell what would be done, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Writes the file.
///
/// # Errors
/// A directory that cannot be read, types that cannot hold its weights, a tokenizer that GGUF has no words for, a full
/// disk, Ctrl-C.
pub fn run(args: &ConvertArgs) -> Result<Exit, CliError> {
    if !args.input.is_dir() {
        return Err(CliError::usage(
            format!("{} is no directory", args.input.display()),
            "name a Hugging Face directory; `bitnet quantize` writes a .gguf file with other types",
        ));
    }
    let pending = Pending::new(&args.out)?;
    let inputs: Vec<PathBuf> = std::fs::read_dir(&args.input)
        .map_err(|e| CliError::file("read", &args.input, &e))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    pending.is_none_of(inputs.iter().map(PathBuf::as_path))?;
    if !args.force {
        pending.is_new()?;
    }
    let checkpoint = Checkpoint::open(&args.input, &CheckpointOptions::default())?;
    let targets = Targets {
        ternary: args.ternary,
        embedding: args.embedding_type,
        head: args.head_type,
        i2s_dialect: I2sDialect::default(),
        tiles: None,
        ternarize: args.ternarize,
    };
    let job = ExportJob {
        input: &args.input,
        out: &args.out,
        bytes_before: checkpoint.total_bytes(),
        dry_run: args.dry_run,
        format: args.format,
    };
    job.write_gguf(pending, |advance| {
        Export::of_directory(&checkpoint, &targets, advance)
    })
}
