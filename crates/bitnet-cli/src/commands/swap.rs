//! `bitnet swap` and `bitnet rollback`: another version behind a name of a running server.

use bitnet_server::client::{Method, path_segment};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::output::{Format, Out};
use crate::remote::{Patience, Remote, RemoteArgs};

/// Options of `bitnet swap`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet swap story story-v2.gguf --key-file admin.key\n  \
    bitnet swap story story-v2.gguf --strategy rolling --format json\n\n\
    It ends when all requests go to the new version. One that is not taken changes nothing.")]
pub struct SwapArgs {
    /// The model whose place is taken
    #[arg(value_name = "ID")]
    pub id: String,

    /// File or directory of the new version, inside the server's models.directories
    #[arg(value_name = "PATH")]
    pub path: String,

    /// How requests go over to the new version
    #[arg(long, value_enum, default_value_t = Strategy::Atomic)]
    pub strategy: Strategy,

    /// Keep the new version also when it fails soon after
    #[arg(long)]
    pub no_rollback: bool,

    /// Do not compare it with the reference first
    #[arg(long)]
    pub no_validation: bool,

    /// Which server.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// A strategy on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Strategy {
    /// All at once
    Atomic,
    /// All at once, and the old version stays in memory for a while
    BlueGreen,
    /// 10, then 50, then all of a hundred
    Rolling,
}

/// Options of `bitnet rollback`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet rollback story --key-file admin.key\n\n\
    The version that is left is not kept: a second rollback is refused, and `bitnet swap` is the way to any version.")]
pub struct RollbackArgs {
    /// The model that goes back to the version before its last swap
    #[arg(value_name = "ID")]
    pub id: String,

    /// Which server.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// Swaps, and tells how it went.
///
/// # Errors
/// Why the new version was not taken.
pub fn run(args: &SwapArgs, env: &Environment) -> Result<Exit, CliError> {
    let remote = Remote::of(&args.remote, env)?;
    let mut order = json!({
        "target_model_id": args.id,
        "new_model_path": args.path,
        "swap_strategy": match args.strategy {
            Strategy::Atomic => "atomic",
            Strategy::BlueGreen => "blue_green",
            Strategy::Rolling => "rolling",
        },
        "rollback_on_failure": !args.no_rollback,
    });
    if args.no_validation {
        order["validation_config"] = json!({ "enable_cross_validation": false });
    }
    let report = remote.ask(
        Patience::Long,
        &Method::POST,
        "/v1/models/swap",
        Some(&order),
    )?;
    tell(&report, args.remote.format)
}

/// Goes back, and tells to what.
///
/// # Errors
/// When there is no version to go back to.
pub fn roll_back(args: &RollbackArgs, env: &Environment) -> Result<Exit, CliError> {
    let remote = Remote::of(&args.remote, env)?;
    let path = format!("/v1/models/{}/rollback", path_segment(&args.id));
    let report = remote.ask(Patience::Long, &Method::POST, &path, None)?;
    tell(&report, args.remote.format)
}

fn tell(report: &Value, format: Format) -> Result<Exit, CliError> {
    let mut out = Out::stdout();
    match format {
        Format::Json => out.json(report)?,
        Format::Text => {
            let text = |name: &str| report[name].as_str().unwrap_or("unknown");
            let done = match text("status") {
                "rolled_back" => "rolled back",
                status => status,
            };
            let seconds = report["seconds"].as_f64().unwrap_or_default();
            out.line(&format!("{done} {} in {seconds:.1} s", text("model_id")))?;
            out.line(&format!("version: {}", text("version")))?;
            out.line(&format!("before:  {}", text("previous_version")))?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}
