//! What looks after a server apart from what serves: its health port and its watchdog.
//!
//! They begin before the first model is loaded, so that the loading is seen. Where the process takes over from another
//! one (`server.handover_socket`), the health port is that one's until it has handed its other socket over; it lets go
//! of it then, and for the moment in between a probe finds nobody.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::auth::Guard;
use crate::config::ServerConfig;
use crate::health_listener::HealthListener;
use crate::log::LIFE;
use crate::process::ProcessError;
use crate::routes;
use crate::watchdog;

/// Time that the process before this one has to let go of the health port, and how often it is tried.
const LETTING_GO: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(2);

/// The health port and the watchdog of one process.
pub(crate) struct Watchers {
    address: Option<SocketAddr>,
    may_be_taken: bool, // by the process that hands over
    patience: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    socket: Option<TcpListener>, // that nobody answers on yet
    health: Option<HealthListener>,
    has_watchdog: bool,
}

impl Watchers {
    /// Takes the health port, unless the process before this one has it.
    ///
    /// # Errors
    /// When somebody else has it, or the address is not ours.
    pub(crate) fn begin(config: &ServerConfig) -> Result<Watchers, ProcessError> {
        let server = &config.server;
        let watchers = Watchers {
            address: server
                .health_port
                .map(|port| SocketAddr::new(server.host, port)),
            may_be_taken: server.handover_socket.is_some(),
            patience: config.monitoring.watchdog.0,
            state: Mutex::default(),
        };
        if let Some(address) = watchers.address {
            match TcpListener::bind(address) {
                Ok(socket) => watchers.state().socket = Some(socket),
                Err(error) if watchers.may_be_taken && is_held(&error) => {}
                Err(source) => {
                    return Err(ProcessError::Address {
                        setting: "server.health_port",
                        address,
                        source,
                    });
                }
            }
        }
        Ok(watchers)
    }

    /// Begins to answer probes, if the port is ours, and to look after the engines. What has begun goes on.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub(crate) fn start(
        &self,
        app: &Arc<App>,
        guard: &Arc<Guard>,
        takes_keys: bool,
    ) -> Result<(), ProcessError> {
        let mut state = self.state();
        if let Some(socket) = state.socket.take() {
            let router = routes::health_router(app.clone(), guard.clone(), takes_keys);
            let health =
                HealthListener::start(socket, app.clone(), router).map_err(ProcessError::Setup)?;
            tracing::info!(target: LIFE, "answering probes on http://{}", health.address());
            state.health = Some(health);
        }
        if let Some(patience) = self.patience
            && !std::mem::replace(&mut state.has_watchdog, true)
        {
            watchdog::start(app, patience, |reason| watchdog::abort(reason))
                .map_err(ProcessError::Setup)?;
        }
        Ok(())
    }

    /// Waits for the health port, where the process before this one still had it, and takes it.
    ///
    /// # Errors
    /// When that process does not let go of it.
    pub(crate) async fn take_over(&self) -> Result<(), ProcessError> {
        let started = Instant::now();
        while let Some(address) = self.address.filter(|_| !self.has_port()) {
            match TcpListener::bind(address) {
                Ok(socket) => self.state().socket = Some(socket),
                Err(error) if is_held(&error) && started.elapsed() < LETTING_GO => {
                    sleep(RETRY).await;
                }
                Err(source) => {
                    return Err(ProcessError::Address {
                        setting: "server.health_port",
                        address,
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Lets go of the health port: another process serves.
    pub(crate) fn hand_over(&self) {
        if let Some(health) = &self.state().health {
            health.close();
        }
    }

    fn has_port(&self) -> bool {
        let state = self.state();
        state.socket.is_some() || state.health.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is in it is put there by single assignments.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_held(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrInUse
}
