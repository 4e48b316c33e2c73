//! `bitnet keys`: the API keys of a server.
//!
//! A key is shown once, when it is made; the file keeps its hash. A running server follows the file within seconds.

mod list;

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bitnet_hub::shell::quoted;
use bitnet_server::auth::Role;
use bitnet_server::auth::clock::unix_seconds;
use bitnet_server::auth::expiry::{self, ExpiryError};
use bitnet_server::auth::key_file::{self, KeyFileError, NewKey};
use bitnet_server::auth::quota::Quota;
use bitnet_server::auth::rate::RateLimits;
use bitnet_server::config::{ServerConfig, Sources};
use bitnet_server::model_manager::policy::OriginSource;
use bitnet_server::startup;
use clap::{Args, Subcommand, ValueEnum};

use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::model_source::ModelSource;
use crate::output::{self, Out};

pub use self::list::ListArgs;

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
            let file = &revoke.file.file;
            let entry = key_file::revoke(file, &revoke.id).map_err(|e| not_revoked(file, e))?;
            out.line(&format!("revoked {} ({})", entry.id, entry.name))?;
        }
        Action::List(list) => {
            list::run(list, &mut out)?;
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
            format!(
                "take it out with `{}`, and add it again",
                revoking(file, id)
            ),
        ),
    }
}

/// The command that takes a key out of a file.
fn revoking(file: &Path, id: &str) -> String {
    let file = file.display().to_string();
    format!("bitnet keys revoke --file {} {}", quoted(&file), quoted(id))
}

/// An id that is none leads to the key of that name, if there is one, else to the list.
fn not_revoked(file: &Path, error: KeyFileError) -> CliError {
    let hint = match &error {
        KeyFileError::NoSuchKey { named_so, .. } => match named_so.as_slice() {
            [id] => format!("`{}` takes that one out", revoking(file, id)),
            _ => {
                let file = file.display().to_string();
                let list = format!("bitnet keys list --file {}", quoted(&file));
                format!("keys are revoked by their id, which `{list}` shows")
            }
        },
        _ => return failed(error),
    };
    CliError::usage(error.to_string(), hint)
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
