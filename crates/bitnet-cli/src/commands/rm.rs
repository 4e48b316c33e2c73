//! `bitnet rm`: downloaded models out of the cache.

use std::io::{self, IsTerminal, Write};

use bitnet_hub::{HubError, HubModel};
use clap::Args;
use serde_json::json;

use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source::hub_cache;
use crate::output::{Format, Out};
use crate::units;

/// Options of `bitnet rm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet rm OWNER/NAME\n  \
    bitnet rm OWNER/NAME:TQ2_0 --yes\n  \
    bitnet rm OWNER/NAME@v1.0 --dry-run\n\n\
    The cache is the one of the Hub's own tools: they lose the model too. Files that another revision has stay.")]
pub struct RmArgs {
    /// OWNER/NAME removes all of it; with :FILE that file, with @REVISION that revision
    #[arg(value_name = "MODEL")]
    pub model: HubModel,

    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,

    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Removes, after asking.
///
/// # Errors
/// What is not there, or is being downloaded; nobody to ask.
pub fn run(args: &RmArgs, env: &Environment) -> Result<Exit, CliError> {
    let cache = hub_cache(env)?;
    let planned = cache.plan_removal(&args.model).map_err(|error| {
        let is_absent = matches!(error, HubError::NotCached { .. });
        let mut error = CliError::from(error);
        if is_absent {
            error.hint = "`bitnet list` tells what is there".into();
        }
        error
    })?;
    if !args.yes && !args.dry_run && !confirmed(args, planned.n_files, planned.freed)? {
        return Ok(Exit::Runtime);
    }
    let removal = match args.dry_run {
        true => planned,
        false => cache.remove(&args.model)?,
    };
    let mut out = Out::stdout();
    match args.format {
        Format::Json => out.json(&json!({
            "model": args.model.to_string(),
            "removed": !args.dry_run,
            "files": removal.n_files,
            "freed_bytes": removal.freed,
        }))?,
        Format::Text => {
            let (verb, freed) = match args.dry_run {
                true => ("would remove", "freeing"),
                false => ("removed", "freed"),
            };
            out.line(&format!(
                "{verb} {} of {}, {freed} {}",
                files(removal.n_files),
                args.model,
                units::bytes(removal.freed)
            ))?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn files(n: usize) -> String {
    match n {
        1 => "1 file".into(),
        n => format!("{n} files"),
    }
}

fn confirmed(args: &RmArgs, n_files: usize, freed: u64) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::usage(
            format!(
                "nobody can be asked whether {} is to be removed",
                args.model
            ),
            "say --yes",
        ));
    }
    let mut stderr = io::stderr().lock();
    // Nobody is left to ask when standard error is closed, and nothing is removed then.
    let asked = write!(
        stderr,
        "remove {} of {}, which frees {}? [y/N] ",
        files(n_files),
        args.model,
        units::bytes(freed)
    );
    let mut answer = String::new();
    let answered = asked
        .and_then(|()| stderr.flush())
        .and_then(|()| io::stdin().read_line(&mut answer));
    Ok(answered.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
