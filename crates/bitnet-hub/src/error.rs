//! What can go wrong between here and a model's files, and what to do then.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::name::{FileName, HubModel, RepositoryId, Revision};
use crate::shell::quoted;

/// Why a model could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A name that cannot be one.
    #[error("'{name}' is not {what}: {why}")]
    Name {
        /// What it should be, with its article.
        what: &'static str,
        /// What was said.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },

    /// A setting that cannot be used.
    #[error("{name} cannot be used: {why}")]
    Setting {
        /// Its variable.
        name: &'static str,
        /// What is wrong with it; secrets are not in it.
        why: String,
    },

    /// The file system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was done, as "write".
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },

    /// No answer, or a broken one, as often as it was tried.
    #[error("the connection to {host} failed: {why}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// What the last attempt said.
        why: String,
    },

    /// Nobody to talk to: the host has no address, or nobody takes the connection.
    #[error("{host} cannot be reached: {why}")]
    NoConnection {
        /// Host and port.
        host: String,
        /// What the last attempt said.
        why: String,
    },

    /// The proxy that is to connect does not want to: it asks for a login, or forbids the host.
    #[error("the proxy {proxy} refuses to connect (status {status})")]
    Proxy {
        /// Host and port of the proxy.
        proxy: String,
        /// HTTP's number.
        status: u16,
    },

    /// The file that may have a token has something else, or cannot be read.
    #[error("{} {why}", path.display())]
    TokenFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, as "holds no token".
        why: String,
    },

    /// An answer whose status says no.
    #[error("{host} answers with status {status} to {what}")]
    Status {
        /// Host and port.
        host: String,
        /// HTTP's number.
        status: u16,
        /// What was asked for.
        what: String,
    },

    /// The server wants to be left alone for longer than anybody waits.
    #[error("{host} wants no request for {} s (status {status})", wait.as_secs())]
    Busy {
        /// Host and port.
        host: String,
        /// HTTP's number.
        status: u16,
        /// For how long.
        wait: Duration,
    },

    /// An answer that is not what the Hub answers.
    #[error("{host} answers, but not as the Hub does: {why}")]
    Answer {
        /// Host and port.
        host: String,
        /// What is wrong with it.
        why: String,
    },

    /// A page for people where the Hub's answer should be.
    #[error("{host} answers with a web page where the Hub's answer should be")]
    WebPage {
        /// Host and port of who sends it.
        host: String,
    },

    /// A redirect that is not followed.
    #[error("{host} redirects to where nothing is fetched from: {why}")]
    Redirect {
        /// Host and port of who redirects.
        host: String,
        /// What is wrong with it.
        why: &'static str,
    },

    /// A repository whose owner asks for consent or a request first.
    #[error("{id} is gated: its owner gives access to accounts that asked for it")]
    Gated {
        /// Which.
        id: RepositoryId,
        /// Where access is asked for.
        page: String,
        /// Whether a token was shown.
        token_shown: bool,
    },

    /// An answer of 403 that says nothing of a gate.
    #[error("{host} forbids {what} of {id} (status 403), and says nothing of a gate")]
    Forbidden {
        /// Of which repository.
        id: RepositoryId,
        /// Host and port.
        host: String,
        /// What was asked for.
        what: String,
        /// Whether a token was shown.
        token_shown: bool,
    },

    /// A repository that is not there, or that is private.
    #[error("there is no repository {id} on {host}, or it is private")]
    NoRepository {
        /// Which.
        id: RepositoryId,
        /// Host and port.
        host: String,
        /// Whether a token was shown.
        token_shown: bool,
    },

    /// The token is not one that the Hub knows.
    #[error("{host} does not accept the token")]
    Token {
        /// Host and port.
        host: String,
    },

    /// A revision that is not there.
    #[error("{id} has no revision {revision}")]
    NoRevision {
        /// Of which repository.
        id: RepositoryId,
        /// Which.
        revision: Revision,
    },

    /// A repository that holds nothing to run.
    #[error("{id} holds no model that can be run: {why}")]
    NoModel {
        /// Which.
        id: RepositoryId,
        /// What it has instead.
        why: String,
        /// What to do.
        hint: String,
    },

    /// Several files could be meant.
    #[error("{}", several(id, pattern.as_deref(), *are_meant, choices))]
    Choice {
        /// Of which repository.
        id: RepositoryId,
        /// What was said of the file.
        pattern: Option<String>,
        /// What was said of the revision.
        revision: Option<Revision>,
        /// Whether what was said means all of `choices`, rather than none of them.
        are_meant: bool,
        /// What could be meant, as it would be written after the colon, each with its bytes.
        choices: Vec<(String, u64)>,
    },

    /// The content is not what the Hub says that it is.
    #[error("{}", wrong_sum(file, expected, found, *n_earlier))]
    Checksum {
        /// Which.
        file: FileName,
        /// Hexadecimal.
        expected: String,
        /// Hexadecimal.
        found: String,
        /// Bytes of it that an earlier download brought; all others came over the network just now.
        n_earlier: u64,
    },

    /// The content has not the size that the Hub says.
    #[error("{file} has {expected} bytes by what the Hub says, and {host} sends {found}")]
    Length {
        /// Which.
        file: FileName,
        /// Host and port of who sends.
        host: String,
        /// Bytes.
        expected: u64,
        /// Bytes, as far as they are known.
        found: String,
    },

    /// Not enough room.
    #[error("{needed} bytes are to be downloaded, and {} has {free} bytes left", folder.display())]
    Space {
        /// Where they would go.
        folder: PathBuf,
        /// Bytes that are missing in the cache.
        needed: u64,
        /// Bytes free.
        free: u64,
    },

    /// Not in the cache, and nothing may be downloaded, or nobody asked for it.
    #[error("{model} is not in the cache {}: {missing}{}", cache.display(), begun(*unfinished))]
    NotCached {
        /// What was asked for.
        model: Box<HubModel>,
        /// Where it was looked for.
        cache: PathBuf,
        /// What is missing.
        missing: String,
        /// Bytes of the repository that downloads have brought which were not finished.
        unfinished: u64,
        /// Whether the network was ruled out, rather than not asked for.
        offline: bool,
    },

    /// A file of a branch or tag is to be removed whose commit has other names too.
    #[error("{model} cannot be removed alone: {} the same commit", told(.others))]
    SameCommit {
        /// What was asked for.
        model: Box<HubModel>,
        /// The other branches and tags.
        others: Vec<String>,
    },

    /// Another file of the same pull has failed; that one's error is the pull's.
    #[error("another file of the pull has failed")]
    Stopped,

    /// Another process downloads it right now.
    #[error("another process is downloading a file of {id}")]
    InUse {
        /// Which repository.
        id: RepositoryId,
    },
}

/// That the bytes of a file are not what they should be, and whose they are.
fn wrong_sum(file: &FileName, expected: &str, found: &str, n_earlier: u64) -> String {
    let came = match n_earlier {
        0 => "came over the network damaged".to_owned(),
        n => format!("is damaged, of which {n} bytes were in the cache before"),
    };
    format!("{file} {came}: its checksum is {found}, and {expected} is what the Hub names")
}

/// The end of a sentence about what is missing.
fn begun(unfinished: u64) -> String {
    match unfinished {
        0 => String::new(),
        n => format!(", and {n} bytes of an unfinished download are there"),
    }
}

/// Names as the subject of a sentence, with their verb.
fn told(names: &[String]) -> String {
    let are = if names.len() == 1 { "is" } else { "are" };
    format!("{} {are}", names.join(", "))
}

impl HubError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            HubError::Name { .. } => {
                "models are named OWNER/NAME, OWNER/NAME:FILE or OWNER/NAME:FILE@REVISION".into()
            }
            HubError::Setting { name, .. } => format!("set {name} anew, or unset it"),
            HubError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some space and pull again".into()
                }
                _ => "check the path and its permissions; HF_HUB_CACHE names another folder".into(),
            },
            HubError::Unreachable { .. } => {
                "check the connection and pull again; HF_ENDPOINT names a mirror".into()
            }
            HubError::NoConnection { .. } => {
                "check the connection, HTTPS_PROXY and HF_ENDPOINT, which names a mirror; `bitnet list` tells what is \
                 there without asking anybody"
                    .into()
            }
            HubError::Proxy { status, .. } => match status {
                407 => "it wants a login: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT has one".into(),
                _ => "ask whoever runs it, name another one by HTTPS_PROXY, or the host in NO_PROXY; HF_ENDPOINT names \
                      a mirror"
                    .into(),
            },
            HubError::TokenFile { .. } => {
                "write one token into it and nothing else, or remove it: most models need none".into()
            }
            HubError::WebPage { .. } => {
                "a network that wants a login first, a proxy or a firewall answers so: open the address in a browser; \
                 HF_ENDPOINT, where it is set, must be the address of a Hub"
                    .into()
            }
            HubError::Status { status: 500.., .. } | HubError::Busy { .. } => {
                "wait a while and pull again; HF_ENDPOINT names a mirror".into()
            }
            HubError::Status { .. } | HubError::Answer { .. } | HubError::Redirect { .. } => {
                "is HF_ENDPOINT, where it is set, the address of a Hub?".into()
            }
            HubError::Gated {
                page, token_shown, ..
            } => match token_shown {
                true => format!(
                    "ask for access at {page} with the account of the token, and see that the token may read it"
                ),
                false => format!("ask for access at {page}, then set HF_TOKEN to a token of that account"),
            },
            HubError::Forbidden { token_shown, .. } => match token_shown {
                true => "see that the token may read it (fine-grained ones name their repositories); a proxy or a firewall \
                         on the way answers so too"
                    .into(),
                false => "a proxy or a firewall on the way may answer so; a private repository needs a token in HF_TOKEN"
                    .into(),
            },
            HubError::NoRepository { token_shown, .. } => match token_shown {
                true => "check the name, and that the token's account may read it".into(),
                false => "check the name; a private one needs a token in HF_TOKEN".into(),
            },
            HubError::Token { .. } => "set HF_TOKEN to a valid token, or unset it: most models need none".into(),
            HubError::NoRevision { .. } => "its page on the Hub lists branches and tags".into(),
            HubError::NoModel { hint, .. } => hint.clone(),
            HubError::Choice {
                id,
                revision,
                choices,
                ..
            } => {
                let example = HubModel {
                    id: id.clone(),
                    pattern: choices.first().map(|(name, _)| name.clone()),
                    revision: revision.clone(),
                };
                format!("name one, as {}", quoted(&example.to_string()))
            }
            HubError::Checksum { .. } | HubError::Length { .. } => {
                "pull again; if it stays so, the server, or something on the way, changes the file".into()
            }
            HubError::Space { .. } => {
                "free some space (`bitnet list` tells what models take), or name another folder by HF_HUB_CACHE".into()
            }
            HubError::NotCached {
                model,
                offline,
                unfinished,
                ..
            } => {
                let without = match offline {
                    true => " without --offline and HF_HUB_OFFLINE",
                    false => "",
                };
                let on = match unfinished {
                    0 => "",
                    _ => ", and goes on with what there is of it",
                };
                let model = model.to_string();
                format!("`bitnet pull {}`{without} downloads it{on}", quoted(&model))
            }
            HubError::SameCommit { model, .. } => {
                let model = HubModel {
                    revision: None,
                    ..(**model).clone()
                };
                let model = model.to_string();
                format!("`bitnet rm {}` removes the file under all names", quoted(&model))
            }
            HubError::Stopped => "pull again: what has arrived is kept".into(),
            HubError::InUse { .. } => "wait until it has ended, or end it".into(),
        }
    }

    /// Whether what was asked for is at fault, not how it went.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            HubError::Name { .. }
                | HubError::Setting { .. }
                | HubError::TokenFile { .. }
                | HubError::Choice { .. }
        )
    }

    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> HubError {
        let path = path.into();
        move |source| HubError::Io {
            doing,
            path,
            source,
        }
    }
}

fn several(
    id: &RepositoryId,
    pattern: Option<&str>,
    are_meant: bool,
    choices: &[(String, u64)],
) -> String {
    let names: Vec<&str> = choices.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(", ");
    match pattern {
        Some(pattern) if are_meant => {
            format!("'{pattern}' means several files of {id}: {names}")
        }
        Some(pattern) => format!("'{pattern}' is no file of {id}, which has {names}"),
        None => format!("{id} has several models: {names}"),
    }
}
