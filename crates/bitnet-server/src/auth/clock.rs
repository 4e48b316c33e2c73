//! The time of a request, by both clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A moment, asked for once a request. What has a date (keys and tokens that expire, quotas of a day) is held against
/// the wall clock, which jumps when somebody sets it; all that lasts for a time is held against the other one, which
/// never does.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For limits a minute.
    pub instant: Instant,
    /// For dates.
    pub time: SystemTime,
}

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        Moment {
            instant: Instant::now(),
            time: SystemTime::now(),
        }
    }
}

/// Seconds since 1970; 0 before: a clock that was never set.
pub fn unix_seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests;
