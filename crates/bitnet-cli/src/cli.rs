//! The grammar of the command line, its help, and how its errors become two lines.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands;
use crate::env;
use crate::exit::CliError;

/// Run, inspect, check and measure ternary (1.58-bit) language models.
#[derive(Debug, Parser)]
#[command(
    name = "bitnet",
    version,
    propagate_version = false,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One command, one file under `commands/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Continue a text
    Run(commands::run::RunArgs),
    /// Talk with a model, with history
    Chat(commands::chat::ChatArgs),
    /// Serve a model over HTTP, for OpenAI's clients
    Serve(commands::serve::ServeArgs),
    /// Ask a server whether it is alive or ready
    Healthcheck(commands::serve::HealthcheckArgs),
    /// List the models of a running server
    Ps(commands::ps::PsArgs),
    /// Load a further model into a running server
    Load(commands::load::LoadArgs),
    /// Put another version in the place of a running server's model
    Swap(commands::swap::SwapArgs),
    /// Go back to the version before a model's last swap
    Rollback(commands::swap::RollbackArgs),
    /// Take a model out of a running server's memory
    Unload(commands::unload::UnloadArgs),
    /// Perplexity of a text, by llama-perplexity's method
    Score(commands::score::ScoreArgs),
    /// Write the logits of a token sequence to a safetensors file
    Logits(commands::logits::LogitsArgs),
    /// Text to token ids
    Tokenize(commands::tokenize::TokenizeArgs),
    /// Token ids to text
    Detokenize(commands::detokenize::DetokenizeArgs),
    /// What is in a model file
    Inspect(commands::inspect::InspectArgs),
    /// Check whether a model file is sound and can be run
    CompatCheck(commands::compat_check::CompatCheckArgs),
    /// Download a model from the Hugging Face Hub
    Pull(commands::pull::PullArgs),
    /// List the models that are downloaded
    List(commands::list::CacheListArgs),
    /// Remove downloaded models
    Rm(commands::rm::RmArgs),
    /// Measure speed, next to this machine's limits
    Bench(commands::bench::BenchArgs),
    /// Turn a Hugging Face directory into a GGUF file, or the other way, losing nothing
    Convert(commands::convert::ConvertArgs),
    /// Write a model's weights in other types, losing nothing
    Quantize(commands::quantize::QuantizeArgs),
    /// Write a GGUF file as several smaller ones
    Split(commands::split::SplitArgs),
    /// Write the files of a split as one
    Merge(commands::merge::MergeArgs),
    /// Write a random model of a real shape, for benchmarks
    Synth(commands::synth::SynthArgs),
    /// API keys of a server: add, revoke, list
    Keys(commands::keys::KeysArgs),
    /// Print the completion script of a shell
    Completions(commands::completions::CompletionsArgs),
}

/// What the arguments ask for.
pub enum Parsed {
    /// A command.
    Command(Box<Command>),
    /// Help, already rendered for this terminal.
    Help(clap::Error),
    /// `--version`.
    Version,
}

/// The grammar with the texts that are made at run time.
pub fn grammar() -> clap::Command {
    Cli::command()
        .after_help(
            "Examples:\n  bitnet run --prompt \"Once upon a time\"\n  bitnet chat --model model.gguf\n  \
             bitnet inspect model.gguf\n\n`bitnet COMMAND --help` explains a command; `bitnet --help` also lists the \
             environment.",
        )
        .after_long_help(format!(
            "Examples:\n  bitnet run --prompt \"Once upon a time\"\n  bitnet run --model model.gguf --file prompt.txt \
             --max-tokens 200\n  bitnet chat --model model.gguf --system \"Be brief.\"\n  bitnet inspect model.gguf\n  \
             bitnet bench --model model.gguf --format json\n\n{}\nExit codes:\n  0 ok, 1 failed at run time, 2 wrong \
             usage, 3 the model file is unusable,\n  4 a check disagrees, 5 a server cut requests off at its end, 130 ended by Ctrl-C",
            env::help_table()
        ))
}

/// Parses the process's arguments.
///
/// # Errors
/// A usage error.
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Parsed, CliError> {
    let error = match grammar()
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches))
    {
        Ok(cli) => return Ok(Parsed::Command(Box::new(cli.command))),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Ok(Parsed::Help(error))
        }
        ErrorKind::DisplayVersion => Ok(Parsed::Version),
        _ => Err(usage_error(&error)),
    }
}

/// clap's error in one line and one hint: its text has the message in the first paragraph, tips and usage below.
fn usage_error(error: &clap::Error) -> CliError {
    let text = error.to_string();
    let paragraph: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    let message = paragraph.join(" ");
    let message = message
        .strip_prefix("error: ")
        .unwrap_or(&message)
        .to_string();
    CliError::usage(message, usage_hint(error))
}

fn usage_hint(error: &clap::Error) -> String {
    let suggestions = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ];
    for kind in suggestions {
        match error.get(kind) {
            Some(ContextValue::String(name)) => return format!("did you mean '{name}'?"),
            Some(ContextValue::Strings(names)) if !names.is_empty() => {
                return format!("did you mean '{}'?", names.join("' or '"));
            }
            _ => {}
        }
    }
    "`bitnet --help` lists the commands, `bitnet COMMAND --help` a command's options".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(args: &[&str]) -> CliError {
        match parse(args.iter().map(Into::into)) {
            Err(error) => error,
            Ok(_) => panic!("{args:?} is not an error"),
        }
    }

    #[test]
    fn the_grammar_is_consistent() {
        grammar().debug_assert();
    }

    #[test]
    fn usage_errors_are_one_line_with_a_hint() {
        let cases: [(&[&str], &str, &str); 6] = [
            (
                &["bitnet", "healthchek"],
                "unrecognized subcommand 'healthchek'",
                "did you mean 'healthcheck'?",
            ),
            (
                &["bitnet", "run", "--promt", "x"],
                "unexpected argument '--promt' found",
                "did you mean '--prompt'?",
            ),
            (
                &["bitnet", "run", "--speculate", "99"],
                "expected a number of tokens, at most 15",
                "--help",
            ),
            (
                &["bitnet", "run", "--device", "gpu"],
                "invalid value 'gpu' for '--device <DEVICE>'",
                "--help",
            ),
            (
                &["bitnet", "run", "--kv-type", "q8_0"],
                "expected f32, f16 or i8",
                "--help",
            ),
            (
                &["bitnet", "synth"],
                "the following required arguments were not provided",
                "--help",
            ),
        ];
        for (args, message, hint) in cases {
            let error = failure(args);
            assert!(
                error.message.contains(message),
                "{args:?}: {}",
                error.message
            );
            assert!(error.hint.contains(hint), "{args:?}: {}", error.hint);
            assert!(!error.message.contains('\n') && !error.hint.contains('\n'));
        }
    }

    #[test]
    fn help_lists_every_variable() {
        let help = grammar().render_long_help().to_string();
        for variable in env::VARIABLES {
            assert!(help.contains(variable.name), "{}", variable.name);
        }
    }
}
