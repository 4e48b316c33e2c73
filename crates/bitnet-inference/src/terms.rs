//! On which terms a request waits and runs: its rank, on whose account, until when, and with whom it may share.
//!
//! Terms decide when a request's tokens are computed, never which: they are apart from the options that do.

use std::time::Duration;

/// On whose account requests run: the scheduler shares its work evenly between those who want some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TenantId(pub u64);

/// The terms of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Lower goes first, within [`PRIORITIES`](crate::scheduler::PRIORITIES); waiting makes up for it, see
    /// [`AGEING`](crate::scheduler::AGEING).
    pub priority: i32,
    /// On whose account it runs.
    pub tenant: TenantId,
    /// How long it may take from being put in the queue; past that it ends with
    /// [`Error::DeadlineExceeded`](crate::Error::DeadlineExceeded), waiting or running.
    pub deadline: Option<Duration>,
    /// How long it may wait for its first place; past that it ends with
    /// [`Error::QueueTimeout`](crate::Error::QueueTimeout). Whoever has had a place once is not asked any more.
    pub queue_timeout: Option<Duration>,
    /// Only requests of the same salt find each other's prompts in the prefix cache, so that nobody can tell by the
    /// time it takes what strangers have asked. Made by whoever serves them, never by the client.
    pub cache_salt: u64,
}
