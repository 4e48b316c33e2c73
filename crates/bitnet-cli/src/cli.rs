//! The grammar of the command line, its help, and how its errors become two lines.

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands;
use crate::env;
use crate::exit::CliError;
use crate::usage_hint::usage_error;

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
            "Examples:\n  bitnet run --prompt \"Once upon a time\"\n  bitnet chat model.gguf\n  \
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
    let args: Vec<_> = args.into_iter().collect();
    let mut grammar = grammar();
    let error = match grammar
        .try_get_matches_from_mut(&args)
        .and_then(|matches| Cli::from_arg_matches(&matches))
    {
        Ok(cli) => return Ok(Parsed::Command(Box::new(cli.command))),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayVersion => return Ok(Parsed::Version),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => return Ok(Parsed::Help(error)),
        _ => {}
    }
    match usage_error(&error, &args, &grammar) {
        Some(error) => Err(error),
        None => Ok(Parsed::Help(error)),
    }
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
        let cases: [(&[&str], &str, &str); 20] = [
            (
                &["bitnet", "keys", "keys.json"],
                "unrecognized subcommand 'keys.json'",
                "`bitnet --help` lists the commands",
            ),
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
            (
                &["bitnet", "run", "-hf", "o/n:TQ2_0"],
                "there is no option -hf",
                "`bitnet pull o/n:TQ2_0` downloads it, `bitnet run --model o/n:TQ2_0` takes it",
            ),
            (
                &["bitnet", "serve", "--port", "1", "--hf-repo=o/n"],
                "there is no option --hf-repo",
                "`bitnet serve --model o/n` takes it",
            ),
            (
                &["bitnet", "chat", "-hfr"],
                "there is no option -hfr",
                "`bitnet pull OWNER/NAME` downloads it",
            ),
            (
                &["bitnet", "-hf", "o/n"],
                "there is no option -hf",
                "`bitnet run --model o/n` takes it",
            ),
            (
                &["bitnet", "list", "-hello"],
                "unexpected argument '-hello' found",
                "-h and --help print the help",
            ),
            (
                &["bitnet", "-m", "model.gguf"],
                "unexpected argument '-m' found",
                "`bitnet run -m ...`",
            ),
            (
                &["bitnet", "folder/model.gguf"],
                "unrecognized subcommand 'folder/model.gguf'",
                "`bitnet run folder/model.gguf`",
            ),
            (
                &["bitnet", "bench", "model.gguf"],
                "unexpected argument 'model.gguf' found",
                "`bitnet bench --model model.gguf ...`",
            ),
            (
                &["bitnet", "run", "model.gguf", "Once", "upon"],
                "unexpected argument 'upon' found",
                "put it in quotes",
            ),
            (
                &["bitnet", "run", "one.gguf", "--model", "other.gguf"],
                "cannot be used with",
                "the text goes behind --prompt",
            ),
            (
                &["bitnet", "serve", "one.gguf", "-m", "other.gguf"],
                "cannot be used with",
                "--help",
            ),
            (
                &["bitnet", "run", "one.gguf", "a text", "--file", "f"],
                "cannot be used with",
                "--help",
            ),
            (
                &["bitnet", "run", "--hf", "o/n"],
                "there is no option --hf",
                "`bitnet run --model o/n` takes it",
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
    fn help_is_printed_to_who_asks_for_it() {
        for args in [
            &["bitnet", "-h"][..],
            &["bitnet", "run", "--help"],
            &["bitnet", "run", "-h", "-hello"],
            &["bitnet", "run", "--metrics", "-h"],
        ] {
            let parsed = parse(args.iter().map(Into::into));
            let Ok(Parsed::Help(help)) = parsed else {
                panic!("{args:?} is no help");
            };
            assert!(!help.use_stderr(), "{args:?}");
        }
    }

    #[test]
    fn options_are_taken_as_llama_cpp_names_them() {
        let of = |args: [&str; 6]| match parse(args.map(Into::into)) {
            Ok(Parsed::Command(command)) => format!("{command:?}"),
            _ => panic!("{args:?} is no command"),
        };
        assert_eq!(
            of(["bitnet", "run", "--temp", "0.5", "-c", "512"]),
            of(["bitnet", "run", "--temperature", "0.5", "--ctx", "512"])
        );
    }

    #[test]
    fn help_lists_every_variable() {
        let help = grammar().render_long_help().to_string();
        for variable in env::VARIABLES {
            assert!(help.contains(variable.name), "{}", variable.name);
        }
    }
}
