//! `bitnet merge`: the files of a split as one.

use std::path::PathBuf;

use bitnet_models::gguf::Gguf;
use clap::Args;

use crate::exit::{CliError, Exit};
use crate::model_copy::{Copied, ModelCopy};
use crate::output::{Format, Out};
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
    let copy = ModelCopy {
        gguf: &gguf,
        input: &args.input,
        out: &args.out,
        changes: &[],
        force: args.force,
        dry_run: args.dry_run,
    };
    let Copied { n_tensors, bytes } = copy.write()?;
    let n_files = gguf.n_files();
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
