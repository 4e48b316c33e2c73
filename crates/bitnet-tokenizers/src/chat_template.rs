//! Chat templates: a conversation to the text the model was trained on.
//!
//! Templates are Jinja programs inside model files, so they are run like programs of strangers: no file access, no other
//! templates, and limits on steps, nesting, output and the size of the source (the attack is CVE-2024-34359). Jinja is set
//! up as Hugging Face's `apply_chat_template` sets it up: `trim_blocks`, `lstrip_blocks`, loop controls, Python's string
//! methods, `raise_exception`, `strftime_now` and an unescaped `tojson`.

mod date;
mod json;

use std::io;

use crate::error::TokenizerError;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};

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

    fn value(&self) -> Value {
        context! { role => self.role.clone(), content => self.content.clone() }
    }
}

/// A compiled template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// The largest template source accepted, in bytes; the longest published ones (with tools) have about 20 KiB.
const MAX_SOURCE: usize = 256 << 10;

/// Steps that the template virtual machine may take, whatever the conversation: published templates take some hundreds
/// outside their loop over the messages.
const FUEL: u64 = 50_000;

/// Further steps for each message; published templates take some dozens.
const FUEL_PER_MESSAGE: u64 = 2_000;

/// Nesting of loops, macros and filters; the machine's stack must bear it in a thread with 2 MiB.
const RECURSION_LIMIT: usize = 100;

/// The longest text a template may produce, in bytes, beyond the conversation's own.
const MAX_OUTPUT: usize = 4 << 20;

/// The name under which errors know the template.
const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the texts of `bos_token` and `eos_token` inside it.
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
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(|error| template_error(&error))?);
        environment.set_recursion_limit(RECURSION_LIMIT);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // There is only this template: no name that one may include leads anywhere, its own neither.
        environment.set_path_join_callback(|name, _| {
            format!("{name} (templates cannot load others)").into()
        });
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", date::strftime_now);
        environment.add_filter("tojson", json::tojson);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| template_error(&error))?;
        Ok(Self {
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
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
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + FUEL_PER_MESSAGE * messages.len() as u64));
        let template = environment
            .get_template(NAME)
            .map_err(|error| template_error(&error))?;
        let context = context! {
            messages => messages.iter().map(Message::value).collect::<Vec<Value>>(),
            bos_token => self.bos.clone(),
            eos_token => self.eos.clone(),
            add_generation_prompt,
        };
        let said: usize = messages
            .iter()
            .map(|message| message.role.len() + message.content.len())
            .sum();
        let mut output = CappedOutput {
            text: Vec::new(),
            room: MAX_OUTPUT.saturating_add(said),
        };
        template
            .render_captured_to(context, &mut output)
            .map_err(|error| template_error(&error))?;
        String::from_utf8(output.text).map_err(|error| TokenizerError::Template {
            line: 0,
            message: error.to_string(),
        })
    }
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The innermost reason with the line it came from.
fn template_error(error: &Error) -> TokenizerError {
    let mut line = error.line();
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<Error>() {
            line = inner.line().or(line);
        }
        message = inner.to_string();
        source = inner.source();
    }
    TokenizerError::Template {
        line: line.unwrap_or(0),
        message,
    }
}

/// Collects output and fails when it grows beyond reason.
struct CappedOutput {
    text: Vec<u8>,
    room: usize,
}

impl io::Write for CappedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room = self
            .room
            .checked_sub(bytes.len())
            .ok_or_else(|| io::Error::other("the output is longer than a conversation can be"))?;
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
