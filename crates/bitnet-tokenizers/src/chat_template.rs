//! Chat templates: a conversation to the text the model was trained on.
//!
//! Templates are Jinja programs inside model files, so they are run like programs of strangers (the attack is
//! CVE-2024-34359), by a machine of this crate: it has no files, no other templates and no code but its own, and every
//! step, byte and level is paid for from a [`Budget`](budget::Budget) before it is taken. An engine of others counts
//! steps at the most, and a template that doubles a text, keeps a list in a list or puts a namespace into itself ends
//! the process there. The language is Jinja as Hugging Face's `apply_chat_template` sets it up: `trim_blocks`,
//! `lstrip_blocks`, loop controls, Python's methods of strings, `raise_exception`, `strftime_now` and an unescaped
//! `tojson`.
//!
//! Source to tokens ([`lexer`]), tokens to a program ([`parser`]), which runs on a [`machine`].

mod arguments;
mod budget;
mod compare;
mod date;
mod failure;
mod filters;
mod format;
mod json;
mod lexer;
mod machine;
mod operators;
mod parser;
mod program;
mod strings;
mod tests_of_values;
mod text;
mod value;

use std::sync::Arc;

use crate::error::TokenizerError;
use budget::Budget;
use failure::Failure;
use machine::Machine;
use program::Program;
use value::Value;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }

    fn value(&self, budget: &mut Budget) -> Result<Value, Failure> {
        budget.take(self.role.len() + self.content.len())?;
        let pair = |name: &str, text: &str| (Value::text(name), Value::text(text));
        Value::map(
            vec![pair("role", &self.role), pair("content", &self.content)],
            budget,
        )
    }
}

/// A parsed template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    program: Arc<Program>,
    bos: Arc<str>,
    eos: Arc<str>,
}

/// The largest template source accepted, in bytes; the longest published ones (with tools) have about 20 KiB.
const MAX_SOURCE: usize = 256 << 10;

/// The longest text a template may produce, in bytes, beyond the conversation's own.
const MAX_OUTPUT: usize = 4 << 20;

impl ChatTemplate {
    /// Parses a template; `bos` and `eos` are the texts of `bos_token` and `eos_token` inside it.
    ///
    /// # Errors
    /// An over-long source, or one that is no Jinja.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TokenizerError> {
        if source.len() > MAX_SOURCE {
            let field = "bytes of the chat template";
            return Err(TokenizerError::TooLarge {
                field,
                found: source.len(),
                limit: MAX_SOURCE,
            });
        }
        let program = parser::parse(source).map_err(|(failure, line)| failure.at(line))?;
        Ok(Self {
            program: Arc::new(program),
            bos: bos.into(),
            eos: eos.into(),
        })
    }

    /// The text of a conversation; with `add_generation_prompt`, up to where the model's answer begins. It contains BOS
    /// where the template has it: encode it with `parse_special` and without `add_special`.
    ///
    /// # Errors
    /// A template that raises an exception, fails, or exceeds a limit.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TokenizerError> {
        let said: usize = messages
            .iter()
            .map(|message| message.role.len() + message.content.len())
            .sum();
        let budget = Budget::new(messages.len(), said);
        let mut machine = Machine::new(&self.program, budget, MAX_OUTPUT.saturating_add(said));
        self.define(&mut machine, messages, add_generation_prompt)
            .map_err(|failure| failure.at(0))?;
        machine.run().map_err(|(failure, line)| failure.at(line))
    }

    /// The variables that Hugging Face gives to templates.
    fn define(
        &self,
        machine: &mut Machine<'_>,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<(), Failure> {
        let budget = machine.budget();
        let values: Result<_, Failure> = messages
            .iter()
            .map(|message| message.value(budget))
            .collect();
        let values = Value::list(values?, budget)?;
        machine.define("messages", values)?;
        machine.define("bos_token", Value::Str(self.bos.clone()))?;
        machine.define("eos_token", Value::Str(self.eos.clone()))?;
        machine.define("add_generation_prompt", Value::Bool(add_generation_prompt))
    }
}
