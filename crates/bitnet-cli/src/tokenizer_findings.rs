//! What building a checkpoint's tokenizer tells: the guesses that it took, or why there is none.
//!
//! `inspect` and `compat-check` build the tokenizer as loading the model does. A look at the headers has then told some
//! of it already: such a finding is completed, so that nothing is told twice.

use bitnet_inference::{Error, TokenizerOptions, checkpoint_tokenizer};
use bitnet_models::{Checkpoint, Finding, Severity};
use bitnet_tokenizers::{Repair, TokenizerError};

/// Adds to `findings` what the tokenizer of `checkpoint` has to say.
pub fn add(checkpoint: &Checkpoint, findings: &mut Vec<Finding>) {
    // Not strict, whatever the environment says: all guesses are to be listed, not the first refused.
    match checkpoint_tokenizer(checkpoint, &TokenizerOptions::default()) {
        Ok(Some(tokenizer)) => {
            for repair in tokenizer.repairs() {
                add_repair(repair, findings);
            }
        }
        // A missing tokenizer is among the findings about the headers.
        Ok(None) => {}
        Err(error) => add_error(&error, findings),
    }
}

fn add_repair(repair: &Repair, findings: &mut Vec<Finding>) {
    let place = format!("field {}", repair.field);
    match findings.iter_mut().find(|f| f.place == place) {
        Some(known) => known
            .message
            .push_str(&format!("; assumed: {}", repair.what)),
        None => findings.push(Finding {
            severity: Severity::Warning,
            code: "tokenizer-guess",
            place,
            message: format!("{}; assumed: {}", repair.why, repair.what),
            remedy: "use the model's tokenizer.json with --tokenizer to be sure".into(),
        }),
    }
}

fn add_error(error: &Error, findings: &mut Vec<Finding>) {
    let finding = match error {
        Error::Model(error) => Finding::from_error(error),
        error => Finding {
            severity: Severity::Error,
            code: "tokenizer-unusable",
            place: match error {
                Error::Tokenizer(error) => place(error),
                _ => "tokenizer".into(),
            },
            message: error.to_string(),
            remedy: error.hint().unwrap_or_default(),
        },
    };
    let known = |f: &Finding| f.severity == Severity::Error && f.place == finding.place;
    if !findings.iter().any(known) {
        findings.push(finding);
    }
}

fn place(error: &TokenizerError) -> String {
    match error {
        TokenizerError::Missing { field }
        | TokenizerError::TooLarge { field, .. }
        | TokenizerError::LengthMismatch { field, .. }
        | TokenizerError::IdOutOfRange { field, .. } => format!("field {field}"),
        _ => "tokenizer".into(),
    }
}
