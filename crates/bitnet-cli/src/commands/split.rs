//! `bitnet split`: a GGUF file as several smaller ones.

use std::path::{Path, PathBuf};

use bitnet_models::export::split::{self, SplitLimit};
use bitnet_models::gguf::{Gguf, shard_name};
use clap::Args;
use serde::Serialize;

use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::export_report::writing_failed;
use crate::free_space;
use crate::interrupt::Cooperative;
use crate::model_source;
use crate::output::{Format, Out};
use crate::pending::{Pending, sync};
use crate::progress::Progress;
use crate::sanitize;
use crate::units;

/// Options of `bitnet split`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet split model.gguf model --max-size 2G\n  \
    bitnet split model.gguf model --max-tensors 64 --dry-run\n\n\
    The files are OUT-00001-of-0000N.gguf and so on, as llama.cpp names them; give the first to any command.\n\
    They are read back and compared before they take their names.")]
pub struct SplitArgs {
    /// The .gguf file to read
    #[arg(value_name = "IN")]
    pub input: PathBuf,

    /// What the names of the files begin with
    #[arg(value_name = "OUT")]
    pub out: PathBuf,

    /// Most bytes of a file: a number with M (10^6) or G (10^9)
    #[arg(long, value_name = "SIZE", value_parser = parse_size, required_unless_present = "max_tensors")]
    pub max_size: Option<u64>,

    /// Most tensors of a file
    #[arg(long, value_name = "N", conflicts_with = "max_size", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tensors: Option<u32>,

    /// Tell which files there would be, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Serialize)]
struct Report {
    input: String,
    written: bool,
    files: Vec<FileReport>,
}

#[derive(Debug, Serialize)]
struct FileReport {
    name: String,
    tensors: usize,
    bytes: u64,
}

/// Writes the files.
///
/// # Errors
/// A file that cannot be read, names that exist, a full disk, Ctrl-C.
pub fn run(args: &SplitArgs, env: &Environment) -> Result<Exit, CliError> {
    let input = model_source::path_of(&args.input, env)?;
    let gguf = Gguf::open(&input)?;
    let limit = match (args.max_size, args.max_tensors) {
        (Some(bytes), _) => SplitLimit::Bytes(bytes),
        (None, tensors) => SplitLimit::Tensors(tensors.unwrap_or(u32::MAX) as usize),
    };
    let cooperative = Cooperative::begin();
    let failed = |error| writing_failed(error, &input, &args.out, &cooperative);
    let parts = split::split(&gguf, limit).map_err(failed)?;
    let Some(prefix) = args.out.file_name().and_then(|name| name.to_str()) else {
        return Err(CliError::usage(
            format!("{} is no beginning of a file name", args.out.display()),
            "name what the files' names begin with",
        ));
    };
    let count = parts.len() as u64;
    let mut report = Report {
        input: input.display().to_string(),
        written: false,
        files: Vec::new(),
    };
    let mut targets = Vec::new();
    for (no, part) in parts.iter().enumerate() {
        let target = args
            .out
            .with_file_name(shard_name(prefix, no as u64, count));
        Pending::new(&target)?.is_new().map_err(|error| {
            CliError::usage(error.message, "remove it first, or write to another name")
        })?;
        report.files.push(FileReport {
            name: target.display().to_string(),
            tensors: part.n_tensors(),
            bytes: part.file_bytes().map_err(failed)?,
        });
        targets.push(target);
    }
    let total: u64 = report.files.iter().map(|file| file.bytes).sum();
    if !args.dry_run {
        free_space::check(&args.out, total)?;
        // The files grow in a directory of their own, under their names, where they can be read back as a split.
        let making = Pending::new(&args.out.with_file_name(format!("{prefix}.split")))?;
        making.create_directory()?;
        let made: Vec<PathBuf> = targets
            .iter()
            .map(|target| making.path().join(target.file_name().unwrap_or_default()))
            .collect();
        {
            let progress = Progress::bytes("writing", total);
            let mut advance = |n| {
                progress.add(n);
                !cooperative.requested()
            };
            for (part, path) in parts.into_iter().zip(&made) {
                let file = Pending::create_inside(path)?;
                let file = part.write(&gguf, file, &mut advance).map_err(failed)?;
                sync(file, path)?;
            }
        }
        let progress = Progress::bytes("checking", gguf.total_bytes());
        let mut advance = |n| {
            progress.add(n);
            !cooperative.requested()
        };
        let written = Gguf::open(&made[0])?;
        split::compare(&gguf, &written, &mut advance).map_err(failed)?;
        // The first one last: whoever finds it finds all.
        for (from, to) in made.iter().zip(&targets).rev() {
            rename(from, to)?;
        }
        report.written = true;
    }
    print(&report, args.format)?;
    Ok(Exit::Ok)
}

fn rename(from: &Path, to: &Path) -> Result<(), CliError> {
    std::fs::rename(from, to).map_err(|e| CliError::file("write", to, &e))
}

fn print(report: &Report, format: Format) -> Result<(), CliError> {
    let mut out = Out::stdout();
    if format == Format::Json {
        out.json(report)?;
        return out.flush();
    }
    for file in &report.files {
        out.line(&format!(
            "{}: {} tensors, {}{}",
            sanitize::one_line(&file.name),
            file.tensors,
            units::bytes(file.bytes),
            if report.written {
                ""
            } else {
                " (dry run: nothing was written)"
            },
        ))?;
    }
    out.flush()
}

/// llama.cpp's sizes: M is 10^6, G is 10^9.
fn parse_size(value: &str) -> Result<u64, String> {
    let expected = || "expected a number with M or G, such as 2G".to_string();
    let (number, unit) = match value.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1_000_000_000),
        None => (
            value.strip_suffix(['M', 'm']).ok_or_else(expected)?,
            1_000_000,
        ),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    let bytes = number.checked_mul(unit).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(expected)
}
