//! What every route sees: the models, the limits, and whether the server is ending.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bitnet_inference::Terms;
use tokio::sync::{Semaphore, watch};

use crate::caller::Caller;
use crate::cancellation::RequestsUnderWay;
use crate::checking::LONG_CHECKS;
use crate::error::{ApiError, ErrorCode};
use crate::fields::Fields;
use crate::limits::ServerLimits;
use crate::metrics::{CancelPhase, Metrics};
use crate::model::LoadedModel;
use crate::model_manager::ModelManager;
use crate::model_manager::policy::ModelPolicy;
use crate::model_manager::registry::ModelRegistry;
use crate::request_id;
use crate::request_log::RequestLog;
use crate::running::{Job, Running};
use crate::service_tier::{self, ServiceTier};
use crate::telemetry::Telemetry;

/// The state that routes share.
pub struct App {
    /// The models.
    pub models: ModelRegistry,
    /// What loads and unloads them.
    pub manager: ModelManager,
    /// What requests may ask for.
    pub limits: ServerLimits,
    /// What monitoring sees.
    pub metrics: Arc<Metrics>,
    /// What is written about requests.
    pub log: RequestLog,
    /// What exports traces, if anything does.
    pub telemetry: Option<Telemetry>,
    /// The requests under way, to be ended by their names.
    pub requests: RequestsUnderWay,
    /// Room for bodies that arrive, in units of [`BODY_UNIT`] bytes.
    pub bodies: Arc<Semaphore>,
    /// Room for texts that are tokenised without being put in the queue.
    pub tokenising: Arc<Semaphore>,
    /// Turns to tokenise long texts: those who wait for one leave the other threads to short ones.
    pub long_checks: Arc<Semaphore>,
    /// Room for bodies whose requests wait for their model to be loaded, or for a turn to be tokenised, in the same
    /// units.
    pub held_bodies: Arc<Semaphore>,
    /// Room for whole answers that wait to be read, in the same units.
    pub leaving: Arc<Semaphore>,
    /// When the server started.
    pub started: Instant,
    accepting: AtomicBool,
    draining: watch::Sender<bool>,
    id_key: RandomState,
    last_id: AtomicU64,
}

/// A header by which a client says how many seconds its request may take.
pub const TIMEOUT_HEADER: &str = "x-request-timeout";

/// Bytes of a body that are counted as one: a semaphore counts to 2^29 at the least, which is half a terabyte.
pub const BODY_UNIT: usize = 1 << 10;

/// Tokens that the histograms of lengths tell apart: no model in use has a longer context.
const LONGEST_CONTEXT: usize = 1 << 18;

impl App {
    /// A server without models.
    pub fn new(limits: ServerLimits) -> App {
        let room = units(limits.max_arriving);
        App {
            models: ModelRegistry::default(),
            manager: ModelManager::new(ModelPolicy::default()),
            limits,
            metrics: Arc::new(Metrics::new(LONGEST_CONTEXT)),
            log: RequestLog::default(),
            telemetry: None,
            requests: RequestsUnderWay::default(),
            bodies: Arc::new(Semaphore::new(room)),
            held_bodies: Arc::new(Semaphore::new(room)),
            long_checks: Arc::new(Semaphore::new(LONG_CHECKS)),
            leaving: Arc::new(Semaphore::new(units(limits.max_leaving))),
            // Each holds a text and a thread at times, as those in the queue do.
            tokenising: Arc::new(Semaphore::new(
                limits.max_queued_requests.clamp(1, Semaphore::MAX_PERMITS),
            )),
            started: Instant::now(),
            accepting: AtomicBool::new(false),
            draining: watch::Sender::new(false),
            id_key: RandomState::new(),
            last_id: AtomicU64::new(0),
        }
    }

    /// The same, writing about its requests to `log`.
    #[must_use]
    pub fn with_log(self, log: RequestLog) -> App {
        App { log, ..self }
    }

    /// The same, loading and unloading models as `policy` says.
    #[must_use]
    pub fn with_policy(self, policy: ModelPolicy) -> App {
        App {
            manager: ModelManager::new(policy),
            ..self
        }
    }

    /// From now on clients can connect.
    pub fn start_accepting(&self) {
        self.accepting.store(true, Ordering::Release);
    }

    /// Whether they can.
    pub fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire)
    }

    /// All of the room of [`App::leaving`].
    pub fn leaving_units(&self) -> usize {
        units(self.limits.max_leaving)
    }

    /// From now on no request is taken; those under way go on.
    pub fn start_draining(&self) {
        self.draining.send_replace(true);
    }

    /// Whether it is so.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Resolves when it is so.
    pub async fn drain_begun(&self) {
        let mut watcher = self.draining.subscribe();
        // The sender lives as long as `self`.
        let _ = watcher.wait_for(|is_draining| *is_draining).await;
    }

    /// Lets new work begin, unless the server is ending.
    ///
    /// # Errors
    /// [`ErrorCode::ShuttingDown`].
    pub fn check_serving(&self) -> Result<(), ApiError> {
        match self.is_draining() {
            true => Err(shutting_down()),
            false => Ok(()),
        }
    }

    /// A name that no other answer has: `prefix` and 16 hexadecimal digits.
    pub fn new_id(&self, prefix: &str) -> String {
        let number = self.last_id.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{:016x}", self.id_key.hash_one(number))
    }

    /// Starts a request, unless the server is ending.
    ///
    /// # Errors
    /// [`ErrorCode::ShuttingDown`], and as [`Running::start`].
    pub async fn start(&self, model: Arc<LoadedModel>, work: Job) -> Result<Running, ApiError> {
        self.check_serving()?;
        request_id::current().list(&self.requests, work.permit.as_deref());
        Running::start(model, self.metrics.clone(), work).await
    }

    /// [`App::model`] for a request whose `model` is in `fields`. While it waits for the model to be loaded its body
    /// takes up room, as while it arrived: however many wait, their memory is bounded.
    ///
    /// # Errors
    /// As that, and [`ErrorCode::QueueFull`] when too much is waiting.
    pub async fn model_for(
        self: &Arc<App>,
        fields: &mut Fields,
        caller: &Caller,
    ) -> Result<Arc<LoadedModel>, ApiError> {
        let name = fields.text("model")?;
        if let (Some(name), Some(trace)) = (&name, &request_id::current().trace) {
            trace.asks_for(name);
        }
        // Before it is loaded for somebody who may not have it.
        let name = self.models.allowed_name(name, &caller.models)?;
        let found = self.model(name.as_deref());
        with_room(&self.held_bodies, fields.body_len, found).await?
    }

    /// On which terms a request waits and runs.
    ///
    /// # Errors
    /// A bad `priority` or one that the caller may not ask for, be it by `tier`, or a bad [`TIMEOUT_HEADER`].
    pub fn terms(
        &self,
        fields: &mut Fields,
        caller: &Caller,
        tier: Option<ServiceTier>,
    ) -> Result<Terms, ApiError> {
        let number = fields.integer("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?;
        let (field, priority) = match (number, tier) {
            (Some(_), Some(_)) => {
                let message =
                    "service_tier names a priority, and priority is one: give one of them";
                let code = ErrorCode::InvalidValue;
                return Err(ApiError::about(service_tier::FIELD, code, message));
            }
            (None, Some(tier)) => (service_tier::FIELD, tier.priority()),
            (number, None) => {
                let number = i32::try_from(number.unwrap_or(0)).expect("the range was checked");
                ("priority", number)
            }
        };
        if priority < 0 && !caller.is_admin && !self.limits.allow_urgent {
            // It would go before everybody else's, whoever they are, and take places from those that run.
            let message = "a priority below 0 is for administrators";
            return Err(ApiError::about(field, ErrorCode::InsufficientRole, message)
                .with_hint("performance.allow_urgent gives it to everybody"));
        }
        Ok(Terms {
            priority,
            deadline: self.deadline(caller)?,
            queue_timeout: self.limits.queue_timeout,
            tenant: caller.tenant,
            cache_salt: caller.cache_salt,
        })
    }

    /// How long a request may take from its arrival.
    fn deadline(&self, caller: &Caller) -> Result<Option<Duration>, ApiError> {
        let asked = caller.headers.get(TIMEOUT_HEADER).map(|value| {
            let seconds = value
                .to_str()
                .ok()
                .and_then(|text| text.parse::<f64>().ok());
            let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            // As in settings: none is asked for.
            let limit = |time: Duration| Some(time).filter(|time| !time.is_zero());
            time.map(limit).ok_or_else(|| {
                let message = format!("the header {TIMEOUT_HEADER} must be a number of seconds");
                ApiError::about(TIMEOUT_HEADER, ErrorCode::InvalidValue, message)
            })
        });
        Ok(
            match (asked.transpose()?.flatten(), self.limits.request_timeout) {
                (Some(asked), Some(longest)) => Some(asked.min(longest)),
                (asked, longest) => asked.or(longest),
            },
        )
    }

    /// [`App::model_for`] a request whose time counts: loading its model is a part of what it may take.
    ///
    /// # Errors
    /// As [`App::model_for`], [`ErrorCode::DeadlineExceeded`], or a bad [`TIMEOUT_HEADER`].
    pub async fn model_in_time(
        self: &Arc<App>,
        fields: &mut Fields,
        caller: &Caller,
    ) -> Result<Arc<LoadedModel>, ApiError> {
        let deadline = self.deadline(caller)?;
        let attended = self.metrics.attended(CancelPhase::Load);
        let found = match deadline {
            None => self.model_for(fields, caller).await,
            Some(time) => {
                let left = time.saturating_sub(request_id::current().arrived.elapsed());
                let found = tokio::time::timeout(left, self.model_for(fields, caller)).await;
                found.unwrap_or_else(|_| {
                    let message = format!(
                        "the model was not loaded within the {} s of the request",
                        time.as_secs_f64()
                    );
                    Err(ApiError::new(ErrorCode::DeadlineExceeded, message))
                })
            }
        };
        attended.ended();
        found
    }
}

/// What new work is answered while the server ends.
pub(crate) fn shutting_down() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "the server is shutting down")
        .retry_after(Duration::from_secs(1))
}

fn units(bytes: usize) -> usize {
    (bytes / BODY_UNIT).clamp(1, Semaphore::MAX_PERMITS)
}

/// What comes of `work`, which takes room for a body of `body_len` bytes unless it is done at once.
///
/// # Errors
/// [`ErrorCode::QueueFull`] when there is not as much room.
pub(crate) async fn with_room<T>(
    room: &Semaphore,
    body_len: usize,
    work: impl Future<Output = T>,
) -> Result<T, ApiError> {
    let mut work = pin!(work);
    let at_once = tokio::select! {
        biased;
        done = &mut work => Some(done),
        () = std::future::ready(()) => None,
    };
    if let Some(done) = at_once {
        return Ok(done);
    }
    let units = u32::try_from(body_len.div_ceil(BODY_UNIT)).unwrap_or(u32::MAX);
    let _room = room.try_acquire_many(units).map_err(|_| {
        let message =
            "too many requests wait for their model to be loaded or their text to be tokenised";
        ApiError::new(ErrorCode::QueueFull, message)
            .retry_after(Duration::from_secs(1))
            .with_limit("bodies")
    })?;
    Ok(work.await)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn requests_that_wait_for_a_model_hold_no_more_than_there_is_room_for() {
        let room = Semaphore::new(3);
        let mut cx = Context::from_waker(Waker::noop());
        let mut first = Box::pin(with_room(&room, 2 * BODY_UNIT, pending::<()>()));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        let refused = Box::pin(with_room(&room, 2 * BODY_UNIT, pending::<()>()))
            .as_mut()
            .poll(&mut cx);
        let std::task::Poll::Ready(Err(error)) = refused else {
            panic!("there is no room: {refused:?}");
        };
        assert_eq!(error.code, ErrorCode::QueueFull);
        assert!(error.retry_after.is_some());
        let mut small = Box::pin(with_room(&room, 1, pending::<()>()));
        assert!(small.as_mut().poll(&mut cx).is_pending());
        let at_once = Box::pin(with_room(&room, 1 << 30, ready(7)))
            .as_mut()
            .poll(&mut cx);
        assert!(
            matches!(at_once, std::task::Poll::Ready(Ok(7))),
            "it waits for nothing"
        );
        drop(first);
        let mut next = Box::pin(with_room(&room, 2 * BODY_UNIT, pending::<()>()));
        assert!(next.as_mut().poll(&mut cx).is_pending());
    }
}
