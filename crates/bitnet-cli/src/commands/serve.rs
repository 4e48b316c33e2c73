//! `bitnet serve`: a model over HTTP, for OpenAI's clients.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bitnet_server::process::{self, DEFAULT_HOST, DEFAULT_PORT};
use bitnet_server::{App, LoadedModel, ServerLimits, Stopped};
use clap::Args;

use crate::args::{EngineArgs, ModelArgs};
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::interrupt::Cooperative;
use crate::model_source::{self, LoadExtras};
use crate::output::notice;
use crate::prompt::TextSource;
use crate::units;

/// Options of `bitnet serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet serve\n  \
    bitnet serve --model model.gguf --port 8000 --max-sequences 16\n\n\
    Then: curl http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\\n        \
    -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 40}'")]
pub struct ServeArgs {
    /// Address to listen on, or localhost [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_host)]
    pub host: Option<IpAddr>,

    /// Port to listen on; 0 takes a free one [default: 8080]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,

    /// What clients call the model [default: the file's name without its extension]
    #[arg(long, value_name = "NAME")]
    pub served_model_name: Option<String>,

    /// Requests that run at once; each may use the whole context
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SEQUENCES)]
    pub max_sequences: usize,

    /// Jinja file with the chat template, instead of the model's own
    #[arg(long, value_name = "FILE")]
    pub template: Option<String>,

    /// Seconds that requests under way are given after Ctrl-C or SIGTERM [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub drain_timeout: Option<u64>,

    /// Let anybody who reaches a public address use the server
    #[arg(long)]
    pub insecure_no_auth: bool,

    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How to run it.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Options of `bitnet healthcheck`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bitnet healthcheck\n  bitnet healthcheck --port 8000")]
pub struct HealthcheckArgs {
    /// Address that the server listens on, or localhost [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_host)]
    pub host: Option<IpAddr>,

    /// Port that it listens on [default: 8080]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
}

/// Requests that run at once when nobody says: enough that reading the weights is shared well.
const DEFAULT_SEQUENCES: usize = 8;

/// How long a server may take to say how it is.
const HEALTHCHECK_PATIENCE: Duration = Duration::from_secs(3);

/// Serves until it is told to end.
///
/// # Errors
/// Bad models, addresses that are taken, and public addresses without leave.
pub fn run(args: &ServeArgs, env: &Environment) -> Result<Exit, CliError> {
    let address = address(args.host, args.port);
    if !address.ip().is_loopback() && !args.insecure_no_auth {
        return Err(CliError::usage(
            format!(
                "{} can be reached by others, and nothing asks them who they are",
                address.ip()
            ),
            "listen on 127.0.0.1 behind a proxy that does, or say --insecure-no-auth",
        ));
    }
    let chat_template = args
        .template
        .as_deref()
        .map(|path| TextSource::File(Path::new(path).to_owned()).read())
        .transpose()?;
    let extras = LoadExtras {
        chat_template,
        max_sequences: args.max_sequences,
    };
    let loaded = model_source::load(&args.model, &args.engine, env, extras)?;
    loaded.note_repairs();
    if loaded.engine.chat_template().is_none() {
        notice("this model has no chat template: chats are continued as plain text");
    }
    let mut limits = ServerLimits::default();
    if let Some(seconds) = args.drain_timeout {
        limits.drain_timeout = Duration::from_secs(seconds);
    }
    let name = args
        .served_model_name
        .clone()
        .unwrap_or_else(|| short_name(&loaded.name));
    let engine = Arc::new(loaded.engine);
    let info = engine.info();
    let weights = info.layer_bytes + info.layer_copy_bytes + info.head_bytes + info.head_copy_bytes;
    let memory = format!(
        "weights {}, KV cache {} ({} x {} positions), {} threads, {}",
        units::bytes(weights as u64),
        units::bytes(info.kv_cache_bytes as u64),
        args.max_sequences,
        info.context,
        info.threads,
        info.kernel,
    );
    let model = LoadedModel::start(name.as_str(), engine, None, &limits)
        .map_err(|e| CliError::runtime(format!("the engine's thread cannot start: {e}"), ""))?;
    let app = Arc::new(App::new(limits));
    app.models.insert(model);
    // The first Ctrl-C drains; the second one ends the process.
    let _cooperative = Cooperative::begin();
    let stopped = process::serve(app, address, |address| {
        notice(&format!("serving {name} on http://{address}: {memory}"));
    })
    .map_err(|e| {
        CliError::runtime(
            format!("cannot serve on {address}: {}", crate::exit::io_reason(&e)),
            "name another --port, or end the process that has this one",
        )
    })?;
    if stopped == Stopped::CutOff {
        notice("some requests were cut off");
    }
    Ok(Exit::Ok)
}

/// Asks a server on this machine whether it is ready.
///
/// # Errors
/// Exit code 1 when it is not, or does not answer.
pub fn healthcheck(args: &HealthcheckArgs) -> Result<Exit, CliError> {
    let address = address(args.host, args.port);
    match process::check_ready(address, HEALTHCHECK_PATIENCE) {
        Ok(Ok(())) => Ok(Exit::Ok),
        Ok(Err(reason)) => Err(CliError::runtime(
            format!("the server at {address} is not ready: {reason}"),
            "wait for it to load or to drain, or look at its log",
        )),
        Err(error) => Err(CliError::runtime(
            format!(
                "the server at {address} does not answer: {}",
                crate::exit::io_reason(&error)
            ),
            "start one with `bitnet serve`, or name its --port",
        )),
    }
}

fn address(host: Option<IpAddr>, port: Option<u16>) -> SocketAddr {
    SocketAddr::new(host.unwrap_or(DEFAULT_HOST), port.unwrap_or(DEFAULT_PORT))
}

fn parse_host(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(DEFAULT_HOST);
    }
    text.parse()
        .map_err(|_| "expected an IP address or localhost".into())
}

/// A name that clients can type: of a path its last part without the extension, of the model inside the program its own
/// without the remark.
fn short_name(name: &str) -> String {
    let name = name.strip_suffix(" (embedded)").unwrap_or(name);
    let path = Path::new(name);
    let stem = if path.is_dir() {
        path.file_name()
    } else {
        path.file_stem()
    };
    stem.map_or_else(
        || name.to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}
