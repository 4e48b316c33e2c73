//! The thread that takes the engine's turns.
//!
//! Requests are checked wherever they arrive; what takes the engine's lock happens here alone, so nobody else ever
//! waits for a forward pass. Commands come in by a channel, tokens leave by one bounded channel for each request, and a
//! thread without work sleeps on the command channel. That one is bounded by what sends: a request sends a command for
//! each of its choices when it is admitted, and another one for each when it ends, and admission limits how many there
//! are.
//!
//! A client that reads too slowly fills its channel: its request then ends, the others never notice. A panic inside a
//! step ends every request under way with an error; the thread lives on to refuse new ones, and [`EngineHealth`] tells.

mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bitnet_inference::{
    Drawn, Engine, EngineLoad, Error, Event, RequestId, Timings, ValidRequest,
    give_back_free_memory,
};
use tokio::sync::mpsc;

use crate::metrics::CancelPhase;
use worker::Worker;

/// What the thread needs of an engine: [`Engine`], or one that fails on purpose around it.
pub trait Turns: Send + Sync + 'static {
    /// [`Engine::enqueue`].
    ///
    /// # Errors
    /// As that.
    fn enqueue(&self, request: ValidRequest) -> Result<RequestId, Error>;
    /// [`Engine::turn`].
    fn turn(&self, events: &mut Vec<Event>) -> bool;
    /// [`Engine::cancel`].
    fn cancel(&self, request: RequestId);
    /// [`Engine::has_run`].
    fn has_run(&self, request: RequestId) -> bool;
    /// [`Engine::current_load`].
    fn current_load(&self) -> EngineLoad;
    /// [`Engine::forget_idle`].
    fn forget_idle(&self) {}
}

impl Turns for Engine {
    fn enqueue(&self, request: ValidRequest) -> Result<RequestId, Error> {
        Engine::enqueue(self, request)
    }

    fn turn(&self, events: &mut Vec<Event>) -> bool {
        Engine::turn(self, events)
    }

    fn cancel(&self, request: RequestId) {
        Engine::cancel(self, request);
    }

    fn has_run(&self, request: RequestId) -> bool {
        Engine::has_run(self, request)
    }

    fn current_load(&self) -> EngineLoad {
        Engine::current_load(self)
    }

    fn forget_idle(&self) {
        Engine::forget_idle(self);
    }
}

/// Something that happened to a choice of a request.
#[derive(Debug)]
pub struct Update {
    /// Which choice of the request, from 0.
    pub choice: usize,
    /// What happened. An error is the last update of its choice.
    pub outcome: Result<Drawn, Error>,
    /// Where its time went so far.
    pub timings: Timings,
    /// When the scheduler got it.
    pub queued: Instant,
    /// When it happened: its reader may come for it much later.
    pub at: Instant,
}

/// Updates that a channel holds for each choice: some seconds of the fastest model, and a few hundred kilobytes.
pub const CHANNEL_CAPACITY: usize = 4096;

enum Command {
    Submit {
        ticket: u64,
        choice: usize,
        request: Box<ValidRequest>,
        updates: mpsc::Sender<Update>,
    },
    Cancel {
        ticket: u64,
        tell: bool, // that a client left
    },
    End,
    Retire(bool),
}

/// A way to the thread. It ends when the last handle and the last ticket are gone.
#[derive(Clone)]
pub struct EngineHandle {
    commands: Sender<Command>,
    shared: Arc<Shared>,
}

/// A choice under way. Dropping it ends the choice wherever it is; one that has ended already is not disturbed.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    commands: Sender<Command>,
    tell: bool,
}

impl Ticket {
    /// Ends the choice because its client left: the thread tells its watcher where it was.
    pub fn leave(mut self) {
        self.tell = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Without the thread there is nothing left to cancel.
        let _ = self.commands.send(Command::Cancel {
            ticket: self.number,
            tell: self.tell,
        });
    }
}

/// How the thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineHealth {
    /// A step panicked: nothing runs any more.
    pub failed: bool,
    /// How long the step under way has taken, or the command that it obeys; `None` while it waits for one.
    pub in_step: Option<Duration>,
    /// Turns taken.
    pub turns: u64,
    /// Forward passes that failed, since the last one that did not.
    pub failed_in_a_row: u64,
}

/// What the thread tells everybody.
struct Shared {
    start: Instant,
    step_started: AtomicU64, // milliseconds since `start` and 1, 0 while nothing is done
    turns: AtomicU64,
    failed_in_a_row: AtomicU64,
    failed: AtomicBool,
    ended: AtomicBool, // by whoever unloads the model
    shutting_down: AtomicBool,
    last_ticket: AtomicU64,
    load: Mutex<EngineLoad>,
}

impl EngineHandle {
    /// Starts the thread. `watch` is told the engine's load whenever it has changed, with the time of the step that
    /// changed it, and `left` where a choice was whose client [left](Ticket::leave).
    ///
    /// # Errors
    /// When the operating system has no thread to give.
    pub fn start(
        engine: Arc<impl Turns>,
        watch: impl FnMut(&EngineLoad, Option<Duration>) + Send + 'static,
        left: impl Fn(CancelPhase) + Send + 'static,
    ) -> std::io::Result<EngineHandle> {
        let (commands, inbox) = channel();
        let shared = Arc::new(Shared {
            start: Instant::now(),
            step_started: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            failed_in_a_row: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            shutting_down: AtomicBool::new(false),
            last_ticket: AtomicU64::new(0),
            load: Mutex::new(engine.current_load()),
        });
        let worker = Worker::new(
            engine,
            Box::new(watch),
            Box::new(left),
            inbox,
            shared.clone(),
        );
        thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                worker.run(); // and with it, most often, the last handle of its engine is gone
                give_back_free_memory();
            })?;
        Ok(EngineHandle { commands, shared })
    }

    /// Puts a choice in the engine's queue; what comes of it goes to `updates`. When that channel closes before a last
    /// update, the choice was given up: its reader was too slow, or the engine failed ([`EngineHealth::failed`]).
    pub fn submit(
        &self,
        request: ValidRequest,
        choice: usize,
        updates: mpsc::Sender<Update>,
    ) -> Ticket {
        let number = self.shared.last_ticket.fetch_add(1, Ordering::Relaxed) + 1;
        // A thread that is gone drops the command, and with it the sender: the reader finds the channel closed.
        let _ = self.commands.send(Command::Submit {
            ticket: number,
            choice,
            request: Box::new(request),
            updates,
        });
        Ticket {
            number,
            commands: self.commands.clone(),
            tell: false,
        }
    }

    /// Ends every request under way; their readers find their channels closed and [`EngineHandle::has_ended`].
    pub fn end(&self) {
        self.shared.ended.store(true, Ordering::Release);
        let _ = self.commands.send(Command::End); // without the thread nothing is under way
    }

    /// [`EngineHandle::end`] because the server ends: readers find [`EngineHandle::is_shutting_down`].
    pub fn shut_down(&self) {
        self.shared.shutting_down.store(true, Ordering::Release);
        let _ = self.commands.send(Command::End); // without the thread nothing is under way
    }

    /// Whether requests were ended because the server ends.
    pub fn is_shutting_down(&self) -> bool {
        self.shared.shutting_down.load(Ordering::Acquire)
    }

    /// Says whether the model gets no more requests: it then gives back memory of keys and values as requests end, and
    /// keeps none for prompts that begin alike.
    pub fn retire(&self, retired: bool) {
        let _ = self.commands.send(Command::Retire(retired)); // without the thread there is no memory
    }

    /// Whether requests were ended because the model was unloaded.
    pub fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// How the thread is, without waiting for it.
    pub fn health(&self) -> EngineHealth {
        let started = self.shared.step_started.load(Ordering::Acquire);
        EngineHealth {
            failed: self.shared.failed.load(Ordering::Acquire),
            in_step: (started > 0).then(|| {
                let started = Duration::from_millis(started - 1);
                self.shared.start.elapsed().saturating_sub(started)
            }),
            turns: self.shared.turns.load(Ordering::Relaxed),
            failed_in_a_row: self.shared.failed_in_a_row.load(Ordering::Relaxed),
        }
    }

    /// The engine's load after the last turn, without waiting for the one under way.
    pub fn load(&self) -> EngineLoad {
        *self.shared.load()
    }
}

impl Shared {
    fn load(&self) -> std::sync::MutexGuard<'_, EngineLoad> {
        // A copy of plain numbers is never half written.
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts passes that failed one after the other; the engine's thread alone calls it.
    fn count_failures(&self, before: &EngineLoad, after: &EngineLoad) {
        if after.failed_steps > before.failed_steps {
            self.failed_in_a_row.fetch_add(1, Ordering::Relaxed);
        } else if after.steps > before.steps {
            self.failed_in_a_row.store(0, Ordering::Relaxed);
        }
    }
}
