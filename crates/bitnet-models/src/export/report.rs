//! What became of each tensor, for people and programs.

use std::fmt;

use serde::Serialize;

use crate::error::quoted;

/// What is done to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The same bytes.
    Copied,
    /// Other bytes, the same trits and scales, or the same floats in a wider type.
    Repacked,
    /// Other values, as near as the new type has them.
    Converted,
    /// Dense weights made trits, by their absolute mean.
    Ternarised,
}

/// How far converted values are from the original ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ValueError {
    /// The largest difference of a value.
    pub max: f32,
    /// Root of the mean square difference, as a share of the values' own root mean square.
    pub relative: f64,
}

impl ValueError {
    pub(super) fn new(max: f32, squared_error: f64, squared: f64) -> Self {
        let relative = if squared > 0.0 {
            (squared_error / squared).sqrt()
        } else {
            0.0
        };
        Self { max, relative }
    }
}

/// One tensor of a conversion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// The type that it had.
    pub from: String,
    /// The type that it gets.
    pub to: String,
    /// What is done to it.
    pub change: Change,
    /// Bytes of its data before.
    pub bytes_before: u64,
    /// Bytes of its data after.
    pub bytes_after: u64,
    /// How far the values move, where they do.
    pub error: Option<ValueError>,
    /// Something worth knowing about it.
    pub note: Option<String>,
}

/// A tensor that cannot be written as asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportRefusal {
    /// Its name.
    pub name: String,
    /// The type that it has.
    pub from: String,
    /// Why not.
    pub why: String,
}

impl fmt::Display for ExportRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", quoted(&self.name), self.from, self.why)
    }
}
