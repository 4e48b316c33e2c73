//! Values that the command lines of several commands take.

use anyhow::{Result, bail};

/// What `--format` says: whether the document is printed as JSON, and not for people.
///
/// # Errors
/// For anything else than `text` and `json`.
pub fn is_json(value: &str) -> Result<bool> {
    match value {
        "json" => Ok(true),
        "text" => Ok(false),
        other => bail!("{other}: expected text or json"),
    }
}

/// A number of things of which there have to be `least` or more.
///
/// # Errors
/// When it is none, or smaller.
pub fn number(value: &str, least: usize) -> Result<usize> {
    match value.parse() {
        Ok(n) if n >= least => Ok(n),
        _ => bail!("{value}: expected a number, {least} or more"),
    }
}
