//! What a check says about a model file: one finding a line, with its severity, place and remedy.

use std::fmt;

use serde::Serialize;

use crate::error::ModelError;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// The model runs, but perhaps not as its makers meant.
    Warning,
    /// The model cannot be run.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable name for the kind of finding, such as `tokenizer-pre-missing`.
    pub code: &'static str,
    /// The field, tensor or file concerned.
    pub place: String,
    /// What was expected and what was found.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    pub(crate) fn new(
        severity: Severity,
        code: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code,
            place: place.into(),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// The finding that an error amounts to.
    pub fn from_error(error: &ModelError) -> Self {
        Self::new(
            Severity::Error,
            error.code(),
            error.place(),
            error.to_string(),
            error.hint(),
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} [{}]; {}",
            self.severity, self.message, self.code, self.remedy
        )
    }
}
