//! `bitnet serve`: a model over HTTP, for OpenAI's clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bitnet_server::auth::Guard;
use bitnet_server::config::flags::ConfigArgs;
use bitnet_server::config::{ServerConfig, print};
use bitnet_server::{App, LoadedModel, ServerLimits, Stopped, process, routes};
use clap::Args;

use crate::args::{EngineArgs, ModelArgs};
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::interrupt::Cooperative;
use crate::model_source::{self, LoadExtras, Serving};
use crate::output::{Out, notice, warning};
use crate::prompt::TextSource;
use crate::units;

/// Options of `bitnet serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet serve\n  \
    bitnet serve --model model.gguf --port 8000 --max-concurrent-requests 16\n\n\
    Then: curl http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\\n        \
    -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 40}'")]
pub struct ServeArgs {
    /// Jinja file with the chat template, instead of the model's own
    #[arg(long, value_name = "FILE")]
    pub template: Option<String>,

    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How to run it.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// How to serve it.
    #[command(flatten)]
    pub config: ConfigArgs,
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

/// How long a server may take to say how it is.
const HEALTHCHECK_PATIENCE: Duration = Duration::from_secs(3);

/// Serves until it is told to end.
///
/// # Errors
/// Bad settings and models, addresses that are taken, and public addresses without leave.
pub fn run(args: &ServeArgs, env: &Environment) -> Result<Exit, CliError> {
    let sources = args.config.sources();
    let config = ServerConfig::load(&sources).map_err(|e| {
        CliError::usage(
            e.to_string(),
            "`bitnet serve --print-config` shows every setting",
        )
    })?;
    if args.config.print {
        let mut out = Out::stdout();
        out.text(&print::to_yaml(&config))?;
        out.flush()?;
        return Ok(Exit::Ok);
    }
    if config.monitoring.opentelemetry_enabled {
        warning("monitoring.opentelemetry_enabled is true, and this build exports no traces");
    }
    // Before the model: who may ask is settled in milliseconds.
    let guard = Guard::new(&config, routes::access())
        .map_err(|e| CliError::usage(e.to_string(), "docs/config.md has every setting"))?;
    let chat_template = args
        .template
        .as_deref()
        .map(|path| TextSource::File(Path::new(path).to_owned()).read())
        .transpose()?;
    let max_sequences = config.performance.max_concurrent_requests;
    let extras = LoadExtras {
        chat_template,
        max_sequences,
        quick_start: false,
        serving: Some(Serving {
            prefix_cache: config.performance.prefix_cache,
        }),
    };
    let mut model = args.model.clone();
    model.model = model.model.or(config.models.default_model.clone());
    let loaded = model_source::load(&model, &args.engine, env, extras)?;
    loaded.note_repairs();
    if loaded.engine.chat_template().is_none() {
        notice("this model has no chat template: chats are continued as plain text");
    }
    let name = config.models.served_model_name.clone();
    let name = name.unwrap_or_else(|| short_name(&loaded.name));
    let engine = Arc::new(loaded.engine);
    let info = engine.info();
    let weights = info.layer_bytes + info.layer_copy_bytes + info.head_bytes + info.head_copy_bytes;
    let memory = format!(
        "weights {}, KV cache {} ({max_sequences} x {} positions), {} threads, {}",
        units::bytes(weights as u64),
        units::bytes(info.kv_cache_bytes as u64),
        info.context,
        info.threads,
        info.kernel,
    );
    let app = Arc::new(App::new(ServerLimits::from(&config)));
    let model = LoadedModel::start(name.as_str(), engine, None, &app)
        .map_err(|e| CliError::runtime(format!("the engine's thread cannot start: {e}"), ""))?;
    app.models.insert(model);
    // The first Ctrl-C drains; the second one ends the process.
    let _cooperative = Cooperative::begin();
    let address = SocketAddr::new(config.server.host, config.server.port);
    let stopped = process::serve(app, Arc::new(guard), (config, sources), |address| {
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
    let defaults = ServerConfig::default();
    let host = args.host.unwrap_or(defaults.server.host);
    let address = SocketAddr::new(host, args.port.unwrap_or(defaults.server.port));
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

fn parse_host(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
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
