//! What one principal may take: requests a minute, tokens a minute, requests at once.
//!
//! Requests and tokens are two buckets that fill evenly and hold a minute's worth. A request takes its tokens before it
//! runs: its prompt, and what it says its answer may become ([`Permit::reserve`]); what it did not use is given back.
//! One that needs more than a minute's worth waits for a full bucket and leaves a debt, as does an answer that gets
//! longer than anybody said. Debts are paid in full before the next request, so in the long run no principal gets more
//! than its limit. Principals are forgotten once their buckets are full again, so the memory is bounded by those who
//! owe something, and by `MAX_PRINCIPALS`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::clock::Moment;
use super::quota::{QuotaShare, QuotaState};

/// Principals that are remembered; while as many are active, new ones are refused. One is some 200 bytes.
const MAX_PRINCIPALS: usize = 65_536;
/// What buckets hold: a minute's worth.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Tokens that are set aside at a time for an answer of which nobody said how long it may get: most answers of a
/// conversation are shorter, and a limit of a few thousand still lets some of them run at once.
pub const ANSWER_SHARE: u64 = 256;

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
    /// Bad credentials a minute.
    Credentials,
    /// Tokens a day or a month.
    Quota,
}

impl Exceeded {
    /// As programs are told it, in `details.limit` of the error.
    pub fn name(self) -> &'static str {
        match self {
            Exceeded::Requests => "requests",
            Exceeded::Tokens => "tokens",
            Exceeded::Concurrency => "concurrency",
            Exceeded::Credentials => "credentials",
            Exceeded::Quota => "quota",
        }
    }

    /// What there is too much of.
    pub fn counted(self) -> &'static str {
        match self {
            Exceeded::Requests => "requests a minute",
            Exceeded::Tokens => "tokens a minute",
            Exceeded::Concurrency => "requests at once",
            Exceeded::Credentials => "refused keys or tokens a minute",
            Exceeded::Quota => "tokens of the key's quota",
        }
    }
}

/// What is left, as `x-ratelimit-*` headers tell it: limit, remaining, and the time until nothing is missing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Remaining {
    /// Of requests; `None` where there is no limit.
    pub requests: Option<(u64, u64, Duration)>,
    /// Of tokens, in a minute, a day or a month, whichever has the least left; `None` where there is no limit.
    pub tokens: Option<(u64, u64, Duration)>,
}

impl Remaining {
    /// The same, with these tokens where they are less.
    pub(super) fn or_less(self, tokens: Option<(u64, u64, Duration)>) -> Remaining {
        let each = self.tokens.into_iter().chain(tokens);
        Remaining {
            tokens: each.min_by_key(|(_, left, _)| *left),
            ..self
        }
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq)]
pub struct TooMuch {
    /// Which limit.
    pub exceeded: Exceeded,
    /// When a new attempt has a chance.
    pub retry_after: Duration,
    /// What is left.
    pub remaining: Remaining,
    /// The quota that is used up, if it is one.
    pub quota: Option<Box<QuotaState>>,
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
    is_counted: bool, // false: it costs nothing and stands in no account
    quota: Option<QuotaShare>,
}

/// Tokens that were set aside for a request. Dropping it gives back what was not used.
#[derive(Debug)]
pub struct TokenReservation {
    permit: Arc<Permit>,
    taken: u64,
    used: u64,
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
                    quota: None,
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
            quota: None,
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
            is_counted: true,
            quota: None,
        })
    }

    /// Lets a request of `principal` through that has no limits, and leaves its account as it is.
    pub fn let_free(&self, principal: &str) -> Permit {
        Permit {
            limiter: self.clone(),
            principal: principal.to_owned(),
            is_counted: false,
            quota: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// The same, with its part of a quota, which its tokens are counted against too.
    #[must_use]
    pub fn with_quota(mut self, share: Option<QuotaShare>) -> Permit {
        self.quota = share;
        self
    }

    /// Who was let through, as the access log names it.
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// The key or the token's subject that it was let through by; `None` when it needed none.
    pub fn credential(&self) -> Option<&str> {
        let shown = !self.principal.starts_with("address:");
        shown.then_some(self.principal.as_str())
    }

    /// What is left now; of nothing for a request that has no limits.
    pub fn remaining(&self, now: Moment) -> Remaining {
        let of_minute = self.account(|account| {
            account.fill(now.instant);
            account.remaining()
        });
        let quota = self.quota.as_ref();
        let of_quota = quota.and_then(|share| share.remaining(now.time));
        of_minute.unwrap_or_default().or_less(of_quota)
    }

    /// Sets `tokens` aside for a request. More than a minute's worth needs a full bucket, and leaves a debt.
    ///
    /// # Errors
    /// When there are not as many now, or nothing is left of the quota; nothing is taken then.
    pub fn reserve(
        self: &Arc<Self>,
        tokens: u64,
        now: Instant,
    ) -> Result<TokenReservation, TooMuch> {
        if let Some(quota) = &self.quota {
            quota.take(tokens)?;
        }
        let missing = self.account(|account| {
            account.fill(now);
            let limit = account.limits.tokens_per_minute;
            let missing = (tokens as f64).min(f64::from(limit)) - account.tokens;
            if limit == 0 || missing <= 0.0 {
                account.take(tokens);
                return Ok(());
            }
            Err(TooMuch {
                exceeded: Exceeded::Tokens,
                retry_after: time_for(missing, limit),
                remaining: account.remaining(),
                quota: None,
            })
        });
        if let Some(Err(too_much)) = missing {
            if let Some(quota) = &self.quota {
                quota.put_back(tokens);
            }
            return Err(too_much);
        }
        Ok(TokenReservation {
            permit: self.clone(),
            taken: tokens,
            used: 0,
        })
    }

    fn account<T>(&self, change: impl FnOnce(&mut Account) -> T) -> Option<T> {
        let mut accounts = self.is_counted.then(|| self.limiter.lock())?;
        accounts.get_mut(&self.principal).map(change)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.account(|account| account.running = account.running.saturating_sub(1));
    }
}

impl TokenReservation {
    /// `tokens` were used. Beyond what was set aside, more is taken, [`ANSWER_SHARE`] at a time.
    pub fn tokens_used(&mut self, tokens: u64) {
        self.used += tokens;
        if self.used > self.taken {
            let more = (self.used - self.taken).next_multiple_of(ANSWER_SHARE);
            self.taken += more;
            self.permit.account(|account| account.take(more));
            if let Some(quota) = &self.permit.quota {
                quota.take_more(more);
            }
        }
    }
}

impl Drop for TokenReservation {
    fn drop(&mut self) {
        let unused = self.taken.saturating_sub(self.used);
        self.permit.account(|account| account.give_back(unused));
        if let Some(quota) = &self.permit.quota {
            quota.settle(self.taken, self.used);
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

    fn take(&mut self, tokens: u64) {
        if self.limits.tokens_per_minute > 0 {
            self.tokens -= tokens as f64;
        }
    }

    fn give_back(&mut self, tokens: u64) {
        let full = f64::from(self.limits.tokens_per_minute);
        self.tokens = (self.tokens + tokens as f64).min(full);
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
        let is_full = |left: f64, limit: u32| limit == 0 || left >= f64::from(limit);
        self.running == 0
            && is_full(self.requests, self.limits.requests_per_minute)
            && is_full(self.tokens, self.limits.tokens_per_minute)
    }

    fn remaining(&self) -> Remaining {
        let of = |left: f64, limit: u32| {
            let missing = f64::from(limit) - left;
            (limit > 0).then(|| {
                (
                    u64::from(limit),
                    left.max(0.0) as u64,
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

#[cfg(test)]
mod tests;
