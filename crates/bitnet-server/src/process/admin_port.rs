//! The port for administrators from the start of the process to its first connection.

use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::net::TcpListener;

use crate::config::ServerConfig;
use crate::listener::{Listener, ReservedAddress};
use crate::process::ProcessError;

/// A port that is not listened on yet.
pub(super) struct AdminPort {
    address: SocketAddr,
    reserved: Option<ReservedAddress>, // `None`: the process before this one may have it
}

impl AdminPort {
    /// The port of the settings; `None` where they have none. Unless it `is_free`, it is left to
    /// [`given`](AdminPort::given) or [`listen`](AdminPort::listen) to take it.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub(super) fn of(
        config: &ServerConfig,
        is_free: bool,
    ) -> Result<Option<AdminPort>, ProcessError> {
        let server = &config.server;
        let Some(port) = server.admin_port else {
            return Ok(None);
        };
        let mut admin = AdminPort {
            address: SocketAddr::new(server.admin_host, port),
            reserved: None,
        };
        if is_free {
            admin.reserved = Some(admin.reserve()?);
        }
        Ok(Some(admin))
    }

    /// Whether a socket listens where this port is to be.
    #[cfg(target_os = "linux")]
    pub(super) fn is_at(&self, socket: &TcpListener) -> bool {
        let found = socket.local_addr();
        found.is_ok_and(|found| {
            found.ip() == self.address.ip() && [0, found.port()].contains(&self.address.port())
        })
    }

    /// Takes the socket that the process before this one has listened on.
    ///
    /// # Errors
    /// When the operating system refuses it.
    #[cfg(target_os = "linux")]
    pub(super) fn given(self, socket: TcpListener) -> Result<Listener, ProcessError> {
        Listener::given(socket, false).map_err(|source| self.failed(source))
    }

    /// Listens. It must be called inside the runtime.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub(super) fn listen(mut self) -> Result<Listener, ProcessError> {
        let reserved = match self.reserved.take() {
            Some(reserved) => reserved,
            None => self.reserve()?,
        };
        reserved.listen().map_err(|source| self.failed(source))
    }

    fn reserve(&self) -> Result<ReservedAddress, ProcessError> {
        ReservedAddress::take(self.address).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> ProcessError {
        ProcessError::Address {
            setting: "server.admin_port",
            address: self.address,
            source,
        }
    }
}
