//! `bitnet pull`: a model from the Hugging Face Hub, into the cache that its other tools use too.

use std::path::Path;

use bitnet_hub::choice::WantedFiles;
use bitnet_hub::{Cache, Hub, HubError, HubModel, Repository};
use clap::Args;
use serde_json::{Value, json};

use crate::download_bars::DownloadBars;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source::hub_cache;
use crate::output::{Format, Out, notice, warning};
use crate::sanitize;
use crate::table::{Align, Table};
use crate::units;

/// Options of `bitnet pull`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet pull microsoft/bitnet-b1.58-2B-4T-gguf\n  \
    bitnet pull OWNER/NAME:TQ2_0\n  \
    bitnet pull OWNER/NAME:model-q2_0.gguf@v1.0\n  \
    bitnet pull OWNER/NAME:safetensors --format json\n\n\
    Then: bitnet run --model OWNER/NAME --prompt \"Once upon a time\"\n\
    A download that broke off goes on where it was; `bitnet list` tells what is there, `bitnet rm` removes it.")]
pub struct PullArgs {
    /// OWNER/NAME, with :FILE (a file's name, a part of it such as the quantisation, or `safetensors`) where there are
    /// several, and @REVISION (branch, tag or commit) if not main
    #[arg(value_name = "MODEL")]
    pub model: HubModel,

    /// Ask nobody: say whether the model is there, and what is missing
    #[arg(long)]
    pub offline: bool,

    /// Download PyTorch's pickle files where a repository has nothing else
    #[arg(long)]
    pub allow_pickle: bool,

    /// Say what would be downloaded, and download nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Downloads what is missing.
///
/// # Errors
/// A model that is not there or not clear, no access, no room, a network that fails for longer than it is tried.
pub fn run(args: &PullArgs, env: &Environment) -> Result<Exit, CliError> {
    let cache = hub_cache(env)?;
    if args.offline || env.hub.offline {
        let found = cache.find(&args.model, true)?;
        return report(
            args,
            &found.path,
            &names_in(&found.path),
            json!({"commit": found.commit, "downloaded": false}),
        );
    }
    let hub = Hub::new(&env.hub, cache.clone())?;
    if hub.shows_token_openly() {
        notice(&format!(
            "the token goes to {} without encryption",
            hub.host()
        ));
    }
    let bars = DownloadBars::new(0);
    let repository = hub.repository(&args.model.id, &args.model.revision_or_default(), &bars)?;
    drop(bars);
    let wanted = WantedFiles {
        pattern: args.model.pattern.as_deref(),
        allow_pickle: args.allow_pickle,
    };
    let chosen = hub.choose(&repository, wanted).inspect_err(tell_choices)?;
    tell(&repository, &hub);
    let missing = hub.missing(&repository, &chosen);
    let n_bytes: u64 = missing
        .iter()
        .fold(0, |sum, (_, left)| sum.saturating_add(*left));
    let files: Vec<Value> = repository
        .files
        .iter()
        .filter(|file| chosen.files.contains(&file.name))
        .map(|file| json!({"name": file.name.as_str(), "bytes": file.size, "checksum": file.checksum.hex()}))
        .collect();
    let mut about = json!({
        "commit": repository.commit,
        "licence": repository.licence.as_ref().map(ToString::to_string),
        "files": files,
        "download_bytes": n_bytes,
    });
    notice(&match missing.len() {
        0 => "all of it is in the cache".to_owned(),
        1 => format!("1 file to download, {}", units::bytes(n_bytes)),
        n => format!("{n} files to download, {}", units::bytes(n_bytes)),
    });
    let path = match args.dry_run {
        true => planned(
            &cache,
            &repository,
            chosen.model.as_ref().map(|file| file.as_str()),
        ),
        false => {
            hub.pull(&repository, &chosen, &DownloadBars::new(n_bytes))?
                .path
        }
    };
    about["downloaded"] = json!(!args.dry_run && !missing.is_empty());
    let names: Vec<String> = chosen.files.iter().map(ToString::to_string).collect();
    report(args, &path, &names, about)
}

fn planned(cache: &Cache, repository: &Repository, file: Option<&str>) -> std::path::PathBuf {
    let snapshot = cache.snapshot(&repository.id, &repository.commit);
    match file {
        Some(file) => snapshot.join(file),
        None => snapshot,
    }
}

/// What the repository is, before anything is downloaded.
fn tell(repository: &Repository, hub: &Hub) {
    let licence = match &repository.licence {
        Some(licence) => format!("licence {licence}"),
        None => "its card names no licence".to_owned(),
    };
    let text = format!(
        "{} at {} ({:.12}) from {}, {licence}",
        repository.id,
        repository.revision,
        repository.commit,
        hub.host()
    );
    notice(&sanitize::one_line(&text));
    if repository.n_unusable > 0 {
        warning(&format!(
            "{} files of the repository are left out: their names lead elsewhere, or they have no checksum",
            repository.n_unusable
        ));
    }
}

/// The models of a repository with their sizes, above the error that asks to name one.
fn tell_choices(error: &HubError) {
    if let HubError::Choice { choices, .. } = error {
        let mut table = Table::new(&[("file", Align::Left), ("size", Align::Right)]);
        for (name, size) in choices {
            table.row(vec![name.clone(), units::bytes(*size)]);
        }
        notice(table.text().trim_end());
    }
}

/// The path to standard output, for scripts; the command to run it to standard error.
fn report(
    args: &PullArgs,
    path: &Path,
    names: &[String],
    mut about: Value,
) -> Result<Exit, CliError> {
    let model = args.model.to_string();
    let command = next_command(&model, path, names);
    let mut out = Out::stdout();
    match args.format {
        Format::Json => {
            about["model"] = json!(model);
            about["path"] = json!(path.display().to_string());
            about["command"] = json!(command);
            out.json(&about)?;
        }
        Format::Text => out.line(&sanitize::one_line(&path.display().to_string()))?,
    }
    out.flush()?;
    if let Some(command) = command.filter(|_| args.format == Format::Text && !args.dry_run) {
        notice(&format!("next: {command}"));
    }
    Ok(Exit::Ok)
}

/// What one does with a model of these files: runs it, or converts it where its weights are pickles; nothing with a
/// file that is no model.
fn next_command(model: &str, path: &Path, names: &[String]) -> Option<String> {
    let ends = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let is_directory = names.iter().any(|name| name == "config.json");
    if path.extension().is_some_and(|ending| ending == "gguf")
        || (is_directory && ends(".safetensors"))
    {
        return Some(format!(
            "bitnet run --model {model} --prompt \"Once upon a time\""
        ));
    }
    let is_pickle = is_directory && (ends(".bin") || ends(".pt"));
    is_pickle.then(|| format!("bitnet convert {model} model.gguf --allow-pickle"))
}

/// The files of a model in the cache.
fn names_in(path: &Path) -> Vec<String> {
    let entries = path.read_dir().into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_next_is_of_use_to_the_model() {
        let next = |path: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            next_command("o/n", Path::new(path), &names)
        };
        let run = next("x/m.gguf", &["m.gguf"]).unwrap();
        assert!(run.starts_with("bitnet run --model o/n "), "{run}");
        assert_eq!(next("x", &["config.json", "model.safetensors"]), Some(run));
        assert_eq!(
            next("x", &["config.json", "pytorch_model.bin"]).unwrap(),
            "bitnet convert o/n model.gguf --allow-pickle"
        );
        assert_eq!(next("x/config.json", &["config.json"]), None);
        assert_eq!(next("x/model.onnx", &["onnx/model.onnx"]), None);
    }
}
