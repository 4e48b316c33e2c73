//! Tokens that a key may take in a day and in a month, which a restart does not forget.
//!
//! Days and months are those of UTC, by the wall clock. A request that sets its tokens aside while there is something
//! left is finished, so the last one of a day may go beyond; those that run at once are held against what they have set
//! aside. It is looked at twice: at the request's head, so that whoever has nothing left sends no body for nothing, and
//! when the tokens are set aside, or many heads of one moment would all find the last token. What was used is counted
//! in memory and added to a file every few seconds and at the end. Several processes may add to one file, as during a
//! hand-over: each adds what it has counted since it last did, under a lock, and learns what the others have.

mod state;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::clock::unix_seconds;
use super::expiry;
use super::rate::{Exceeded, Remaining, TooMuch};
use super::usage_file::{self, UsageFileError};

pub use self::state::{Period, QuotaState};

const DAY: u64 = 86_400;

/// When those come back who have set aside all that is left: nobody knows how much of it they will use.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// What a key may take; 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Tokens a day, prompts and answers together.
    pub tokens_per_day: u64,
    /// Tokens a month, likewise.
    pub tokens_per_month: u64,
}

impl Quota {
    /// Whether it holds nothing back.
    pub fn is_none(&self) -> bool {
        *self == Quota::default()
    }
}

/// What a key has used, in the last day and month in which it used something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// Days since 1970.
    pub day: u64,
    /// Tokens in it.
    pub in_day: u64,
    /// Months since the year 0.
    pub month: u64,
    /// Tokens in it.
    pub in_month: u64,
}

impl Used {
    /// Nothing, at the second `now`.
    fn nothing(now: u64) -> Used {
        Used {
            day: now / DAY,
            month: month_of(now),
            ..Used::default()
        }
    }

    /// What it is at another time: nothing of another day. Of one to come neither, or a key would be shut out until
    /// then by a clock that was wrong for a moment.
    pub fn at(self, now: u64) -> Used {
        let fresh = Used::nothing(now);
        Used {
            in_day: if fresh.day == self.day {
                self.in_day
            } else {
                0
            },
            in_month: if fresh.month == self.month {
                self.in_month
            } else {
                0
            },
            ..fresh
        }
    }

    /// Whether it is anything.
    pub fn is_any(self) -> bool {
        self.in_day > 0 || self.in_month > 0
    }

    /// This and `more`, each as far as it is of the later day and month.
    pub fn and(self, more: Used) -> Used {
        let sum = |(of, n): (u64, u64), (of_more, more): (u64, u64)| match of.cmp(&of_more) {
            std::cmp::Ordering::Less => (of_more, more),
            std::cmp::Ordering::Equal => (of, n.saturating_add(more)),
            std::cmp::Ordering::Greater => (of, n),
        };
        let (day, in_day) = sum((self.day, self.in_day), (more.day, more.in_day));
        let (month, in_month) = sum((self.month, self.in_month), (more.month, more.in_month));
        Used {
            day,
            in_day,
            month,
            in_month,
        }
    }
}

/// The accounts of all keys that have a quota.
#[derive(Debug)]
pub struct QuotaLedger {
    path: Option<PathBuf>, // None: no keys, so nothing to count
    accounts: Mutex<HashMap<String, Account>>,
    writing: Mutex<()>, // what is counted is added once, whoever writes
}

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    known: Used,   // as the file had it
    counted: Used, // here, since then
    set_aside: u64,
}

/// A request's part of a key's quota.
#[derive(Debug)]
pub struct QuotaShare {
    ledger: Arc<QuotaLedger>,
    id: String,
    quota: Quota,
    began: u64,
    under_way: AtomicBool, // it has set tokens aside: it is finished
}

impl QuotaLedger {
    /// The accounts in the file at `path`. One that cannot be read is told and moved aside: a server without it counts
    /// from nothing, and one that did not start would be a worse answer to a damaged disk.
    pub fn open(path: Option<PathBuf>) -> QuotaLedger {
        let mut accounts = HashMap::new();
        if let Some(path) = &path {
            let account = |known| Account {
                known,
                ..Account::default()
            };
            let known = usage_file::open(path).into_iter();
            accounts.extend(known.map(|(id, known)| (id, account(known))));
        }
        QuotaLedger {
            path,
            accounts: Mutex::new(accounts),
            writing: Mutex::default(),
        }
    }

    /// Lets a request of the key `id` begin, which is that of the file or a principal's.
    ///
    /// # Errors
    /// When nothing is left, with the time until there is.
    pub fn enter(
        self: &Arc<Self>,
        id: &str,
        quota: Quota,
        now: SystemTime,
    ) -> Result<QuotaShare, TooMuch> {
        // In the file as `bitnet keys list` has it.
        let id = id.strip_prefix("key:").unwrap_or(id);
        let now = unix_seconds(now);
        let mut accounts = self.lock();
        let account = accounts.entry(id.to_owned()).or_default();
        account.known = account.known.at(now);
        account.counted = account.counted.at(now);
        account.has_some(quota, now)?;
        Ok(QuotaShare {
            ledger: self.clone(),
            id: id.to_owned(),
            quota,
            began: now,
            under_way: AtomicBool::new(false),
        })
    }

    /// Adds what was counted to the file, if anything was.
    ///
    /// # Errors
    /// When it cannot be written; what was counted is kept for the next time.
    pub fn write(&self, now: SystemTime) -> Result<(), UsageFileError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let counted: Vec<(String, Used)> = {
            let accounts = self.lock();
            let counted = accounts
                .iter()
                .filter(|(_, account)| account.counted.in_month > 0);
            counted
                .map(|(id, account)| (id.clone(), account.counted))
                .collect()
        };
        if counted.is_empty() {
            return Ok(());
        }
        let whole = usage_file::add(path, &counted, unix_seconds(now))?;
        let mut accounts = self.lock();
        for (id, counted) in counted {
            let account = accounts.entry(id).or_default();
            account.counted = minus(account.counted, counted);
        }
        for (id, known) in whole {
            accounts.entry(id).or_default().known = known;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Whether anything is left in the day and month that it is of, at the second `now`.
    fn has_some(&self, quota: Quota, now: u64) -> Result<(), TooMuch> {
        let Some(state) = self.states(quota).find(|state| state.left() == 0) else {
            return Ok(());
        };
        let remaining = state.remaining(now);
        Err(TooMuch {
            exceeded: Exceeded::Quota,
            retry_after: match state.used < state.limit {
                true => UNDER_WAY,
                false => remaining.2,
            },
            remaining: Remaining::default().or_less(Some(remaining)),
            quota: Some(Box::new(state)),
        })
    }

    /// The quotas that there are, in the day and month that it is of; that of the month first.
    fn states(&self, quota: Quota) -> impl Iterator<Item = QuotaState> {
        let (used, set_aside) = (self.known.and(self.counted), self.set_aside);
        let day_ends = used.day.saturating_add(1).saturating_mul(DAY);
        let month_ends = first_second_after(used.month);
        [
            (
                Period::Month,
                quota.tokens_per_month,
                used.in_month,
                month_ends,
            ),
            (Period::Day, quota.tokens_per_day, used.in_day, day_ends),
        ]
        .into_iter()
        .filter(|(_, limit, _, _)| *limit > 0)
        .map(move |(period, limit, used, resets_at)| QuotaState {
            period,
            limit,
            used,
            set_aside,
            resets_at,
        })
    }
}

impl QuotaShare {
    /// Sets tokens aside, if anything is left: since the request's head, others may have taken it. A request that comes
    /// in parts is asked at its first one.
    ///
    /// # Errors
    /// When nothing is left, as [`QuotaLedger::enter`]; nothing is taken then.
    pub(super) fn take(&self, tokens: u64) -> Result<(), TooMuch> {
        self.account(|account| {
            if !self.under_way.load(Ordering::Relaxed) {
                account.has_some(self.quota, self.began)?;
                self.under_way.store(true, Ordering::Relaxed); // under the lock
            }
            account.set_aside = account.set_aside.saturating_add(tokens);
            Ok(())
        })
    }

    /// What is left now of the quota of which the least is: its limit, that, and the time until it begins anew.
    pub(super) fn remaining(&self, now: SystemTime) -> Option<(u64, u64, Duration)> {
        let now = unix_seconds(now);
        self.account(|account| {
            let account = Account {
                known: account.known.at(now),
                counted: account.counted.at(now),
                ..*account
            };
            let least = account.states(self.quota).min_by_key(QuotaState::left);
            least.map(|state| state.remaining(now))
        })
    }

    /// Sets more tokens aside for an answer that runs and is longer than anybody said: it is finished, whatever is
    /// left.
    pub(super) fn take_more(&self, tokens: u64) {
        self.account(|account| account.set_aside = account.set_aside.saturating_add(tokens));
    }

    /// Takes back what [`QuotaShare::take`] did, for a request that another limit refuses.
    pub(super) fn put_back(&self, tokens: u64) {
        self.settle(tokens, 0);
        self.under_way.store(false, Ordering::Relaxed);
    }

    /// Of `taken` tokens, `used` were used: on the day on which the request began.
    pub(super) fn settle(&self, taken: u64, used: u64) {
        let counted = Used {
            in_day: used,
            in_month: used,
            ..Used::nothing(self.began)
        };
        self.account(|account| {
            account.set_aside = account.set_aside.saturating_sub(taken);
            if used > 0 {
                account.counted = account.counted.and(counted);
            }
        });
    }

    fn account<T>(&self, change: impl FnOnce(&mut Account) -> T) -> T {
        change(self.ledger.lock().entry(self.id.clone()).or_default())
    }
}

/// What was counted since `written` was.
fn minus(counted: Used, written: Used) -> Used {
    let rest = |is_same: bool, n: u64, written: u64| match is_same {
        true => n.saturating_sub(written),
        false => n,
    };
    Used {
        in_day: rest(counted.day == written.day, counted.in_day, written.in_day),
        in_month: rest(
            counted.month == written.month,
            counted.in_month,
            written.in_month,
        ),
        ..counted
    }
}

/// The month of a second since 1970.
fn month_of(second: u64) -> u64 {
    let date = expiry::written(second);
    let number =
        |range: std::ops::Range<usize>| date[range].parse::<u64>().expect("a date has digits");
    number(0..4) * 12 + number(5..7) - 1
}

/// When the month after this one begins.
fn first_second_after(month: u64) -> u64 {
    let next = month.saturating_add(1);
    let text = format!("{:04}-{:02}-01", next / 12, next % 12 + 1);
    expiry::date(&text).unwrap_or(expiry::LAST_SECOND)
}

#[cfg(test)]
mod tests;
