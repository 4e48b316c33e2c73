//! What one principal may take: requests a minute, tokens a minute, requests at once.
//!
//! Requests and tokens are two buckets that fill evenly and hold a minute's worth. A request needs a whole request and
//! any token at all; its tokens are taken as they come, which may leave a debt, because nobody knows before how long an
//! answer gets. Principals are forgotten once their buckets are full again, so the memory is bounded by those who were
//! active in the last minute, and by `MAX_PRINCIPALS`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Principals that are remembered; while as many are active, new ones are refused. One is some 200 bytes.
const MAX_PRINCIPALS: usize = 65_536;
/// What buckets hold: a minute's worth.
const WINDOW: Duration = Duration::from_secs(60);

/// Limits of one principal; 0 or absent is the server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimits {
    /// Requests a minute.
    pub requests_per_minute: u32,
    /// Tokens a minute, prompts and answers together.
    pub tokens_per_minute: u32,
    /// Requests at once.
    pub concurrent_requests: u32,
}

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// Requests a minute.
    Requests,
    /// Tokens a minute.
    Tokens,
    /// Requests at once.
    Concurrency,
}

/// What is left, as `x-ratelimit-*` headers tell it: limit, remaining, and the time until nothing is missing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Remaining {
    /// Of requests; `None` where there is no limit.
    pub requests: Option<(u32, u32, Duration)>,
    /// Of tokens; `None` where there is no limit.
    pub tokens: Option<(u32, u32, Duration)>,
}

/// A refusal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TooMuch {
    /// Which limit.
    pub exceeded: Exceeded,
    /// When a new attempt has a chance.
    pub retry_after: Duration,
    /// What is left.
    pub remaining: Remaining,
}

/// The accounts of all principals.
#[derive(Debug, Clone, Default)]
pub struct RateLimiter {
    accounts: Arc<Mutex<HashMap<String, Account>>>,
}

/// A request that was let through. Dropping it ends its part of the requests at once.
#[derive(Debug)]
pub struct Permit {
    limiter: RateLimiter,
    principal: String,
    /// What was left when it was let through.
    pub remaining: Remaining,
}

#[derive(Debug)]
struct Account {
    limits: RateLimits,
    requests: f64,
    tokens: f64,
    running: u32,
    updated: Instant,
}

impl RateLimits {
    /// These, and where they say nothing `defaults`.
    pub fn or(self, defaults: RateLimits) -> RateLimits {
        let or = |own: u32, default: u32| if own == 0 { default } else { own };
        RateLimits {
            requests_per_minute: or(self.requests_per_minute, defaults.requests_per_minute),
            tokens_per_minute: or(self.tokens_per_minute, defaults.tokens_per_minute),
            concurrent_requests: or(self.concurrent_requests, defaults.concurrent_requests),
        }
    }
}

impl RateLimiter {
    /// Lets a request of `principal` through, or says which limit it reached.
    ///
    /// # Errors
    /// When a limit is reached; nothing is taken then.
    pub fn enter(
        &self,
        principal: &str,
        limits: RateLimits,
        now: Instant,
    ) -> Result<Permit, TooMuch> {
        let mut accounts = self.lock();
        if !accounts.contains_key(principal) && accounts.len() >= MAX_PRINCIPALS {
            accounts.retain(|_, account| {
                account.fill(now);
                !account.is_untouched()
            });
            if accounts.len() >= MAX_PRINCIPALS {
                return Err(TooMuch {
                    exceeded: Exceeded::Requests,
                    retry_after: WINDOW,
                    remaining: Remaining::default(),
                });
            }
        }
        let account = accounts
            .entry(principal.to_owned())
            .or_insert_with(|| Account {
                limits,
                requests: f64::from(limits.requests_per_minute),
                tokens: f64::from(limits.tokens_per_minute),
                running: 0,
                updated: now,
            });
        account.change_limits(limits);
        account.fill(now);
        let refused = |exceeded, retry_after, account: &Account| TooMuch {
            exceeded,
            retry_after,
            remaining: account.remaining(),
        };
        if limits.concurrent_requests > 0 && account.running >= limits.concurrent_requests {
            // Nobody knows when one of them ends; a second is long for a client and short for an answer.
            return Err(refused(
                Exceeded::Concurrency,
                Duration::from_secs(1),
                account,
            ));
        }
        if limits.requests_per_minute > 0 && account.requests < 1.0 {
            let wait = time_for(1.0 - account.requests, limits.requests_per_minute);
            return Err(refused(Exceeded::Requests, wait, account));
        }
        if limits.tokens_per_minute > 0 && account.tokens < 1.0 {
            let wait = time_for(1.0 - account.tokens, limits.tokens_per_minute);
            return Err(refused(Exceeded::Tokens, wait, account));
        }
        if limits.requests_per_minute > 0 {
            account.requests -= 1.0;
        }
        account.running += 1;
        Ok(Permit {
            limiter: self.clone(),
            principal: principal.to_owned(),
            remaining: account.remaining(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Who was let through, as the access log names it.
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// The key or the token's subject that it was let through by; `None` when it needed none.
    pub fn credential(&self) -> Option<&str> {
        let shown = !self.principal.starts_with("address:");
        shown.then_some(self.principal.as_str())
    }

    /// Takes tokens that the request used: its prompt when it is known, its answer as it comes or at its end.
    pub fn charge(&self, tokens: u64, now: Instant) {
        if let Some(account) = self.limiter.lock().get_mut(&self.principal) {
            account.fill(now);
            if account.limits.tokens_per_minute > 0 {
                // A debt of a minute's tokens at the most: what was already promised cannot shut a key out for hours.
                let debt = -f64::from(account.limits.tokens_per_minute);
                account.tokens = (account.tokens - tokens as f64).max(debt);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(account) = self.limiter.lock().get_mut(&self.principal) {
            account.running = account.running.saturating_sub(1);
        }
    }
}

impl Account {
    fn fill(&mut self, now: Instant) {
        let share =
            now.saturating_duration_since(self.updated).as_secs_f64() / WINDOW.as_secs_f64();
        self.updated = self.updated.max(now);
        let full = |limit: u32| f64::from(limit);
        self.requests = (self.requests + share * full(self.limits.requests_per_minute))
            .min(full(self.limits.requests_per_minute));
        self.tokens = (self.tokens + share * full(self.limits.tokens_per_minute))
            .min(full(self.limits.tokens_per_minute));
    }

    /// A reload may change limits: what was used stays used.
    fn change_limits(&mut self, limits: RateLimits) {
        self.requests +=
            f64::from(limits.requests_per_minute) - f64::from(self.limits.requests_per_minute);
        self.tokens +=
            f64::from(limits.tokens_per_minute) - f64::from(self.limits.tokens_per_minute);
        self.limits = limits;
    }

    /// Whether forgetting it changes nothing.
    fn is_untouched(&self) -> bool {
        self.running == 0
            && self.requests >= f64::from(self.limits.requests_per_minute)
            && self.tokens >= f64::from(self.limits.tokens_per_minute)
    }

    fn remaining(&self) -> Remaining {
        let of = |left: f64, limit: u32| {
            let missing = f64::from(limit) - left;
            (limit > 0).then(|| {
                (
                    limit,
                    left.max(0.0) as u32,
                    time_for(missing.max(0.0), limit),
                )
            })
        };
        Remaining {
            requests: of(self.requests, self.limits.requests_per_minute),
            tokens: of(self.tokens, self.limits.tokens_per_minute),
        }
    }
}

/// Time in which a bucket of `limit` a minute gets `amount`.
fn time_for(amount: f64, limit: u32) -> Duration {
    Duration::try_from_secs_f64(amount / f64::from(limit) * WINDOW.as_secs_f64())
        .unwrap_or(Duration::MAX)
}
