//! The sockets that a process serves on: where they come from, and to whom they go.

#[cfg(target_os = "linux")]
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, OwnedFd};
#[cfg(target_os = "linux")]
use std::path::Path;

use super::ProcessError;
use super::admin_port::AdminPort;
use crate::auth::bind::is_loopback;
use crate::config::ServerConfig;
#[cfg(target_os = "linux")]
use crate::hand_over;
use crate::listener::{Listener, ReservedAddress};
use crate::log::LIFE;

/// The address by which it is judged who needs credentials and which hosts are believed: of the two that a server may
/// have, the one that more can reach, for what is open on one is answered on the other.
pub(super) fn most_open(host: IpAddr, config: &ServerConfig) -> IpAddr {
    match config.server.admin_port {
        Some(_) if is_loopback(host) => config.server.admin_host,
        _ => host,
    }
}

/// The listening sockets, the second one for administrators: the service manager's, those of the process before this
/// one, or new ones.
pub(super) async fn open(
    config: &ServerConfig,
    activated: Option<TcpListener>,
    reserved: Option<ReservedAddress>,
    admin: Option<AdminPort>,
) -> Result<(Listener, Option<Listener>), ProcessError> {
    let address = SocketAddr::new(config.server.host, config.server.port);
    let failed = |source| ProcessError::Address {
        setting: "server.port",
        address,
        source,
    };
    if let Some(reserved) = reserved {
        let admin = admin.map(AdminPort::listen).transpose()?;
        return Ok((reserved.listen().map_err(failed)?, admin));
    }
    if let Some(socket) = activated {
        let admin = admin.map(AdminPort::listen).transpose()?;
        tracing::info!(target: LIFE, "took the socket of the service manager");
        return Ok((Listener::given(socket, true).map_err(failed)?, admin));
    }
    #[cfg(target_os = "linux")]
    if let Some(path) = &config.server.handover_socket
        && let Some(offered) = hand_over::ask(path).map_err(|e| refused(path, &e))?
    {
        let older = offered.listener.local_addr();
        let older = older.map_err(|e| refused(path, &e))?;
        let is_same = older.ip() == address.ip() && [0, older.port()].contains(&address.port());
        if !is_same {
            let reason = format!("the running process listens on {older}, not on {address}");
            return Err(refused(path, &io::Error::other(reason)));
        }
        // What can fail here comes before the other process stops accepting.
        let listener = Listener::given(offered.listener, false).map_err(failed)?;
        let admin = match (admin, offered.admin) {
            (Some(port), Some(socket)) if port.is_at(&socket) => Some(port.given(socket)?),
            (port, _) => port.map(AdminPort::listen).transpose()?,
        };
        let taken = offered.older.agree();
        taken.map_err(|e| refused(path, &e))?;
        tracing::info!(target: LIFE, "took the socket of the process before this one");
        return Ok((listener, admin));
    }
    let admin = admin.map(AdminPort::listen).transpose()?;
    Ok((Listener::bind(address).await.map_err(failed)?, admin))
}

#[cfg(target_os = "linux")]
fn refused(path: &Path, error: &io::Error) -> ProcessError {
    ProcessError::HandOver {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// Where the next process will find this one.
#[cfg(target_os = "linux")]
pub(super) fn prepare(
    config: &ServerConfig,
) -> Result<Option<hand_over::PreparedOffer>, ProcessError> {
    let Some(path) = &config.server.handover_socket else {
        return Ok(None);
    };
    let prepared = hand_over::PreparedOffer::at(path).map_err(|e| refused(path, &e))?;
    Ok(Some(prepared))
}

/// The same, from now on, and the sockets that the next process will get.
#[cfg(target_os = "linux")]
pub(super) fn offer<'a>(
    prepared: Option<hand_over::PreparedOffer>,
    listeners: impl IntoIterator<Item = &'a Listener>,
) -> Result<Option<(hand_over::Offer, Vec<OwnedFd>)>, ProcessError> {
    let Some(prepared) = prepared else {
        return Ok(None);
    };
    let path = prepared.path.clone();
    let sockets = listeners
        .into_iter()
        .map(|listener| listener.socket.as_fd().try_clone_to_owned())
        .collect::<io::Result<_>>();
    let placed = sockets.and_then(|sockets| Ok((prepared.place()?, sockets)));
    Ok(Some(placed.map_err(|e| refused(&path, &e))?))
}

#[cfg(target_os = "linux")]
pub(super) async fn given(offer: &mut Option<(hand_over::Offer, Vec<OwnedFd>)>) {
    match offer {
        Some((offer, sockets)) => offer.give(sockets).await,
        None => std::future::pending().await,
    }
}
