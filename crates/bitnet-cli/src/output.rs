//! Standard output and standard error.
//!
//! Results go to standard output, everything else (progress, notices, metrics) to standard error, so that a pipe
//! carries results only. A closed pipe is not an error: see [`CliError::output`].

use std::io::{self, IsTerminal, Write};

use bitnet_server::log;
use clap::ValueEnum;
use serde::Serialize;

use crate::exit::CliError;
use crate::sanitize;

/// What a command prints its result as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one JSON document.
    Json,
}

/// Standard output, buffered until flushed.
pub struct Out {
    writer: io::BufWriter<io::Stdout>,
}

impl Out {
    /// The process's standard output.
    pub fn stdout() -> Out {
        Out {
            writer: io::BufWriter::new(io::stdout()),
        }
    }

    /// Writes `text` as it is.
    ///
    /// # Errors
    /// As [`CliError::output`].
    pub fn text(&mut self, text: &str) -> Result<(), CliError> {
        self.writer
            .write_all(text.as_bytes())
            .map_err(|e| CliError::output(&e))
    }

    /// Writes `text` and a newline.
    ///
    /// # Errors
    /// As [`CliError::output`].
    pub fn line(&mut self, text: &str) -> Result<(), CliError> {
        self.text(text)?;
        self.text("\n")
    }

    /// Writes one indented JSON document.
    ///
    /// # Errors
    /// As [`CliError::output`].
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = to_json(value, true)?;
        self.line(&text)
    }

    /// Writes one JSON value on one line.
    ///
    /// # Errors
    /// As [`CliError::output`].
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = to_json(value, false)?;
        self.line(&text)
    }

    /// Hands everything written so far to the reader.
    ///
    /// # Errors
    /// As [`CliError::output`].
    pub fn flush(&mut self) -> Result<(), CliError> {
        self.writer.flush().map_err(|e| CliError::output(&e))
    }
}

/// JSON text whose strings hold no raw control characters: serde_json escapes U+0000 to U+001F, and DEL and the
/// 8-bit controls (which some terminals obey) are escaped here. They cannot occur outside strings.
fn to_json(value: &impl Serialize, indented: bool) -> Result<String, CliError> {
    let text = if indented {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    let text =
        text.map_err(|e| CliError::runtime(format!("cannot write the result as JSON: {e}"), ""))?;
    if !text.contains(|c| ('\x7f'..='\u{9f}').contains(&c)) {
        return Ok(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\x7f'..='\u{9f}' => escaped.push_str(&format!("\\u{:04x}", c as u32)),
            c => escaped.push(c),
        }
    }
    Ok(escaped)
}

/// Prints a line about what is going on to standard error.
pub fn notice(text: &str) {
    if log::is_json() {
        return log::say(text);
    }
    let mut stderr = io::stderr().lock();
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(stderr, "{}", sanitize::text(text));
}

/// Prints a warning to standard error.
pub fn warning(text: &str) {
    notice(&format!("warning: {}", sanitize::one_line(text)));
}

/// Whether standard error may be coloured: it is a terminal and `NO_COLOR` is not set.
pub fn colour_errors(no_color: bool) -> bool {
    !no_color && io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_strings_hold_no_raw_controls() {
        let text = to_json(&"a\x1b[31m\u{9b}2J\x7fé", false).unwrap();
        assert_eq!(text, r#""a\u001b[31m\u009b2J\u007fé""#);
        assert_eq!(
            serde_json::from_str::<String>(&text).unwrap(),
            "a\x1b[31m\u{9b}2J\x7fé"
        );
    }
}
