//! `bitnet keys list`: the keys of a file, and what they have used of their quotas.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bitnet_server::auth::clock::unix_seconds;
use bitnet_server::auth::expiry;
use bitnet_server::auth::key_file;
use bitnet_server::auth::quota::{Quota, Used};
use bitnet_server::auth::usage_file;
use bitnet_server::config::{ServerConfig, Sources};
use clap::Args;
use serde_json::json;

use super::{FileArgs, failed};
use crate::exit::CliError;
use crate::output::{self, Format, Out};
use crate::table::{Align, Table};

/// Options of `bitnet keys list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The file.
    #[command(flatten)]
    pub file: FileArgs,

    /// File of the tokens that keys with a quota have used [default: as the settings say where auth.keys_file is that
    /// of --file, else that with .usage behind its name]
    #[arg(long, value_name = "FILE")]
    pub usage_file: Option<PathBuf>,

    /// text or json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Lists the keys.
///
/// # Errors
/// When the file of keys, or one of used tokens that is named, cannot be read.
pub(super) fn run(list: &ListArgs, out: &mut Out) -> Result<(), CliError> {
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
            out.json(&shown)
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
            out.text(&table.shown())
        }
    }
}

/// What keys have used, as the server has written it; `None` where nobody knows of such a file. One that is named is
/// there.
fn used_by_keys(list: &ListArgs) -> Result<Option<BTreeMap<String, Used>>, CliError> {
    let keys = &list.file.file;
    let configured = || {
        // Whatever else is wrong with the settings is none of the list's business.
        let auth = &ServerConfig::load(&Sources::of_process()).ok()?.auth;
        // Of keys that are others' it has no figures, and 0 is one.
        let is_theirs = is_same(auth.keys_file.as_ref()?, keys);
        auth.usage_path().filter(|_| is_theirs)
    };
    let named = list.usage_file.is_some();
    let path = list.usage_file.clone().or_else(configured);
    let path = path.unwrap_or_else(|| usage_file::of_keys(keys));
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

/// Whether two paths, both of which may be links, lead to one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    one == other || real(one).is_some_and(|one| real(other) == Some(one))
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
