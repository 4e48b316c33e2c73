//! Whether a model that was loaded says what its file says: its fast path held against the reference path.
//!
//! Both run the same prompts, and of each the logits after its last token are compared: is the likeliest token the
//! same, and what is the cosine of the two rows. The [`Reference`] has plain kernels, every logit and numbers kept in
//! f32. It finds kernels that are wrong on this machine, weights that were damaged on the way into memory, caches that
//! are too coarse, and models whose numbers run away; of a file that is well made with other weights it knows nothing:
//! that is what the version tells.
//!
//! The reference runs first, a layer in memory at a time, and is gone before the model itself is loaded, so validating
//! takes no more memory than loading.

use std::time::Duration;

use bitnet_inference::{Engine, LogitRows, Reference};
use serde::Serialize;
use serde_json::json;

use super::job::LoadJob;
use crate::error::{ApiError, ErrorCode};
use crate::model::unix_seconds;

/// What a request asks of a model before it is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ValidationPlan {
    /// Prompts.
    pub samples: usize,
    /// Share of prompts whose likeliest token must be the reference's.
    pub min_accuracy: f64,
    /// Smallest cosine of logits that is good enough.
    pub min_cosine: f64,
    /// Time that the prompts may take on both ways together.
    pub timeout: Duration,
}

/// Prompts when a request does not say how many.
pub const DEFAULT_SAMPLES: usize = 8;

/// Most prompts: a row of logits of each is kept, half a megabyte of the largest vocabularies.
pub const MAX_SAMPLES: usize = 64;

/// Accuracy when a request does not say which: the paths have the same bits unless something is wrong.
pub const DEFAULT_ACCURACY: f64 = 1.0;

/// Cosine when a request does not say which: f32 sums in another order differ by less.
pub const DEFAULT_COSINE: f64 = 0.9999;

/// Time when a request does not say how much.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// Tokens of a prompt: several blocks of the cache and a batch of rows for the kernels.
const PROMPT_TOKENS: usize = 20;

/// What is cut into prompts.
const TEXT: &str = "Once upon a time there was a small village at the foot of a mountain. In the evening the people \
    came together and told stories about the sea, which none of them had seen. The first step of any proof is to say \
    what is known: if a number is even, it is twice another one. 12 + 30 = 42. def mean(values): return sum(values) / \
    len(values). Der Wind, die Sonne und der Wanderer. Il était une fois une petite fille qui vivait dans la forêt.";

/// What a validation found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Validation {
    /// Prompts that were compared.
    pub samples: usize,
    /// Share of them whose likeliest token is the reference's.
    pub top1_agreement: f64,
    /// Mean cosine of their logits with the reference's; `None` when there were numbers that are not finite.
    pub mean_cosine: Option<f64>,
    /// The smallest of them.
    pub min_cosine: Option<f64>,
    /// When, in seconds since 1970.
    pub measured_at: u64,
    /// How long the prompts took on both paths together, in seconds.
    pub seconds: f64,
}

/// The logits after each of the prompts, `[samples][vocab_size]`.
///
/// # Errors
/// What the engine reports, and when nobody wants to know any more.
pub fn run(
    engine: &Engine,
    prompts: &[Vec<u32>],
    job: &LoadJob,
) -> Result<Vec<Vec<f32>>, ApiError> {
    let mut rows = Vec::with_capacity(prompts.len());
    for ids in prompts {
        job.check()?;
        rows.push(engine.logits(ids, LogitRows::Last)?);
    }
    job.check()?;
    Ok(rows)
}

/// The same by the plain way.
///
/// # Errors
/// As [`run`].
pub fn run_reference(
    reference: &Reference,
    prompts: &[Vec<u32>],
    job: &LoadJob,
) -> Result<Vec<Vec<f32>>, ApiError> {
    let mut wanted = || job.check().is_ok();
    let rows = reference.logits(prompts, &mut wanted)?;
    job.check()?;
    // It stops for no other reason than a job that is not wanted, and then the line above has told.
    rows.ok_or_else(|| ApiError::new(ErrorCode::InternalError, "the reference stopped"))
}

/// Prompts of a model's own vocabulary, the same for every load of it, of at most `longest` tokens.
pub fn prompts(reference: &Reference, samples: usize, longest: usize) -> Vec<Vec<u32>> {
    let config = reference.config();
    let vocab_size = config.vocab_size;
    let len = config.context_length.min(longest).clamp(1, PROMPT_TOKENS);
    // Without a tokenizer any ids will do: multiples of a prime reach all of a vocabulary.
    let ids = match reference.encode(TEXT) {
        Some(ids) if !ids.is_empty() => ids,
        _ => (1..200u64)
            .map(|i| (i * 7919 % vocab_size as u64) as u32)
            .collect(),
    };
    (0..samples)
        .map(|sample| {
            let start = sample * 13 % ids.len();
            let tokens = ids.iter().cycle().skip(start).take(len);
            tokens.map(|&id| id.min(vocab_size as u32 - 1)).collect()
        })
        .collect()
}

/// Compares the two paths, which `took` that long together.
pub fn compare(reference: &[Vec<f32>], found: &[Vec<f32>], took: Duration) -> Validation {
    let pairs = reference.iter().zip(found);
    let agree = pairs
        .clone()
        .filter(|(a, b)| top(a).is_some() && top(a) == top(b))
        .count();
    let cosines: Option<Vec<f64>> = pairs.map(|(a, b)| cosine(a, b)).collect();
    let samples = reference.len();
    Validation {
        samples,
        top1_agreement: agree as f64 / samples.max(1) as f64,
        mean_cosine: cosines
            .as_ref()
            .map(|all| all.iter().sum::<f64>() / samples.max(1) as f64),
        min_cosine: cosines.map(|all| all.into_iter().fold(1.0, f64::min)),
        measured_at: unix_seconds(),
        seconds: took.as_secs_f64(),
    }
}

impl Validation {
    /// Whether it is good enough.
    ///
    /// # Errors
    /// [`ErrorCode::ValidationFailed`] with the numbers.
    pub fn judge(&self, plan: &ValidationPlan) -> Result<(), ApiError> {
        let good = self.top1_agreement >= plan.min_accuracy
            && self
                .min_cosine
                .is_some_and(|cosine| cosine >= plan.min_cosine);
        if good {
            return Ok(());
        }
        let cosine = match self.min_cosine {
            Some(cosine) => format!("the smallest cosine of logits is {cosine:.7}"),
            None => "there are logits that are not finite numbers".into(),
        };
        let message = format!(
            "of {} prompts {:.1} % have the reference's likeliest token, expected {:.1} %; {cosine}, expected {}",
            self.samples,
            self.top1_agreement * 100.0,
            plan.min_accuracy * 100.0,
            plan.min_cosine,
        );
        Err(ApiError {
            details: Some(Box::new(json!({
                "samples": self.samples,
                "top1_agreement": self.top1_agreement,
                "min_accuracy": plan.min_accuracy,
                "mean_cosine": self.mean_cosine,
                "min_cosine": self.min_cosine,
                "min_cosine_expected": plan.min_cosine,
            }))),
            ..ApiError::new(ErrorCode::ValidationFailed, message)
        })
    }
}

/// The lowest id of the largest logit; `None` where one is not finite.
fn top(row: &[f32]) -> Option<usize> {
    if !row.iter().all(|logit| logit.is_finite()) {
        return None;
    }
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|logit| *logit == largest)
}

/// `None` where it is not a number.
fn cosine(a: &[f32], b: &[f32]) -> Option<f64> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    let cosine = (dot(a, b) / norms).clamp(-1.0, 1.0);
    (norms > 0.0 && cosine.is_finite()).then_some(cosine)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: ValidationPlan = ValidationPlan {
        samples: 2,
        min_accuracy: 1.0,
        min_cosine: 0.999,
        timeout: DEFAULT_TIMEOUT,
    };

    #[test]
    fn equal_rows_pass_and_others_are_told_in_numbers() {
        let rows = vec![vec![1.0, 3.0, 2.0], vec![5.0, -1.0, 0.0]];
        let same = compare(&rows, &rows, Duration::ZERO);
        assert_eq!((same.top1_agreement, same.min_cosine), (1.0, Some(1.0)));
        same.judge(&PLAN).unwrap();

        let other = vec![vec![1.0, 3.0, 3.5], vec![5.0, -1.0, 0.0]];
        let differs = compare(&rows, &other, Duration::ZERO);
        assert_eq!(differs.top1_agreement, 0.5);
        let error = differs.judge(&PLAN).unwrap_err();
        assert_eq!(error.code, ErrorCode::ValidationFailed);
        assert_eq!(error.details.unwrap()["top1_agreement"], 0.5);
        differs
            .judge(&ValidationPlan {
                min_accuracy: 0.5,
                min_cosine: 0.9,
                ..PLAN
            })
            .unwrap();
    }

    #[test]
    fn numbers_that_are_not_finite_never_pass() {
        let rows = vec![vec![f32::NAN, 1.0]; 2];
        let broken = compare(&rows, &rows, Duration::ZERO);
        assert_eq!((broken.top1_agreement, broken.mean_cosine), (0.0, None));
        let lax = ValidationPlan {
            min_accuracy: 0.0,
            min_cosine: -1.0,
            ..PLAN
        };
        assert!(broken.judge(&lax).is_err());
    }
}
