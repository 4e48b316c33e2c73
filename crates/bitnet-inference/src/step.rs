//! One turn of the engine: schedule, run, draw, emit.
//!
//! [`Step`] owns no thread, clock or channel. Whoever holds it calls [`Step::step`] as often as there is work: the
//! engine behind its lock, a server on its own thread, a test or a browser in a plain loop.

use bitnet_kernels::HeadWork;
use bitnet_kernels::Traffic;
use bitnet_models::{Batch, LogitRows, Profile};

use crate::block_manager::BlockManager;
use crate::error::Error;
use crate::metrics::{Clock, Timings};
use crate::request::{FinishReason, Token};
use crate::runner::Runner;
use crate::scheduler::{Chunk, ScheduleLimits, Scheduler};
use crate::sequence::{RequestId, Sequence};

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

/// A token was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: Token,
    /// Set with the last token.
    pub finish: Option<FinishReason>,
}

/// The model, its cache and the requests under way.
pub struct Step {
    runner: Box<dyn Runner>,
    scheduler: Scheduler,
    blocks: BlockManager,
    batch: Batch,
    plan: Vec<Chunk>,
    profile: Option<Profile>, // of passes since it was asked for
}

impl Step {
    /// Nothing under way.
    ///
    /// # Panics
    /// When the runner's buffers are too small for `limits`.
    pub fn new(runner: Box<dyn Runner>, limits: ScheduleLimits) -> Step {
        let shape = runner.shape();
        assert!(
            limits.max_running + limits.max_drafted + limits.prefill_chunk
                <= shape.max_batch_tokens
                && limits.max_running + limits.max_drafted <= shape.max_logit_rows,
            "the runner's buffers hold the largest step"
        );
        Step {
            blocks: BlockManager::new(shape.n_blocks),
            runner,
            scheduler: Scheduler::new(limits),
            batch: Batch::new(),
            plan: Vec::new(),
            profile: None,
        }
    }

    /// Puts a sequence in the queue.
    ///
    /// # Errors
    /// [`Error::NeverFits`].
    pub fn submit(&mut self, sequence: Sequence) -> Result<(), Error> {
        self.scheduler.submit(sequence, &self.blocks)
    }

    /// Forgets a request and frees its KV blocks.
    pub fn cancel(&mut self, request: RequestId) {
        self.scheduler.cancel(request, &mut self.blocks);
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
        self.runner.head_work()
    }

    /// What passes of one row have read of the ternary weights so far.
    pub fn traffic(&self) -> Traffic {
        self.runner.traffic()
    }

    /// Blocks of the KV cache that nobody owns.
    pub fn n_free_blocks(&self) -> usize {
        self.blocks.n_free()
    }

    /// Runs one forward pass over whatever the scheduler picks and appends what came of it to `events`. `false`
    /// when there was nothing to do. A failure is an event of each request it ended.
    pub fn step(&mut self, clock: &dyn Clock, events: &mut Vec<Event>) -> bool {
        self.scheduler.schedule(&mut self.blocks, &mut self.plan);
        if self.plan.is_empty() {
            return false;
        }
        self.batch.clear();
        for chunk in &self.plan {
            let sequence = &self.scheduler.running()[chunk.index];
            self.batch.push_sequence(
                sequence.rows(chunk.n_tokens + chunk.n_drafted),
                sequence.start_position(),
                sequence.block_table(),
                match chunk {
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
        let started = clock.now();
        let observer = self.profile.as_mut().map(|profile| profile as _);
        let ran = self.runner.run(&self.batch, observer);
        let run_time = clock.now() - started;

        let mut n_rows_done = 0;
        for chunk in &self.plan {
            let sequence = &mut self.scheduler.running_mut()[chunk.index];
            sequence.advance(chunk.n_tokens, run_time);
            let n_rows = match &ran {
                Err(error) => {
                    events.push(failed(sequence, error.clone()));
                    continue;
                }
                Ok(()) if chunk.draws => 1 + chunk.n_drafted,
                Ok(()) => 0,
            };
            let first_event = events.len();
            let rows_of_chunk = n_rows_done..n_rows_done + n_rows;
            n_rows_done += n_rows;
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
                let goes_on = sequence.confirms(&token);
                events.push(Event {
                    request: sequence.id(),
                    outcome: Ok(Drawn { token, finish }),
                    timings: sequence.timings(),
                });
                if !goes_on {
                    break;
                }
            }
            sequence.finish_draft();
            for event in &mut events[first_event..] {
                event.timings = sequence.timings();
            }
        }
        self.scheduler.retire(&mut self.blocks);
        true
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
