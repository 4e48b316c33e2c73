#![forbid(unsafe_code)]
//! `bitnet-server`: the server alone, for machines that need no other command. Everything about it is a setting
//! (`docs/config.md`); `models.default_model` names the model.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use bitnet_inference::{Engine, PackedCache};
use bitnet_server::config::flags::{ConfigArgs, ConfigTask};
use bitnet_server::config::{ServerConfig, print};
use bitnet_server::log::{self, LogFilter};
use bitnet_server::model_manager::policy::OriginSource;
use bitnet_server::process::Process;
use bitnet_server::startup::{self, FirstModel, StartupError};
use bitnet_server::{CUT_OFF_EXIT, Stopped};
use clap::Parser;

/// Serve a ternary language model over HTTP, compatible with OpenAI's clients
#[derive(Debug, Parser)]
#[command(
    name = "bitnet-server",
    version,
    after_help = "Example:\n  bitnet-server --model model.gguf --port 8000"
)]
struct ServerArgs {
    /// The settings.
    #[command(flatten)]
    config: ConfigArgs,
}

fn main() -> ExitCode {
    let args = ServerArgs::parse();
    match run(&args) {
        Ok(Stopped::Drained) => ExitCode::SUCCESS,
        Ok(Stopped::CutOff { .. }) => ExitCode::from(CUT_OFF_EXIT),
        Err(error) => {
            match log::is_json() {
                true => log::say_error(&format!("{error:#}"), ""),
                false => say(&format!("error: {error:#}")),
            }
            match args.config.instead {
                // As `bitnet serve` has it: whatever is wrong with them, settings are wrong usage.
                Some(ConfigTask::Check) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Does what was asked for; what needs no server counts as one whose requests were all answered.
fn run(args: &ServerArgs) -> Result<Stopped> {
    let sources = args.config.sources();
    let config = ServerConfig::load(&sources)?;
    if args.config.instead == Some(ConfigTask::Print) {
        use std::io::Write;
        std::io::stdout().write_all(print::to_yaml(&config).as_bytes())?;
        return Ok(Stopped::Drained);
    }
    let filter = LogFilter::install(&config.monitoring.log_level, false)?;
    filter.set_format(config.monitoring.log_format);
    let model = config.models.default_model.clone();
    let model = model.context(
        "models.default_model names no model: give --model model.gguf, set BITNET_GGUF, or name one in the file of --config; \
         `bitnet serve` has a small one of its own",
    )?;
    let source = OriginSource::Path(PathBuf::from(&model));
    let usual_cache = PackedCache::usual_folder(|name| std::env::var_os(name));
    if args.config.instead == Some(ConfigTask::Check) {
        let first = FirstModel::of(source, &config, usual_cache)?;
        for doubt in startup::check(&config, first).map_err(in_full)? {
            say(&format!("warning: {doubt}"));
        }
        if let Some(unknown) = startup::unknown_sizes(&config) {
            say(unknown);
        }
        say("a server can begin with this configuration");
        return Ok(Stopped::Drained);
    }
    let process = Process::begin(config, sources, filter)?;
    let first = FirstModel::of(source, process.config(), usual_cache)?;
    let ready = startup::prepare(&process, first, |_, options| {
        let loaded = Engine::load(&model, options);
        loaded.map_err(|e| in_full(StartupError::of_model(process.config(), model.clone(), e)))
    })?;
    for warning in &ready.engine.info().warnings {
        say(&format!("warning: {warning}"));
    }
    let (name, summary) = (ready.name, startup::summary(ready.engine.info()));
    // Whoever holds it keeps its memory, also when another model has taken its place.
    drop(ready.engine);
    let who = process.who_may_ask();
    let stopped = process.serve(ready.app, |url| {
        say(&format!("serving {name} on {url}: {summary}; {who}"));
    })?;
    Ok(stopped)
}

/// What is wrong, with the model that it is about: a check and the start say it alike.
fn in_full(error: StartupError) -> anyhow::Error {
    match &error {
        StartupError::Model { name, .. } => anyhow!("cannot load {name}: {error}"),
        _ => error.into(),
    }
}

/// Writes a line to standard error; nobody is left to tell when that is closed.
fn say(text: &str) {
    use std::io::Write;
    if log::is_json() {
        return log::say(text);
    }
    let line: String = text.chars().filter(|c| !c.is_control()).collect();
    let _ = writeln!(std::io::stderr(), "{line}");
}
