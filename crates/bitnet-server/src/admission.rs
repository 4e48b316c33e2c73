//! Who may wait: a request is taken or refused before anything expensive is done for it.
//!
//! Two caps, on choices under way and on prompt tokens that nobody has run yet, bound both the memory of the queue and
//! the time to a first token. The last eighth of both is for tenants that hold little, so that one that fills the queue
//! leaves room for the others. A refusal says when to come back, from how long requests took lately.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitnet_inference::TenantId;

use crate::error::{ApiError, ErrorCode};

/// Decides who may wait.
#[derive(Debug)]
pub struct Admission {
    max_choices: usize,
    max_running: usize,
    max_tokens: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: Held,
    tenants: HashMap<TenantId, Held>, // those that hold something
    seconds: f64,                     // of a request, smoothed
}

/// What is held of the two caps.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Held {
    choices: usize,
    tokens: usize,
}

/// A request that was taken. Its room is free when this is dropped.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    tenant: TenantId,
    choices: usize,
    tokens: usize,
    estimated: usize, // of them, until their number is known
    since: Instant,
    ran: bool, // whether its time says how long requests take
}

/// Weight of the newest request in the smoothed time that requests take.
const SMOOTHING: f64 = 0.2;

/// Which part of both caps is kept for tenants that hold little: enough for a few dozen requests of the default queue,
/// and little of what one tenant alone may use.
const KEPT: usize = 8;

/// Which limit a full queue names, `details.limit` of the error: that of requests, or of prompt tokens that wait.
const QUEUED_REQUESTS: &str = "queued_requests";
const QUEUED_TOKENS: &str = "queued_tokens";

/// Longest time that a refused client is told to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Admission {
    /// Room for `max_queued` choices beside the `max_running` that the engine runs at once, and for `max_tokens` prompt
    /// tokens.
    pub fn new(max_running: usize, max_queued: usize, max_tokens: usize) -> Admission {
        Admission {
            max_choices: max_running.saturating_add(max_queued),
            max_running,
            max_tokens,
            counts: Mutex::default(),
        }
    }

    /// Takes a request of `choices` choices and an estimated number of prompt `tokens` from `tenant`. What it has of
    /// them is told by [`Admitted::add_tokens`].
    ///
    /// # Errors
    /// [`ErrorCode::QueueFull`], or [`ErrorCode::InvalidValue`] for more choices than ever fit.
    pub fn admit(
        self: &Arc<Self>,
        tenant: TenantId,
        choices: usize,
        tokens: usize,
    ) -> Result<Admitted, ApiError> {
        if choices > self.max_choices {
            let message = format!(
                "the request has {choices} choices, and this server takes {} at once",
                self.max_choices
            );
            return Err(ApiError::about("n", ErrorCode::InvalidValue, message));
        }
        let mut counts = self.counts();
        if counts.all.choices + choices > self.max_choices {
            return Err(self.full(&counts, "requests", QUEUED_REQUESTS));
        }
        if counts.all.tokens >= self.max_tokens {
            return Err(self.full(&counts, "prompt tokens", QUEUED_TOKENS));
        }
        // Where nothing is held, even more than the share is taken: it would never fit otherwise.
        if counts.all.choices > 0
            && counts.leaves_too_little(tenant, |held| held.choices, choices, self.max_choices)
        {
            return Err(self.full(&counts, "this client's requests", QUEUED_REQUESTS));
        }
        counts.check_tokens(self, tenant, tokens)?;
        counts.change(tenant, |held| {
            held.choices += choices;
            held.tokens += tokens;
        });
        Ok(Admitted {
            admission: self.clone(),
            tenant,
            choices,
            tokens,
            estimated: tokens,
            since: Instant::now(),
            ran: false,
        })
    }

    /// Choices that there is room for when nobody else is there.
    pub fn most_choices(&self) -> usize {
        self.max_choices
    }

    /// Choices taken and prompt tokens that wait.
    pub fn waiting(&self) -> (usize, usize) {
        let held = self.counts().all;
        (held.choices, held.tokens)
    }

    /// Whether the next request would be taken.
    pub fn has_room(&self) -> bool {
        let counts = self.counts();
        counts.all.choices < self.max_choices && counts.all.tokens < self.max_tokens
    }

    /// When a new attempt has a chance, from how many there are and how long requests took lately.
    pub fn wait(&self) -> Duration {
        self.wait_of(&self.counts())
    }

    fn wait_of(&self, counts: &Counts) -> Duration {
        let turns = (counts.all.choices / self.max_running.max(1)).max(1);
        Duration::try_from_secs_f64(counts.seconds * turns as f64)
            .unwrap_or(LONGEST_WAIT)
            .clamp(Duration::from_secs(1), LONGEST_WAIT)
    }

    fn full(&self, counts: &Counts, of: &str, limit: &str) -> ApiError {
        let message = format!("the queue is full of {of}");
        ApiError::new(ErrorCode::QueueFull, message)
            .retry_after(self.wait_of(counts))
            .with_limit(limit)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Plain numbers, changed in one go.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// Whether `more` of what `of` counts would take from what is kept for tenants that hold little. Those are who hold
    /// no more than their share, of all who hold something and one who may come.
    fn leaves_too_little(
        &self,
        tenant: TenantId,
        of: fn(&Held) -> usize,
        more: usize,
        max: usize,
    ) -> bool {
        let own = self.tenants.get(&tenant);
        let n_tenants = self.tenants.len() + usize::from(own.is_none());
        let own = own.map_or(0, of) + more;
        of(&self.all) + more > max - max / KEPT && own > max / (n_tenants + 1)
    }

    /// Refuses `tokens` more prompt tokens of `tenant` where there is no room for them.
    fn check_tokens(
        &self,
        admission: &Admission,
        tenant: TenantId,
        tokens: usize,
    ) -> Result<(), ApiError> {
        let max = admission.max_tokens;
        // One request is taken however long it is.
        if self.all.tokens == 0 {
            return Ok(());
        }
        if self.all.tokens.saturating_add(tokens) > max {
            return Err(admission.full(self, "prompt tokens", QUEUED_TOKENS));
        }
        if self.leaves_too_little(tenant, |held| held.tokens, tokens, max) {
            return Err(admission.full(self, "this client's prompt tokens", QUEUED_TOKENS));
        }
        Ok(())
    }

    fn change(&mut self, tenant: TenantId, change: impl Fn(&mut Held)) {
        change(&mut self.all);
        let held = self.tenants.entry(tenant).or_default();
        change(held);
        if *held == Held::default() {
            self.tenants.remove(&tenant);
        }
    }
}

impl Admitted {
    /// Counts the prompt tokens of the request, known now.
    ///
    /// # Errors
    /// [`ErrorCode::QueueFull`].
    pub fn add_tokens(&mut self, tokens: usize) -> Result<(), ApiError> {
        let mut counts = self.admission.counts();
        let estimated = std::mem::take(&mut self.estimated);
        self.tokens -= estimated;
        counts.change(self.tenant, |held| held.tokens -= estimated);
        counts.check_tokens(&self.admission, self.tenant, tokens)?;
        counts.change(self.tenant, |held| held.tokens += tokens);
        self.tokens += tokens;
        self.ran = true;
        Ok(())
    }

    /// Counts prompt tokens of a later part of a request that was taken: it is not refused in the middle.
    pub fn add_part(&mut self, tokens: usize) {
        let mut counts = self.admission.counts();
        counts.change(self.tenant, |held| held.tokens += tokens);
        self.tokens += tokens;
    }

    /// `tokens` of them have been run.
    pub fn tokens_ran(&mut self, tokens: usize) {
        let tokens = tokens.min(self.tokens);
        self.tokens -= tokens;
        let mut counts = self.admission.counts();
        counts.change(self.tenant, |held| held.tokens -= tokens);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.change(self.tenant, |held| {
            held.choices -= self.choices;
            held.tokens -= self.tokens;
        });
        if self.ran {
            // Refusals are quick, and would make the others look so.
            let took = self.since.elapsed().as_secs_f64();
            counts.seconds += SMOOTHING * (took - counts.seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: TenantId = TenantId(1);
    const BOB: TenantId = TenantId(2);
    const CAROL: TenantId = TenantId(3);

    #[test]
    fn places_are_counted_and_given_back() {
        let admission = Arc::new(Admission::new(1, 2, 100));
        let first = admission.admit(ALICE, 2, 0).unwrap();
        let second = admission.admit(ALICE, 1, 0).unwrap();
        let refused = admission.admit(ALICE, 1, 0).unwrap_err();
        assert_eq!(refused.code, ErrorCode::QueueFull);
        assert!(refused.retry_after.unwrap() >= Duration::from_secs(1));
        assert!(!admission.has_room());
        drop(first);
        assert_eq!(admission.waiting(), (1, 0));
        drop((admission.admit(ALICE, 2, 0).unwrap(), second));
        assert_eq!(admission.waiting(), (0, 0));
    }

    #[test]
    fn refused_requests_do_not_shorten_the_time_to_come_back() {
        let admission = Arc::new(Admission::new(1, 1, 100));
        admission.counts().seconds = 20.0;
        let mut running = admission.admit(ALICE, 1, 0).unwrap();
        running.add_tokens(100).unwrap();
        for _ in 0..100 {
            assert!(admission.admit(ALICE, 1, 0).is_err());
        }
        running.tokens_ran(50);
        for _ in 0..100 {
            let mut long = admission.admit(ALICE, 1, 0).unwrap();
            assert!(long.add_tokens(90).is_err());
        }
        assert_eq!(admission.wait(), Duration::from_secs(20));
    }

    #[test]
    fn a_long_prompt_is_taken_alone_and_refused_behind_another() {
        let admission = Arc::new(Admission::new(1, 9, 100));
        let mut long = admission.admit(ALICE, 1, 0).unwrap();
        let mut late = admission.admit(ALICE, 1, 0).unwrap();
        long.add_tokens(500).unwrap();
        assert_eq!(late.add_tokens(1).unwrap_err().code, ErrorCode::QueueFull);
        assert_eq!(
            admission.admit(ALICE, 1, 0).unwrap_err().code,
            ErrorCode::QueueFull
        );
        long.tokens_ran(450);
        late.add_tokens(38).unwrap();
        assert!(late.add_tokens(1).is_err());
        drop(long);
        assert_eq!(admission.waiting(), (1, 38));
    }

    #[test]
    fn what_is_not_tokenised_yet_is_counted_by_its_bytes() {
        let admission = Arc::new(Admission::new(1, 9, 100));
        let mut first = admission.admit(ALICE, 1, 60).unwrap();
        assert_eq!(admission.waiting(), (1, 60));
        let refused = admission.admit(BOB, 1, 50).unwrap_err();
        assert_eq!(refused.code, ErrorCode::QueueFull);
        first.add_tokens(45).unwrap();
        assert_eq!(admission.waiting(), (1, 45), "known by now");
        drop(admission.admit(BOB, 1, 30).unwrap());
        let mut more = admission.admit(BOB, 1, 10).unwrap();
        assert!(more.add_tokens(60).is_err(), "more than estimated");
        assert_eq!(admission.waiting(), (2, 45));
        drop((first, more));
        assert_eq!(admission.waiting(), (0, 0));
        drop(admission.admit(ALICE, 1, 5000).unwrap());
        assert!(admission.counts().tenants.is_empty());
    }

    #[test]
    fn who_fills_the_queue_leaves_room_for_others() {
        let admission = Arc::new(Admission::new(8, 56, 800));
        let take = |tenant| admission.admit(tenant, 1, 0);
        let alice: Vec<Admitted> = std::iter::from_fn(|| take(ALICE).ok()).collect();
        assert_eq!(alice.len(), 56);
        let bob: Vec<Admitted> = (0..4).map(|_| take(BOB).unwrap()).collect();
        assert_eq!(take(ALICE).unwrap_err().code, ErrorCode::QueueFull);
        let carol: Vec<Admitted> = (0..4).map(|_| take(CAROL).unwrap()).collect();
        assert!(take(CAROL).is_err(), "full is full");
        drop((alice, bob, carol));
        assert!(admission.counts().tenants.is_empty());

        let mut alice = take(ALICE).unwrap();
        let mut bob = take(BOB).unwrap();
        alice.add_tokens(650).unwrap();
        assert!(take(ALICE).unwrap().add_tokens(100).is_err());
        bob.add_tokens(100).unwrap();
        // One request of many choices is taken by an idle server, and not beside others.
        drop((alice, bob));
        drop(admission.admit(ALICE, 64, 0).unwrap());
        let _bob = take(BOB).unwrap();
        assert!(admission.admit(ALICE, 63, 0).is_err());
    }
}
