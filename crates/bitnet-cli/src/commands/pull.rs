//! `bitnet pull`: a model from the Hugging Face Hub, into the cache that its other tools use too.

use std::path::Path;

use bitnet_hub::cache::CachedModel;
use bitnet_hub::choice::{ChosenFiles, WantedFiles};
use bitnet_hub::shell::quoted;
use bitnet_hub::{Cache, Hub, HubError, HubFile, HubModel, Repository, Tries};
use clap::Args;
use serde::Serialize;

use crate::download_bars::DownloadBars;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::interrupt::LastWords;
use crate::model_source::hub_cache;
use crate::output::{Format, Out, notice, warning};
use crate::progress::Progress;
use crate::sanitize;
use crate::table::{Align, Table};
use crate::units;

/// Options of `bitnet pull`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet pull microsoft/bitnet-b1.58-2B-4T-gguf\n  \
    bitnet pull OWNER/NAME:TQ2_0 OWNER/OTHER\n  \
    bitnet pull OWNER/NAME:model-q2_0.gguf@v1.0\n  \
    bitnet pull OWNER/NAME:safetensors --format json\n  \
    bitnet pull https://huggingface.co/OWNER/NAME/blob/main/model-q2_0.gguf\n\n\
    Then: bitnet run --model OWNER/NAME --prompt \"Once upon a time\"\n\
    A download that broke off goes on where it was; `bitnet list` tells what is there, `bitnet rm` removes it.\n\
    With --verify --dry-run the exit code is 4 where something damaged was found.")]
pub struct PullArgs {
    /// OWNER/NAME, with :FILE (a file's name, a part of it such as the quantisation, or `safetensors`) where there are
    /// several, and @REVISION (branch, tag or commit) if not main; or the address of its page
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<String>,

    /// Ask nobody: say whether the model is there, and what is missing
    #[arg(long)]
    pub offline: bool,

    /// Read what is there already, compare it with the Hub's checksums, and fetch again what is damaged; with --dry-run
    /// only name it
    #[arg(long, conflicts_with = "offline")]
    pub verify: bool,

    /// Download PyTorch's pickle files where a repository has nothing else
    #[arg(long)]
    pub allow_pickle: bool,

    /// Say what would be downloaded, and download and remove nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Format of the report; JSON has a document for each model
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// What is said of a model at the end; without asking anybody not all of it is known.
#[derive(Serialize)]
struct Report {
    model: String,
    path: String,
    commit: String,
    files: Vec<ReportedFile>,
    /// Bytes that were to be downloaded, or would be.
    download_bytes: u64,
    downloaded: bool,
    /// What runs it, or the next step to that.
    command: Option<String>,
    licence: Option<String>,
    /// Names of the files that were found damaged, where they were compared.
    damaged: Option<Vec<String>>,
    /// Why nobody could be asked.
    unreachable: Option<String>,
}

#[derive(Serialize)]
struct ReportedFile {
    name: String,
    bytes: u64,
    checksum: Option<String>,
}

impl Report {
    /// Of a model that the cache has, when nobody was asked, because of `unreachable` where that was not the user's wish.
    fn of_cached(model: &HubModel, found: &CachedModel, unreachable: Option<&HubError>) -> Report {
        let files = found.files.iter().map(|(name, size)| ReportedFile {
            name: name.to_string(),
            bytes: *size,
            checksum: None,
        });
        Report {
            model: model.to_string(),
            path: found.path.display().to_string(),
            commit: found.commit.clone(),
            files: files.collect(),
            download_bytes: 0,
            downloaded: false,
            command: None,
            licence: None,
            damaged: None,
            unreachable: unreachable.map(ToString::to_string),
        }
    }
}

/// Downloads what is missing, one model after the other.
///
/// # Errors
/// A model that is not there or not clear, no access, no room, a network that fails for longer than it is tried.
pub fn run(args: &PullArgs, env: &Environment) -> Result<Exit, CliError> {
    let cache = hub_cache(env)?;
    let names = args.models.iter();
    let models: Vec<HubModel> = names
        .map(|name| env.hub.model(name))
        .collect::<Result<_, _>>()?;
    if args.verify && env.hub.offline {
        return Err(CliError::usage(
            "--verify compares with the Hub's checksums, and HF_HUB_OFFLINE says that nobody is asked",
            "unset HF_HUB_OFFLINE",
        ));
    }
    let mut is_damaged = false;
    for model in &models {
        let report = match args.offline || env.hub.offline {
            true => Report::of_cached(model, &cache.find(model, true)?, None),
            false => pull(args, env, model, || same_command(args, &models))?,
        };
        let damaged = report.damaged.as_ref();
        is_damaged |= damaged.is_some_and(|files| !files.is_empty());
        tell_report(args, report)?;
    }
    Ok(match is_damaged && args.dry_run {
        true => Exit::Disagrees,
        false => Exit::Ok,
    })
}

/// Downloads what is missing of one model; `command` goes on with the whole pull.
fn pull(
    args: &PullArgs,
    env: &Environment,
    model: &HubModel,
    command: impl Fn() -> String,
) -> Result<Report, CliError> {
    let cache = hub_cache(env)?;
    let hub = Hub::new(&env.hub, cache.clone())?;
    if hub.shows_token_openly() {
        notice(&format!(
            "the token goes to {} without encryption",
            hub.host()
        ));
    }
    // Whoever wants to know whether it is damaged is not helped by the copy itself.
    let cached = cache.find(model, true).ok().filter(|_| !args.verify);
    let repository = match (ask(&hub, model, cached.is_some()), cached) {
        (Err(error @ HubError::NoConnection { .. }), Some(found)) => {
            tell_cached(&error, model, &found);
            return Ok(Report::of_cached(model, &found, Some(&error)));
        }
        (asked, _) => asked?,
    };
    let wanted = WantedFiles {
        pattern: model.pattern.as_deref(),
        revision: model.revision.as_ref(),
        allow_pickle: args.allow_pickle,
    };
    let chosen = hub.choose(&repository, wanted).map_err(told_choices)?;
    tell(&repository, &hub);
    let damaged = match args.verify {
        true => verify(&hub, &repository, &chosen, args.dry_run)?,
        false => Vec::new(),
    };
    let mut missing = hub.missing(&repository, &chosen);
    if args.dry_run {
        missing.retain(|(file, _)| !damaged.contains(file));
        missing.extend(damaged.iter().map(|file| (*file, file.size)));
    }
    let n_bytes = sum(missing.iter().map(|(_, left)| *left));
    notice(&match missing.len() {
        0 => "all of it is in the cache".to_owned(),
        1 => format!("1 file to download, {}", units::bytes(n_bytes)),
        n => format!("{n} files to download, {}", units::bytes(n_bytes)),
    });
    let is_chosen = |file: &&HubFile| chosen.files.contains(&file.name);
    let files: Vec<&HubFile> = repository.files.iter().filter(is_chosen).collect();
    let path = match args.dry_run {
        true => planned(
            &cache,
            &repository,
            chosen.model.as_ref().map(|file| file.as_str()),
        ),
        false => {
            let bars = DownloadBars::new(n_bytes);
            let all = sum(files.iter().map(|file| file.size));
            let (left, told) = (bars.left(), command());
            let _words = LastWords::are(move || unfinished(all, left(), &told));
            let pulled = hub.pull(&repository, &chosen, &bars);
            let pulled = pulled.map_err(|error| {
                let missing = hub.missing(&repository, &chosen);
                let left = sum(missing.iter().map(|(_, left)| *left));
                broken_off(error, all, left, &command())
            });
            pulled?.path
        }
    };
    let files = files.iter().map(|file| ReportedFile {
        name: file.name.to_string(),
        bytes: file.size,
        checksum: Some(file.checksum.hex().to_owned()),
    });
    let damaged = damaged.iter().map(|file| file.name.to_string());
    Ok(Report {
        model: model.to_string(),
        path: path.display().to_string(),
        files: files.collect(),
        download_bytes: n_bytes,
        downloaded: !args.dry_run && !missing.is_empty(),
        command: None,
        licence: repository.licence.as_ref().map(ToString::to_string),
        damaged: args.verify.then(|| damaged.collect()),
        unreachable: None,
        commit: repository.commit,
    })
}

fn sum(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}

/// Asks what the repository holds; where nobody can be reached only once if the model is there anyway.
fn ask(hub: &Hub, model: &HubModel, is_cached: bool) -> Result<Repository, HubError> {
    let tries = match is_cached {
        true => Tries::One,
        false => Tries::Few,
    };
    let bars = DownloadBars::new(0);
    hub.repository(&model.id, &model.revision_or_default(), tries, &bars)
}

/// That nobody was asked whether the copy in the cache is still the one of its revision.
fn tell_cached(error: &HubError, model: &HubModel, found: &CachedModel) {
    let text = format!(
        "{error}; using the cached copy of revision {} ({:.12})",
        model.revision_or_default(),
        found.commit
    );
    notice(&sanitize::one_line(&text));
}

/// The chosen files in the cache that are damaged; they are taken out of it unless the run is dry.
fn verify<'a>(
    hub: &Hub,
    repository: &'a Repository,
    chosen: &ChosenFiles,
    dry_run: bool,
) -> Result<Vec<&'a HubFile>, CliError> {
    let missing = hub.missing(repository, chosen);
    let is_there = |file: &&HubFile| {
        chosen.files.contains(&file.name) && !missing.iter().any(|(absent, _)| absent == file)
    };
    let there: Vec<u64> = repository
        .files
        .iter()
        .filter(is_there)
        .map(|file| file.size)
        .collect();
    let progress = Progress::bytes("verifying", there.iter().sum());
    let damaged = hub.damaged(repository, chosen, &|n| progress.add(n))?;
    drop(progress);
    for file in &damaged {
        let does = if dry_run { "would be" } else { "is" };
        let name = file.name.as_str();
        warning(&format!("{name} is damaged and {does} fetched again"));
    }
    if damaged.is_empty() {
        notice(&match there.len() {
            0 => "nothing of it is in the cache that could be compared".to_owned(),
            1 => "1 file in the cache is what the Hub names".to_owned(),
            n => format!("{n} files in the cache are what the Hub names"),
        });
    }
    if !dry_run {
        hub.discard(repository, &damaged)?;
    }
    Ok(damaged)
}

/// What goes on with a pull that was interrupted.
fn same_command(args: &PullArgs, models: &[HubModel]) -> String {
    let mut command = String::from("bitnet pull");
    for model in models {
        command.push_str(&format!(" {}", quoted(&model.to_string())));
    }
    if args.allow_pickle {
        command.push_str(" --allow-pickle");
    }
    sanitize::one_line(&command)
}

/// What is kept of a pull that is unfinished, `left` of `all` bytes being still to come.
fn kept(all: u64, left: u64, command: &str) -> String {
    format!(
        "{} of {} are kept, and `{command}` goes on from there",
        units::bytes(all.saturating_sub(left)),
        units::bytes(all)
    )
}

/// The line after Ctrl-C.
fn unfinished(all: u64, left: u64, command: &str) -> String {
    let kept = kept(all, left, command);
    format!("interrupted: the download is unfinished; {kept}")
}

/// The error that ended a download, with what is kept of it, where the next pull may get further.
fn broken_off(error: HubError, all: u64, left: u64, command: &str) -> CliError {
    let goes_on = !matches!(error, HubError::NoModel { .. } | HubError::Space { .. });
    let mut error = CliError::from(error);
    if goes_on && left < all {
        error.hint = format!("{}; {}", error.hint, kept(all, left, command));
    }
    error
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

/// Tells the models of a repository with their sizes, above the error that asks to name one and need not list them; their
/// names whole, for one of them is to be typed.
fn told_choices(error: HubError) -> CliError {
    let HubError::Choice {
        id,
        pattern,
        are_meant,
        choices,
        ..
    } = &error
    else {
        return error.into();
    };
    let mut table = Table::new(&[("file", Align::Left), ("size", Align::Right)]);
    for (name, size) in choices {
        table.row(vec![name.clone(), units::bytes(*size)]);
    }
    notice(table.whole().trim_end());
    let message = match pattern {
        Some(pattern) if *are_meant => {
            format!("'{pattern}' means several files of {id}, these")
        }
        Some(pattern) => format!("'{pattern}' is no file of {id}, which has these"),
        None => format!("{id} has several models, these"),
    };
    let mut error = CliError::from(error);
    error.message = message;
    error
}

/// The path to standard output, for scripts; the command to run it to standard error.
fn tell_report(args: &PullArgs, mut report: Report) -> Result<(), CliError> {
    let names: Vec<&str> = report.files.iter().map(|file| &*file.name).collect();
    report.command = next_command(&quoted(&report.model), Path::new(&report.path), &names);
    let mut out = Out::stdout();
    match args.format {
        Format::Json => out.json(&report)?,
        Format::Text => out.line(&sanitize::one_line(&report.path))?,
    }
    out.flush()?;
    let command = report.command.filter(|_| !args.dry_run);
    if let (Format::Text, Some(command)) = (args.format, command) {
        notice(&format!("next: {command}"));
    }
    Ok(())
}

/// What one does with a model of these files: runs it, or converts it where its weights are pickles; nothing with a
/// file that is no model.
fn next_command(model: &str, path: &Path, names: &[&str]) -> Option<String> {
    let ends = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let is_directory = names.contains(&"config.json");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_tell_what_is_kept_and_the_same_command() {
        assert_eq!(
            unfinished(40_000_000, 30_000_000, "bitnet pull o/n"),
            "interrupted: the download is unfinished; 10.0 MB of 40.0 MB are kept, and `bitnet pull o/n` goes on from there"
        );
    }

    #[test]
    fn what_comes_next_is_of_use_to_the_model() {
        let next = |path: &str, names: &[&str]| next_command("o/n", Path::new(path), names);
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
