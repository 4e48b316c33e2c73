#![forbid(unsafe_code)]
//! Models from the Hugging Face Hub, in the cache that its own tools share.
//!
//! A pull asks the Hub what a repository holds, chooses the files that an engine reads, and downloads those that the
//! cache lacks: resumed where an earlier download broke off, one process at a time for each file, and taken over only
//! when the checksum is right that the Hub tells. Everything that a server says is checked before it is used: names
//! become paths, sizes become disk space, redirects could carry a token away.
//!
//! # Layout
//! - [`name`], `page`: repositories, revisions, files, and what a user writes for them, a page's address too
//! - [`settings`]: where the Hub and the cache are, and the token
//! - [`error`]: what can go wrong, and what to do then
//! - [`shell`]: commands that are printed to be copied
//! - `url`, `http`, `connection`, `patience`, `stop`: requests, redirects, why none is answered, how long to try, and
//!   when no more
//! - [`repository`], [`choice`]: what a repository holds, and what of it an engine needs
//! - [`checksum`], `download`: one file, whole and right
//! - [`cache`], `lock`, [`disk`]: the folder that all tools share
//! - [`hub`], `verification`: all of it together
//!
//! The crate needs none of the others and no async runtime. It reads no environment: [`HubSettings::from_lookup`] is
//! given a look-up.

pub mod cache;
pub mod checksum;
pub mod choice;
mod connection;
pub mod disk;
mod download;
pub mod error;
mod http;
pub mod hub;
mod lock;
pub mod name;
mod page;
mod patience;
pub mod repository;
pub mod settings;
pub mod shell;
mod stop;
mod url;
mod verification;

pub use cache::Cache;
pub use error::HubError;
pub use hub::{Hub, PullObserver, Pulled, Silent, Tries};
pub use name::{FileName, HubModel, RepositoryId, Revision};
pub use repository::{HubFile, Licence, Repository};
pub use settings::HubSettings;
pub use stop::Pause;
