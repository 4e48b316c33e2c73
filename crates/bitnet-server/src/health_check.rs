//! Asking another process whether it is alive or ready, as containers and scripts do.
//!
//! Alive is what is asked unless somebody wants more: a server whose queue is full, or that drains, is not ready and
//! must not be restarted for it. One limit is for everything together.

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::{ClientError, ClientTls, HttpClient, Method, ServerUrl};

/// A question to a server.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    /// Where it listens.
    pub address: SocketAddr,
    /// How long it may take, in all.
    pub patience: Duration,
    /// What is asked.
    pub probe: Probe,
    /// How it is spoken to, if encrypted.
    pub tls: Option<ClientTls>,
}

/// What is asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Probe {
    /// Whether its engine works: if not, only a restart helps.
    #[default]
    Live,
    /// Whether the next request would be taken.
    Ready,
}

impl Probe {
    fn path(self) -> &'static str {
        match self {
            Probe::Live => "/health/live",
            Probe::Ready => "/health/ready",
        }
    }
}

impl HealthCheck {
    /// Asks the server; the reason when its answer is no.
    ///
    /// # Errors
    /// When it does not answer in time, or answers something else than HTTP.
    pub fn ask(&self) -> Result<Result<(), String>, ClientError> {
        let client = HttpClient {
            url: ServerUrl::of(self.address, self.tls.is_some()),
            patience: Some(self.patience),
            key: None,
            tls: self.tls.clone(),
        };
        let answer = client.ask(&Method::GET, self.probe.path(), None)?;
        match answer.status {
            200 => Ok(Ok(())),
            status => {
                let body = String::from_utf8_lossy(&answer.body);
                Ok(Err(format!("status {status}: {body}")))
            }
        }
    }
}
