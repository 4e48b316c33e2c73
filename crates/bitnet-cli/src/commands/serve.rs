//! `bitnet serve`: a model over HTTP, for OpenAI's clients.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bitnet_server::Stopped;
use bitnet_server::client::{ClientError, ClientTls};
use bitnet_server::config::flags::{ConfigArgs, ConfigTask};
use bitnet_server::config::{ServerConfig, Sources, print};
use bitnet_server::health_check::{HealthCheck, Probe};
use bitnet_server::log::LogFilter;
use bitnet_server::model_manager::policy::OriginSource;
use bitnet_server::process::{Process, ProcessError};
use bitnet_server::startup::{self, FirstModel, StartupError};
use clap::Args;

use crate::args::NAMED_MODEL;
use crate::configured_places::configured_places;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::interrupt::Cooperative;
use crate::model_source::{self, ModelSource};
use crate::output::{Out, notice, warning};

/// The flag of `models.default_model`.
const MODEL_FLAG: &str = "default-model";

/// Options of `bitnet serve`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet serve\n  \
    bitnet serve model.gguf\n  \
    bitnet serve --model model.gguf --port 8000 --max-concurrent-requests 16\n\n\
    Then: curl http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\\n        \
    -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 40}'")]
pub struct ServeArgs {
    /// The model, as --model takes it
    #[arg(id = NAMED_MODEL, value_name = "MODEL", conflicts_with = MODEL_FLAG)]
    pub named: Option<String>,

    /// What to serve, and how: the settings.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Options of `bitnet healthcheck`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bitnet healthcheck\n  bitnet healthcheck --port 8000")]
pub struct HealthcheckArgs {
    /// Configuration file of the server: it, and the server's variables, say where it listens
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Address that the server listens on, or localhost [default: as the settings say]
    #[arg(long, value_name = "ADDRESS", value_parser = parse_host)]
    pub host: Option<IpAddr>,

    /// Port that it listens on [default: as the settings say, 8080 without any]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,

    /// Ask whether the next request would be taken, not only whether the server is alive: a full queue fails
    #[arg(long)]
    pub ready: bool,

    /// Time for everything together, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = parse_seconds)]
    pub timeout: Duration,

    /// Ask over TLS, and trust the certificate in this file alone: the server's own [default: as the settings say]
    #[arg(long, value_name = "FILE")]
    pub tls_certificate_file: Option<PathBuf>,

    /// Certificate to show to a server that asks for one
    #[arg(long, value_name = "FILE", requires_all = ["tls_certificate_file", "client_key_file"])]
    pub client_certificate_file: Option<PathBuf>,

    /// Key of that certificate
    #[arg(long, value_name = "FILE", requires = "client_certificate_file")]
    pub client_key_file: Option<PathBuf>,
}

/// Serves until it is told to end.
///
/// # Errors
/// Bad settings and models, addresses that are taken, and public addresses without leave.
pub fn run(args: &ServeArgs, env: &Environment, log: LogFilter) -> Result<Exit, CliError> {
    let mut sources = args.config.sources();
    if let Some(name) = &args.named {
        sources.flags.push((MODEL_FLAG.into(), name.clone()));
    }
    let config = ServerConfig::load(&sources).map_err(|e| {
        CliError::usage(
            e.to_string(),
            "`bitnet serve --print-config` shows every setting",
        )
    })?;
    if args.config.instead == Some(ConfigTask::Print) {
        let mut out = Out::stdout();
        out.text(&print::to_yaml(&config))?;
        out.flush()?;
        return Ok(Exit::Ok);
    }
    log.set_format(config.monitoring.log_format);
    // Before the model: everything else is settled in milliseconds, and signals are heard from here on.
    log.set(&config.monitoring.log_level)
        .map_err(|e| setting_error(e.to_string()))?;
    let source = ModelSource::choose_for_server(config.models.default_model.as_deref(), env);
    let places = configured_places(&config.models.configured, env);
    if args.config.instead == Some(ConfigTask::Check) {
        let found = source.and_then(|source| Ok((source.origin(), places?)));
        return check(&config, found, env);
    }
    let (source, places) = (source?, places?);
    let first = source.origin();
    let process = Process::begin(config, sources, log).map_err(|e| process_error(&e))?;
    // A template may come through a pipe that nobody writes to.
    let first = FirstModel::of(first, process.config(), env.cache.clone())
        .map_err(|e| setting_error(e.to_string()))?
        .with_places(places);
    let ready = startup::prepare(&process, first, |_, options| {
        let engine = model_source::load_source(&source, options)
            .map_err(|e| StartupError::of_model(process.config(), source.name(), e))?;
        model_source::tell_findings(&source, &engine);
        Ok::<_, CliError>(engine)
    })?;
    let (name, engine) = (ready.name, ready.engine);
    if engine.chat_template().is_none() {
        notice("this model has no chat template: chats are continued as plain text");
    }
    let summary = startup::summary(engine.info());
    // Whoever holds it keeps its memory, also when another model has taken its place.
    drop(engine);
    // The first Ctrl-C drains; the second one ends the process.
    let _cooperative = Cooperative::begin();
    let who = process.who_may_ask();
    let stopped = process
        .serve(ready.app, |url| {
            notice(&format!("serving {name} on {url}: {summary}; {who}"))
        })
        .map_err(|e| process_error(&e))?;
    // Which of the two it was is in the log.
    Ok(match stopped {
        Stopped::Drained => Exit::Ok,
        Stopped::CutOff { .. } => Exit::CutOff,
    })
}

/// Tells whether a server could begin; whatever keeps it from that is wrong usage here.
fn check(
    config: &ServerConfig,
    found: Result<(OriginSource, BTreeMap<PathBuf, PathBuf>), CliError>,
    env: &Environment,
) -> Result<Exit, CliError> {
    let checked = found
        .and_then(|(first, places)| {
            let first = FirstModel::of(first, config, env.cache.clone());
            let first = first.map_err(|e| setting_error(e.to_string()))?;
            Ok(first.with_places(places))
        })
        .and_then(|first| startup::check(config, first).map_err(CliError::from));
    let doubts = checked.map_err(|mut error| {
        error.class = Exit::Usage;
        error
    })?;
    for doubt in &doubts {
        warning(doubt);
    }
    if let Some(unknown) = startup::unknown_sizes(config) {
        notice(unknown);
    }
    notice("a server can begin with this configuration");
    Ok(Exit::Ok)
}

/// Asks a server on this machine whether it is alive, or ready.
///
/// # Errors
/// Exit code 1 when it is not, or does not answer.
pub fn healthcheck(args: &HealthcheckArgs) -> Result<Exit, CliError> {
    let sources = Sources {
        file: args.config.clone(),
        ..Sources::of_process()
    };
    let config = ServerConfig::load(&sources).map_err(|e| setting_error(e.to_string()))?;
    let server = &config.server;
    let host = args.host.unwrap_or(match server.host {
        // On every address of the machine: also on this one.
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        host => host,
    });
    let address = SocketAddr::new(host, args.port.unwrap_or(server.port));
    // Who names another server's port does not mean this one's certificate.
    let configured = server.tls_certificate_file.clone();
    let configured = configured.filter(|_| args.host.is_none() && args.port.is_none());
    let own = args.client_certificate_file.clone();
    let check = HealthCheck {
        address,
        patience: args.timeout,
        probe: match args.ready {
            true => Probe::Ready,
            false => Probe::Live,
        },
        tls: args
            .tls_certificate_file
            .clone()
            .or(configured)
            .map(|certificate| ClientTls {
                certificate,
                own: own.zip(args.client_key_file.clone()),
            }),
    };
    match check.ask() {
        Ok(Ok(())) => Ok(Exit::Ok),
        Ok(Err(reason)) => Err(CliError::runtime(
            format!("the server at {address} is not well: {reason}"),
            "look at its log; with --ready, wait for it to load or to drain",
        )),
        Err(ClientError::Io(error)) => Err(CliError::runtime(
            format!(
                "the server at {address} does not answer: {}",
                crate::exit::io_reason(&error)
            ),
            "start one with `bitnet serve`, or name its --port",
        )),
        Err(error @ (ClientError::Http(_) | ClientError::Body)) => Err(CliError::runtime(
            format!("what listens at {address} does not answer as a server: {error}"),
            "name the --port of `bitnet serve`",
        )),
        Err(error @ (ClientError::Tls(_) | ClientError::NoCertificate)) => Err(CliError::usage(
            error.to_string(),
            "name the file that the server has as server.tls_certificate_file",
        )),
    }
}

impl From<StartupError> for CliError {
    fn from(error: StartupError) -> CliError {
        let message = match &error {
            StartupError::Log(e) => {
                format!("the logs cannot be opened: {}", crate::exit::io_reason(e))
            }
            _ => error.to_string(),
        };
        match error {
            StartupError::Setting(_) => setting_error(message),
            StartupError::Telemetry(_) => {
                CliError::usage(message, "docs/metrics.md has a section on traces")
            }
            StartupError::Version { .. } => {
                CliError::runtime(message, "check the path and the disk, then try again")
            }
            StartupError::Log(_) => CliError::runtime(
                message,
                "check monitoring.audit_log_file and who may write there",
            ),
            StartupError::Thread(_) => CliError::runtime(message, ""),
            StartupError::Model { source, .. } | StartupError::Configured { source, .. } => {
                let mut error = CliError::from(source);
                error.message = message;
                error
            }
            StartupError::Process(error) => process_error(&error),
        }
    }
}

/// A setting that cannot be.
fn setting_error(message: String) -> CliError {
    CliError::usage(message, "docs/config.md has every setting")
}

/// What keeps a server from starting, with the exit code of its kind.
fn process_error(error: &ProcessError) -> CliError {
    match error {
        ProcessError::Guard(_) | ProcessError::Tls(_) => setting_error(error.to_string()),
        ProcessError::Setup(_) => CliError::runtime(error.to_string(), ""),
        ProcessError::Address {
            setting,
            address,
            source,
        } => {
            let option = setting.trim_start_matches("server.").replace('_', "-");
            let hint = match source.kind() {
                std::io::ErrorKind::AddrNotAvailable => format!(
                    "no network interface of this machine has that address: name another {}",
                    match *setting {
                        "server.admin_port" => "--admin-host",
                        _ => "--host",
                    }
                ),
                std::io::ErrorKind::PermissionDenied => {
                    format!("ports below 1024 are for the system: name another --{option}")
                }
                _ => format!("name another --{option}, or end the process that has this one"),
            };
            let reason = crate::exit::io_reason(source);
            CliError::runtime(format!("cannot serve on {address}: {reason}"), hint)
        }
        ProcessError::HandOver { .. } => CliError::runtime(
            error.to_string(),
            "both processes need the same user, address and server.handover_socket",
        ),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|&seconds: &f64| seconds > 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "expected a number of seconds above 0".into())
}

fn parse_host(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    text.parse()
        .map_err(|_| "expected an IP address or localhost".into())
}
