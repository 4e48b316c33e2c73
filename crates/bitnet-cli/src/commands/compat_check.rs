//! `bitnet compat-check`: whether a model file is sound, and what to do about what is not.

use bitnet_models::{CheckpointOptions, Finding, Severity, check};
use bitnet_quantization::I2sDialect;
use clap::Args;
use serde::Serialize;

use crate::args::parse_dialect;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source::ModelSource;
use crate::output::{Format, Out};
use crate::sanitize;
use crate::table::wrapped;
use crate::tokenizer_findings;

/// Options of `bitnet compat-check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet compat-check model.gguf\n  \
    bitnet compat-check model.gguf --strict --format json\n\n\
    Exit code 0: usable; 3: unusable (a finding of severity error); 4: usable, but --strict and warnings.")]
pub struct CompatCheckArgs {
    /// A .gguf file (also the first of a split) or a Hugging Face directory [default: BITNET_GGUF, else the model
    /// inside this program]
    #[arg(value_name = "FILE")]
    pub file: Option<String>,

    /// Byte layout of I2_S tensors: i2s-128, i2s-64 or i2s-4row [default: i2s-128]
    #[arg(long, value_name = "LAYOUT", value_parser = parse_dialect)]
    pub dialect: Option<I2sDialect>,

    /// Exit with 4 when there are warnings
    #[arg(long)]
    pub strict: bool,

    /// text or json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// The JSON document of `--format json`.
#[derive(Serialize)]
struct Report {
    file: String,
    usable: bool,
    errors: usize,
    warnings: usize,
    notes: usize,
    findings: Vec<Finding>,
}

/// Checks the file.
///
/// # Errors
/// A file that cannot be read at all; findings are a report, not an error.
pub fn run(args: &CompatCheckArgs, env: &Environment) -> Result<Exit, CliError> {
    let source = ModelSource::choose(args.file.as_deref(), env)?;
    let options = CheckpointOptions {
        i2s_dialect: args.dialect,
        ..CheckpointOptions::default()
    };
    let mut findings = match &source {
        ModelSource::Path(path) => {
            std::fs::metadata(path).map_err(|e| CliError::file("read", path, &e))?;
            check(path, &options)
        }
        ModelSource::Embedded => source.open(&options)?.findings().to_vec(),
    };
    // A checkpoint that does not open is unusable, and its errors are listed already.
    if let Ok(checkpoint) = source.open(&options) {
        tokenizer_findings::add(&checkpoint, &mut findings);
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let (errors, warnings, notes) = (
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Note),
    );
    let report = Report {
        file: source.name(),
        usable: errors == 0,
        errors,
        warnings,
        notes,
        findings,
    };
    let mut out = Out::stdout();
    match args.format {
        Format::Json => out.json(&report)?,
        Format::Text => out.text(&text(&report))?,
    }
    out.flush()?;
    Ok(match (report.usable, args.strict && report.warnings > 0) {
        (false, _) => Exit::Unusable,
        (true, true) => Exit::Disagrees,
        (true, false) => Exit::Ok,
    })
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{}: {} ({}, {}, {})\n",
        sanitize::one_line(&report.file),
        if report.usable { "usable" } else { "unusable" },
        counted(report.errors, "error"),
        counted(report.warnings, "warning"),
        counted(report.notes, "note"),
    );
    for finding in &report.findings {
        let place = sanitize::one_line(&finding.place);
        text.push_str(&format!(
            "\n{} [{}] {place}\n",
            finding.severity, finding.code
        ));
        text.push_str(&wrapped(&finding.message, "  "));
        if !finding.remedy.is_empty() {
            text.push_str(&wrapped(&finding.remedy, "  -> "));
        }
    }
    text
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
