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
            limits.max_running + limits.prefill_chunk <= shape.max_batch_tokens
                && limits.max_running <= shape.max_logit_rows,
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
                &sequence.pending()[..chunk.n_tokens],
                sequence.start_position(),
                sequence.block_table(),
                if chunk.draws {
                    LogitRows::Last
                } else {
                    LogitRows::None
                },
            );
            if let Some(keep) = sequence.keep().filter(|_| chunk.draws) {
                let row = self.batch.logit_rows().len() - 1;
                self.batch.keep(row, keep, sequence.named());
            }
        }
        let started = clock.now();
        let observer = self.profile.as_mut().map(|profile| profile as _);
        let ran = self.runner.run(&self.batch, observer);
        let run_time = clock.now() - started;

        let mut rows = 0..;
        for chunk in &self.plan {
            let sequence = &mut self.scheduler.running_mut()[chunk.index];
            sequence.advance(chunk.n_tokens, run_time);
            let outcome = match &ran {
                Err(error) => Err(error.clone()),
                Ok(()) if !chunk.draws => continue,
                Ok(()) => {
                    let drawing = clock.now();
                    let row = rows.next().expect("there is no end of rows");
                    let drawn = sequence.draw(self.runner.row(row));
                    sequence.add_sample_time(clock.now() - drawing);
                    drawn.map(|(token, finish)| Drawn { token, finish })
                }
            };
            if outcome.is_err() {
                sequence.end();
            }
            events.push(Event {
                request: sequence.id(),
                outcome,
                timings: sequence.timings(),
            });
        }
        self.scheduler.retire(&mut self.blocks);
        true
    }
}
