#![forbid(unsafe_code)]
//! The `bitnet` command: run, inspect, check and measure ternary language models.
//!
//! # Layout
//! - [`cli`], [`usage_hint`], [`args`], [`mod@env`]: what may be asked for, and the rule flag > environment > default
//! - [`commands`]: one command, one file
//! - [`model_source`], [`embedded`], [`chat_prompt`], [`prompt`], [`token_ids`]: what commands work on
//! - [`exit`], [`verification_hint`], [`output`], [`sanitize`], [`table`], [`units`], [`run_metrics`], [`progress`],
//!   [`download_bars`], [`interrupt`]: what the user sees
//! - [`remote`]: a running server, for the commands that manage one
//! - [`pending`], [`free_space`], [`export_report`], [`synth`]: files that are written
//!
//! The libraries below know nothing of the environment, the terminal or exit codes; this crate knows nothing of
//! tensors.

mod args;
mod chat_prompt;
mod cli;
mod commands;
mod configured_places;
mod download_bars;
mod embedded;
mod env;
mod exit;
mod export_report;
mod free_space;
mod interrupt;
mod layout_probe;
mod model_copy;
mod model_source;
mod output;
mod pending;
mod progress;
mod prompt;
mod remote;
mod run_metrics;
mod sanitize;
mod synth;
mod table;
mod token_ids;
mod tokenizer_findings;
mod units;
mod usage_hint;
mod verification_hint;

use std::process::ExitCode;

use bitnet_server::log::LogFilter;

use crate::cli::{Command, Parsed};
use crate::env::Environment;
use crate::exit::{CliError, Exit};

/// What is logged when nobody says: a command tells its warnings itself. `bitnet serve` has a setting.
const DEFAULT_LOG: &str = "error";

fn main() -> ExitCode {
    match run() {
        Ok(class) => class.code(),
        Err(error) => {
            error.report(output::colour_errors(env::no_color()));
            error.class.code()
        }
    }
}

fn run() -> Result<Exit, CliError> {
    let command = match cli::parse(std::env::args_os())? {
        Parsed::Command(command) => command,
        Parsed::Version => return commands::version::run(),
        Parsed::Help(help) => {
            // clap colours it on terminals; a closed pipe (`| head`) is no failure.
            let _ = help.print();
            return Ok(if help.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            });
        }
    };
    let env = Environment::read()?;
    let log = log_to_stderr(&env)?;
    interrupt::install()?;
    let ended = dispatch(&command, &env, log);
    ended.map_err(verification_hint::add_to)
}

fn dispatch(command: &Command, env: &Environment, log: LogFilter) -> Result<Exit, CliError> {
    match command {
        Command::Run(args) => commands::run::run(args, env),
        Command::Chat(args) => commands::chat::run(args, env),
        Command::Serve(args) => commands::serve::run(args, env, log),
        Command::Healthcheck(args) => commands::serve::healthcheck(args),
        Command::Ps(args) => commands::ps::run(args, env),
        Command::Load(args) => commands::load::run(args, env),
        Command::Swap(args) => commands::swap::run(args, env),
        Command::Rollback(args) => commands::swap::roll_back(args, env),
        Command::Unload(args) => commands::unload::run(args, env),
        Command::Score(args) => commands::score::run(args, env),
        Command::Logits(args) => commands::logits::run(args, env),
        Command::Tokenize(args) => commands::tokenize::run(args, env),
        Command::Detokenize(args) => commands::detokenize::run(args, env),
        Command::Inspect(args) => commands::inspect::run(args, env),
        Command::CompatCheck(args) => commands::compat_check::run(args, env),
        Command::Pull(args) => commands::pull::run(args, env),
        Command::List(args) => commands::list::run(args, env),
        Command::Rm(args) => commands::rm::run(args, env),
        Command::Bench(args) => commands::bench::run(args, env),
        Command::Convert(args) => commands::convert::run(args, env),
        Command::Quantize(args) => commands::quantize::run(args, env),
        Command::Split(args) => commands::split::run(args, env),
        Command::Merge(args) => commands::merge::run(args),
        Command::Synth(args) => commands::synth::run(args),
        Command::Keys(args) => commands::keys::run(args, env),
        Command::Completions(args) => commands::completions::run(args),
    }
}

/// Starts logging to standard error, by `BITNET_LOG` if it is set.
fn log_to_stderr(env: &Environment) -> Result<LogFilter, CliError> {
    let filter = env.log.as_deref().unwrap_or(DEFAULT_LOG);
    LogFilter::install(filter, output::colour_errors(env.no_color)).map_err(|e| {
        CliError::usage(
            format!("the environment variable BITNET_LOG is '{filter}': {e}"),
            "use error, warn, info, debug, trace, or a list such as warn,bitnet_inference=debug",
        )
    })
}
