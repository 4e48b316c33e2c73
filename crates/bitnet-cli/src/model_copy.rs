//! A GGUF file written again with its tensors as they are: what `merge` and `compat-check --fix` have in common.

use std::path::Path;

use bitnet_models::export::split;
use bitnet_models::gguf::{Gguf, Value};

use crate::exit::CliError;
use crate::export_report::writing_failed;
use crate::free_space;
use crate::interrupt::Cooperative;
use crate::pending::{Pending, sync};
use crate::progress::Progress;

/// A copy to be made.
pub struct ModelCopy<'a> {
    /// The open file (of a split the first).
    pub gguf: &'a Gguf,
    /// Its path, for messages.
    pub input: &'a Path,
    /// The file to write.
    pub out: &'a Path,
    /// Keys with other values than the original's.
    pub changes: &'a [(String, Value)],
    /// Replace `out` if it exists.
    pub force: bool,
    /// Plan everything and write nothing.
    pub dry_run: bool,
}

/// What was, or would be, written.
pub struct Copied {
    /// Tensors of the file.
    pub n_tensors: usize,
    /// Its bytes.
    pub bytes: u64,
}

impl ModelCopy<'_> {
    /// Writes the file, reads it back and compares it before it takes its name.
    ///
    /// # Errors
    /// Files that are damaged, an output that exists, a full disk, Ctrl-C.
    pub fn write(&self) -> Result<Copied, CliError> {
        let gguf = self.gguf;
        let pending = Pending::new(self.out)?;
        pending.is_none_of(gguf.files().map(Path::new))?;
        if !self.force {
            pending.is_new()?;
        }
        let cooperative = Cooperative::begin();
        let failed = |error| writing_failed(error, self.input, self.out, &cooperative);
        let part = split::rewrite(gguf, self.changes).map_err(failed)?;
        let n_tensors = part.n_tensors();
        let bytes = part.file_bytes().map_err(failed)?;
        free_space::check(self.out, bytes)?;
        if self.dry_run {
            return Ok(Copied { n_tensors, bytes });
        }
        let file = {
            let progress = Progress::bytes("writing", bytes);
            let mut advance = |n| {
                progress.add(n);
                !cooperative.requested()
            };
            let file = pending.create_file()?;
            part.write(gguf, file, &mut advance).map_err(failed)?
        };
        sync(file, self.out)?;
        {
            let progress = Progress::bytes("checking", bytes);
            let mut advance = |n| {
                progress.add(n);
                !cooperative.requested()
            };
            let written = Gguf::open(pending.path())?;
            split::compare_rewritten(gguf, &written, self.changes, &mut advance).map_err(failed)?;
        }
        pending.finish()?;
        Ok(Copied { n_tensors, bytes })
    }
}
