//! `bitnet convert`: from Hugging Face's container to GGUF and back, with everything that belongs to a model.

use std::path::{Path, PathBuf};

use bitnet_models::export::{DirectoryExport, TernaryTarget};
use bitnet_models::{Checkpoint, CheckpointOptions, Export, Targets};
use bitnet_quantization::{Dialects, I2sDialect, TensorType, TilePreset};
use clap::Args;

use crate::args;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::export_report::{ExportJob, parse_dense_type, parse_ternary_type, parse_tiles};
use crate::model_source;
use crate::output::Format;
use crate::pending::Pending;

/// Options of `bitnet convert`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet convert ./bitnet-b1.58-2B-4T model.gguf\n  \
    bitnet convert ./bitnet-b1.58-2B-4T-bf16 model.gguf --type tq2_0 --embedding-type q6_k\n  \
    bitnet convert ./Falcon-E-1B-Instruct model.gguf --dry-run --format json\n  \
    bitnet convert ./bitnet_b1_58-large model.gguf --allow-pickle\n  \
    bitnet convert model.gguf ./model-hf\n\n\
    Ternary weights keep every trit and every scale; what is written gives the same logits, bit for bit, unless\n\
    embedding or head get another type. It takes its name only when it is complete.")]
pub struct ConvertArgs {
    /// The Hugging Face directory to read (config.json, model.safetensors, tokenizer.json), or a .gguf file
    #[arg(value_name = "IN")]
    pub input: PathBuf,

    /// The .gguf file to write; for a .gguf file the directory, in transformers' packed layout
    #[arg(value_name = "OUT")]
    pub out: PathBuf,

    /// Type of the ternary tensors: i2_s, tq1_0, tq2_0, q2_0, pq2_0, ptq1_0, tl1 or tl2 [default: i2_s]
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_ternary_type)]
    pub ternary: Option<TernaryTarget>,

    /// Type of the embedding: f32, f16, bf16, q8_0, q6_k, q5_0, q4_1 or q4_0 [default: as it is]
    #[arg(long, value_name = "TYPE", value_parser = parse_dense_type)]
    pub embedding_type: Option<TensorType>,

    /// Type of the head, where it is not the embedding [default: as it is]
    #[arg(long, value_name = "TYPE", value_parser = parse_dense_type)]
    pub head_type: Option<TensorType>,

    /// Whose tile sizes TL1 and TL2 tensors get: large, 3b, llama3 or llama3-ini [default: by their shapes]
    #[arg(long, value_name = "PRESET", value_parser = parse_tiles)]
    pub tiles: Option<TilePreset>,

    /// Make trits of projections that are dense, by their absolute mean: another model, unless it was trained for it
    #[arg(long)]
    pub ternarize: bool,

    /// Byte layout of I2_S tensors in a .gguf file, and the format of type numbers that several projects use: i2s-128,
    /// i2s-64, i2s-4row, tl1, tl2, q2_0, pq2_0 or stq1_0, several with commas [default: i2s-128, and by the tensors'
    /// sizes]
    #[arg(long, value_name = "NAMES", value_parser = args::parse_dialects)]
    pub dialect: Option<Dialects>,

    /// Take the weights of a directory that has no safetensors from PyTorch's files (pytorch_model.bin, its shards,
    /// .pt): only their tensors are read, nothing in them is run
    #[arg(long)]
    pub allow_pickle: bool,

    /// Replace the file OUT if it exists; a directory never is
    #[arg(long)]
    pub force: bool,

    /// Read and check everything, tell what would be done, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Writes the file or the directory.
///
/// # Errors
/// A source that cannot be read, types that cannot hold its weights, a tokenizer that the other container has no words
/// for, a full disk, Ctrl-C.
pub fn run(args: &ConvertArgs, env: &Environment) -> Result<Exit, CliError> {
    let input = model_source::path_of(&args.input, env)?;
    let pending = Pending::new(&args.out)?;
    if !args.force {
        pending.is_new()?;
    }
    let options = CheckpointOptions {
        dialects: args.dialect.unwrap_or_default(),
        allow_pickle: args.allow_pickle,
        ..CheckpointOptions::default()
    };
    if input.is_dir() {
        let entries = std::fs::read_dir(&input);
        let inputs: Vec<PathBuf> = entries
            .map_err(|e| CliError::file("read", &input, &e))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        pending.is_none_of(inputs.iter().map(PathBuf::as_path))?;
        let checkpoint = Checkpoint::open(&input, &options)?;
        let targets = Targets {
            ternary: args.ternary.unwrap_or(TensorType::I2S.into()),
            embedding: args.embedding_type,
            head: args.head_type,
            i2s_dialect: I2sDialect::default(),
            tiles: args.tiles,
            ternarize: args.ternarize,
        };
        return job(args, &input, &checkpoint).write_gguf(pending, |advance| {
            Export::of_directory(&checkpoint, &targets, advance)
        });
    }
    let dense = args.embedding_type.or(args.head_type);
    let ternary = args.ternary.is_some() || args.tiles.is_some() || args.ternarize;
    if ternary || dense.is_some() {
        return Err(CliError::usage(
            "a directory is written in the types that it has",
            "leave out --type, --embedding-type, --head-type, --tiles and --ternarize; `bitnet quantize` writes a .gguf file with \
             other types",
        ));
    }
    pending.is_none_of([input.as_path()])?;
    if args.out.is_file() {
        return Err(CliError::usage(
            format!("{} is a file", args.out.display()),
            "a .gguf file becomes a directory: name one that does not exist",
        ));
    }
    let checkpoint = Checkpoint::open(&input, &options)?;
    job(args, &input, &checkpoint).write_directory(pending, |advance| {
        DirectoryExport::of_gguf(&checkpoint, advance)
    })
}

fn job<'a>(args: &'a ConvertArgs, input: &'a Path, checkpoint: &Checkpoint) -> ExportJob<'a> {
    ExportJob {
        input,
        out: &args.out,
        bytes_before: checkpoint.total_bytes(),
        dry_run: args.dry_run,
        format: args.format,
    }
}
