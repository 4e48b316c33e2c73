//! The models that both engines load: random ones of real shapes, made once.

use super::engine::Engines;
use super::options::PeersOptions;
use super::plan::{Comparison, RandomModel};
use crate::process::run;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Layers of the models of a quick run: two, so that what goes from one to the next is there.
const QUICK_LAYERS: &str = "2";

/// Where models and filled caches lie; those of quick runs apart from the real ones.
///
/// # Errors
/// When it cannot be made.
pub fn folder(engines: &Engines, options: &PeersOptions) -> Result<PathBuf> {
    let mut folder = match &options.models {
        Some(folder) => std::path::absolute(folder)?,
        None => engines.target().join("peers"),
    };
    if options.quick {
        folder.push("quick");
    }
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    Ok(folder)
}

/// Makes the models of all rows that are not there yet. `bitnet synth` gives a file its name when it is complete.
///
/// # Errors
/// When `bitnet synth` fails.
pub fn make(engines: &Engines, folder: &Path, rows: &[Comparison], quick: bool) -> Result<()> {
    for model in models(rows) {
        let file = folder.join(file_name(model));
        if file.is_file() {
            continue;
        }
        let mut synth = engines.bitnet();
        synth.args(["synth", "--shape", model.shape.name()]);
        synth.args(["--arch", model.arch, "--type", model.ternary]);
        synth.args(["--head-type", model.head]);
        if quick {
            synth.args(["--layers", QUICK_LAYERS]);
        }
        run(synth.arg(&file))?;
    }
    Ok(())
}

/// Reads every model once, so that whoever is measured first finds it in the page cache like everybody after.
///
/// # Errors
/// When a file cannot be read.
pub fn warm(folder: &Path, rows: &[Comparison]) -> Result<()> {
    for model in models(rows) {
        let path = folder.join(file_name(model));
        let mut file = fs::File::open(&path).with_context(|| path.display().to_string())?;
        io::copy(&mut file, &mut io::sink())?;
    }
    Ok(())
}

fn models(rows: &[Comparison]) -> BTreeSet<RandomModel> {
    let jobs = rows
        .iter()
        .flat_map(|row| std::iter::once(&row.ours).chain(&row.peers));
    jobs.map(|job| job.model).collect()
}

/// The file of a model.
pub fn file_name(model: RandomModel) -> String {
    format!(
        "{}-{}-{}-{}.gguf",
        model.shape.name(),
        model.arch,
        model.ternary,
        model.head
    )
}
