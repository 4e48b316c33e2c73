//! Buckets that fill, debts, tokens that are set aside, requests at once.

use super::super::quota::{Quota, QuotaLedger};
use super::*;

/// What is left at this moment, in the year 1970.
fn left_at(permit: &Permit, instant: Instant) -> Remaining {
    let time = std::time::UNIX_EPOCH;
    permit.remaining(Moment { instant, time })
}

#[test]
fn buckets_fill_evenly_and_tokens_may_leave_a_debt() {
    let limiter = RateLimiter::default();
    let limits = RateLimits {
        requests_per_minute: 60,
        tokens_per_minute: 600,
        concurrent_requests: 0,
    };
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let permit = Arc::new(limiter.enter("a", limits, at(0)).unwrap());
    let mut tokens = permit.reserve(700, at(0)).unwrap();
    tokens.tokens_used(700);
    drop(tokens);
    let refused = limiter.enter("a", limits, at(9)).unwrap_err();
    assert_eq!(refused.exceeded, Exceeded::Tokens);
    assert!(
        (refused.retry_after.as_secs_f64() - 1.1).abs() < 1e-6,
        "{refused:?}"
    );
    assert!(limiter.enter("a", limits, at(11)).is_ok());
    assert!(
        limiter.enter("b", limits, at(9)).is_ok(),
        "principals do not share"
    );
    let none = RateLimits::default();
    for _ in 0..1000 {
        assert!(limiter.enter("c", none, at(0)).is_ok(), "0 is no limit");
    }
}

#[test]
fn requests_without_limits_change_nothing_for_those_of_the_same_key() {
    let limiter = RateLimiter::default();
    let limits = RateLimits {
        requests_per_minute: 60,
        tokens_per_minute: 600,
        concurrent_requests: 1,
    };
    let start = Instant::now();
    let mut let_through = 0;
    // Ten minutes of two requests a second, and a scraper that looks five times a second.
    for tick in 0..6000 {
        let now = start + Duration::from_millis(100 * tick);
        if tick % 5 == 0 {
            let_through += u32::from(limiter.enter("a", limits, now).is_ok());
        }
        if tick % 2 == 0 {
            drop(limiter.let_free("a"));
        }
    }
    assert_eq!(let_through, 659);

    // Nor are tokens free while somebody looks, and what looks is none of the requests at once.
    let permit = Arc::new(limiter.enter("b", limits, start).unwrap());
    let looking = limiter.let_free("b");
    let mut tokens = permit.reserve(100, start).unwrap();
    tokens.tokens_used(100);
    drop((tokens, looking));
    assert_eq!(left_at(&permit, start).tokens.unwrap().1, 500);
    drop(permit);
    let _looking = limiter.let_free("b");
    assert!(limiter.enter("b", limits, start).is_ok());
}

#[test]
fn tokens_are_set_aside_before_they_are_used() {
    let limiter = RateLimiter::default();
    let limits = RateLimits {
        tokens_per_minute: 600,
        ..RateLimits::default()
    };
    let now = Instant::now();
    let permit = Arc::new(limiter.enter("a", limits, now).unwrap());
    let left = || left_at(&permit, now).tokens.unwrap().1;
    let long = permit.reserve(400, now).unwrap();
    let refused = permit.reserve(300, now).unwrap_err();
    assert_eq!(refused.exceeded, Exceeded::Tokens);
    assert!((refused.retry_after.as_secs_f64() - 10.0).abs() < 1e-6);
    assert_eq!(left(), 200, "a refusal takes nothing");
    drop(long);
    assert_eq!(left(), 600, "what was not used is given back");

    // Longer than anybody said: taken in shares, as a debt in the end, which is paid in full.
    let mut tokens = permit.reserve(600, now).unwrap();
    tokens.tokens_used(6000);
    drop(tokens);
    let minutes = |n: u64| now + Duration::from_secs(60 * n);
    assert!(limiter.enter("a", limits, minutes(9)).is_err());
    assert!(limiter.enter("a", limits, minutes(10)).is_ok());
}

#[test]
fn requests_at_once_are_counted_until_their_permits_go() {
    let limiter = RateLimiter::default();
    let limits = RateLimits {
        concurrent_requests: 2,
        ..RateLimits::default()
    };
    let now = Instant::now();
    let first = limiter.enter("a", limits, now).unwrap();
    let _second = limiter.enter("a", limits, now).unwrap();
    assert_eq!(
        limiter.enter("a", limits, now).unwrap_err().exceeded,
        Exceeded::Concurrency
    );
    drop(first);
    assert!(limiter.enter("a", limits, now).is_ok());
}

#[test]
fn what_one_limit_refuses_takes_nothing_of_the_other() {
    let ledger = Arc::new(QuotaLedger::open(None));
    let quota = Quota {
        tokens_per_day: 100,
        tokens_per_month: 0,
    };
    let limits = RateLimits {
        tokens_per_minute: 60,
        ..RateLimits::default()
    };
    let (limiter, now) = (RateLimiter::default(), Instant::now());
    let enter = || {
        let share = ledger.enter("0123abcd", quota, std::time::SystemTime::UNIX_EPOCH);
        let permit = limiter.enter("a", limits, now).unwrap();
        Arc::new(permit.with_quota(Some(share.unwrap())))
    };
    let (first, second, third) = (enter(), enter(), enter());
    let running = first.reserve(40, now).unwrap();
    let refused = second.reserve(60, now).unwrap_err();
    assert_eq!(refused.exceeded, Exceeded::Tokens);
    // Only 40 are set aside, so there is room for one more, and then for none.
    let mut last = third.reserve(20, now).unwrap();
    last.tokens_used(200);
    let refused = second.reserve(1, now).unwrap_err();
    assert_eq!(refused.exceeded, Exceeded::Quota);
    drop((running, last));
    let refused = second.reserve(1, now).unwrap_err();
    assert_eq!(refused.exceeded, Exceeded::Quota, "200 of 100 are used");
}
