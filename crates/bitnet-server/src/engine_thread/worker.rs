//! What the engine's thread does: obeys commands, takes turns, delivers what comes of them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use bitnet_inference::{EngineLoad, Event, RequestId};
use tokio::sync::mpsc;

use super::{Command, Shared, Turns, Update};
use crate::metrics::CancelPhase;

/// How long the thread waits for commands when the engine has requests and finds nothing to do for them.
const RECHECK: Duration = Duration::from_millis(5);

/// A choice that the engine knows.
struct Active {
    ticket: u64,
    choice: usize,
    updates: mpsc::Sender<Update>,
    queued: Instant,
    has_drawn: bool,
}

/// Is told the engine's load, and the time of the step that changed it.
pub(super) type Watch = dyn FnMut(&EngineLoad, Option<Duration>) + Send;

/// What the thread has.
pub(super) struct Worker<T> {
    engine: Arc<T>,
    watch: Box<Watch>,
    left: Box<dyn Fn(CancelPhase) + Send>,
    inbox: Receiver<Command>,
    shared: Arc<Shared>,
    active: HashMap<RequestId, Active>,
    tickets: HashMap<u64, RequestId>,
    events: Vec<Event>,
    load_is_old: bool, // commands were obeyed since it was published
    retired: bool,
}

impl<T: Turns> Worker<T> {
    /// One without requests.
    pub fn new(
        engine: Arc<T>,
        watch: Box<Watch>,
        left: Box<dyn Fn(CancelPhase) + Send>,
        inbox: Receiver<Command>,
        shared: Arc<Shared>,
    ) -> Worker<T> {
        Worker {
            engine,
            watch,
            left,
            inbox,
            shared,
            active: HashMap::new(),
            tickets: HashMap::new(),
            events: Vec::new(),
            load_is_old: false,
            retired: false,
        }
    }

    /// Works until nobody is left who could ask for anything.
    pub fn run(mut self) {
        let mut idle = true;
        loop {
            // Commands come in crowds: what they change is told once, when there is none left or a step begins.
            if idle || self.active.is_empty() {
                self.refresh_load();
            }
            let next = if self.active.is_empty() {
                self.inbox.recv().map_err(|_| TryRecvError::Disconnected)
            } else if idle {
                self.inbox
                    .recv_timeout(RECHECK)
                    .map_err(|error| match error {
                        RecvTimeoutError::Timeout => TryRecvError::Empty,
                        RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                    })
            } else {
                self.inbox.try_recv()
            };
            match next {
                Ok(command) => {
                    idle = false;
                    self.guarded(|worker| worker.obey(command));
                    continue; // all that is there, before the next step
                }
                // Tickets hold senders too: nobody is left to read an answer.
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            if !self.active.is_empty() {
                self.refresh_load();
                let mut worked = false;
                self.guarded(|worker| worked = worker.turn());
                idle = !worked;
            }
        }
    }

    /// Runs `work`; a panic in it ends every request and marks the engine as failed.
    fn guarded(&mut self, work: impl FnOnce(&mut Self)) {
        if self.shared.failed.load(Ordering::Acquire) {
            // Dropped unanswered; readers find the channel closed and ask for the reason.
            self.active.clear();
            self.tickets.clear();
            return;
        }
        // All of it: a hang in a command, or in telling what a step drew, is one as a hang in the step is.
        let now = self.shared.start.elapsed().as_millis() as u64;
        self.shared.step_started.store(now + 1, Ordering::Release);
        let panicked = catch_unwind(AssertUnwindSafe(|| work(self))).is_err();
        self.shared.step_started.store(0, Ordering::Release);
        if panicked {
            tracing::error!("the engine panicked: every request ends, and no other is taken");
            self.shared.failed.store(true, Ordering::Release);
            self.active.clear();
            self.tickets.clear();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            // It was on its way when all requests were ended: it ends as they did, by its closed channel.
            Command::Submit { .. } if self.shared.ended.load(Ordering::Acquire) => {}
            Command::Submit {
                ticket,
                choice,
                request,
                updates,
            } => {
                let timings = request.timings();
                let queued = Instant::now();
                match self.engine.enqueue(*request) {
                    Ok(id) => {
                        self.tickets.insert(ticket, id);
                        self.active.insert(
                            id,
                            Active {
                                ticket,
                                choice,
                                updates,
                                queued,
                                has_drawn: false,
                            },
                        );
                    }
                    Err(error) => {
                        let refused = Update {
                            choice,
                            outcome: Err(error),
                            timings,
                            queued,
                            at: Instant::now(),
                        };
                        // Full or closed: as in `deliver`, the closed channel tells.
                        let _ = updates.try_send(refused);
                    }
                }
            }
            Command::Cancel { ticket, tell } => {
                let id = self.tickets.remove(&ticket);
                let active = id.and_then(|id| self.active.remove(&id));
                if tell {
                    (self.left)(match (id, active) {
                        (Some(id), Some(active)) if !active.has_drawn => {
                            match self.engine.has_run(id) {
                                true => CancelPhase::Prefill,
                                false => CancelPhase::Queue,
                            }
                        }
                        // Drawing, or at its end already.
                        _ => CancelPhase::Decode,
                    });
                }
                if let Some(id) = id {
                    self.engine.cancel(id);
                }
            }
            Command::End => {
                for (id, _) in self.active.drain() {
                    self.engine.cancel(id);
                }
                self.tickets.clear();
            }
            Command::Retire(retired) => {
                self.retired = retired;
                self.give_back();
            }
        }
        self.load_is_old = true;
    }

    /// Gives back what a model that gets no more requests does not need.
    fn give_back(&self) {
        if self.retired {
            self.engine.forget_idle();
        }
    }

    /// Publishes what commands have changed.
    fn refresh_load(&mut self) {
        if std::mem::take(&mut self.load_is_old) {
            self.guarded(|worker| worker.publish_load(None));
        }
    }

    fn publish_load(&mut self, step: Option<Duration>) {
        let load = self.engine.current_load();
        (self.watch)(&load, step);
        *self.shared.load() = load;
    }

    fn turn(&mut self) -> bool {
        let before = *self.shared.load();
        let started = Instant::now();
        let worked = self.engine.turn(&mut self.events);
        self.shared.turns.fetch_add(1, Ordering::Relaxed);
        let ends = |event: &Event| !matches!(&event.outcome, Ok(drawn) if drawn.finish.is_none());
        if self.events.iter().any(ends) {
            self.give_back();
        }
        // Before the tokens go out: whoever has seen its last token finds its blocks given back.
        self.publish_load(worked.then(|| started.elapsed()));
        self.shared.count_failures(&before, &self.shared.load());
        let at = Instant::now();
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.deliver(event, at);
        }
        self.events = events;
        worked
    }

    fn deliver(&mut self, event: Event, at: Instant) {
        let id = event.request;
        let Some(active) = self.active.get_mut(&id) else {
            return; // cancelled in the meantime
        };
        active.has_drawn = true;
        let ended = match &event.outcome {
            Ok(drawn) => drawn.finish.is_some(),
            Err(_) => true,
        };
        let sent = active.updates.try_send(Update {
            choice: active.choice,
            outcome: event.outcome,
            timings: event.timings,
            queued: active.queued,
            at,
        });
        if !ended && sent.is_err() {
            self.engine.cancel(id);
        }
        if (ended || sent.is_err())
            && let Some(active) = self.active.remove(&id)
        {
            self.tickets.remove(&active.ticket);
        }
    }
}
