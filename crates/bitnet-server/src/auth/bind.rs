//! Which addresses may be listened on, and what is open there without credentials.
//!
//! A model server that listens on every address and asks for no key is found within hours: hundreds of thousands of
//! them are. So it does not start, unless the operator says in so many words that it should.

use std::net::IpAddr;

use crate::config::settings::AuthSettings;
use crate::config::value::LoopbackInference;

/// What somebody without credentials may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exposure {
    /// Whether only this machine can connect; then `Host` headers are checked.
    pub loopback: bool,
    /// Whether inference is open.
    pub open_inference: bool,
}

/// The address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server would listen on {host}, which other machines can reach, and nobody needs a key: set auth.keys_file (see \
     `bitnet keys add`) or auth.jwt_key_file, listen on 127.0.0.1, or accept the danger with --insecure-no-auth"
)]
pub struct BindRefused {
    host: IpAddr,
}

/// What is open on the address `host`.
///
/// # Errors
/// When other machines can reach it and nothing says who may ask.
pub fn exposure(host: IpAddr, auth: &AuthSettings) -> Result<Exposure, BindRefused> {
    let loopback = is_loopback(host);
    let has_credentials = auth.keys_file.is_some() || auth.jwt_key_file.is_some();
    if !loopback && !has_credentials && !auth.insecure_no_auth {
        return Err(BindRefused { host });
    }
    let open_on_loopback = match auth.loopback_inference {
        LoopbackInference::Auto => !has_credentials,
        LoopbackInference::Open => true,
        LoopbackInference::Key => false,
    };
    Ok(Exposure {
        loopback,
        open_inference: if loopback {
            open_on_loopback
        } else {
            !has_credentials && auth.insecure_no_auth
        },
    })
}

/// Whether an address is this machine's alone, IPv4 within IPv6 seen through.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
