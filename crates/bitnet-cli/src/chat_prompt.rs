//! How messages become a prompt: by a chat template, or plainly one after the other.

use std::path::Path;

use bitnet_inference::{Engine, Message, Prompt};

use crate::args::TemplateArgs;
use crate::env::Environment;
use crate::exit::CliError;
use crate::output::notice;
use crate::prompt::TextSource;

/// The layout of a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatFormat {
    /// The engine's chat template: the model's own, or the file that `--template` names.
    Template,
    /// The messages' texts, a line each: what a model without a template (a story model, say) can continue.
    Plain,
}

impl TemplateArgs {
    /// The text of the template file that `--template` names, for the engine to load with; `None` for the names
    /// `model` and `plain`.
    ///
    /// # Errors
    /// An unreadable file, or one that is not UTF-8.
    pub fn file_text(&self) -> Result<Option<String>, CliError> {
        match self.template.as_deref() {
            None | Some("model" | "plain") => Ok(None),
            Some(path) => TextSource::File(Path::new(path).to_owned())
                .read()
                .map(Some),
        }
    }

    /// The layout that `run` uses: none unless a chat option is given.
    ///
    /// # Errors
    /// A usage error when the model's template is wanted and it has none.
    pub fn format_of_run(&self, engine: &Engine) -> Result<Option<ChatFormat>, CliError> {
        match (self.template.as_deref(), &self.system) {
            (None, None) => Ok(None),
            (Some("plain"), _) => Ok(Some(ChatFormat::Plain)),
            _ => template_of(engine).map(Some),
        }
    }

    /// The layout that `chat` uses: the one asked for, else the model's. A model without one is continued plainly,
    /// which is told.
    ///
    /// # Errors
    /// A usage error when a template is wanted (by option or by `BITNET_STRICT_TOKENIZERS=1`) and there is none.
    pub fn format_of_chat(
        &self,
        engine: &Engine,
        env: &Environment,
    ) -> Result<ChatFormat, CliError> {
        match self.template.as_deref() {
            Some("plain") => Ok(ChatFormat::Plain),
            None if engine.chat_template().is_none() && !env.strict_tokenizers => {
                notice(
                    "this model has no chat template: it continues what you write (as with --template plain)",
                );
                Ok(ChatFormat::Plain)
            }
            _ => template_of(engine),
        }
    }
}

fn template_of(engine: &Engine) -> Result<ChatFormat, CliError> {
    if engine.chat_template().is_some() {
        return Ok(ChatFormat::Template);
    }
    Err(CliError::usage(
        "the model has no chat template",
        "give one with --template FILE, use --template plain, or `bitnet run` without chat options",
    ))
}

impl ChatFormat {
    /// The prompt for the next answer.
    ///
    /// # Errors
    /// A template that fails (it may refuse a role, or run into its limits).
    pub fn prompt(self, engine: &Engine, messages: &[Message]) -> Result<Prompt, CliError> {
        match self {
            ChatFormat::Template => Ok(engine.chat_prompt(messages)?),
            ChatFormat::Plain => {
                let texts: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
                Ok(Prompt::Text(texts.join("\n")))
            }
        }
    }
}

/// A message of `role`.
pub fn message(role: &str, content: &str) -> Message {
    Message {
        role: role.to_string(),
        content: content.to_string(),
    }
}
