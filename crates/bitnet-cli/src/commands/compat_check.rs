//! `bitnet compat-check`: whether a model file is sound, and what to do about what is not.

use std::path::{Path, PathBuf};

use bitnet_models::export::split;
use bitnet_models::gguf::{Gguf, describe};
use bitnet_models::{CheckpointOptions, Finding, ModelFiles, Severity, check};
use bitnet_quantization::{Dialects, I2sDialect, TensorType};
use clap::Args;
use serde::Serialize;

use crate::args::{EngineArgs, parse_dialects, parse_threads};
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::layout_probe::{self, I2sLayoutProbe};
use crate::model_copy::ModelCopy;
use crate::model_source::ModelSource;
use crate::output::{Format, Out};
use crate::sanitize;
use crate::table::wrapped;
use crate::tokenizer_findings;

/// Options of `bitnet compat-check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet compat-check model.gguf\n  \
    bitnet compat-check model.gguf --strict --format json\n  \
    bitnet compat-check model.gguf --probe-layout\n  \
    bitnet compat-check model.gguf --fix repaired.gguf\n\n\
    Exit code 0: usable, pickles once they are converted; 3: unusable (a finding of severity error); 4: usable, but --strict and warnings.")]
pub struct CompatCheckArgs {
    /// A .gguf file (also the first of a split) or a Hugging Face directory [default: BITNET_GGUF, else the model
    /// inside this program]
    #[arg(value_name = "FILE")]
    pub file: Option<String>,

    /// Byte layout of I2_S tensors, and the format of type numbers that several projects use: i2s-128, i2s-64,
    /// i2s-4row, tl1, tl2, q2_0, pq2_0 or stq1_0, several with commas [default: i2s-128, and by the tensors' sizes]
    #[arg(long, value_name = "NAMES", value_parser = parse_dialects)]
    pub dialect: Option<Dialects>,

    /// Read PyTorch's files (pytorch_model.bin, its shards, .pt) of a directory that has no safetensors: their tensors
    /// alone, nothing in them is run
    #[arg(long)]
    pub allow_pickle: bool,

    /// Load the model under each layout of I2_S tensors, score a fixed text, and tell which layout the file has
    #[arg(long)]
    pub probe_layout: bool,

    /// Threads to compute with, for --probe-layout [default: every CPU that this process may use]
    #[arg(short, long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,

    /// Write a copy of the .gguf file with what is known better put right: tokenizer.ggml.pre, a placeholder for a chat
    /// template, ids of end tokens. The tensors are the original's; the report is that of the copy
    #[arg(long, value_name = "OUT")]
    pub fix: Option<PathBuf>,

    /// Replace OUT of --fix if it exists
    #[arg(long, requires = "fix")]
    pub force: bool,

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
    /// What makes it so, where only converting reads such files; `None` for what can be run.
    usable_after: Option<String>,
    errors: usize,
    warnings: usize,
    notes: usize,
    /// Keys that --fix gave other values, with them; `None` without --fix.
    fixed: Option<Vec<Fixed>>,
    /// `None` where nobody asked, or no tensor is I2_S.
    layout_probe: Option<I2sLayoutProbe>,
    findings: Vec<Finding>,
}

/// A key of the copy.
#[derive(Serialize)]
struct Fixed {
    key: String,
    value: String,
}

/// Checks the file.
///
/// # Errors
/// A file that cannot be read at all; findings are a report, not an error.
pub fn run(args: &CompatCheckArgs, env: &Environment) -> Result<Exit, CliError> {
    let mut source = ModelSource::choose(args.file.as_deref(), env)?;
    let fixed = match &args.fix {
        Some(out) => {
            let fixed = fix(&source, out, args.force)?;
            source = ModelSource::Path(out.clone());
            Some(fixed)
        }
        None => None,
    };
    let options = CheckpointOptions {
        dialects: args.dialect.unwrap_or_default(),
        allow_pickle: args.allow_pickle,
        ..CheckpointOptions::default()
    };
    let mut findings = match &source {
        ModelSource::Path(path) => {
            std::fs::metadata(path).map_err(|e| CliError::file("read", path, &e))?;
            check(path, &options)
        }
        ModelSource::Embedded => source.open(&options)?.findings().to_vec(),
    };
    let mut layout_probe = None;
    // A checkpoint that does not open is unusable, and its errors are listed already.
    if let Ok(checkpoint) = source.open(&options) {
        tokenizer_findings::add(&checkpoint, &mut findings);
        let tensors = checkpoint.describe().tensors;
        let has_i2s = tensors
            .iter()
            .any(|tensor| tensor.type_name == TensorType::I2S.name());
        if args.probe_layout && has_i2s {
            let engine = EngineArgs::with_threads(args.threads);
            let probe = layout_probe::run(&source, options.dialects, &engine, env)?;
            findings.extend(judge(&probe, options.dialects.i2s()));
            layout_probe = Some(probe);
        }
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
        usable_after: (errors == 0).then(|| conversion(&source)).flatten(),
        errors,
        warnings,
        notes,
        fixed,
        layout_probe,
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

/// Writes the repaired copy.
fn fix(source: &ModelSource, out: &Path, force: bool) -> Result<Vec<Fixed>, CliError> {
    let input = match source {
        ModelSource::Path(path) if !path.is_dir() => path,
        _ => {
            return Err(CliError::usage(
                format!("{} is no .gguf file", source.name()),
                "--fix repairs what a .gguf file says about its tokenizer; name one",
            ));
        }
    };
    let gguf = Gguf::open(input)?;
    let changes = split::repairs(&gguf)?;
    if changes.is_empty() {
        return Err(CliError::usage(
            format!("nothing in {} is known better", source.name()),
            "leave out --fix; without it the findings are listed",
        ));
    }
    let copy = ModelCopy {
        gguf: &gguf,
        input,
        out,
        changes: &changes,
        force,
        dry_run: false,
    };
    copy.write()?;
    let fixed = changes.iter().map(|(key, value)| Fixed {
        key: key.clone(),
        value: describe(value),
    });
    Ok(fixed.collect())
}

/// The command that makes a model that can be run of pickles, which everything else refuses.
fn conversion(source: &ModelSource) -> Option<String> {
    let ModelSource::Path(path) = source else {
        return None;
    };
    let has_pickles = ModelFiles::of(path).is_ok_and(|files| files.has_pickles());
    has_pickles.then(|| "bitnet convert --allow-pickle".to_owned())
}

/// What the probe says about the layout that the file is read in.
fn judge(probe: &I2sLayoutProbe, dialect: I2sDialect) -> Option<Finding> {
    let read = dialect.to_string();
    let (severity, message, remedy) = match &probe.best {
        Some(best) if *best == read => return None,
        Some(best) => (
            Severity::Error,
            format!(
                "a fixed text is far likelier when I2_S tensors are read as {best} than as {read}"
            ),
            format!("name the layout wherever the file is used: --dialect {best}"),
        ),
        None => (
            Severity::Warning,
            "no layout of I2_S tensors makes a fixed text clearly likelier than the others".into(),
            "the model may be damaged, or trained on something else than English".into(),
        ),
    };
    Some(Finding {
        severity,
        code: "i2s-layout",
        place: "I2_S tensors".into(),
        message,
        remedy,
    })
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{}: {} ({}, {}, {})\n",
        sanitize::one_line(&report.file),
        match (report.usable, &report.usable_after) {
            (false, _) => "unusable".to_owned(),
            (true, Some(command)) => format!("usable after `{command}`"),
            (true, None) => "usable".to_owned(),
        },
        counted(report.errors, "error"),
        counted(report.warnings, "warning"),
        counted(report.notes, "note"),
    );
    for fixed in report.fixed.iter().flatten() {
        let value = sanitize::one_line(&fixed.value);
        text.push_str(&wrapped(&value, &format!("fixed {}: ", fixed.key)));
    }
    for layout in report.layout_probe.iter().flat_map(|probe| &probe.layouts) {
        let loss = match (layout.nats_a_token, &layout.problem) {
            (Some(loss), _) => format!("{loss:.3} nats a token"),
            (None, problem) => sanitize::one_line(problem.as_deref().unwrap_or_default()),
        };
        text.push_str(&wrapped(&loss, &format!("{}: ", layout.dialect)));
    }
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
