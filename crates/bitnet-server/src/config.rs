//! What an operator may set: one typed configuration from flags, environment, a file and defaults, in this order.
//!
//! An unknown name is an error, never ignored: a limit that was misspelt would be no limit. `settings` has the one
//! definition of every setting.
//!
//! # Layout
//! - [`settings`]: the table, and the sections it makes
//! - [`value`]: types of settings
//! - `file`, `variables`, [`flags`]: where values come from; the environment is handed in
//! - `engine`: what the settings say of loading models
//! - [`mod@print`], which writes `--print-config`

mod engine;
mod file;
pub mod flags;
pub(crate) mod nearest;
pub mod print;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod value;
mod variables;

use std::ffi::OsString;
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;

use crate::config::nearest::nearest;
use crate::config::settings::{Applies, SETTINGS, SHARED_VARIABLES, Sections, Setting};
use crate::config::value::{DevicePreference, FileValue, Given, JwtAlgorithm};
use crate::config::variables::{is_misspelt, unknown_variable, variables};
use crate::log;

pub use crate::config::file::MAX_FILE_BYTES;

/// What the names of all variables of the server begin with.
pub const ENV_PREFIX: &str = "BITNET_SERVER__";

/// Names the configuration file where no flag does.
pub const ENV_FILE: &str = "BITNET_SERVER__CONFIG";

/// The whole configuration: `config.server.port`.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    sections: Sections,
    origins: Vec<Origin>,
    file: Option<PathBuf>,
}

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// A line of the file: `config.yaml:3`.
    File(String),
    /// The variable of this name.
    Variable(String),
    /// The flag of this name, without its hyphens.
    Flag(String),
}

/// Everything that a configuration is made from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Names of settings' flags, without hyphens, and their values.
    pub flags: Vec<(String, String)>,
    /// The process's environment; only names with [`ENV_PREFIX`] and those of [`SHARED_VARIABLES`] matter.
    pub environment: Vec<(OsString, OsString)>,
    /// The file that a flag names.
    pub file: Option<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Read {
        /// Its name.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is too large to be a configuration.
    #[error("the configuration file {path} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// Its name.
        path: String,
    },
    /// The name does not tell the format.
    #[error("the configuration file {path} must have a name that ends in .yaml, .yml or .toml")]
    Format {
        /// Its name.
        path: String,
    },
    /// The file is not of its format.
    #[error("{place}: {reason}")]
    Syntax {
        /// File and line.
        place: String,
        /// What the parser says.
        reason: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting '{key}'{hint}")]
    Unknown {
        /// Who set it.
        origin: Origin,
        /// What was written.
        key: String,
        /// The nearest name, or where the names are listed.
        hint: String,
    },
    /// The value is of another type, or outside the limits.
    #[error("{origin}: {key} is {value}, expected {expected}")]
    Invalid {
        /// Who set it.
        origin: Origin,
        /// The setting.
        key: String,
        /// What was written.
        value: String,
        /// What may be written.
        expected: String,
    },
    /// Two settings contradict each other, or one asks for what this build does not have.
    #[error("{0}")]
    Contradiction(String),
}

/// What a reload changed, and what it could not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// Settings that have a new value now.
    pub changed: Vec<String>,
    /// Settings whose new value waits for a restart.
    pub needs_restart: Vec<String>,
}

impl Deref for ServerConfig {
    type Target = Sections;

    fn deref(&self) -> &Sections {
        &self.sections
    }
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            sections: settings::defaults(),
            origins: vec![Origin::Default; SETTINGS.len()],
            file: None,
        }
    }
}

impl Sources {
    /// The sources of this process: its environment, and no flags.
    pub fn of_process() -> Sources {
        Sources {
            environment: std::env::vars_os().collect(),
            ..Sources::default()
        }
    }
}

impl ServerConfig {
    /// Reads all sources; later ones win: defaults, the file, the environment, the flags.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place: an unreadable file, an unknown setting, a value outside its
    /// limits, or two settings that contradict each other.
    pub fn load(sources: &Sources) -> Result<ServerConfig, SettingError> {
        let mut config = ServerConfig::default();
        let variables = variables(sources)?;
        let named = |name: &str| {
            variables
                .iter()
                .find(|(of, _)| of == name)
                .map(|(_, value)| value)
        };
        config.file = sources
            .file
            .clone()
            .or_else(|| named(ENV_FILE).map(PathBuf::from));
        if let Some(path) = config.file.clone() {
            for entry in file::read(&path)? {
                let origin = Origin::File(format!("{}:{}", path.display(), entry.line));
                match &entry.value {
                    Some(value) => config.set(&entry.key, origin, Given::File(value))?,
                    None if SETTINGS.iter().any(|s| s.section == entry.key) => {}
                    None => {
                        return Err(unknown(
                            origin,
                            entry.key,
                            SETTINGS.iter().map(|s| s.section.into()),
                        ));
                    }
                }
            }
        }
        for (name, key) in SHARED_VARIABLES {
            if let Some(value) = named(name) {
                let origin = Origin::Variable((*name).into());
                config.set(key, origin, Given::Text(value))?;
            }
        }
        let own = |name: &str, value: &str| {
            name != ENV_FILE && (name.starts_with(ENV_PREFIX) || is_misspelt(name, value))
        };
        for (name, value) in variables.iter().filter(|(name, value)| own(name, value)) {
            let origin = Origin::Variable(name.clone());
            let Some(setting) = SETTINGS.iter().find(|s| s.variable() == *name) else {
                return Err(unknown_variable(origin, name));
            };
            config.set(&setting.key(), origin, Given::Text(value))?;
        }
        for (name, value) in &sources.flags {
            let origin = Origin::Flag(name.clone());
            let Some(setting) = SETTINGS.iter().find(|s| s.flag() == *name) else {
                return Err(unknown(
                    origin,
                    name.clone(),
                    SETTINGS.iter().map(Setting::flag),
                ));
            };
            config.set(&setting.key(), origin, Given::Text(value))?;
        }
        config.check()?;
        Ok(config)
    }

    /// The file that was read, if there was one.
    pub fn file(&self) -> Option<&std::path::Path> {
        self.file.as_deref()
    }

    /// Who set a value; `key` as `server.port`.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        SETTINGS
            .iter()
            .zip(&self.origins)
            .find(|(setting, _)| setting.key() == key)
            .map(|(_, origin)| origin)
    }

    /// A setting as messages name it: who set it, if anybody did, and its key.
    pub fn named(&self, key: &str) -> String {
        match self.origin(key) {
            None | Some(Origin::Default) => key.to_owned(),
            Some(origin) => format!("{origin}: {key}"),
        }
    }

    /// Takes over those settings of `fresh` that may change while the server runs, and tells the others that differ.
    pub fn reload(&mut self, fresh: &ServerConfig) -> Reloaded {
        let mut reloaded = Reloaded::default();
        for (i, setting) in SETTINGS.iter().enumerate() {
            if setting.value(self) == setting.value(fresh) {
                continue;
            }
            match setting.applies {
                Applies::Restart => reloaded.needs_restart.push(setting.key()),
                Applies::Reload => {
                    (setting.copy)(fresh, self);
                    self.origins[i] = fresh.origins[i].clone();
                    reloaded.changed.push(setting.key());
                }
            }
        }
        reloaded
    }

    fn set(&mut self, key: &str, origin: Origin, given: Given<'_>) -> Result<(), SettingError> {
        let Some(i) = SETTINGS.iter().position(|setting| setting.key() == key) else {
            return Err(unknown(
                origin,
                key.into(),
                SETTINGS.iter().map(Setting::key),
            ));
        };
        (SETTINGS[i].set)(self, given).map_err(|expected| SettingError::Invalid {
            origin: origin.clone(),
            key: key.into(),
            value: shown(given),
            expected,
        })?;
        self.origins[i] = origin;
        Ok(())
    }

    /// What no single setting can tell.
    fn check(&self) -> Result<(), SettingError> {
        if self.performance.device_preference == DevicePreference::Gpu {
            return Err(SettingError::Contradiction(
                "performance.device_preference is gpu, and this build runs models on the CPU alone: say auto or cpu"
                    .into(),
            ));
        }
        if let Err(error) = log::parse(&self.monitoring.log_level) {
            let origin = self.origin("monitoring.log_level");
            return Err(SettingError::Contradiction(format!(
                "{}: monitoring.log_level is {:?}: {error}",
                origin.unwrap_or(&Origin::Default),
                self.monitoring.log_level
            )));
        }
        if !log::has_levels(&self.monitoring.log_level) {
            let origin = self.origin("monitoring.log_level");
            return Err(SettingError::Contradiction(format!(
                "{}: monitoring.log_level is {:?}, expected error, warn, info, debug, trace or off, or a list such as \
                 warn,bitnet_server=debug",
                origin.unwrap_or(&Origin::Default),
                self.monitoring.log_level
            )));
        }
        let server = &self.server;
        if server.max_arriving_bytes < server.max_body_bytes {
            return Err(SettingError::Contradiction(format!(
                "server.max_arriving_bytes is {}, less than one body of server.max_body_bytes, {}: raise the one or lower \
                 the other",
                server.max_arriving_bytes.0, server.max_body_bytes.0
            )));
        }
        if let Some(origin) = server.allowed_origins.iter().find(|o| !is_origin(o)) {
            return Err(SettingError::Contradiction(format!(
                "server.allowed_origins has {origin:?}, expected a scheme, a host and perhaps a port, as browsers write \
                 them: https://app.example or http://localhost:3000"
            )));
        }
        if let Some(port) = server.health_port.filter(|&port| port != 0)
            && port == server.port
        {
            return Err(SettingError::Contradiction(format!(
                "server.health_port is {port}, and so is server.port: probes have a port of their own there, or none"
            )));
        }
        self.check_admin_port()?;
        let auth = &self.auth;
        if auth.jwt_key_file.is_some() && (auth.jwt_issuer.is_none() || auth.jwt_audience.is_none())
        {
            return Err(SettingError::Contradiction(
                "auth.jwt_key_file turns tokens on, so auth.jwt_issuer and auth.jwt_audience must be set: a token that \
                 was made for another service must not open this one"
                    .into(),
            ));
        }
        if auth.jwt_key_file.is_none()
            && (auth.jwt_issuer.is_some()
                || auth.jwt_audience.is_some()
                || auth.jwt_algorithm != JwtAlgorithm::EdDsa)
        {
            return Err(SettingError::Contradiction(
                "tokens are described (auth.jwt_algorithm, jwt_issuer, jwt_audience) but auth.jwt_key_file, which turns \
                 them on, is not set"
                    .into(),
            ));
        }
        Ok(())
    }
}

impl ServerConfig {
    /// Refuses a port for administrators that is another one's, and an address of one that there is not.
    fn check_admin_port(&self) -> Result<(), SettingError> {
        let server = &self.server;
        let Some(port) = server.admin_port else {
            // By its value: settings that are printed and read again name every default.
            return match server.admin_host == ServerConfig::default().server.admin_host {
                true => Ok(()),
                false => Err(SettingError::Contradiction(format!(
                    "{} is {}, but server.admin_port, which opens a port for administrators there, is not set",
                    self.named("server.admin_host"),
                    server.admin_host
                ))),
            };
        };
        let [host, admin_host] = [server.host, server.admin_host].map(|host| host.to_canonical());
        let meet = host == admin_host || host.is_unspecified() || admin_host.is_unspecified();
        let others = [
            ("server.port", Some(server.port)),
            ("server.health_port", server.health_port),
        ];
        let is_same = |other: Option<u16>| meet && port != 0 && other == Some(port);
        if let Some((other, _)) = others.iter().find(|(_, other)| is_same(*other)) {
            return Err(SettingError::Contradiction(format!(
                "server.admin_port is {port}, and so is {other}: administrators have a port of their own there, or none"
            )));
        }
        Ok(())
    }
}

/// Whether a text is an origin as browsers write it; `*` is none, and everybody is not somebody to allow.
fn is_origin(text: &str) -> bool {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b);
        !host.is_empty() && host.bytes().all(plain)
    })
}

/// A stranger's name as it is said back.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(100).collect()
}

fn unknown(origin: Origin, key: String, names: impl Iterator<Item = String>) -> SettingError {
    let names: Vec<String> = names.collect();
    let hint = match nearest(&key, names.iter().map(String::as_str)) {
        Some(name) => format!("; did you mean '{name}'?"),
        None => "; --print-config lists all of them".into(),
    };
    let key = printable(&key);
    SettingError::Unknown { origin, key, hint }
}

/// What was given, for a message: short, and without bytes that a terminal would obey.
fn shown(given: Given<'_>) -> String {
    let text = match given {
        Given::Text(text) => format!("{text:?}"),
        Given::File(FileValue::Text(text)) => format!("{text:?}"),
        Given::File(FileValue::Null) => "not set to anything".into(),
        Given::File(FileValue::Bool(value)) => value.to_string(),
        Given::File(FileValue::Int(value)) => value.to_string(),
        Given::File(FileValue::Float(value)) => value.to_string(),
        Given::File(FileValue::List(_)) => "a list".into(),
    };
    text.chars().take(100).collect()
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(place) => f.write_str(place),
            Origin::Variable(name) => f.write_str(name),
            Origin::Flag(name) => write!(f, "--{name}"),
        }
    }
}
