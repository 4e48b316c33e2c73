//! How many bad credentials an address may show: so many a minute, a minute's worth at once.
//!
//! Nobody guesses 256 bits, at any rate. What is held back is a client that tries a revoked key for ever, and the lines
//! and answers of a flood. Past its limit an address is told to wait, and a good credential is let in all the same:
//! clients behind one address do not shut each other out. So each credential is looked at, which costs a hash for a
//! key, and a signature for a token.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::rate::WINDOW;
use crate::peers::peer_of;

/// Addresses that are remembered; one is some 60 bytes. While as many have shown bad credentials in the last minute,
/// all further ones are one.
const MAX_ADDRESSES: usize = 65_536;

/// Time between two looks through all addresses for those that can be forgotten: a flood from as many as one likes does
/// not pay for one look with one request.
const SWEEP: Duration = Duration::from_secs(1);

/// Bad credentials of each address. An address here is whom it stands for ([`peer_of`]), or `None` for those that are
/// not remembered one by one.
#[derive(Debug, Default)]
pub struct RefusalLimiter {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    buckets: HashMap<Option<IpAddr>, Bucket>,
    swept: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    used: f64, // of a minute's worth
    updated: Instant,
}

impl RefusalLimiter {
    /// Counts one bad credential of `peer`, where `per_minute` are allowed; 0 is no limit.
    ///
    /// # Errors
    /// When it has shown as many: the time until one more would be counted. This one is not.
    pub fn count(
        &self,
        peer: Option<IpAddr>,
        per_minute: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        if per_minute == 0 {
            return Ok(());
        }
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = peer.map(peer_of).filter(|peer| table.has_room(*peer, now));
        let bucket = table.buckets.entry(peer).or_insert(Bucket {
            used: 0.0,
            updated: now,
        });
        bucket.drain(now);
        // In parts of what is allowed, so that a limit that a reload changes holds at once.
        let one = 1.0 / f64::from(per_minute);
        // A whole number of parts, but for rounding.
        if bucket.used + one <= 1.0 + one / 1024.0 {
            bucket.used += one;
            return Ok(());
        }
        Err(WINDOW.mul_f64(bucket.used + one - 1.0))
    }
}

impl Table {
    /// Whether `peer` can be remembered.
    fn has_room(&mut self, peer: IpAddr, now: Instant) -> bool {
        if self.buckets.len() < MAX_ADDRESSES || self.buckets.contains_key(&Some(peer)) {
            return true;
        }
        if self.swept.is_none_or(|swept| now >= swept + SWEEP) {
            self.swept = Some(now);
            self.buckets.retain(|_, bucket| {
                bucket.drain(now);
                bucket.used > 0.0
            });
        }
        self.buckets.len() < MAX_ADDRESSES
    }
}

impl Bucket {
    fn drain(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.updated);
        self.used = (self.used - passed.as_secs_f64() / WINDOW.as_secs_f64()).max(0.0);
        self.updated = self.updated.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> Option<IpAddr> {
        Some(IpAddr::V4(n.into()))
    }

    #[test]
    fn an_address_has_a_minutes_worth_and_gets_it_back_evenly() {
        let limiter = RefusalLimiter::default();
        let start = Instant::now();
        for per_minute in [1, 3, 7, 60, 1000] {
            let peer = address(per_minute);
            let count = |now| limiter.count(peer, per_minute, now);
            for n in 0..per_minute {
                assert_eq!(count(start), Ok(()), "{n} of {per_minute}");
            }
            let wait = count(start).unwrap_err();
            let expected = WINDOW / per_minute;
            assert!(
                wait.abs_diff(expected) < Duration::from_millis(1),
                "{wait:?}"
            );
            assert_eq!(count(start), Err(wait), "a refusal is not counted");
            let then = start + wait + Duration::from_millis(1);
            assert_eq!(count(then), Ok(()));
            assert!(count(then).is_err());
        }
        assert_eq!(limiter.count(address(1), 0, start), Ok(()), "0 is no limit");
    }

    #[test]
    fn addresses_do_not_share_and_a_network_of_64_bits_is_one() {
        let limiter = RefusalLimiter::default();
        let now = Instant::now();
        let count = |text: &str| limiter.count(Some(text.parse().unwrap()), 1, now);
        assert!(count("192.0.2.1").is_ok());
        assert!(count("::ffff:192.0.2.1").is_err());
        assert!(count("192.0.2.2").is_ok());
        assert!(count("2001:db8:0:1::1").is_ok());
        assert!(count("2001:db8:0:1:ffff::2").is_err());
        assert!(count("2001:db8:0:2::1").is_ok());
    }

    #[test]
    fn addresses_without_number_share_what_is_left_and_are_forgotten() {
        let limiter = RefusalLimiter::default();
        let start = Instant::now();
        let known = u32::try_from(MAX_ADDRESSES).unwrap();
        for n in 0..known {
            assert!(limiter.count(address(n), 2, start).is_ok());
        }
        for n in 0..2 {
            assert!(limiter.count(address(known + n), 2, start).is_ok());
        }
        let strangers = limiter.count(address(known + 2), 2, start);
        assert!(strangers.is_err(), "those who are not remembered are one");
        assert!(limiter.count(address(7), 2, start).is_ok());
        let n_known = || limiter.table.lock().unwrap().buckets.len();
        assert_eq!(n_known(), MAX_ADDRESSES + 1);
        let later = start + WINDOW;
        assert!(limiter.count(address(known), 2, later).is_ok());
        assert_eq!(n_known(), 1, "who owes nothing is forgotten");
    }
}
