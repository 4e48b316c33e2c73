//! Everything that is wrong with a model file, not only the first thing: what `bitnet compat-check` prints.
//!
//! Loading stops at the first error and looks at headers only. A check goes on as far as it can and decodes every
//! weight: it counts codes that stand for no trit, and holds scales against what trained models have.

use std::path::Path;

use bitnet_quantization::{QuantError, ScaleLayout, TernaryRows};

use crate::checkpoint::{Checkpoint, CheckpointOptions};
use crate::error::ModelError;
use crate::finding::{Finding, Severity};
use crate::tensor_role::TensorRole;

/// Above this a scale is probably the inverse of what it should be: mean|W| of trained models is 0.01 to 3, and its
/// inverse accordingly 0.3 to 100.
const SUSPICIOUS_SCALE: f32 = 5.0;
/// How many tensors with the same complaint are named one by one.
const NAMED: usize = 3;

/// Checks a `.gguf` file (for a split: its first file) or a Hugging Face directory. Findings come in the order of the
/// forward pass; the file is unusable when one of them is [`Severity::Error`].
pub fn check(path: &Path, options: &CheckpointOptions) -> Vec<Finding> {
    match Checkpoint::open_unchecked(path, options) {
        Ok(checkpoint) => check_open(&checkpoint),
        Err(error) => vec![Finding::from_error(&error)],
    }
}

fn check_open(checkpoint: &Checkpoint) -> Vec<Finding> {
    let mut report = Report::default();
    let mut roles = TensorRole::required(checkpoint.config());
    if checkpoint.has(TensorRole::RopeFactors) {
        roles.push(TensorRole::RopeFactors);
    }
    for role in roles {
        let result = match role {
            TensorRole::Embedding | TensorRole::Head => checkpoint.matrix(role).map(drop),
            TensorRole::FinalNorm | TensorRole::RopeFactors | TensorRole::Norm(..) => {
                checkpoint.vector(role).map(drop)
            }
            TensorRole::Projection(..) => checkpoint
                .ternary(role)
                .map(|rows| examine(checkpoint, role, &*rows, &mut report)),
        };
        if let Err(error) = result {
            report.error(&error);
        }
    }
    match checkpoint.judge_unused() {
        Ok(findings) => report.findings.extend(findings),
        Err(error) => report.error(&error),
    }
    report.findings.extend(checkpoint.judge_tokenizer());
    report.findings.extend(checkpoint.judge_window());
    report.findings.extend(checkpoint.judge_long_divisors());
    report.findings.extend(checkpoint.judge_dialects());
    match checkpoint.judge_sparse() {
        Ok(finding) => report.findings.extend(finding),
        Err(error) => report.error(&error),
    }
    report.finish()
}

/// Decodes a ternary tensor and judges what it holds.
fn examine(
    checkpoint: &Checkpoint,
    role: TensorRole,
    weights: &dyn TernaryRows,
    report: &mut Report,
) {
    let name = checkpoint.tensor_name(role);
    let cols = weights.cols();
    let layout = weights.scale();
    let mut trits = vec![0i8; cols];
    let mut scales = vec![0f32; layout.scales_per_row(cols)];
    let (mut non_zero, mut invalid_rows, mut largest) = (0u64, 0usize, 0f32);
    let mut first_error = None;
    if let ScaleLayout::PerTensor(scale) = layout {
        largest = scale;
    }
    for row in 0..weights.rows() {
        match weights.read_row(row, &mut trits, &mut scales) {
            Ok(()) => {
                non_zero += trits.iter().filter(|&&trit| trit != 0).count() as u64;
                largest = scales.iter().copied().fold(largest, f32::max);
            }
            Err(error) => {
                invalid_rows += usize::from(matches!(error, QuantError::InvalidCode { .. }));
                first_error.get_or_insert(error);
            }
        }
    }
    if let Some(source) = first_error {
        let error = ModelError::TensorData {
            file: checkpoint.file().into(),
            tensor: name.clone(),
            source,
        };
        let mut finding = Finding::from_error(&error);
        if invalid_rows > 0 {
            finding.code = "invalid-code";
            finding.message = format!(
                "{} ({invalid_rows} of {} rows hold such codes)",
                finding.message,
                weights.rows()
            );
        }
        report.add(finding);
        return;
    }
    if non_zero == 0 {
        let message = format!("tensor {name}: expected trits, found nothing but zeros");
        report.add(Finding::new(
            Severity::Warning,
            "all-zero",
            format!("tensor {name}"),
            message,
            "convert the model again",
        ));
        return;
    }
    let warn = |code, message: String, remedy: &str| {
        Finding::new(
            Severity::Warning,
            code,
            format!("tensor {name}"),
            message,
            remedy,
        )
    };
    if largest <= 0.0 {
        let message = format!("tensor {name}: expected scales above 0, found {largest} at most");
        report.add(warn("scale-negative", message, "convert the model again"));
    } else if largest > SUSPICIOUS_SCALE {
        let message = format!(
            "tensor {name}: expected a scale of about 0.01 to 3, found {largest}; it may be the inverse of what is meant"
        );
        let remedy = "check quantization_config.linear_class of the original (bitlinear divides by weight_scale, autobitlinear multiplies) and convert again";
        report.add(warn("scale-inverse", message, remedy));
    }
}

/// Findings so far; of the same complaint about many tensors only the first few are kept and the rest counted.
#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
    counts: Vec<(&'static str, usize)>,
}

impl Report {
    fn error(&mut self, error: &ModelError) {
        self.add(Finding::from_error(error));
    }

    fn add(&mut self, finding: Finding) {
        let count = match self
            .counts
            .iter_mut()
            .find(|(code, _)| *code == finding.code)
        {
            Some((_, count)) => count,
            None => {
                self.counts.push((finding.code, 0));
                &mut self.counts.last_mut().expect("just pushed").1
            }
        };
        *count += 1;
        if *count <= NAMED {
            self.findings.push(finding);
        }
    }

    fn finish(mut self) -> Vec<Finding> {
        for (code, count) in self.counts {
            let Some(first) = self.findings.iter().find(|finding| finding.code == code) else {
                continue;
            };
            if count > NAMED {
                let (severity, remedy) = (first.severity, first.remedy.clone());
                let message = format!(
                    "{} more tensors with the same complaint [{code}]",
                    count - NAMED
                );
                self.findings.push(Finding::new(
                    severity,
                    code,
                    "further tensors",
                    message,
                    remedy,
                ));
            }
        }
        self.findings
    }
}
