//! What the commands that write models have in common: the report, how it is printed, and errors in two lines.

use std::path::Path;
use std::time::{Duration, Instant};

use bitnet_models::ExportError;
use bitnet_models::export::{
    Change, DENSE_TYPES, DirectoryExport, Export, ExportRefusal, TERNARY_TYPES, TILE_TYPES,
    TensorReport, TernaryTarget,
};
use bitnet_models::gguf::WriteError;
use bitnet_quantization::{TensorType, TilePreset};
use serde::Serialize;

use crate::exit::{CliError, Exit};
use crate::free_space;
use crate::interrupt::Cooperative;
use crate::output::{Format, Out};
use crate::pending::{Pending, sync};
use crate::progress::Progress;
use crate::sanitize;
use crate::units;

/// What a command did.
#[derive(Debug, Serialize)]
pub struct ExportReport {
    input: String,
    output: String,
    /// Whether the output was written.
    written: bool,
    bytes_before: u64,
    bytes_after: u64,
    seconds: f64,
    /// What the new file cannot say, and other things worth knowing.
    notes: Vec<String>,
    tensors: Vec<TensorReport>,
    /// Tensors that cannot be written as asked; if there are any, nothing was written.
    refused: Vec<ExportRefusal>,
}

/// What is written where, and how it is told.
#[derive(Debug, Clone, Copy)]
pub struct ExportJob<'a> {
    /// The source, as the user named it.
    pub input: &'a Path,
    /// The file to write.
    pub out: &'a Path,
    /// Bytes of the source.
    pub bytes_before: u64,
    /// Plan and check only.
    pub dry_run: bool,
    /// Format of the report.
    pub format: Format,
}

impl ExportJob<'_> {
    /// Plans with `plan`, writes the file under its temporary name, puts it in place and prints the report.
    ///
    /// # Errors
    /// What the plan refuses, a full disk, Ctrl-C.
    pub fn write_gguf<'m>(
        &self,
        pending: Pending,
        plan: impl FnOnce(&mut dyn FnMut(u64) -> bool) -> Result<Export<'m>, ExportError>,
    ) -> Result<Exit, CliError> {
        let started = Instant::now();
        let cooperative = Cooperative::begin();
        let mut report = self.report();
        let export = self.plan(&mut report, started, &cooperative, plan)?;
        report.bytes_after = export.file_bytes();
        report.notes = export.notes().to_vec();
        free_space::check(self.out, export.file_bytes())?;
        report.tensors = if self.dry_run {
            export.tensors().cloned().collect()
        } else {
            let progress = Progress::bytes("writing", export.file_bytes());
            let mut advance = |n| {
                progress.add(n);
                !cooperative.requested()
            };
            let (file, tensors) = export
                .write(pending.create_file()?, &mut advance)
                .map_err(|error| self.failure(error, &cooperative))?;
            sync(file, self.out)?;
            pending.finish()?;
            report.written = true;
            tensors
        };
        report.seconds = started.elapsed().as_secs_f64();
        print(&report, self.format)?;
        Ok(Exit::Ok)
    }

    /// [`ExportJob::write_gguf`] for a directory.
    ///
    /// # Errors
    /// As there.
    pub fn write_directory<'m>(
        &self,
        pending: Pending,
        plan: impl FnOnce(&mut dyn FnMut(u64) -> bool) -> Result<DirectoryExport<'m>, ExportError>,
    ) -> Result<Exit, CliError> {
        let started = Instant::now();
        let cooperative = Cooperative::begin();
        let mut report = self.report();
        let export = self.plan(&mut report, started, &cooperative, plan)?;
        report.bytes_after = export.file_bytes();
        report.notes = export.notes().to_vec();
        report.tensors = export.tensors().cloned().collect();
        free_space::check(self.out, export.file_bytes())?;
        if !self.dry_run {
            pending.create_directory()?;
            for (name, text) in export.documents() {
                let path = pending.path().join(name);
                let mut file = Pending::create_inside(&path)?;
                std::io::Write::write_all(&mut file, text.as_bytes())
                    .map_err(|e| CliError::file("write", &path, &e))?;
                sync(file, &path)?;
            }
            let path = pending.path().join("model.safetensors");
            let progress = Progress::bytes("writing", export.file_bytes());
            let mut advance = |n| {
                progress.add(n);
                !cooperative.requested()
            };
            let file = export
                .write(Pending::create_inside(&path)?, &mut advance)
                .map_err(|error| self.failure(error, &cooperative))?;
            sync(file, &path)?;
            pending.finish()?;
            report.written = true;
        }
        report.seconds = started.elapsed().as_secs_f64();
        print(&report, self.format)?;
        Ok(Exit::Ok)
    }

    fn report(&self) -> ExportReport {
        ExportReport {
            input: self.input.display().to_string(),
            output: self.out.display().to_string(),
            written: false,
            bytes_before: self.bytes_before,
            bytes_after: 0,
            seconds: 0.0,
            notes: Vec::new(),
            tensors: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Plans, and tells what was refused.
    fn plan<T>(
        &self,
        report: &mut ExportReport,
        started: Instant,
        cooperative: &Cooperative,
        plan: impl FnOnce(&mut dyn FnMut(u64) -> bool) -> Result<T, ExportError>,
    ) -> Result<T, CliError> {
        let progress = Progress::bytes("checking", self.bytes_before);
        let mut advance = |n| {
            progress.add(n);
            !cooperative.requested()
        };
        match plan(&mut advance) {
            Ok(planned) => Ok(planned),
            Err(ExportError::Refused(refused)) => {
                drop(progress);
                let error = self.refusal(&refused);
                report.refused = refused;
                report.seconds = started.elapsed().as_secs_f64();
                if self.format == Format::Json {
                    print(report, Format::Json)?;
                }
                Err(error)
            }
            Err(error) => Err(self.failure(error, cooperative)),
        }
    }

    /// The error for tensors that the types cannot hold: the first few by name.
    fn refusal(&self, refused: &[ExportRefusal]) -> CliError {
        const NAMED: usize = 3;
        let mut message = format!(
            "{}: {} tensors cannot be written as asked: ",
            self.input.display(),
            refused.len()
        );
        let named: Vec<String> = refused
            .iter()
            .take(NAMED)
            .map(ExportRefusal::to_string)
            .collect();
        message.push_str(&named.join("; "));
        if refused.len() > NAMED {
            message.push_str("; ...");
        }
        let dense = refused
            .iter()
            .any(|refusal| refusal.why.contains("are not ternary"));
        let hint = if dense {
            "--ternarize makes trits of dense weights, which is another model: few survive it without training"
        } else {
            "choose another --type (i2_s holds any one scale for a tensor, q2_0 the smallest blocks); --format json \
             lists every tensor"
        };
        CliError::usage(message, hint)
    }

    fn failure(&self, error: ExportError, cooperative: &Cooperative) -> CliError {
        writing_failed(error, self.input, self.out, cooperative)
    }
}

/// Why `out` was not made of `input`, in two lines.
pub fn writing_failed(
    error: ExportError,
    input: &Path,
    out: &Path,
    cooperative: &Cooperative,
) -> CliError {
    match error {
        ExportError::Stopped => cooperative.error("nothing was written"),
        ExportError::Model(error) => error.into(),
        ExportError::Tokenizer(error) => error.into(),
        ExportError::Request { .. } => CliError::usage(
            error.to_string(),
            "`bitnet inspect` lists a file's tensors and their types",
        ),
        ExportError::Write(WriteError::Io(error)) => CliError::file("write", out, &error),
        ExportError::Tensor { .. } => CliError::new(
            Exit::Unusable,
            format!("{}: {error}", input.display()),
            "`bitnet compat-check` tells what is wrong with the file",
        ),
        ExportError::Differs { .. } => CliError::runtime(
            format!("cannot write {}: {error}", out.display()),
            "check the disk; nothing was put in place",
        ),
        error @ (ExportError::Write(_) | ExportError::Refused(_)) => CliError::runtime(
            format!("cannot write {}: {error}", out.display()),
            "choose other types",
        ),
    }
}

fn print(report: &ExportReport, format: Format) -> Result<(), CliError> {
    let mut out = Out::stdout();
    if format == Format::Json {
        out.json(report)?;
        return out.flush();
    }
    let count = |change| report.tensors.iter().filter(move |t| t.change == change);
    for tensor in count(Change::Converted).chain(count(Change::Ternarised)) {
        let error = tensor.error.map_or(String::new(), |error| {
            format!(
                ", relative error {:.2e}, largest {:.2e}",
                error.relative, error.max
            )
        });
        out.line(&format!(
            "{}: {} to {}{error}",
            sanitize::one_line(&tensor.name),
            tensor.from,
            tensor.to
        ))?;
    }
    for tensor in report.tensors.iter().filter(|t| t.note.is_some()) {
        let note = tensor.note.as_deref().unwrap_or_default();
        out.line(&format!("{}: {note}", sanitize::one_line(&tensor.name)))?;
    }
    for note in &report.notes {
        out.line(&format!("note: {}", sanitize::one_line(note)))?;
    }
    let ternarised = match count(Change::Ternarised).count() {
        0 => String::new(),
        n => format!(", {n} made ternary"),
    };
    out.line(&format!(
        "{}: {} tensors repacked without loss, {} converted, {} copied{ternarised}; {} to {} in {}{}",
        sanitize::one_line(&report.output),
        count(Change::Repacked).count(),
        count(Change::Converted).count(),
        count(Change::Copied).count(),
        units::bytes(report.bytes_before),
        units::bytes(report.bytes_after),
        units::duration(Duration::from_secs_f64(report.seconds)),
        if report.written {
            ""
        } else {
            " (dry run: nothing was written)"
        },
    ))?;
    out.flush()
}

/// A type for ternary weights, by name.
///
/// # Errors
/// The names that can be written.
pub fn parse_ternary_type(value: &str) -> Result<TernaryTarget, String> {
    let mut tiles = TILE_TYPES.into_iter();
    if let Some(ty) = tiles.find(|ty| ty.name().eq_ignore_ascii_case(value)) {
        return Ok(TernaryTarget::Tiles(ty));
    }
    match parse_type(value, &TERNARY_TYPES) {
        Ok(ty) => Ok(ty.into()),
        Err(expected) => Err(format!("{expected}, tl1, tl2")),
    }
}

/// A preset of tile sizes, by name.
///
/// # Errors
/// The names that there are.
pub fn parse_tiles(value: &str) -> Result<TilePreset, String> {
    value
        .parse()
        .map_err(|_| "expected large, 3b, llama3 or llama3-ini".into())
}

/// A type for embeddings and heads, by name.
///
/// # Errors
/// The names that can be written.
pub fn parse_dense_type(value: &str) -> Result<TensorType, String> {
    parse_type(value, &DENSE_TYPES)
}

fn parse_type(value: &str, types: &[TensorType]) -> Result<TensorType, String> {
    let found = TensorType::from_name(value).filter(|ty| types.contains(ty));
    found.ok_or_else(|| {
        let names: Vec<String> = types.iter().map(|ty| ty.name().to_lowercase()).collect();
        format!("expected one of {}", names.join(", "))
    })
}
