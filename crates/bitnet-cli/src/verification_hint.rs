//! What to do about a model of the cache that cannot be used: it may be damaged, and a pull can tell.
//!
//! Errors come from far below, where nobody knows that a file is a copy of the Hub's; so it is noted here which models
//! names were found to mean, and said once, where the command ends.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bitnet_hub::HubModel;
use bitnet_hub::shell::quoted;

use crate::exit::CliError;

/// Models that names were found to mean in the cache.
static FOUND: Mutex<Vec<HubModel>> = Mutex::new(Vec::new());

fn found_models() -> MutexGuard<'static, Vec<HubModel>> {
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes that the command works on this model of the cache.
pub fn found(model: &HubModel) {
    let mut models = found_models();
    if !models.contains(model) {
        models.push(model.clone());
    }
}

/// `error` with the hint that the cache can be compared with the Hub, where a model of it was worked on and a damaged
/// file would give such an error.
pub fn add_to(mut error: CliError) -> CliError {
    let may_be_damaged = error.may_be_damaged;
    for model in found_models().iter().filter(|_| may_be_damaged) {
        let gap = if error.hint.is_empty() { "" } else { "; " };
        error.hint.push_str(&format!(
            "{gap}if the copy in the cache is damaged, `bitnet pull {} --verify` fetches it again",
            quoted(&model.to_string())
        ));
    }
    error
}
