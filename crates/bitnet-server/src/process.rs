//! The server as a process: its runtime, its signals, and asking another one how it is.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::App;
use crate::auth::Guard;
use crate::auth::guard::follow_keys;
use crate::config::{ServerConfig, Sources};
use crate::server::{Server, Stopped};

/// Threads that read, write and format; the engine has its own.
const IO_THREADS: usize = 2;

/// Threads that tokenise: few, for they take the engine's processors.
const CHECKING_THREADS: usize = 4;

/// Serves where `config` says until Ctrl-C or SIGTERM, drains, and returns; a second signal ends the draining. `announce`
/// is told the address, once clients can connect. On SIGHUP, `sources` are read again: limits and keys follow them.
///
/// # Errors
/// When the address is taken, or the operating system has no threads or signals to give.
pub fn serve(
    app: Arc<App>,
    guard: Arc<Guard>,
    (config, sources): (ServerConfig, Sources),
    announce: impl FnOnce(SocketAddr),
) -> io::Result<Stopped> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .max_blocking_threads(CHECKING_THREADS)
        .thread_name("http")
        .enable_all()
        .build()?;
    let stopped = runtime.block_on(async {
        // Before the announcement: whoever starts the process may stop it at once.
        let (stop, hurry) = (termination()?, termination()?);
        let address = SocketAddr::new(config.server.host, config.server.port);
        let server = Server::bind(app.clone(), guard.clone(), address).await?;
        tokio::spawn(measure(app, config.monitoring.metrics_interval));
        tokio::spawn(follow_keys(guard.clone(), config.auth.keys_poll_interval));
        #[cfg(unix)]
        tokio::spawn(follow_hangups(hangups()?, guard, config, sources));
        #[cfg(not(unix))]
        drop(sources);
        announce(server.address()?);
        let second = async {
            let mut hurry = hurry;
            hurry.signal().await;
            hurry.signal().await;
        };
        let first = async {
            let mut stop = stop;
            stop.signal().await;
        };
        Ok(server.run(first, second).await)
    });
    // Requests that were cut off do not hold the process.
    runtime.shutdown_background();
    stopped
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

#[cfg(unix)]
fn hangups() -> io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
}

/// Takes over changed settings at each SIGHUP; a configuration that is wrong changes nothing.
#[cfg(unix)]
async fn follow_hangups(
    mut hangups: tokio::signal::unix::Signal,
    guard: Arc<Guard>,
    mut config: ServerConfig,
    sources: Sources,
) {
    while hangups.recv().await.is_some() {
        match ServerConfig::load(&sources) {
            Ok(fresh) => {
                let reloaded = config.reload(&fresh);
                guard.set_limits(&config.limits);
                tracing::info!(changed = ?reloaded.changed, needs_restart = ?reloaded.needs_restart, "read the configuration");
            }
            Err(error) => tracing::error!("{error}; the configuration stays as it was"),
        }
        if let Some(Err(error)) = guard.reload_keys() {
            tracing::error!("{error}; the keys stay as they were");
        }
    }
}

#[cfg(unix)]
struct Termination {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Termination {
    async fn signal(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(unix)]
fn termination() -> io::Result<Termination> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Termination {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    })
}

#[cfg(windows)]
struct Termination {
    interrupt: tokio::signal::windows::CtrlC,
}

#[cfg(windows)]
impl Termination {
    async fn signal(&mut self) {
        let _ = self.interrupt.recv().await;
    }
}

#[cfg(windows)]
fn termination() -> io::Result<Termination> {
    Ok(Termination {
        interrupt: tokio::signal::windows::ctrl_c()?,
    })
}

/// Asks the server at `address` whether it can be sent requests; the reason when it cannot.
///
/// # Errors
/// When it does not answer within `patience`, or answers something else than HTTP.
pub fn check_ready(address: SocketAddr, patience: Duration) -> io::Result<Result<(), String>> {
    let mut stream = TcpStream::connect_timeout(&reachable(address), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream
        .write_all(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
    let status = answer.strip_prefix("HTTP/1.1 ").map(|rest| rest.get(..3));
    match status {
        Some(Some("200")) => Ok(Ok(())),
        Some(Some(status)) => {
            let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
            Ok(Err(format!("status {status}: {body}")))
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is no HTTP",
        )),
    }
}

/// The probe's answer is far shorter; a stranger on that port may send anything.
const LONGEST_ANSWER: u64 = 64 << 10;

/// A server that listens on every address is reached on this machine's own.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
