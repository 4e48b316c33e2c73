//! `bitnet quantize`: the same weights in other types.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bitnet_models::export::{Change, ExportRefusal, TensorReport};
use bitnet_models::gguf::Gguf;
use bitnet_models::{Export, ExportError, Targets};
use bitnet_quantization::{I2sDialect, TensorType, TilePreset};
use clap::Args;
use serde::Serialize;

use crate::args;
use crate::exit::{CliError, Exit};
use crate::free_space;
use crate::interrupt::Cooperative;
use crate::output::{Format, Out};
use crate::pending::{Pending, sync};
use crate::progress::Progress;
use crate::sanitize;
use crate::units;

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

    /// Type of the ternary tensors: i2_s, tq1_0, tq2_0, q2_0, pq2_0 or ptq1_0
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
    pub ternary: TensorType,

    /// Type of the embedding: f32, f16, bf16, q8_0, q6_k, q5_0, q4_1 or q4_0 [default: as it is]
    #[arg(long, value_name = "TYPE", value_parser = parse_type)]
    pub embedding_type: Option<TensorType>,

    /// Type of the head, where it is not the embedding [default: as it is]
    #[arg(long, value_name = "TYPE", value_parser = parse_type)]
    pub head_type: Option<TensorType>,

    /// Byte layout of I2_S tensors in IN: i2s-128, i2s-64 or i2s-4row [default: i2s-128, which is also written]
    #[arg(long, value_name = "LAYOUT", value_parser = args::parse_dialect)]
    pub dialect: Option<I2sDialect>,

    /// Whose tile sizes TL1 and TL2 tensors in IN have: large, 3b, llama3 or llama3-ini [default: by their shapes]
    #[arg(long, value_name = "PRESET", value_parser = parse_tiles)]
    pub tiles: Option<TilePreset>,

    /// Read and check everything, tell what would be done, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// What the command did.
#[derive(Debug, Serialize)]
struct Report<'a> {
    input: String,
    output: String,
    /// Whether the file was written.
    written: bool,
    bytes_before: u64,
    bytes_after: u64,
    seconds: f64,
    tensors: &'a [TensorReport],
    /// Tensors that cannot be written as asked; if there are any, nothing was written.
    refused: &'a [ExportRefusal],
}

/// Writes the file.
///
/// # Errors
/// A file that cannot be read, types that cannot hold its weights, a full disk, Ctrl-C.
pub fn run(args: &QuantizeArgs) -> Result<Exit, CliError> {
    let gguf = Gguf::open(&args.input)?;
    let pending = Pending::new(&args.out)?;
    pending.is_none_of(gguf.files().map(Path::new))?;
    let targets = Targets {
        ternary: args.ternary,
        embedding: args.embedding_type,
        head: args.head_type,
        i2s_dialect: args.dialect.unwrap_or_default(),
        tiles: args.tiles,
    };
    let started = Instant::now();
    let cooperative = Cooperative::begin();
    let mut report = Report {
        input: args.input.display().to_string(),
        output: args.out.display().to_string(),
        written: false,
        bytes_before: gguf.total_bytes(),
        bytes_after: 0,
        seconds: 0.0,
        tensors: &[],
        refused: &[],
    };
    let planned = {
        let progress = Progress::bytes("checking", gguf.total_bytes());
        let mut advance = |n| {
            progress.add(n);
            !cooperative.requested()
        };
        Export::of_gguf(&gguf, &targets, &mut advance)
    };
    let export = match planned {
        Ok(export) => export,
        Err(ExportError::Refused(refused)) => {
            report.refused = &refused;
            report.seconds = started.elapsed().as_secs_f64();
            if args.format == Format::Json {
                print(&report, Format::Json)?;
            }
            return Err(refusal(&refused, args));
        }
        Err(error) => return Err(failure(error, args, &cooperative)),
    };
    report.bytes_after = export.file_bytes();
    free_space::check(&args.out, export.file_bytes())?;
    let tensors = if args.dry_run {
        export.tensors().cloned().collect()
    } else {
        let progress = Progress::bytes("writing", export.file_bytes());
        let mut advance = |n| {
            progress.add(n);
            !cooperative.requested()
        };
        let (file, tensors) = export
            .write(pending.create_file()?, &mut advance)
            .map_err(|error| failure(error, args, &cooperative))?;
        sync(file, &args.out)?;
        pending.finish()?;
        report.written = true;
        tensors
    };
    report.tensors = &tensors;
    report.seconds = started.elapsed().as_secs_f64();
    print(&report, args.format)?;
    Ok(Exit::Ok)
}

fn print(report: &Report<'_>, format: Format) -> Result<(), CliError> {
    let mut out = Out::stdout();
    if format == Format::Json {
        out.json(report)?;
        return out.flush();
    }
    let count = |change| report.tensors.iter().filter(move |t| t.change == change);
    for tensor in count(Change::Converted) {
        let error = tensor.error.map_or(String::new(), |error| {
            format!(
                ", relative error {:.2e}, largest {:.2e}",
                error.relative, error.max
            )
        });
        out.line(&format!(
            "{}: {} to {}{error}",
            sanitize::one_line(&tensor.name),
            tensor.from,
            tensor.to
        ))?;
    }
    for tensor in report.tensors.iter().filter(|t| t.note.is_some()) {
        let note = tensor.note.as_deref().unwrap_or_default();
        out.line(&format!("{}: {note}", sanitize::one_line(&tensor.name)))?;
    }
    out.line(&format!(
        "{}: {} tensors repacked without loss, {} converted, {} copied; {} to {} in {}{}",
        sanitize::one_line(&report.output),
        count(Change::Repacked).count(),
        count(Change::Converted).count(),
        count(Change::Copied).count(),
        units::bytes(report.bytes_before),
        units::bytes(report.bytes_after),
        units::duration(std::time::Duration::from_secs_f64(report.seconds)),
        if report.written {
            ""
        } else {
            " (dry run: nothing was written)"
        },
    ))?;
    out.flush()
}

/// The error for tensors that the types cannot hold: the first few by name.
fn refusal(refused: &[ExportRefusal], args: &QuantizeArgs) -> CliError {
    const NAMED: usize = 3;
    let mut message = format!(
        "{}: {} tensors cannot be written as asked: ",
        args.input.display(),
        refused.len()
    );
    let named: Vec<String> = refused
        .iter()
        .take(NAMED)
        .map(ExportRefusal::to_string)
        .collect();
    message.push_str(&named.join("; "));
    if refused.len() > NAMED {
        message.push_str("; ...");
    }
    CliError::usage(
        message,
        "choose another --type (i2_s holds any one scale for a tensor, q2_0 the smallest blocks); --format json lists \
         every tensor",
    )
}

fn failure(error: ExportError, args: &QuantizeArgs, cooperative: &Cooperative) -> CliError {
    match error {
        ExportError::Stopped => cooperative.error("nothing was written"),
        ExportError::Model(error) => error.into(),
        ExportError::Request { .. } => CliError::usage(
            error.to_string(),
            "`bitnet inspect` lists a file's tensors and their types",
        ),
        ExportError::Write(bitnet_models::gguf::WriteError::Io(error)) => {
            CliError::file("write", &args.out, &error)
        }
        ExportError::Tensor { .. } => CliError::new(
            Exit::Unusable,
            format!("{}: {error}", args.input.display()),
            "`bitnet compat-check` tells what is wrong with the file",
        ),
        error @ (ExportError::Write(_) | ExportError::Refused(_)) => CliError::runtime(
            format!("cannot write {}: {error}", args.out.display()),
            "choose other types",
        ),
    }
}

fn parse_tiles(value: &str) -> Result<TilePreset, String> {
    value
        .parse()
        .map_err(|_| "expected large, 3b, llama3 or llama3-ini".into())
}

fn parse_type(value: &str) -> Result<TensorType, String> {
    TensorType::from_name(value).ok_or_else(|| {
        let names: Vec<String> = TensorType::ALL
            .iter()
            .map(|ty| ty.name().to_lowercase())
            .collect();
        format!("expected one of {}", names.join(", "))
    })
}
