//! `bitnet keys`: the API keys of a server.
//!
//! A key is shown once, when it is made; the file keeps its hash. A running server follows the file within seconds.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bitnet_server::auth::Role;
use bitnet_server::auth::clock::unix_seconds;
use bitnet_server::auth::expiry::{self, ExpiryError};
use bitnet_server::auth::key_file::{self, KeyFileError, NewKey};
use bitnet_server::auth::quota::{Quota, Used};
use bitnet_server::auth::rate::RateLimits;
use bitnet_server::auth::usage_file;
use bitnet_server::config::{ServerConfig, Sources};
use bitnet_server::model_manager::policy::OriginSource;
use bitnet_server::startup;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source::ModelSource;
use crate::output::{self, Format, Out};
use crate::table::{Align, Table};

/// Options of `bitnet keys`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet keys add --file keys.json --name alice\n  \
    bitnet keys add --file keys.json --name ops --role admin\n  \
    bitnet keys add --file keys.json --name guest --expires 30d --models stories\n  \
    bitnet keys list --file keys.json\n  \
    bitnet keys revoke --file keys.json 0123abcd")]
pub struct KeysArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What may be done with keys.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Make a key, print it once, and keep its hash
    Add(AddArgs),
    /// Take a key out of the file
    Revoke(RevokeArgs),
    /// List the keys of the file
    List(ListArgs),
}

/// The file that all of them work on.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// The file of hashed keys, as the setting auth.keys_file names it
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
}

/// Options of `bitnet keys add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The file.
    #[command(flatten)]
    pub file: FileArgs,

    /// Whose key it is: letters, digits and ._-
    #[arg(long)]
    pub name: String,

    /// What it opens
    #[arg(long, value_enum, default_value_t = RoleName::Infer)]
    pub role: RoleName,

    /// Requests a minute; 0: as the server's limits say
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub requests_per_minute: u32,

    /// Tokens a minute, prompts and answers together; 0: as the server's limits say
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub tokens_per_minute: u32,

    /// Requests at once; 0: as the server's limits say
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub concurrent_requests: u32,

    /// Tokens a day (of UTC), prompts and answers together; 0: no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub tokens_per_day: u64,

    /// Tokens a month, likewise; 0: no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub tokens_per_month: u64,

    /// When it stops being good: 12h, 30d, 8w or a date such as 2027-01-31, in UTC [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_expiry)]
    pub expires: Option<u64>,

    /// Ids of the models that it is good for, separated by commas [default: all]
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub models: Option<Vec<String>>,

    /// Configuration file of the server, to hold the ids against [default: the variable BITNET_SERVER__CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Options of `bitnet keys revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The file.
    #[command(flatten)]
    pub file: FileArgs,

    /// The key's id, the part between the underscores
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Options of `bitnet keys list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The file.
    #[command(flatten)]
    pub file: FileArgs,

    /// File of the tokens that keys with a quota have used [default: as the settings say, else FILE.usage]
    #[arg(long, value_name = "FILE")]
    pub usage_file: Option<PathBuf>,

    /// text or json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// A role on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Use models
    Infer,
    /// Manage models and the server too
    Admin,
}

/// Runs the command.
///
/// # Errors
/// When the file cannot be used, or has no such key.
pub fn run(args: &KeysArgs, env: &Environment) -> Result<Exit, CliError> {
    let mut out = Out::stdout();
    match &args.action {
        Action::Add(add) => {
            warn_of_models(add, env)?;
            let (day, month) = (add.tokens_per_day, add.tokens_per_month);
            if (1..day).contains(&month) {
                output::warning(&format!(
                    "--tokens-per-month {month} is less than --tokens-per-day {day}: no day ever has as many"
                ));
            }
            let new = NewKey {
                name: &add.name,
                role: match add.role {
                    RoleName::Infer => Role::Infer,
                    RoleName::Admin => Role::Admin,
                },
                limits: RateLimits {
                    requests_per_minute: add.requests_per_minute,
                    tokens_per_minute: add.tokens_per_minute,
                    concurrent_requests: add.concurrent_requests,
                },
                quota: Quota {
                    tokens_per_day: add.tokens_per_day,
                    tokens_per_month: add.tokens_per_month,
                },
                expires: add.expires,
                models: add.models.clone(),
            };
            let key = key_file::add(&add.file.file, &new).map_err(failed)?;
            if let Err(error) = out.line(key.reveal()).and_then(|()| out.flush()) {
                return Err(not_shown(&add.file.file, key.id(), &error));
            }
            output::notice("this key is shown only now; the file keeps a hash of it");
        }
        Action::Revoke(revoke) => {
            let entry = key_file::revoke(&revoke.file.file, &revoke.id).map_err(failed)?;
            out.line(&format!("revoked {} ({})", entry.id, entry.name))?;
        }
        Action::List(list) => {
            let keys = key_file::entries(&list.file.file).map_err(failed)?;
            let now = unix_seconds(SystemTime::now());
            let used = match keys.iter().any(|key| !key.quota.is_none()) {
                true => used_by_keys(list)?,
                false => None,
            };
            let used = |id: &str| {
                let used = used.as_ref()?.get(id).copied().unwrap_or_default();
                Some(used.at(now))
            };
            match list.format {
                Format::Json => {
                    let shown: Vec<_> = keys
                        .iter()
                        .map(|key| {
                            let used = used(&key.id).filter(|_| !key.quota.is_none());
                            let used = used.map(|used| {
                                json!({"tokens_today": used.in_day, "tokens_this_month": used.in_month})
                            });
                            json!({"id": key.id, "name": key.name, "role": key.role, "created": key.created,
                                "limits": key.limits, "quota": key.quota, "used": used, "expires": key.expires,
                                "has_expired": key.has_expired(now), "models": key.models})
                        })
                        .collect();
                    out.json(&shown)?;
                }
                Format::Text => {
                    let mut columns = vec![
                        ("id", Align::Left),
                        ("name", Align::Left),
                        ("role", Align::Left),
                        ("requests/min", Align::Right),
                        ("tokens/min", Align::Right),
                        ("at once", Align::Right),
                        ("expires", Align::Left),
                        ("models", Align::Left),
                    ];
                    // Few keys have one, and a line has not room for everything.
                    let have_quotas = keys.iter().any(|key| !key.quota.is_none());
                    columns.extend(have_quotas.then_some(("quota", Align::Left)));
                    let mut table = Table::new(&columns);
                    let limit = |limit: u32| match limit {
                        0 => "-".to_owned(),
                        limit => limit.to_string(),
                    };
                    for key in &keys {
                        let mut row = vec![
                            key.id.clone(),
                            key.name.clone(),
                            key.role.name().to_owned(),
                            limit(key.limits.requests_per_minute),
                            limit(key.limits.tokens_per_minute),
                            limit(key.limits.concurrent_requests),
                            match key.expires {
                                None => "never".to_owned(),
                                Some(_) if key.has_expired(now) => "expired".to_owned(),
                                // The day is enough here, and narrow; `--format json` has the second.
                                Some(at) => expiry::written(at)[..10].to_owned(),
                            },
                            key.models
                                .as_ref()
                                .map_or("all".to_owned(), |ids| ids.join(",")),
                        ];
                        row.extend(have_quotas.then(|| quota(key.quota, used(&key.id))));
                        table.row(row);
                    }
                    out.text(&table.shown())?;
                }
            }
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// Tells which of the key's models the configuration does not have, if there is one to look at. The key is made all the
/// same: an administrator may load the model later.
fn warn_of_models(add: &AddArgs, env: &Environment) -> Result<(), CliError> {
    let Some(ids) = &add.models else {
        return Ok(());
    };
    let sources = Sources {
        file: add.config.clone(),
        ..Sources::of_process()
    };
    let config = match ServerConfig::load(&sources) {
        Ok(config) if config.file().is_none() => return Ok(()),
        Ok(config) => config,
        Err(error) if add.config.is_some() => {
            let hint = "docs/config.md has every setting";
            return Err(CliError::usage(error.to_string(), hint));
        }
        // Nobody asked for it here.
        Err(error) => {
            output::warning(&format!(
                "the ids of --models are held against nothing: {error}"
            ));
            return Ok(());
        }
    };
    let default_model = config.models.default_model.as_deref();
    let first = match ModelSource::choose_for_server(default_model, env) {
        Ok(source) => source.origin(),
        // Then nobody asks what the model would be called.
        Err(_) if config.models.served_model_name.is_some() => {
            OriginSource::Path(default_model.unwrap_or_default().into())
        }
        // The server may find it where it is: in another folder, or in the cache of another user.
        Err(error) => {
            output::warning(&format!(
                "the ids of --models are held against nothing, since what the server's first model is called is not \
                 known: {}",
                error.message
            ));
            return Ok(());
        }
    };
    let known = startup::names_of(&config, &first);
    for id in ids.iter().filter(|id| !known.contains(id)) {
        let known = known.join(", ");
        output::warning(&format!(
            "no setting configures the model '{id}': there is {known} until an administrator loads others"
        ));
    }
    Ok(())
}

/// What keys have used, as the server has written it; `None` where nobody knows of such a file. One that is named is
/// there.
fn used_by_keys(list: &ListArgs) -> Result<Option<BTreeMap<String, Used>>, CliError> {
    let configured = || {
        // Whatever else is wrong with the settings is none of the list's business.
        let config = ServerConfig::load(&Sources::of_process()).ok()?;
        config.auth.usage_file.clone()
    };
    let named = list.usage_file.is_some();
    let path = list.usage_file.clone().or_else(configured);
    let path = path.unwrap_or_else(|| usage_file::of_keys(&list.file.file));
    if !named && !path.exists() {
        return Ok(None);
    }
    if let Err(error) = path.metadata() {
        return Err(CliError::file("read", &path, &error));
    }
    match usage_file::read(&path) {
        Ok(used) => Ok(Some(used)),
        Err(error) if named => Err(CliError::runtime(
            error.to_string(),
            "name the file that the server has as auth.usage_file",
        )),
        Err(error) => {
            output::warning(&format!("what was used of quotas is not shown: {error}"));
            Ok(None)
        }
    }
}

/// A quota in a cell, with what is used of it where that is known: `1200 of 90000/day`.
fn quota(quota: Quota, used: Option<Used>) -> String {
    let parts = [
        (quota.tokens_per_day, used.map(|used| used.in_day), "day"),
        (
            quota.tokens_per_month,
            used.map(|used| used.in_month),
            "month",
        ),
    ];
    let parts = parts.iter().filter(|(tokens, _, _)| *tokens > 0);
    let parts: Vec<String> = parts
        .map(|(tokens, used, time)| match used {
            Some(used) => format!("{used} of {tokens}/{time}"),
            None => format!("{tokens}/{time}"),
        })
        .collect();
    match parts.is_empty() {
        true => "-".to_owned(),
        false => parts.join(", "),
    }
}

fn parse_expiry(text: &str) -> Result<u64, ExpiryError> {
    expiry::parse(text, unix_seconds(SystemTime::now()))
}

/// Whether what is written has no room: on the disk, in the user's share of it, or in a file.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// A key that nobody has seen opens nothing: it is taken out again.
fn not_shown(file: &Path, id: &str, error: &CliError) -> CliError {
    let why = match error.message.as_str() {
        "" => "nobody reads standard output",
        message => message,
    };
    match key_file::revoke(file, id) {
        Ok(_) => CliError::runtime(
            format!("{why}, so the key could not be shown and was taken out of the file again"),
            "add it again where its output can be read",
        ),
        Err(left) => CliError::runtime(
            format!("{why}, so the key {id} could not be shown, and it stays in the file: {left}"),
            format!("take it out with `bitnet keys revoke {id}`, and add it again"),
        ),
    }
}

fn failed(error: KeyFileError) -> CliError {
    let message = error.to_string();
    match error {
        KeyFileError::Io { source, .. } if is_full(&source) => CliError::runtime(
            message,
            "free some space on that disk; the file is what it was",
        ),
        KeyFileError::Io { .. } => CliError::runtime(
            message,
            "check the path and who may write there; `bitnet keys add` makes the file",
        ),
        KeyFileError::Owner { .. } => CliError::runtime(
            message,
            "run the command as that user, for instance with sudo -u",
        ),
        KeyFileError::Invalid { .. } => CliError::runtime(
            message,
            "restore the file from a copy, or remove it and add the keys anew",
        ),
        KeyFileError::Name
        | KeyFileError::Models
        | KeyFileError::NameTaken { .. }
        | KeyFileError::NoSuchKey { .. } => {
            CliError::usage(message, "`bitnet keys --help` shows examples")
        }
    }
}
