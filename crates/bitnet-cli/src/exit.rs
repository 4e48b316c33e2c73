//! How the command ends: exit codes, and errors of one line with one hint.
//!
//! Scripts branch on the code and people read two lines, so every failure of every command is turned into a
//! [`CliError`] and printed in one place. The codes are listed in `docs/cli.md`.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use bitnet_server::{CUT_OFF_EXIT, log};

use crate::sanitize;
use crate::units;

/// What kind of end it was; its number is the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done.
    Ok = 0,
    /// It failed at run time: a missing or unreadable file, no memory, no disk.
    Runtime = 1,
    /// The command was used wrongly: bad arguments, a prompt longer than the context.
    Usage = 2,
    /// The model file cannot be used: truncated, not a model, an architecture we do not know.
    Unusable = 3,
    /// A check ran and disagrees (`compat-check --strict` with warnings).
    Disagrees = 4,
    /// A server ended, and requests were cut off.
    CutOff = CUT_OFF_EXIT as isize,
    /// Ended by Ctrl-C: 128 + SIGINT, as shells report it.
    Interrupted = 130,
}

impl Exit {
    /// The process exit code of this class.
    pub fn code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// A failure as the user sees it: one line that says what is wrong and where, one that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    /// Decides the exit code.
    pub class: Exit,
    /// What went wrong, with its place; lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// A damaged model file would give such an error.
    pub may_be_damaged: bool,
    /// The reader of our output went away (`| head`): end without a word.
    quiet: bool,
}

impl CliError {
    /// An error of any class.
    pub fn new(class: Exit, message: impl Into<String>, hint: impl Into<String>) -> CliError {
        CliError {
            class,
            message: message.into(),
            hint: hint.into(),
            may_be_damaged: class == Exit::Unusable,
            quiet: false,
        }
    }

    /// Exit code 1.
    pub fn runtime(message: impl Into<String>, hint: impl Into<String>) -> CliError {
        CliError::new(Exit::Runtime, message, hint)
    }

    /// Exit code 2.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> CliError {
        CliError::new(Exit::Usage, message, hint)
    }

    /// Standard output failed. A closed pipe is the reader's choice and ends the command quietly with 0.
    pub fn output(error: &io::Error) -> CliError {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return CliError {
                class: Exit::Ok,
                message: String::new(),
                hint: String::new(),
                may_be_damaged: false,
                quiet: true,
            };
        }
        CliError::runtime(
            format!("cannot write to standard output: {error}"),
            "is the disk full that the output goes to?",
        )
    }

    /// A file of the user's could not be read or written; `doing` is "read" or "write".
    pub fn file(doing: &str, path: &std::path::Path, error: &io::Error) -> CliError {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                "check the path; relative paths start at the current directory"
            }
            io::ErrorKind::PermissionDenied => {
                "check the permissions of the file and of its directory"
            }
            io::ErrorKind::IsADirectory => "name a file, not a directory",
            io::ErrorKind::StorageFull => "free some space on that disk or name another one",
            _ => "check the path, the permissions and the free space of the disk",
        };
        CliError::runtime(
            format!("cannot {doing} {}: {}", path.display(), io_reason(error)),
            hint,
        )
    }

    /// Prints `error:` and `hint:` to standard error; control characters (a file's texts can be in the message)
    /// are removed, so each stays one line.
    pub fn report(&self, colour: bool) {
        if self.quiet {
            return;
        }
        if log::is_json() {
            return log::say_error(&self.message, &self.hint);
        }
        let (red, cyan, off) = if colour {
            ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let mut stderr = io::stderr().lock();
        // Nobody is left to tell when standard error itself is closed.
        let _ = writeln!(
            stderr,
            "{red}error:{off} {}",
            sanitize::one_line(&self.message)
        );
        if !self.hint.is_empty() {
            let _ = writeln!(
                stderr,
                "{cyan}hint:{off} {}",
                sanitize::one_line(&self.hint)
            );
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.hint)
    }
}

impl std::error::Error for CliError {}

impl From<bitnet_inference::Error> for CliError {
    fn from(error: bitnet_inference::Error) -> CliError {
        let class = match error.exit_code() {
            2 => Exit::Usage,
            3 => Exit::Unusable,
            _ => Exit::Runtime,
        };
        let hint = error
            .hint()
            .unwrap_or_else(|| "`bitnet COMMAND --help` lists what options may be".into());
        let mut told = CliError::new(class, error.to_string(), hint);
        told.may_be_damaged |= error.may_come_of_damage();
        told
    }
}

impl From<bitnet_hub::HubError> for CliError {
    fn from(error: bitnet_hub::HubError) -> CliError {
        use bitnet_hub::HubError;
        let class = match &error {
            HubError::NoModel { .. } => Exit::Unusable,
            error if error.is_usage() => Exit::Usage,
            _ => Exit::Runtime,
        };
        let message = match &error {
            HubError::Io {
                doing,
                path,
                source,
            } => format!("cannot {doing} {}: {}", path.display(), io_reason(source)),
            HubError::Space {
                folder,
                needed,
                free,
            } => format!(
                "{} are to be downloaded, and {} are free in {}",
                units::bytes(*needed),
                units::bytes(*free),
                folder.display()
            ),
            HubError::NotCached {
                model,
                cache,
                missing,
                unfinished: bytes @ 1..,
                ..
            } => format!(
                "{model} is not in the cache {}: {missing}, and {} of an unfinished download are there",
                cache.display(),
                units::bytes(*bytes)
            ),
            error => error.to_string(),
        };
        CliError::new(class, message, error.hint())
    }
}

impl From<bitnet_models::ModelError> for CliError {
    fn from(error: bitnet_models::ModelError) -> CliError {
        bitnet_inference::Error::from(error).into()
    }
}

impl From<bitnet_kernels::KernelError> for CliError {
    fn from(error: bitnet_kernels::KernelError) -> CliError {
        bitnet_inference::Error::from(error).into()
    }
}

impl From<bitnet_tokenizers::TokenizerError> for CliError {
    fn from(error: bitnet_tokenizers::TokenizerError) -> CliError {
        bitnet_inference::Error::from(error).into()
    }
}

/// An I/O error's reason in plain words, without the number that the operating system adds.
pub fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::IsADirectory => "it is a directory".into(),
        _ => {
            let text = error.to_string();
            match text.find(" (os error") {
                Some(end) => text[..end].to_lowercase(),
                None => text,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_quiet_and_no_failure() {
        let error = CliError::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(error.quiet);
        assert_eq!(error.class, Exit::Ok);
        assert!(!CliError::output(&io::Error::from(io::ErrorKind::StorageFull)).quiet);
    }

    #[test]
    fn reasons_have_no_error_numbers() {
        let error = io::Error::from_raw_os_error(28);
        assert!(
            !io_reason(&error).contains("os error"),
            "{}",
            io_reason(&error)
        );
    }
}
