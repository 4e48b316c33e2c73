//! Who may do what: one layer over every route, which refuses what nobody allowed.
//!
//! A route that is not in the [`access::AccessTable`] is for administrators, a method that is not in it does not exist,
//! so forgetting a route closes it. Probes alone answer everybody. Where nobody has credentials, inference is open on
//! loopback addresses only, and management is closed.
//!
//! # Layout
//! - [`access`]: roles, and which route needs which; [`bind`]: which addresses may be listened on
//! - [`key`], [`key_file`], [`key_store`]: API keys, their file, and the copy that follows it
//! - `private_file`: how files are written that only their owner may read
//! - [`jwt`]: tokens that somebody else signs
//! - [`credentials`]: what a request shows, held against them; [`refusals`]: how often an address may show bad ones
//! - [`expiry`]: until when a key is good; [`allowed_models`]: for which models
//! - [`rate`]: what one principal may take; [`quota`], [`usage_file`]: in a day or a month, whatever restarts
//! - [`host`]: against pages of a browser that talk to loopback; [`cors`]: pages that may talk to any address
//! - [`clock`]: the two times of a request; [`guard`]: the rules; [`layer`]: before every route

pub mod access;
pub mod allowed_models;
pub mod bind;
pub mod clock;
pub mod cors;
pub mod credentials;
pub mod expiry;
pub mod guard;
pub mod host;
pub mod jwt;
pub mod key;
pub mod key_file;
pub mod key_store;
pub mod layer;
mod private_file;
pub mod quota;
pub mod rate;
pub mod refusals;
#[cfg(test)]
mod tests;
pub mod usage_file;

pub use access::{AccessTable, Role, RouteAccess};
pub use guard::{Guard, Principal, Refusal};
