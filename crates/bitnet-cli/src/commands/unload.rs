//! `bitnet unload`: a model out of the memory of a running server.

use bitnet_server::client::{Method, path_segment};
use clap::Args;

use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::output::{Format, Out};
use crate::remote::{Patience, Remote, RemoteArgs};

/// Options of `bitnet unload`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet unload story --key-file admin.key\n  \
    bitnet unload story --patience 5 --force\n  \
    bitnet unload story --forget")]
pub struct UnloadArgs {
    /// The model
    #[arg(value_name = "ID")]
    pub id: String,

    /// Time that running requests have to end, in seconds [default: models.unload_timeout of the server]
    #[arg(long, value_name = "SECONDS")]
    pub patience: Option<f64>,

    /// End requests that still run then, instead of keeping the model
    #[arg(long)]
    pub force: bool,

    /// Forget its name too: requests for it are answered 404 instead of loading it again
    #[arg(long)]
    pub forget: bool,

    /// Which server.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// Unloads it.
///
/// # Errors
/// When requests still run, and no such model.
pub fn run(args: &UnloadArgs, env: &Environment) -> Result<Exit, CliError> {
    let remote = Remote::of(&args.remote, env)?;
    let id = path_segment(&args.id);
    let (method, path) = match args.forget {
        true => (Method::DELETE, format!("/v1/models/{id}")),
        false => (Method::POST, format!("/v1/models/{id}/unload")),
    };
    let mut query = vec![format!("force={}", args.force)];
    query.extend(
        args.patience
            .map(|seconds| format!("timeout_seconds={seconds}")),
    );
    let path = format!("{path}?{}", query.join("&"));
    let report = remote.ask(Patience::Long, &method, &path, None)?;
    let mut out = Out::stdout();
    match args.remote.format {
        Format::Json => out.json(&report)?,
        Format::Text => {
            let text = |name: &str| report[name].as_str().unwrap_or("unknown");
            out.line(&format!("{} {}", text("status"), text("id")))?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}
