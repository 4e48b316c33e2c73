//! The server as a process: what is settled before the model is loaded, its signals, and what it tells whoever watches
//! over it.
//!
//! A [`Process`] is made first of all: from then on signals mean what they should. While the model is being loaded,
//! SIGTERM ends the process, for there is nothing to drain, and SIGHUP waits for its turn. Its health port answers from
//! [`Process::watch_over`] on, that is before. The port of administrators, where they have one, opens with the first one.

mod admin_port;
mod listening;
#[cfg(unix)]
mod reload;
mod signals;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::auth::Guard;
use crate::auth::guard::{GuardError, follow_keys, write_usage};
use crate::checking::CHECKING_THREADS;
use crate::config::{ServerConfig, Sources};
use crate::health_listener;
use crate::listener::{self, ReservedAddress};
use crate::log::{LIFE, LogFilter};
use crate::model_manager::sleep;
use crate::routes;
use crate::server::{ADMIN_CONNECTIONS, Ending, Server, Stopped};
#[cfg(target_os = "linux")]
use crate::service_manager::ServiceManager;
use crate::tls::{TlsError, TlsIdentity, follow_certificate};
use crate::watchers::Watchers;
use admin_port::AdminPort;
#[cfg(target_os = "linux")]
use listening::{given, offer, prepare};
use listening::{most_open, open};
#[cfg(unix)]
use reload::Reload;
use signals::{Signals, Termination};

/// Threads that read, write and format; the engine has its own.
const IO_THREADS: usize = 2;

/// Time that tasks, and after them the logs, have to end once nobody is served any more.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A process that will serve.
pub struct Process {
    runtime: Runtime,
    signals: Signals,
    ends_early: JoinHandle<()>,
    activated: Option<std::net::TcpListener>,
    reserved: Option<ReservedAddress>,
    admin: Option<AdminPort>,
    guard: Arc<Guard>,
    tls: Option<Arc<TlsIdentity>>,
    log: LogFilter,
    config: ServerConfig,
    sources: Sources,
    watchers: Watchers,
}

/// Why a process cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Nobody could ask, or anybody.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operating system has no threads or signals to give.
    #[error("the process cannot be set up: {0}")]
    Setup(io::Error),
    /// The address cannot be listened on.
    #[error("cannot serve on {address} ({setting}): {source}")]
    Address {
        /// The setting that its port is of.
        setting: &'static str,
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The process that waits at the path does not hand its socket over, or nobody can wait there.
    #[error("server.handover_socket {path}: {reason}")]
    HandOver {
        /// The path.
        path: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Process {
    /// Tells what [`Process::begin`] would refuse, but for addresses that are taken: the server that the settings are
    /// meant for may have them.
    ///
    /// # Errors
    /// As [`Process::begin`].
    pub fn check(config: &ServerConfig) -> Result<(), ProcessError> {
        check_platform(config)?;
        Guard::check(most_open(config.server.host, config), config)?;
        TlsIdentity::open(&config.server)?;
        Ok(())
    }

    /// Settles everything that needs no model: who may ask, the certificate, the log, signals, the limit of
    /// descriptors.
    ///
    /// # Errors
    /// Whatever of it is wrong.
    pub fn begin(
        config: ServerConfig,
        sources: Sources,
        log: LogFilter,
    ) -> Result<Process, ProcessError> {
        check_platform(&config)?;
        let address = SocketAddr::new(config.server.host, config.server.port);
        #[cfg(unix)]
        let activated = listener::activated();
        #[cfg(not(unix))]
        let activated = Ok(None);
        let failed = |source| ProcessError::Address {
            setting: "server.port",
            address,
            source,
        };
        let activated: Option<std::net::TcpListener> = activated.map_err(failed)?;
        // Whoever opened the socket chose the address: its exposure counts, not that of the setting.
        let host = match &activated {
            Some(socket) => socket.local_addr().map_err(failed)?.ip(),
            None => address.ip(),
        };
        let host = most_open(host, &config);
        let guard = Arc::new(Guard::at(host, &config, routes::access())?);
        let tls = TlsIdentity::open(&config.server)?.map(Arc::new);
        if let Some(path) = &config.auth.keys_file
            && guard.credentials().lets_nobody_in()
        {
            let path = path.display();
            tracing::warn!(
                target: LIFE,
                "{path} has no keys: nobody has one until `bitnet keys add --file {path} --name NAME`"
            );
        }
        let watchers = Watchers::begin(&config)?;
        // A process before this one may hand the address over.
        let is_free = activated.is_none() && config.server.handover_socket.is_none();
        let reserved = is_free.then(|| ReservedAddress::take(address));
        let reserved = reserved.transpose().map_err(failed)?;
        let admin = AdminPort::of(&config, reserved.is_some() || activated.is_some())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .max_blocking_threads(CHECKING_THREADS)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(ProcessError::Setup)?;
        let entered = runtime.enter();
        // Those that end it early listen first: a signal is either theirs or finds no handler, and ends the process.
        let early = Termination::listen().map_err(ProcessError::Setup)?;
        let signals = Signals::listen().map_err(ProcessError::Setup)?;
        let ends_early = tokio::spawn(early.end_early());
        drop(entered);
        #[cfg(unix)]
        raise_descriptor_limit(
            config.server.max_connections + health_listener::MAX_CONNECTIONS + ADMIN_CONNECTIONS,
        );
        Ok(Process {
            runtime,
            signals,
            ends_early,
            activated,
            reserved,
            admin,
            guard,
            tls,
            log,
            config,
            sources,
            watchers,
        })
    }

    /// The settings.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Who may ask, in a few words: for the line that says that it serves.
    pub fn who_may_ask(&self) -> String {
        self.guard.summary()
    }

    /// Begins to answer probes about `app` on the health port and to look after its engines, as far as the settings say
    /// so: before the first model is loaded, so that the loading is seen. [`Process::serve`] does it for those who did
    /// not.
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn watch_over(&self, app: &Arc<App>) -> Result<(), ProcessError> {
        // Keys that are encrypted on the other port are not to be sent in the clear.
        let takes_keys = self.tls.is_none();
        self.watchers.start(app, &self.guard, takes_keys)
    }

    /// Serves until Ctrl-C or SIGTERM, drains, and returns; a second signal ends the draining. `announce` is told the
    /// address, with its scheme, once clients can connect. On SIGHUP settings, keys and certificate are read again.
    ///
    /// # Errors
    /// When the address is taken, or the process that has it does not hand it over.
    pub fn serve(
        self,
        app: Arc<App>,
        announce: impl FnOnce(&str),
    ) -> Result<Stopped, ProcessError> {
        let Process {
            runtime,
            signals,
            ends_early,
            activated,
            reserved,
            admin,
            guard,
            tls,
            log,
            config,
            sources,
            watchers,
        } = self;
        ends_early.abort();
        let served = app.clone();
        let quotas = guard.quotas().clone();
        let stopped = runtime.block_on(async {
            // Before the process that serves now gives its socket away: what fails from then on leaves nobody to serve.
            #[cfg(target_os = "linux")]
            let prepared = prepare(&config)?;
            let (listener, admin) = open(&config, activated, reserved, admin).await?;
            watchers.take_over().await?;
            watchers.start(&app, &guard, tls.is_none())?;
            #[cfg(target_os = "linux")]
            let mut offer = offer(prepared, std::iter::once(&listener).chain(&admin))?;
            let scheme = if tls.is_some() { "https" } else { "http" };
            if let Some(admin) = &admin {
                let address = admin.socket.local_addr().map_err(ProcessError::Setup)?;
                tracing::info!(
                    target: LIFE,
                    "orders of administrators and /admin are answered on {scheme}://{address} alone"
                );
            }
            let server = Server::on(app.clone(), guard.clone(), listener, admin, tls.clone());
            let address = server.address().map_err(ProcessError::Setup)?;
            tokio::spawn(sleep::watch(app.clone()));
            tokio::spawn(measure(app.clone(), config.monitoring.metrics_interval));
            tokio::spawn(follow_keys(guard.clone(), config.auth.keys_poll_interval));
            tokio::spawn(write_usage(guard.clone()));
            if let Some(tls) = tls.clone() {
                tokio::spawn(follow_certificate(tls, config.server.tls_poll_interval));
            }
            #[cfg(target_os = "linux")]
            let manager = ServiceManager::of_process();
            #[cfg(target_os = "linux")]
            tokio::spawn(manager.clone().watch(app));
            announce(&format!("{scheme}://{address}"));
            let Signals {
                mut first,
                mut second,
                #[cfg(unix)]
                hangups,
            } = signals;
            #[cfg(unix)]
            tokio::spawn(
                Reload {
                    guard,
                    tls,
                    log,
                    config,
                    sources,
                    #[cfg(target_os = "linux")]
                    manager: manager.clone(),
                }
                .follow(hangups),
            );
            #[cfg(not(unix))]
            drop((log, sources));
            #[cfg(target_os = "linux")]
            manager.ready();

            let is_told = Cell::new(false);
            let told = async {
                first.signal().await;
                is_told.set(true);
                Ending::Told
            };
            let hurry = async {
                second.signal().await;
                // Where another process has taken over, nobody needed a first one.
                if is_told.get() {
                    second.signal().await;
                }
                tracing::warn!(target: LIFE, "a second signal: requests under way are cut off");
            };
            #[cfg(target_os = "linux")]
            let told = async move {
                // The copy of the socket in it must not outlive this: clients would wait for nobody.
                let mut offer = offer.take();
                tokio::select! {
                    ending = told => ending,
                    () = given(&mut offer) => Ending::HandedOver,
                }
            };
            let stop = async {
                let ending = told.await;
                match ending {
                    Ending::Told => {
                        tracing::info!(target: LIFE, "draining: no request is taken any more")
                    }
                    Ending::HandedOver => {
                        watchers.hand_over();
                        tracing::info!(target: LIFE, "draining: another process serves");
                    }
                }
                #[cfg(target_os = "linux")]
                manager.stopping();
                ending
            };
            let stopped = server.run(stop, hurry).await;
            match stopped {
                Stopped::Drained => tracing::info!(target: LIFE, "ended, every request answered"),
                Stopped::CutOff { requests } => {
                    tracing::warn!(target: LIFE, requests, "ended, and cut off requests under way")
                }
            }
            Ok(stopped)
        });
        // Requests that were cut off do not hold the process for long, nor do logs that nobody reads.
        runtime.shutdown_timeout(LAST_WORDS);
        // After the last request.
        if let Err(error) = quotas.write(SystemTime::now()) {
            tracing::error!(target: LIFE, "{error}; what keys have used since it was written is forgotten");
        }
        served.log.close(LAST_WORDS);
        // After the runtime: spans end with the requests that have them.
        if let Some(telemetry) = &served.telemetry {
            telemetry.close();
        }
        stopped
    }
}

/// Refuses what this system cannot do.
fn check_platform(config: &ServerConfig) -> Result<(), ProcessError> {
    #[cfg(not(target_os = "linux"))]
    if let Some(path) = &config.server.handover_socket {
        return Err(ProcessError::HandOver {
            path: path.clone(),
            reason: "sockets are handed over on Linux alone".into(),
        });
    }
    let _ = config; // on Linux nothing is refused
    Ok(())
}

/// Measures the process for ever.
async fn measure(app: Arc<App>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        let models = app.models.all();
        let names: Vec<&str> = models.iter().map(|model| &*model.id).collect();
        app.metrics.measure(&names, Instant::now());
    }
}

/// Files that are open beside connections: the model's, keys, the log.
#[cfg(unix)]
const OTHER_DESCRIPTORS: u64 = 64;

/// Asks for as many descriptors as connections may be open: many systems give 1024 to a process that does not ask.
#[cfg(unix)]
fn raise_descriptor_limit(max_connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let wanted = max_connections as u64 + OTHER_DESCRIPTORS;
    let mut limit = getrlimit(Resource::Nofile);
    let enough = |soft: Option<u64>| soft.is_none_or(|soft| soft >= wanted);
    if enough(limit.current) {
        return;
    }
    limit.current = Some(limit.maximum.map_or(wanted, |hard| hard.min(wanted)));
    let raised = setrlimit(Resource::Nofile, limit);
    if raised.is_err() || !enough(limit.current) {
        tracing::warn!(
            limit = getrlimit(Resource::Nofile).current,
            wanted,
            "server.max_connections is more than the process may have open: connections will wait"
        );
    }
}
