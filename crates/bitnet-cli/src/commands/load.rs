//! `bitnet load`: a further model in a running server.

use std::thread;
use std::time::Duration;

use bitnet_server::client::{Method, path_segment};
use clap::Args;
use serde_json::{Value, json};

use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::output::{Format, Out};
use crate::progress::Progress;
use crate::remote::{Patience, Remote, RemoteArgs};

/// Options of `bitnet load`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet load story.gguf --key-file admin.key\n  \
    bitnet load story-v2.gguf --name story-next --validate --wait\n  \
    bitnet load --name story    (a model that the server knows and does not have in memory)")]
pub struct LoadArgs {
    /// File or directory inside the server's models.directories [default: where the known model of --name comes from]
    #[arg(value_name = "PATH", required_unless_present = "name")]
    pub path: Option<String>,

    /// What clients call it [default: the file's name without its ending]
    #[arg(long, value_name = "ID")]
    pub name: Option<String>,

    /// Compare it with the reference before it answers
    #[arg(long)]
    pub validate: bool,

    /// Wait until it is there, or cannot be
    #[arg(long)]
    pub wait: bool,

    /// Which server.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// Time between two looks at a model that is being loaded: more often than that nobody reads.
const LOOK: Duration = Duration::from_millis(200);

/// Orders the load, and waits for it if that is wanted.
///
/// # Errors
/// What the server refuses, and with `--wait` why there is no model.
pub fn run(args: &LoadArgs, env: &Environment) -> Result<Exit, CliError> {
    let remote = Remote::of(&args.remote, env)?;
    let mut order = json!({});
    if let Some(path) = &args.path {
        order["model_path"] = json!(path);
    }
    if let Some(name) = &args.name {
        order["model_id"] = json!(name);
    }
    if args.validate {
        order["validation_config"] = json!({});
    }
    let begun = remote.ask(
        Patience::Short,
        &Method::POST,
        "/v1/models/load",
        Some(&order),
    )?;
    let id = begun["model_id"].as_str().unwrap_or_default();
    let mut out = Out::stdout();
    let told = match args.wait {
        false => begun.clone(),
        true => until_ended(&remote, id)?,
    };
    match args.remote.format {
        Format::Json => out.json(&told)?,
        Format::Text if args.wait => {
            let version = told["version"].as_str().unwrap_or("unknown");
            out.line(&format!("loaded {id}, version {version}"))?;
        }
        Format::Text => out.line(&format!(
            "loading {id}: `bitnet ps{}` tells how far it is, or why it failed",
            args.remote.as_typed()
        ))?,
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// Looks at the model's status until it is loaded; that status.
fn until_ended(remote: &Remote, id: &str) -> Result<Value, CliError> {
    let path = format!("/v1/models/{}/status", path_segment(id));
    let progress = Progress::new("loading", 0);
    loop {
        let status = remote.ask(Patience::Short, &Method::GET, &path, None)?;
        match status["status"].as_str() {
            Some("loaded") => return Ok(status),
            Some("loading") => {
                let layers = |name: &str| status["progress"][name].as_u64().unwrap_or(0);
                progress.set(layers("layers_done"), layers("n_layers"));
                thread::sleep(LOOK);
            }
            _ if status["error"].is_object() => return Err(remote.failure(&status["error"])),
            other => {
                let state = other.unwrap_or("unknown").to_owned();
                return Err(CliError::runtime(
                    format!("the model '{id}' is {state}, and not being loaded any more"),
                    "somebody else has unloaded it, or its place was needed: the server's log tells",
                ));
            }
        }
    }
}
