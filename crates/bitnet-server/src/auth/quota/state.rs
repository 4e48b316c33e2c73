//! How much of a quota is used, as refusals, headers and messages tell it.

use std::fmt;
use std::time::Duration;

use crate::auth::expiry;

/// What a quota is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// A day of UTC.
    Day,
    /// A month of UTC.
    Month,
}

impl Period {
    /// Its name, in messages and for programs.
    pub fn name(self) -> &'static str {
        match self {
            Period::Day => "day",
            Period::Month => "month",
        }
    }
}

/// How much of a quota is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaState {
    /// For which time.
    pub period: Period,
    /// Tokens in it.
    pub limit: u64,
    /// Tokens that were used.
    pub used: u64,
    /// Tokens that are set aside for requests under way.
    pub set_aside: u64,
    /// When it begins anew, in seconds since 1970.
    pub resets_at: u64,
}

impl QuotaState {
    /// Tokens that nobody has used or set aside.
    pub(super) fn left(&self) -> u64 {
        let taken = self.used.saturating_add(self.set_aside);
        self.limit.saturating_sub(taken)
    }

    /// The same as headers tell it, at the second `now`.
    pub(super) fn remaining(&self, now: u64) -> (u64, u64, Duration) {
        let reset = Duration::from_secs(self.resets_at.saturating_sub(now));
        (self.limit, self.left(), reset)
    }
}

impl fmt::Display for QuotaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, period, used) = (self.limit, self.period.name(), self.used);
        write!(
            f,
            "the key's quota of {limit} tokens a {period} is used up: {used} were used"
        )?;
        if used < limit {
            write!(
                f,
                " and {} are set aside for requests under way",
                self.set_aside
            )?;
        }
        write!(f, "; it begins anew at {}", expiry::written(self.resets_at))
    }
}
