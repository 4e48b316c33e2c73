//! Why a template stopped, before it is known where.

use crate::error::TokenizerError;

/// What ended the parsing or the rendering of a template.
#[derive(Debug)]
pub(super) enum Failure {
    /// A fault of the template, or what it raised itself.
    Message(String),
    /// It wanted to make more than the budget has, in bytes.
    Memory(usize),
}

impl Failure {
    /// A failure that says `message`.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self::Message(message.into())
    }

    /// The error that names the line, counted from 1.
    pub(super) fn at(self, line: u32) -> TokenizerError {
        let line = line as usize;
        match self {
            Self::Message(message) => TokenizerError::Template { line, message },
            Self::Memory(limit) => TokenizerError::TemplateMemory {
                line,
                limit_mib: limit >> 20,
            },
        }
    }
}
