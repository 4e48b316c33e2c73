//! `bitnet list`: the models that are downloaded, by whatever tool.

use std::time::SystemTime;

use bitnet_hub::cache::listing::{CachedRepository, CachedSnapshot};
use bitnet_server::auth::clock::unix_seconds;
use bitnet_server::auth::expiry;
use clap::Args;
use serde_json::{Value, json};

use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source::hub_cache;
use crate::output::{Format, Out, notice};
use crate::table::{Align, Table};
use crate::units;

/// Options of `bitnet list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet list\n  \
    bitnet list --files\n  \
    bitnet list --format json\n\n\
    The cache is the one of the Hub's own tools: what they have downloaded is listed too.")]
pub struct CacheListArgs {
    /// List the files of each model too
    #[arg(long)]
    pub files: bool,

    /// Format of the list
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Lists the cache.
///
/// # Errors
/// Where nobody says where the cache is.
pub fn run(args: &CacheListArgs, env: &Environment) -> Result<Exit, CliError> {
    let cache = hub_cache(env)?;
    let repositories = cache.list();
    let mut out = Out::stdout();
    match args.format {
        Format::Json => {
            let listed: Vec<Value> = repositories.iter().map(described).collect();
            out.json(&json!({"cache": cache.root().display().to_string(), "models": listed}))?;
        }
        Format::Text if repositories.is_empty() => {
            notice(&format!("no models in {}", cache.root().display()));
        }
        Format::Text => {
            out.text(&table(&repositories, args.files).text())?;
            let bytes =
                |of: fn(&CachedRepository) -> u64| -> u64 { repositories.iter().map(of).sum() };
            let unfinished = bytes(|repository| repository.unfinished_bytes);
            let unfinished = match unfinished {
                0 => String::new(),
                bytes => format!(", and {} of unfinished downloads", units::bytes(bytes)),
            };
            let all = units::bytes(bytes(|repository| repository.bytes));
            notice(&format!("{all} in {}{unfinished}", cache.root().display()));
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn table(repositories: &[CachedRepository], files: bool) -> Table {
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("revision", Align::Left),
        ("files", Align::Right),
        ("size", Align::Right),
        ("downloaded", Align::Left),
    ]);
    for repository in repositories {
        if repository.snapshots.is_empty() {
            let size = units::bytes(repository.bytes.saturating_add(repository.unfinished_bytes));
            table.row(vec![
                repository.id.to_string(),
                "unfinished".into(),
                "0".into(),
                size,
                "-".into(),
            ]);
        }
        for snapshot in &repository.snapshots {
            table.row(vec![
                repository.id.to_string(),
                revision(snapshot),
                snapshot.files.len().to_string(),
                units::bytes(snapshot.bytes()),
                // The day is enough here, and narrow; `--format json` has the second.
                snapshot
                    .modified
                    .map_or("-".into(), |at| written(at)[..10].to_owned()),
            ]);
            for (name, size) in snapshot.files.iter().filter(|_| files) {
                table.row(vec![
                    format!("  {name}"),
                    String::new(),
                    String::new(),
                    units::bytes(*size),
                    String::new(),
                ]);
            }
        }
    }
    table
}

/// The branches and tags, else the beginning of the commit.
fn revision(snapshot: &CachedSnapshot) -> String {
    match snapshot.revisions.is_empty() {
        true => format!("{:.12}", snapshot.commit),
        false => snapshot.revisions.join(", "),
    }
}

fn written(at: SystemTime) -> String {
    expiry::written(unix_seconds(at))
}

fn described(repository: &CachedRepository) -> Value {
    let snapshots: Vec<Value> = repository
        .snapshots
        .iter()
        .map(|snapshot| {
            let files: Vec<Value> = snapshot
                .files
                .iter()
                .map(|(name, size)| json!({"name": name.as_str(), "bytes": size}))
                .collect();
            json!({
                "commit": snapshot.commit,
                "revisions": snapshot.revisions,
                "path": snapshot.path.display().to_string(),
                "files": files,
                "bytes": snapshot.bytes(),
                "downloaded": snapshot.modified.map(written),
            })
        })
        .collect();
    json!({
        "model": repository.id.as_str(),
        "path": repository.path.display().to_string(),
        "bytes": repository.bytes,
        "unfinished_bytes": repository.unfinished_bytes,
        "snapshots": snapshots,
    })
}
