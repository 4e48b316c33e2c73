//! `bitnet chat`: a conversation with history.
//!
//! On a terminal the lines are edited (rustyline: history, cursor keys); otherwise each line of standard input is a
//! message, so that a conversation can be scripted. Every turn renders the whole conversation anew.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use bitnet_inference::{FinishReason, Message};
use clap::Args;
use rustyline::error::ReadlineError;
use serde::Serialize;

use crate::args::{EngineArgs, ModelArgs, NAMED_MODEL, SamplingArgs, TemplateArgs};
use crate::chat_prompt::{ChatFormat, message};
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::interrupt::Cooperative;
use crate::model_source::{self, LoadExtras, Loaded};
use crate::output::{Out, notice, warning};
use crate::prompt::check_utf8;
use crate::run_metrics::RunMetrics;
use crate::sanitize::Sanitizer;

/// Options of `bitnet chat`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet chat\n  \
    bitnet chat model.gguf\n  \
    bitnet chat --model model.gguf --system \"You are a patient teacher.\" --temperature 0.6\n  \
    printf 'Hello\\nAnd now?\\n' | bitnet chat --model model.gguf\n\n\
    Ctrl-C stops an answer; at the prompt, or a second time, it ends the program. Ctrl-D ends it too.")]
pub struct ChatArgs {
    /// The model, as --model takes it
    #[arg(id = NAMED_MODEL, value_name = "MODEL", conflicts_with = "model")]
    pub named: Option<String>,

    /// Print times and tokens per second after each answer
    #[arg(long)]
    pub metrics: bool,

    /// Print terminal escape sequences of the model as they are
    #[arg(long)]
    pub raw: bool,

    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// How to run it.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// How messages become a prompt.
    #[command(flatten)]
    pub template: TemplateArgs,
}

const HELP: &str = "\
/help           this list
/reset          forget the conversation (the system message stays)
/system [TEXT]  set the system message and forget the conversation; without TEXT, remove it
/save FILE      write the conversation to FILE as JSON
/exit           end (also Ctrl-D)
Ctrl-C stops an answer. A line that begins with // is sent with one slash.";

/// Holds the conversation until the user ends it.
///
/// # Errors
/// Bad options and models; errors within the conversation are told and do not end it. A conversation from a pipe ends
/// with the exit code of the last of them: nobody may have been watching.
pub fn run(args: &ChatArgs, env: &Environment) -> Result<Exit, CliError> {
    let extras = LoadExtras {
        chat_template: args.template.file_text()?,
        quick_start: true,
        ..LoadExtras::default()
    };
    let model = args.model.or_named(args.named.as_deref());
    let loaded = model_source::load(&model, &args.engine, env, extras)?;
    let format = args.template.format_of_chat(&loaded.engine, env)?;
    loaded.note_repairs();
    let mut chat = Chat {
        args,
        env,
        loaded,
        format,
        conversation: Conversation::new(args.template.system.clone()),
    };
    let mut input = Input::open()?;
    if input.interactive() {
        notice(&format!("{}. /help lists the commands.", chat.loaded.name));
    }
    let mut failed = None;
    loop {
        let line = match input.next_line()? {
            Line::Text(line) => line,
            Line::End => return Ok(input.exit(failed)),
            Line::Interrupted => return Ok(Exit::Interrupted),
        };
        match parse_line(&line) {
            Entry::Nothing => {}
            Entry::Exit => return Ok(input.exit(failed)),
            Entry::Help => notice(HELP),
            Entry::Reset => {
                chat.conversation.turns.clear();
                notice("the conversation is forgotten");
            }
            Entry::System(text) => {
                notice(if text.is_some() {
                    "the system message is set"
                } else {
                    "there is no system message now"
                });
                chat.conversation = Conversation::new(text);
            }
            Entry::Save(path) => match chat.conversation.save(Path::new(&path)) {
                Ok(()) => notice(&format!("saved to {path}")),
                Err(error) => {
                    failed = Some(error.class);
                    error.report(false);
                }
            },
            Entry::Unknown(command) => {
                warning(&format!("there is no {command}; /help lists the commands"))
            }
            Entry::Message(text) => failed = chat.answer(&text)?.or(failed),
        }
    }
}

/// The messages so far.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Conversation {
    system: Option<String>,
    /// (role, text) of users and assistant in turn.
    turns: Vec<(&'static str, String)>,
}

#[derive(Serialize)]
struct SavedMessage<'a> {
    role: &'a str,
    content: &'a str,
}

impl Conversation {
    fn new(system: Option<String>) -> Conversation {
        Conversation {
            system: system.filter(|s| !s.is_empty()),
            turns: Vec::new(),
        }
    }

    fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|s| message("system", s));
        system
            .chain(self.turns.iter().map(|(role, text)| message(role, text)))
            .collect()
    }

    fn save(&self, path: &Path) -> Result<(), CliError> {
        let messages = self.messages();
        let saved: Vec<SavedMessage<'_>> = messages
            .iter()
            .map(|m| SavedMessage {
                role: &m.role,
                content: &m.content,
            })
            .collect();
        let json = serde_json::to_string_pretty(&saved).map_err(|e| {
            CliError::runtime(format!("cannot write the conversation as JSON: {e}"), "")
        })?;
        std::fs::write(path, json + "\n").map_err(|e| CliError::file("write", path, &e))
    }
}

struct Chat<'a> {
    args: &'a ChatArgs,
    env: &'a Environment,
    loaded: Loaded,
    format: ChatFormat,
    conversation: Conversation,
}

impl Chat<'_> {
    /// Adds a message and streams the answer to it. A failure is told and the message taken back;
    /// its class is the result.
    fn answer(&mut self, text: &str) -> Result<Option<Exit>, CliError> {
        self.conversation.turns.push(("user", text.to_string()));
        let mut out = Out::stdout();
        match self.generate(&mut out) {
            Ok(answer) => {
                self.conversation.turns.push(("assistant", answer));
                Ok(None)
            }
            // The reader of our output is gone: there is nobody to go on for.
            Err(error) if error.class == Exit::Ok => Err(error),
            Err(error) => {
                self.conversation.turns.pop();
                error.report(crate::output::colour_errors(self.env.no_color));
                Ok(Some(error.class))
            }
        }
    }

    fn generate(&self, out: &mut Out) -> Result<String, CliError> {
        let prompt = self
            .format
            .prompt(&self.loaded.engine, &self.conversation.messages())?;
        let options = self.args.sampling.options(self.env);
        let cooperative = Cooperative::begin();
        let before = self.loaded.engine.traffic();
        let mut generation = self.loaded.engine.generate(prompt, &options)?;
        let mut sanitizer = Sanitizer::default();
        let mut answer = String::new();
        let mut finish = None;
        while !cooperative.requested() {
            let Some(token) = generation.next() else {
                finish = generation.finish_reason();
                break;
            };
            let token = token?;
            if !token.text.is_empty() {
                out.text(&if self.args.raw {
                    token.text.clone()
                } else {
                    sanitizer.push(&token.text)
                })?;
                out.flush()?;
            }
            answer.push_str(&token.text);
        }
        out.text("\n")?;
        out.flush()?;
        match finish {
            None => notice("(stopped)"),
            Some(FinishReason::ContextFull) => notice(&format!(
                "the context is full ({} positions): /reset begins a new conversation",
                self.loaded.engine.context()
            )),
            Some(_) => {}
        }
        if self.args.metrics {
            let metrics = RunMetrics::of(&self.loaded, &generation, &before);
            notice(&metrics.table(generation.seed(), finish));
        }
        Ok(answer)
    }
}

/// What a line of input asks for.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Nothing,
    Help,
    Reset,
    System(Option<String>),
    Save(String),
    Exit,
    Unknown(String),
    Message(String),
}

fn parse_line(line: &str) -> Entry {
    let line = line.trim();
    if line.is_empty() {
        return Entry::Nothing;
    }
    if line.starts_with("//") {
        return Entry::Message(line[1..].to_string());
    }
    if !line.starts_with('/') {
        return Entry::Message(line.to_string());
    }
    let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match (command, rest) {
        ("/help" | "/?", _) => Entry::Help,
        ("/reset" | "/clear", _) => Entry::Reset,
        ("/exit" | "/quit" | "/bye", _) => Entry::Exit,
        ("/system", text) => Entry::System(Some(text.to_string()).filter(|t| !t.is_empty())),
        ("/save", "") => Entry::Unknown("/save without a file name".into()),
        ("/save", path) => Entry::Save(path.to_string()),
        (other, _) => Entry::Unknown(other.to_string()),
    }
}

/// Where lines come from.
enum Input {
    Terminal(Box<rustyline::DefaultEditor>),
    Pipe(std::io::StdinLock<'static>, usize),
}

enum Line {
    Text(String),
    End,
    Interrupted,
}

impl Input {
    fn open() -> Result<Input, CliError> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Input::Pipe(stdin.lock(), 0));
        }
        let editor = rustyline::DefaultEditor::new().map_err(|e| {
            CliError::runtime(
                format!("cannot edit lines on this terminal: {e}"),
                TERMINAL_HINT,
            )
        })?;
        Ok(Input::Terminal(Box::new(editor)))
    }

    fn interactive(&self) -> bool {
        matches!(self, Input::Terminal(_))
    }

    /// The end of a conversation in which `failed` was the last failure: who types has seen it, a script has not.
    fn exit(&self, failed: Option<Exit>) -> Exit {
        match failed {
            Some(class) if !self.interactive() => class,
            _ => Exit::Ok,
        }
    }

    fn next_line(&mut self) -> Result<Line, CliError> {
        match self {
            Input::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    // History is a convenience of this session; failing to keep a line of it is no failure.
                    let _ = editor.add_history_entry(&line);
                    Ok(Line::Text(line))
                }
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
                Err(error) => Err(CliError::runtime(
                    format!("cannot read from the terminal: {error}"),
                    TERMINAL_HINT,
                )),
            },
            Input::Pipe(stdin, number) => {
                let mut bytes = Vec::new();
                let read = stdin.read_until(b'\n', &mut bytes);
                let n = read.map_err(|e| {
                    CliError::runtime(
                        format!("cannot read standard input: {e}"),
                        "check where the input comes from",
                    )
                })?;
                if n == 0 {
                    return Ok(Line::End);
                }
                *number += 1;
                Ok(Line::Text(check_utf8(
                    bytes,
                    &format!("line {number} of standard input"),
                )?))
            }
        }
    }
}

const TERMINAL_HINT: &str = "pipe the messages in instead, one a line";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_messages() {
        let cases = [
            ("", Entry::Nothing),
            ("  \n", Entry::Nothing),
            ("hello\n", Entry::Message("hello".into())),
            ("/help", Entry::Help),
            ("/reset now", Entry::Reset),
            (
                "/system Be brief. ",
                Entry::System(Some("Be brief.".into())),
            ),
            ("/system", Entry::System(None)),
            ("/save a b.json", Entry::Save("a b.json".into())),
            ("/save", Entry::Unknown("/save without a file name".into())),
            ("/exit", Entry::Exit),
            ("/frobnicate x", Entry::Unknown("/frobnicate".into())),
            ("//etc/passwd", Entry::Message("/etc/passwd".into())),
        ];
        for (line, entry) in cases {
            assert_eq!(parse_line(line), entry, "{line:?}");
        }
    }

    #[test]
    fn a_conversation_keeps_its_system_message_in_front() {
        let mut conversation = Conversation::new(Some("Be brief.".into()));
        conversation.turns.push(("user", "Hi".into()));
        conversation.turns.push(("assistant", "Hello.".into()));
        let roles: Vec<String> = conversation
            .messages()
            .into_iter()
            .map(|m| m.role)
            .collect();
        assert_eq!(roles, ["system", "user", "assistant"]);
        assert!(Conversation::new(Some(String::new())).system.is_none());
    }
}
