//! `bitnet quantize`: the same weights in other types.

use std::path::{Path, PathBuf};

use bitnet_models::export::TernaryTarget;
use bitnet_models::gguf::Gguf;
use bitnet_models::mmap::Access;
use bitnet_models::{Export, Targets};
use bitnet_quantization::{Dialects, TensorType, TilePreset};
use clap::Args;

use crate::args;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::export_report::{ExportJob, parse_dense_type, parse_ternary_type, parse_tiles};
use crate::model_source;
use crate::output::Format;
use crate::pending::Pending;

/// Options of `bitnet quantize`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet quantize in.gguf out.gguf --type tq2_0\n  \
    bitnet quantize in.gguf out.gguf --type i2_s --embedding-type q6_k\n  \
    bitnet quantize in.gguf out.gguf --type tq1_0 --dry-run --format json\n\n\
    Ternary weights keep every trit and every scale, or nothing is written: each piece is read back and\n\
    compared. The file takes its name only when it is complete.")]
pub struct QuantizeArgs {
    /// The .gguf file to read (of a split the first)
    #[arg(value_name = "IN")]
    pub input: PathBuf,

    /// The .gguf file to write
    #[arg(value_name = "OUT")]
    pub out: PathBuf,

    /// Type of the ternary tensors: i2_s, tq1_0, tq2_0, q2_0, pq2_0, ptq1_0, tl1 or tl2
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_ternary_type)]
    pub ternary: TernaryTarget,

    /// Type of the embedding: f32, f16, bf16, q8_0, q6_k, q5_0, q4_1 or q4_0 [default: as it is]
    #[arg(long, value_name = "TYPE", value_parser = parse_dense_type)]
    pub embedding_type: Option<TensorType>,

    /// Type of the head, where it is not the embedding [default: as it is]
    #[arg(long, value_name = "TYPE", value_parser = parse_dense_type)]
    pub head_type: Option<TensorType>,

    /// Byte layout of I2_S tensors in IN, and the format of type numbers that several projects use: i2s-128, i2s-64,
    /// i2s-4row, tl1, tl2, q2_0, pq2_0 or stq1_0, several with commas [default: i2s-128, and by the tensors' sizes]
    #[arg(long, value_name = "NAMES", value_parser = args::parse_dialects)]
    pub dialect: Option<Dialects>,

    /// Whose tile sizes TL1 and TL2 tensors have, in IN and in OUT: large, 3b, llama3 or llama3-ini [default: by their
    /// shapes]
    #[arg(long, value_name = "PRESET", value_parser = parse_tiles)]
    pub tiles: Option<TilePreset>,

    /// Make trits of projections that are dense, by their absolute mean: another model, unless it was trained for it
    #[arg(long)]
    pub ternarize: bool,

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
/// A file that cannot be read, types that cannot hold its weights, a full disk, Ctrl-C.
pub fn run(args: &QuantizeArgs, env: &Environment) -> Result<Exit, CliError> {
    let input = model_source::path_of(&args.input, env)?;
    let dialects = args.dialect.unwrap_or_default();
    let gguf = Gguf::open_with(&input, Access::default(), dialects)?;
    let pending = Pending::new(&args.out)?;
    pending.is_none_of(gguf.files().map(Path::new))?;
    let targets = Targets {
        ternary: args.ternary,
        embedding: args.embedding_type,
        head: args.head_type,
        i2s_dialect: dialects.i2s(),
        tiles: args.tiles,
        ternarize: args.ternarize,
    };
    let job = ExportJob {
        input: &input,
        out: &args.out,
        bytes_before: gguf.total_bytes(),
        dry_run: args.dry_run,
        format: args.format,
    };
    job.write_gguf(pending, |advance| Export::of_gguf(&gguf, &targets, advance))
}
