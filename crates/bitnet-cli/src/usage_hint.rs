//! What to do about arguments that the grammar refuses.
//!
//! Who comes from llama.cpp or ollama types their options, and clap does not know whom they come from: its `-hf` is our
//! `-h` and then an `-f`, a wish for help that nobody has. So what was typed is looked at again here, when it was
//! refused or taken for a wish for help, and the hint shows the command that was meant.

use std::ffi::OsString;
use std::path::Path;

use bitnet_hub::shell::quoted;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::NAMED_MODEL;
use crate::exit::CliError;

/// How llama.cpp's programs name a model of the Hugging Face Hub.
const HUB_OPTIONS: [&str; 4] = ["-hf", "-hfr", "--hf", "--hf-repo"];

/// The hint when nothing better is known.
const GENERAL: &str =
    "`bitnet --help` lists the commands, `bitnet COMMAND --help` a command's options";

/// The error for arguments that clap refuses, or that it answers with a help that nobody asked for; none when help is
/// what they ask for.
pub fn usage_error(
    error: &clap::Error,
    args: &[OsString],
    grammar: &clap::Command,
) -> Option<CliError> {
    let typed = Typed::of(args, grammar);
    if let Some((option, name)) = typed.hub_option() {
        let (command, name) = (typed.command_or_run(), quoted(name));
        return Some(CliError::usage(
            format!("there is no option {option}: downloading is a command of its own"),
            format!(
                "`bitnet pull {name}` downloads it, `bitnet {command} --model {name}` takes it"
            ),
        ));
    }
    if is_help(error) {
        let mistaken = typed.mistaken_for_help()?;
        return Some(CliError::usage(
            format!("unexpected argument '{mistaken}' found"),
            "-h and --help print the help, with nothing behind them",
        ));
    }
    Some(CliError::usage(message(error), typed.hint(error)))
}

/// Whether clap answers with a help that was asked for; the one for missing arguments is an error's.
fn is_help(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::DisplayHelp
}

/// clap's message in one line: its text has it in the first paragraph, tips and usage below.
fn message(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim);
    let paragraph: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let message = paragraph.join(" ");
    message
        .strip_prefix("error: ")
        .unwrap_or(&message)
        .to_owned()
}

/// The arguments behind the program's name, up to `--`, as text.
struct Typed<'a> {
    args: Vec<String>,
    /// The command that they begin with, if it is one.
    command: Option<&'a clap::Command>,
}

impl<'a> Typed<'a> {
    fn of(args: &[OsString], grammar: &'a clap::Command) -> Typed<'a> {
        let args: Vec<String> = args
            .iter()
            .skip(1)
            .map(|arg| arg.to_string_lossy().into_owned())
            .take_while(|arg| arg != "--")
            .collect();
        let command = args
            .first()
            .and_then(|name| grammar.get_subcommands().find(|c| c.get_name() == name));
        Typed { args, command }
    }

    /// One of [`HUB_OPTIONS`], and the model that it names.
    fn hub_option(&self) -> Option<(&str, &str)> {
        for (i, arg) in self.args.iter().enumerate() {
            let (option, value) = match arg.split_once('=') {
                Some((option, value)) => (option, Some(value)),
                None => (arg.as_str(), None),
            };
            if HUB_OPTIONS.contains(&option) {
                let next = self.args.get(i + 1).map(String::as_str);
                let value = value.or(next.filter(|next| !next.starts_with('-')));
                return Some((option, value.unwrap_or("OWNER/NAME")));
            }
        }
        None
    }

    /// The command that was typed, if it takes a model, else `run`.
    fn command_or_run(&self) -> &str {
        self.command
            .filter(|command| takes_model(command))
            .map_or("run", clap::Command::get_name)
    }

    /// Options that begin as `-h` does, where nothing before them asks for help.
    fn mistaken_for_help(&self) -> Option<&str> {
        let first = self
            .args
            .iter()
            .find(|arg| *arg == "--help" || (arg.starts_with("-h") && !arg.starts_with("--")))?;
        (first != "--help" && first != "-h").then_some(first)
    }

    fn hint(&self, error: &clap::Error) -> String {
        let found = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.clone()),
            Some(ContextValue::Strings(texts)) if !texts.is_empty() => Some(texts.join("' or '")),
            _ => None,
        };
        // Before clap's suggestions: to it a path is a command misspelt.
        let model = found(ContextKind::InvalidSubcommand)
            .filter(|_| self.command.is_none())
            .filter(|first| first.contains(['/', '.', ':']) || Path::new(first).exists());
        if let Some(model) = model {
            let model = quoted(&model);
            return format!("a command comes first: `bitnet run {model}`, or chat, or serve");
        }
        if error.kind() == ErrorKind::ArgumentConflict
            && self
                .command
                .is_some_and(|command| command.get_name() == "run")
            && message(error).contains("--model")
        {
            return "beside --model the text goes behind --prompt".into();
        }
        let suggestions = [
            ContextKind::SuggestedArg,
            ContextKind::SuggestedSubcommand,
            ContextKind::SuggestedValue,
        ];
        if let Some(names) = suggestions.into_iter().find_map(found) {
            return format!("did you mean '{names}'?");
        }
        let unknown = found(ContextKind::InvalidArg)
            .filter(|_| error.kind() == ErrorKind::UnknownArgument)
            .and_then(|argument| self.unknown(&argument));
        unknown.unwrap_or_else(|| GENERAL.into())
    }

    /// What to do about an argument that the command has no place for.
    fn unknown(&self, argument: &str) -> Option<String> {
        let Some(command) = self.command else {
            let option = self.args.first()?;
            return Some(format!(
                "a command comes first: `bitnet run {option} ...`; `bitnet --help` lists them"
            ));
        };
        if argument.starts_with('-') {
            return None;
        }
        let name = command.get_name();
        if name == "run" {
            return Some("a text of several words is one argument: put it in quotes".into());
        }
        let names_model = command.get_positionals().any(|p| p.get_id() == NAMED_MODEL);
        (takes_model(command) && !names_model).then(|| {
            let model = quoted(argument);
            format!("a model is named with --model: `bitnet {name} --model {model} ...`")
        })
    }
}

/// Whether a command has the option `--model`.
fn takes_model(command: &clap::Command) -> bool {
    command.get_arguments().any(|arg| {
        let names = arg.get_long_and_visible_aliases();
        names.is_some_and(|names| names.contains(&"model"))
    })
}
