//! Telling systemd how the server is: ready, reloading, ending, and that it is alive.
//!
//! The protocol is sd_notify(3): lines `NAME=value` in a datagram to the socket that `NOTIFY_SOCKET` names. Without
//! that variable nobody wants to know. The sign of life is sent only while the engine's steps come to an end, so a hung
//! engine is restarted (`WatchdogSec=`) although the process answers.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::app::App;
use crate::routes::health;

/// A way to the service manager, if there is one.
#[derive(Debug, Clone, Default)]
pub struct ServiceManager {
    socket: Option<Arc<UnixDatagram>>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one of this process's environment.
    pub fn of_process() -> ServiceManager {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return ServiceManager::default();
        };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(&name),
        };
        let connected = address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            // A manager that does not read must not hold up the server.
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => ServiceManager {
                socket: Some(Arc::new(socket)),
                watchdog: watchdog(),
            },
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET names a socket that cannot be reached");
                ServiceManager::default()
            }
        }
    }

    /// Requests are answered.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// The configuration is being read; [`ServiceManager::ready`] ends it.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// The server ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// Sends a sign of life as often as the manager wants one, while `app` is sound.
    pub async fn watch(self, app: Arc<App>) {
        let Some(interval) = self.watchdog else {
            return;
        };
        // Twice in the time, as sd_watchdog_enabled(3) recommends.
        let mut ticks = tokio::time::interval(interval / 2);
        loop {
            ticks.tick().await;
            match health::unsound(&app) {
                None => self.tell("WATCHDOG=1"),
                Some(reason) => {
                    tracing::error!("{reason}: the service manager gets no sign of life");
                    self.tell(&format!("STATUS={reason}"));
                }
            }
        }
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket {
            // A manager that is gone or does not read wants to know nothing.
            let _ = socket.send(state.as_bytes());
        }
    }
}

/// How often the manager wants a sign of life of this process.
fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let process = std::env::var_os("WATCHDOG_PID");
    let is_meant = process.is_none_or(|id| id == *std::process::id().to_string());
    let microseconds = number("WATCHDOG_USEC").filter(|&n| n > 0 && is_meant)?;
    Some(Duration::from_micros(microseconds))
}
