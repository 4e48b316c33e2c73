//! The environment, read here and nowhere else in the process.
//!
//! Precedence is flag, environment, default: commands ask [`Environment`] only for what no flag gave. A variable that
//! is set to the empty string counts as unset, as shells make it easy to end up with one. [`VARIABLES`] is the table
//! that `--help` and `docs/cli.md` print.

use std::ffi::OsString;
use std::path::PathBuf;

use bitnet_hub::HubSettings;
use bitnet_inference::{DETERMINISTIC_SEED, PackedCache};
use bitnet_server::client::BearerKey;

use crate::args::{Device, parse_device, parse_threads};
use crate::exit::CliError;

/// One variable: its name, its values, what it does.
#[derive(Debug)]
pub struct Variable {
    /// Name as it is set in a shell.
    pub name: &'static str,
    /// What it may be set to.
    pub values: &'static str,
    /// What it does, and the flag that overrides it.
    pub meaning: &'static str,
}

/// Every variable that the command reads.
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "BITNET_GGUF",
        values: "PATH",
        meaning: "model, when there is no --model",
    },
    Variable {
        name: "BITNET_TOKENIZER",
        values: "PATH",
        meaning: "tokenizer, when there is no --tokenizer",
    },
    Variable {
        name: "BITNET_DEVICE",
        values: "auto|cpu",
        meaning: "device, when there is no --device",
    },
    Variable {
        name: "BITNET_CPU_THREADS",
        values: "N",
        meaning: "threads, when there is no --threads",
    },
    Variable {
        name: "BITNET_KERNEL",
        values: "NAME",
        meaning: "kernel, when there is no --kernel (names: --version)",
    },
    Variable {
        name: "BITNET_FULL_HEAD",
        values: "0|1",
        meaning: "1: as --full-head",
    },
    Variable {
        name: "BITNET_DENSE",
        values: "0|1",
        meaning: "1: as --dense, read also the weights of channels that are 0",
    },
    Variable {
        name: "BITNET_SEED",
        values: "N",
        meaning: "seed of sampling, when there is no --seed",
    },
    Variable {
        name: "BITNET_DETERMINISTIC",
        values: "0|1",
        meaning: "1: without a seed, use 42 instead of a random one",
    },
    Variable {
        name: "BITNET_STRICT_TOKENIZERS",
        values: "0|1",
        meaning: "1: refuse to repair or guess a tokenizer",
    },
    Variable {
        name: "BITNET_CACHE",
        values: "FOLDER",
        meaning: "where packed weights are kept, without --no-cache",
    },
    Variable {
        name: "BITNET_API_KEY",
        values: "KEY",
        meaning: "key for ps, load, swap, rollback, unload, without --key-file",
    },
    Variable {
        name: "BITNET_LOG",
        values: "FILTER",
        meaning: "log to standard error: error, warn, info, debug, trace",
    },
    Variable {
        name: "HF_HOME",
        values: "FOLDER",
        meaning: "where the Hub's tools have cache and token",
    },
    Variable {
        name: "HF_HUB_CACHE",
        values: "FOLDER",
        meaning: "where downloaded models are, instead of HF_HOME/hub",
    },
    Variable {
        name: "HF_TOKEN",
        values: "TOKEN",
        meaning: "token to show to the Hub",
    },
    Variable {
        name: "HF_TOKEN_PATH",
        values: "FILE",
        meaning: "file with the token, instead of HF_HOME/token",
    },
    Variable {
        name: "HF_ENDPOINT",
        values: "URL",
        meaning: "mirror to pull from, instead of huggingface.co",
    },
    Variable {
        name: "HF_HUB_OFFLINE",
        values: "0|1",
        meaning: "1: pull asks nobody, as --offline",
    },
    Variable {
        name: "HTTPS_PROXY",
        values: "URL",
        meaning: "proxy to pull through, else ALL_PROXY; not for NO_PROXY",
    },
    Variable {
        name: "NO_COLOR",
        values: "any",
        meaning: "no colour, on terminals too",
    },
];

/// What the environment says, parsed and checked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `BITNET_GGUF`
    pub model: Option<String>,
    /// `BITNET_TOKENIZER`
    pub tokenizer: Option<PathBuf>,
    /// `BITNET_DEVICE`
    pub device: Option<Device>,
    /// `BITNET_CPU_THREADS`
    pub threads: Option<usize>,
    /// `BITNET_KERNEL`
    pub kernel: Option<String>,
    /// `BITNET_FULL_HEAD`
    pub full_head: bool,
    /// `BITNET_DENSE`
    pub dense: bool,
    /// `BITNET_SEED`
    pub seed: Option<u64>,
    /// `BITNET_DETERMINISTIC`
    pub deterministic: bool,
    /// `BITNET_STRICT_TOKENIZERS`
    pub strict_tokenizers: bool,
    /// `BITNET_CACHE`, else a folder of ours in the one where programs keep what can be made again.
    pub cache: Option<PathBuf>,
    /// `BITNET_API_KEY`
    pub api_key: Option<BearerKey>,
    /// `BITNET_LOG`
    pub log: Option<String>,
    /// `HF_*` and the variables of proxies
    pub hub: HubSettings,
    /// `NO_COLOR`
    pub no_color: bool,
}

impl Environment {
    /// The process's environment.
    ///
    /// # Errors
    /// A usage error that names the variable whose value is invalid.
    pub fn read() -> Result<Environment, CliError> {
        Environment::from_lookup(|name| std::env::var_os(name))
    }

    /// The environment that `lookup` describes.
    ///
    /// # Errors
    /// As [`Environment::read`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Environment, CliError> {
        let get = |name: &'static str| lookup(name).filter(|value| !value.is_empty());
        let text = |name: &'static str| match get(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(value)) => Err(invalid(name, &value.to_string_lossy(), "it is not UTF-8")),
        };
        let parsed =
            |name: &'static str, parse: &dyn Fn(&str) -> Result<usize, String>| match text(name)? {
                None => Ok(None),
                Some(value) => parse(&value)
                    .map(Some)
                    .map_err(|reason| invalid(name, &value, &reason)),
            };
        Ok(Environment {
            model: text("BITNET_GGUF")?,
            tokenizer: get("BITNET_TOKENIZER").map(PathBuf::from),
            device: match text("BITNET_DEVICE")? {
                None => None,
                Some(value) => {
                    Some(parse_device(&value).map_err(|e| invalid("BITNET_DEVICE", &value, &e))?)
                }
            },
            threads: parsed("BITNET_CPU_THREADS", &parse_threads)?,
            kernel: text("BITNET_KERNEL")?,
            full_head: switch("BITNET_FULL_HEAD", text("BITNET_FULL_HEAD")?)?,
            dense: switch("BITNET_DENSE", text("BITNET_DENSE")?)?,
            seed: match text("BITNET_SEED")? {
                None => None,
                Some(value) => Some(value.trim().parse().map_err(|_| {
                    invalid(
                        "BITNET_SEED",
                        &value,
                        "expected a number from 0 to 18446744073709551615",
                    )
                })?),
            },
            deterministic: switch("BITNET_DETERMINISTIC", text("BITNET_DETERMINISTIC")?)?,
            strict_tokenizers: switch(
                "BITNET_STRICT_TOKENIZERS",
                text("BITNET_STRICT_TOKENIZERS")?,
            )?,
            cache: PackedCache::usual_folder(&lookup),
            api_key: match text("BITNET_API_KEY")? {
                None => None,
                Some(value) => Some(BearerKey::of(&value).ok_or_else(|| {
                    // Its value is not shown: it may be a key with something behind it.
                    invalid("BITNET_API_KEY", "...", "it is no key")
                })?),
            },
            log: text("BITNET_LOG")?,
            hub: HubSettings::from_lookup(&lookup),
            no_color: get("NO_COLOR").is_some(),
        })
    }

    /// The seed to sample with: the flag's, `BITNET_SEED`, the fixed one of `BITNET_DETERMINISTIC=1`, or none.
    pub fn seed(&self, flag: Option<u64>) -> Option<u64> {
        flag.or(self.seed)
            .or(self.deterministic.then_some(DETERMINISTIC_SEED))
    }
}

fn switch(name: &'static str, value: Option<String>) -> Result<bool, CliError> {
    match value.as_deref() {
        None | Some("0" | "false" | "no" | "off") => Ok(false),
        Some("1" | "true" | "yes" | "on") => Ok(true),
        Some(other) => Err(invalid(name, other, "expected 0 or 1")),
    }
}

fn invalid(name: &str, value: &str, reason: &str) -> CliError {
    CliError::usage(
        format!("the environment variable {name} is '{value}': {reason}"),
        format!("set {name} to a valid value or unset it; `bitnet --help` lists the variables"),
    )
}

/// Whether `NO_COLOR` is set: needed by itself to report an error of the environment.
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// The table of variables as `--help` prints it.
pub fn help_table() -> String {
    let mut text = String::from("Environment (a flag wins over a variable):\n");
    for variable in VARIABLES {
        text.push_str(&format!(
            "  {:<26} {:<9} {}\n",
            variable.name, variable.values, variable.meaning
        ));
    }
    text
}

#[cfg(test)]
mod tests;
