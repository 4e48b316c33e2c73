//! A running server as the commands see it that manage one: which one it is, whose key is shown, and what its refusals
//! mean for whoever typed the command.

pub mod hint;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bitnet_hub::shell::quoted;
use bitnet_server::client::{BearerKey, ClientError, ClientTls, HttpClient, Method, ServerUrl};
use bitnet_server::config::{ServerConfig, Sources};
use clap::Args;
use serde_json::Value;

use crate::env::Environment;
use crate::exit::{CliError, Exit, io_reason};
use crate::output::{Format, notice};

/// Time for an answer that waits for nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of every command that asks a server.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// Address of the server, http://HOST:PORT or https://HOST:PORT [default: as the settings say]
    #[arg(long, value_name = "URL")]
    pub url: Option<ServerUrl>,

    /// Configuration file of the server: it, and the server's variables, say where it listens
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub config: Option<PathBuf>,

    /// File whose first line is the key to show [default: the variable BITNET_API_KEY]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Certificate of a server that is asked over TLS: it alone is trusted [default: as the settings say]
    #[arg(long, value_name = "FILE")]
    pub tls_certificate_file: Option<PathBuf>,

    /// Certificate to show to a server that asks for one
    #[arg(long, value_name = "FILE", requires = "client_key_file")]
    pub client_certificate_file: Option<PathBuf>,

    /// Key of that certificate
    #[arg(long, value_name = "FILE", requires = "client_certificate_file")]
    pub client_key_file: Option<PathBuf>,

    /// text or json
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

impl RemoteArgs {
    /// The options that name the server and the key, each behind a space, as they were typed: a command that is advised
    /// has to ask the same server.
    pub fn as_typed(&self) -> String {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let options = [
            ("--url", self.url.as_ref().map(ServerUrl::to_string)),
            ("--config", path(&self.config)),
            ("--key-file", path(&self.key_file)),
            ("--tls-certificate-file", path(&self.tls_certificate_file)),
            (
                "--client-certificate-file",
                path(&self.client_certificate_file),
            ),
            ("--client-key-file", path(&self.client_key_file)),
        ];
        let typed = options
            .into_iter()
            .filter_map(|(option, value)| Some(format!(" {option} {}", quoted(&value?))));
        typed.collect()
    }
}

/// A server that may be asked.
#[derive(Debug)]
pub struct Remote {
    client: HttpClient,
}

/// How long an answer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// What the server knows at once.
    Short,
    /// What it has to do first, as long as that takes.
    Long,
}

impl Remote {
    /// The server that the options and variables mean.
    ///
    /// # Errors
    /// Settings and files that cannot be used.
    pub fn of(args: &RemoteArgs, env: &Environment) -> Result<Remote, CliError> {
        let (url, configured) = match &args.url {
            // Who names another server does not mean this one's certificate.
            Some(url) => (url.clone(), None),
            None => {
                let sources = Sources {
                    file: args.config.clone(),
                    ..Sources::of_process()
                };
                let config = ServerConfig::load(&sources).map_err(|e| {
                    CliError::usage(e.to_string(), "docs/config.md has every setting")
                })?;
                let certificate = config.server.tls_certificate_file.clone();
                let url = ServerUrl::of(address_of(&config), certificate.is_some());
                (url, certificate)
            }
        };
        let key = match &args.key_file {
            Some(path) => Some(key_of(path)?),
            None => env.api_key.clone(),
        };
        if key.is_some() && !url.is_encrypted && !url.is_loopback() {
            notice(&format!("the key goes to {url} without encryption"));
        }
        let own = args.client_certificate_file.clone();
        let own = own.zip(args.client_key_file.clone());
        let certificate = args.tls_certificate_file.clone().or(configured);
        let tls = certificate.map(|certificate| ClientTls { certificate, own });
        Ok(Remote {
            client: HttpClient {
                url,
                patience: None,
                key,
                tls,
            },
        })
    }

    /// Asks, and reads the answer, which the server means as a success.
    ///
    /// # Errors
    /// Why there is none; what the server says instead, with the exit code of its kind.
    pub fn ask(
        &self,
        patience: Patience,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        let client = HttpClient {
            patience: (patience == Patience::Short).then_some(PATIENCE),
            ..self.client.clone()
        };
        let answer = client.ask(method, path, body);
        let answer = answer.map_err(|error| self.no_answer(error))?;
        let said: Option<Value> = serde_json::from_slice(&answer.body).ok();
        match (answer.status, said) {
            (200..=299, Some(said)) => Ok(said),
            (status, Some(said)) if said["error"]["message"].is_string() => {
                Err(self.refused(status, &said["error"]))
            }
            (status, _) => Err(CliError::runtime(
                format!(
                    "{} answers with status {status}, and not as bitnet does",
                    self.client.url
                ),
                "is this the address of `bitnet serve`?",
            )),
        }
    }

    fn no_answer(&self, error: ClientError) -> CliError {
        let url = &self.client.url;
        match error {
            ClientError::Io(error) => CliError::runtime(
                format!("{url} does not answer: {}", io_reason(&error)),
                "start a server with `bitnet serve`, or name its --url",
            ),
            ClientError::Http(_) | ClientError::Body => CliError::runtime(
                format!("{url}: {error}"),
                "is this the address of `bitnet serve`? One with a certificate has https",
            ),
            ClientError::Tls(_) => CliError::usage(
                error.to_string(),
                "name the file that the server has as server.tls_certificate_file",
            ),
            ClientError::NoCertificate => CliError::usage(
                format!("{url}: {error}"),
                "name the server's own with --tls-certificate-file",
            ),
        }
    }

    /// What the server does not do, in its own words.
    fn refused(&self, status: u16, error: &Value) -> CliError {
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        let code = text("code");
        let class = match (status, &*code) {
            (_, "model_incompatible") => Exit::Unusable,
            (_, "validation_failed" | "validation_timeout") => Exit::Disagrees,
            (400, _) => Exit::Usage,
            _ => Exit::Runtime,
        };
        CliError::new(
            class,
            format!("{} ({code})", hint::message(error)),
            hint::in_commands(error),
        )
    }

    /// What a model's status tells as its error.
    pub fn failure(&self, error: &Value) -> CliError {
        // It is an answer's error that came late: its status was never sent.
        self.refused(0, error)
    }
}

/// Where a server of these settings answers everything: on the port of administrators, where they have one that is known.
fn address_of(config: &ServerConfig) -> SocketAddr {
    let server = &config.server;
    match server.admin_port.filter(|&port| port != 0) {
        Some(port) => SocketAddr::new(server.admin_host, port),
        None => SocketAddr::new(server.host, server.port),
    }
}

fn key_of(path: &std::path::Path) -> Result<BearerKey, CliError> {
    let text = std::fs::read_to_string(path).map_err(|e| CliError::file("read", path, &e))?;
    text.lines().next().and_then(BearerKey::of).ok_or_else(|| {
        CliError::usage(
            format!("the first line of {} is no key", path.display()),
            "`bitnet keys add` prints one: its output is such a file",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_go_to_the_port_of_administrators_where_the_settings_name_it() {
        let address = |flags: &[(&str, &str)]| {
            let given = [("host", "0.0.0.0"), ("port", "80")];
            let flags = given.iter().chain(flags);
            let flags = flags.map(|(flag, value)| (flag.to_string(), value.to_string()));
            let sources = Sources {
                flags: flags.collect(),
                ..Sources::default()
            };
            address_of(&ServerConfig::load(&sources).unwrap()).to_string()
        };
        assert_eq!(address(&[]), "0.0.0.0:80");
        assert_eq!(address(&[("admin-port", "81")]), "127.0.0.1:81");
        // One that the system chose is in its log alone.
        assert_eq!(address(&[("admin-port", "0")]), "0.0.0.0:80");
    }
}
