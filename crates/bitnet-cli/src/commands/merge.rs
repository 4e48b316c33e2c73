//! `bitnet merge`: the files of a split as one.

use std::path::{Path, PathBuf};

use bitnet_models::export::split;
use bitnet_models::gguf::Gguf;
use clap::Args;

use crate::exit::{CliError, Exit};
use crate::export_report::writing_failed;
use crate::free_space;
use crate::interrupt::Cooperative;
use crate::output::{Format, Out};
use crate::pending::{Pending, sync};
use crate::progress::Progress;
use crate::sanitize;
use crate::units;

/// Options of `bitnet merge`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  bitnet merge model-00001-of-00003.gguf model.gguf\n\n\
    The tensors' bytes and all keys but those of the split are the originals'; the file is read back and\n\
    compared before it takes its name."
)]
pub struct MergeArgs {
    /// The first file of the split; the others are beside it
    #[arg(value_name = "FIRST")]
    pub input: PathBuf,

    /// The .gguf file to write
    #[arg(value_name = "OUT")]
    pub out: PathBuf,

    /// Replace OUT if it exists
    #[arg(long)]
    pub force: bool,

    /// Read the headers, tell what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Writes the file.
///
/// # Errors
/// Files that are missing or damaged, a full disk, Ctrl-C.
pub fn run(args: &MergeArgs) -> Result<Exit, CliError> {
    let gguf = Gguf::open(&args.input)?;
    let pending = Pending::new(&args.out)?;
    pending.is_none_of(gguf.files().map(Path::new))?;
    if !args.force {
        pending.is_new()?;
    }
    let cooperative = Cooperative::begin();
    let failed = |error| writing_failed(error, &args.input, &args.out, &cooperative);
    let part = split::merge(&gguf).map_err(failed)?;
    let (n_files, n_tensors) = (gguf.n_files(), part.n_tensors());
    let bytes = part.file_bytes().map_err(failed)?;
    free_space::check(&args.out, bytes)?;
    if !args.dry_run {
        let file = {
            let progress = Progress::bytes("writing", bytes);
            let mut advance = |n| {
                progress.add(n);
                !cooperative.requested()
            };
            let file = pending.create_file()?;
            part.write(&gguf, file, &mut advance).map_err(failed)?
        };
        sync(file, &args.out)?;
        {
            let progress = Progress::bytes("checking", bytes);
            let mut advance = |n| {
                progress.add(n);
                !cooperative.requested()
            };
            let written = Gguf::open(pending.path())?;
            split::compare(&gguf, &written, &mut advance).map_err(failed)?;
        }
        pending.finish()?;
    }
    let mut out = Out::stdout();
    if args.format == Format::Json {
        out.json(&serde_json::json!({
            "input": args.input.display().to_string(),
            "output": args.out.display().to_string(),
            "written": !args.dry_run,
            "files": n_files,
            "tensors": n_tensors,
            "bytes_after": bytes,
        }))?;
    } else {
        out.line(&format!(
            "{}: {n_tensors} tensors of {n_files} files, {}{}",
            sanitize::one_line(&args.out.display().to_string()),
            units::bytes(bytes),
            if args.dry_run {
                " (dry run: nothing was written)"
            } else {
                ""
            },
        ))?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}
