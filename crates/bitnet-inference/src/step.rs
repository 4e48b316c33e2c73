//! One turn of the engine: schedule, run, draw, emit.
//!
//! [`Step`] owns no thread, clock or channel. Whoever holds it calls [`Step::step`] as often as there is work: the
//! engine behind its lock, a server on its own thread, a test or a browser in a plain loop.

use std::sync::Arc;
use std::time::Duration;

use bitnet_kernels::{HeadWork, Traffic};
use bitnet_models::{Batch, LogitRows, Profile};

use crate::block_manager::BlockManager;
use crate::engine_load::EngineLoad;
use crate::error::Error;
use crate::logprobs::TokenLogprobs;
use crate::metrics::{Clock, Timings};
use crate::request::{FinishReason, Token};
use crate::runner::Runner;
use crate::runner_work::RunnerWork;
use crate::scheduler::{Chunk, ScheduleLimits, Scheduler};
use crate::sequence::{Overdue, RequestId, Sequence};

/// Something that happened to a request in a step.
#[derive(Debug, Clone)]
pub struct Event {
    /// Whose it is.
    pub request: RequestId,
    /// What happened.
    pub outcome: Result<Drawn, Error>,
    /// Where the request's time went so far.
    pub timings: Timings,
}

/// A token was drawn, or an embedding is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// The token; `None` of a request for an embedding.
    pub token: Option<Token>,
    /// Set with the last token.
    pub finish: Option<FinishReason>,
    /// Of every prompt token (of the first there is none), with the first token of a request that asks for them.
    pub prompt: Option<Arc<[Option<TokenLogprobs>]>>,
    /// The prompt's vector, `[hidden_size]`, of a request for one
    /// ([`Engine::check_embedding`](crate::Engine::check_embedding)).
    pub embedding: Option<Arc<[f32]>>,
}

/// The model, its cache and the requests under way.
pub struct Step {
    runner: Box<dyn Runner>,
    given_up: RunnerWork, // of runners before this one
    scheduler: Scheduler,
    blocks: BlockManager,
    batch: Batch,
    plan: Vec<Chunk>,
    profile: Option<Profile>, // of passes since it was asked for
    work: EngineLoad,         // its counters of what `Step` itself does; all else is asked for
}

impl Step {
    /// Nothing under way. `prefix_cache`: keep what was computed for requests that begin alike.
    ///
    /// # Panics
    /// When the runner's buffers are too small for `limits`.
    pub fn new(runner: Box<dyn Runner>, limits: ScheduleLimits, prefix_cache: bool) -> Step {
        let shape = runner.shape();
        assert!(
            limits.max_rows() <= shape.max_batch_tokens
                && limits.max_logit_rows() <= shape.max_logit_rows,
            "the runner's buffers hold the largest step"
        );
        Step {
            blocks: BlockManager::new(shape.n_blocks, prefix_cache),
            runner,
            given_up: RunnerWork::default(),
            scheduler: Scheduler::new(limits),
            batch: Batch::new(),
            plan: Vec::new(),
            profile: None,
            work: EngineLoad::default(),
        }
    }

    /// Puts a sequence in the queue at `now`.
    ///
    /// # Errors
    /// [`Error::NeverFits`].
    pub fn submit(&mut self, sequence: Sequence, now: Duration) -> Result<(), Error> {
        self.scheduler.submit(sequence, now, &self.blocks)
    }

    /// Forgets a request and frees its KV blocks.
    pub fn cancel(&mut self, request: RequestId) {
        self.scheduler.cancel(request, &mut self.blocks);
    }

    /// [`Scheduler::has_run`].
    pub fn has_run(&self, request: RequestId) -> bool {
        self.scheduler.has_run(request)
    }

    /// Forgets what nobody holds of the KV cache, and gives its memory back.
    pub fn forget_idle(&mut self) {
        for blocks in self.blocks.forget_idle() {
            self.runner.forget_kv(blocks);
        }
    }

    /// What an evaluation needs, borrowed apart.
    pub(crate) fn evaluation_parts(&mut self) -> (&mut dyn Runner, &mut BlockManager, &mut Batch) {
        (&mut *self.runner, &mut self.blocks, &mut self.batch)
    }

    /// Starts to add up where the time of passes goes, from zero.
    pub fn start_profile(&mut self) {
        self.profile = Some(Profile::default());
    }

    /// What was added up, and an end to it.
    pub fn take_profile(&mut self) -> Option<Profile> {
        self.profile.take()
    }

    /// What finding candidates took so far.
    pub fn head_work(&self) -> HeadWork {
        self.runner_work().head
    }

    /// What passes of one row have read of the ternary weights so far.
    pub fn traffic(&self) -> Traffic {
        self.runner_work().traffic
    }

    fn runner_work(&self) -> RunnerWork {
        RunnerWork::of(&*self.runner).and(self.given_up)
    }

    /// Blocks of the KV cache that nobody owns.
    pub fn n_free_blocks(&self) -> usize {
        self.blocks.n_free()
    }

    /// What there is to do and what was done so far.
    pub fn load(&self) -> EngineLoad {
        EngineLoad {
            kv_blocks: self.blocks.n_blocks(),
            kv_blocks_used: self.blocks.n_blocks() - self.blocks.n_free(),
            kv_blocks_cached: self.blocks.n_idle(),
            ..self.scheduler.load(self.work)
        }
    }

    /// Runs one forward pass over whatever the scheduler picks and appends what came of it to `events`. `false`
    /// when there was nothing to do. A failure is an event of each request it ended.
    pub fn step(&mut self, clock: &dyn Clock, events: &mut Vec<Event>) -> bool {
        let now = clock.now();
        let n_events = events.len();
        self.scheduler
            .expire(now, &mut self.blocks, |sequence, overdue| {
                let error = match overdue {
                    Overdue::Deadline(after) => Error::DeadlineExceeded { after },
                    Overdue::Queue(after) => Error::QueueTimeout { after },
                };
                events.push(failed(sequence, error));
            });
        self.work.deadlines_exceeded += (events.len() - n_events) as u64;
        self.scheduler
            .schedule(now, &mut self.blocks, &mut self.plan);
        if self.plan.is_empty() {
            return events.len() > n_events;
        }
        self.fill_batch();
        let started = clock.now();
        let observer = self.profile.as_mut().map(|profile| profile as _);
        let ran = self.runner.run(&self.batch, observer);
        let run_time = clock.now() - started;
        self.work.steps += 1;
        self.work.rows += self.batch.len() as u64;
        if let Err(error @ Error::Device { .. }) = &ran
            && self.fall_back(error, clock.now())
        {
            return true;
        }
        self.work.failed_steps += u64::from(ran.is_err());
        self.take_results(ran, run_time, clock, events);
        self.scheduler.retire(&mut self.blocks);
        true
    }

    /// Puts the fallback in the place of a runner that has failed for good. What its cache held is run again from the
    /// tokens, which are here: the pass that failed is replayed, and no request notices. `false` without a fallback.
    fn fall_back(&mut self, error: &Error, now: Duration) -> bool {
        let device = self.runner.device();
        let Some(runner) = self.runner.fallback() else {
            return false;
        };
        if runner.shape() != self.runner.shape() {
            tracing::error!(device, %error, "the fallback has another shape: requests end");
            return false;
        }
        tracing::error!(device, %error, "the device is marked bad, the CPU takes over");
        self.scheduler.restart(now, &mut self.blocks);
        self.blocks = BlockManager::new(self.blocks.n_blocks(), self.blocks.keeps_prefixes());
        self.given_up = self.runner_work();
        self.runner = runner;
        self.work.device_failures += 1;
        true
    }

    /// What runs the model.
    pub fn device(&self) -> &'static str {
        self.runner.device()
    }

    /// Writes the rows of the plan into the batch.
    fn fill_batch(&mut self) {
        self.batch.clear();
        for chunk in &self.plan {
            let sequence = &self.scheduler.running()[chunk.index];
            self.batch.push_sequence(
                sequence.rows(chunk.n_tokens + chunk.n_drafted),
                sequence.start_position(),
                sequence.block_table(),
                match chunk {
                    _ if sequence.collects_prompt_logprobs() => LogitRows::All,
                    Chunk { draws: false, .. } => LogitRows::None,
                    Chunk { n_drafted: 0, .. } => LogitRows::Last,
                    // A single pending token and its guesses: a draw from each.
                    _ => LogitRows::All,
                },
            );
            if let Some(keep) = sequence.keep().filter(|_| chunk.draws) {
                let end = self.batch.logit_rows().len();
                for row in end - 1 - chunk.n_drafted..end {
                    self.batch.keep(row, keep, sequence.named());
                }
            }
        }
    }

    /// Draws from what the pass gave, or ends everybody who was in a pass that failed.
    fn take_results(
        &mut self,
        ran: Result<(), Error>,
        run_time: Duration,
        clock: &dyn Clock,
        events: &mut Vec<Event>,
    ) {
        let mut n_rows_done = 0; // of logits
        let mut first_row = 0; // of the batch
        for chunk in &self.plan {
            let rows = first_row..first_row + chunk.n_tokens;
            first_row = rows.end + chunk.n_drafted;
            let sequence = &mut self.scheduler.running_mut()[chunk.index];
            if let Err(error) = &ran {
                events.push(failed(sequence, error.clone()));
                continue;
            }
            if sequence.collects_prompt_logprobs() {
                let start = sequence.start_position();
                for index in 0..chunk.n_tokens {
                    let row = self.runner.row(n_rows_done + index);
                    sequence.collect_prompt_logprobs(start + index, row);
                }
                // The last of them is the one that is drawn from.
                n_rows_done += chunk.n_tokens - usize::from(chunk.draws);
            }
            for (position, row) in (sequence.start_position()..).zip(rows) {
                sequence.see_hidden(position, |out| self.runner.read_hidden(row, out));
            }
            let done = sequence.advance(chunk.n_tokens, run_time);
            self.work.prompt_tokens += done.n_prompt as u64;
            self.work.recomputed_tokens += done.n_recomputed as u64;
            let first_event = events.len();
            match sequence.finish_embedding() {
                None => {}
                Some(Ok(drawn)) => events.push(Event {
                    request: sequence.id(),
                    outcome: Ok(drawn),
                    timings: sequence.timings(),
                }),
                Some(Err(error)) => events.push(failed(sequence, error)),
            }
            let mut n_drawn = 0;
            let n_rows = if chunk.draws { 1 + chunk.n_drafted } else { 0 };
            let rows_of_chunk = n_rows_done..n_rows_done + n_rows;
            n_rows_done = rows_of_chunk.end;
            for row in rows_of_chunk {
                let drawing = clock.now();
                let drawn = sequence.draw(self.runner.row(row));
                sequence.add_sample_time(clock.now() - drawing);
                let (token, finish) = match drawn {
                    Ok(drawn) => drawn,
                    Err(error) => {
                        events.push(failed(sequence, error));
                        break;
                    }
                };
                n_drawn += 1;
                let goes_on = sequence.confirms(&token);
                events.push(Event {
                    request: sequence.id(),
                    outcome: Ok(Drawn {
                        token: Some(token),
                        finish,
                        prompt: sequence.take_prompt_logprobs(),
                        embedding: None,
                    }),
                    timings: sequence.timings(),
                });
                if !goes_on {
                    break;
                }
            }
            sequence.finish_draft();
            self.work.generated_tokens += n_drawn as u64;
            self.scheduler
                .settle(chunk.index, done, n_drawn, &mut self.blocks);
            // With what it has just kept for others.
            let timings = self.scheduler.running()[chunk.index].timings();
            for event in &mut events[first_event..] {
                event.timings = timings;
            }
        }
    }
}

/// Ends a sequence that cannot go on.
fn failed(sequence: &mut Sequence, error: Error) -> Event {
    sequence.end();
    Event {
        request: sequence.id(),
        outcome: Err(error),
        timings: sequence.timings(),
    }
}
