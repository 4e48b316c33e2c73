//! Which tokens of which sequences run in the next forward pass.
//!
//! Rules, in this order: every running sequence that generates gets its one row; then up to `prefill_chunk` prompt
//! tokens are shared out first come, first served. A waiting sequence is admitted, first come, first served, when
//! there is a place and the cache has every block it can ever need; nobody overtakes it. So a running sequence never
//! stalls, a long prompt never holds up those who already read their answers, and nobody starves.
//!
//! Decode rows may bring guesses of what follows them (see [`crate::speculative`]); what the pass has room for is
//! shared evenly, so one sequence alone guesses far and a full batch, which has no time to spare, hardly at all.
//!
//! What a sequence yields never depends on these choices: they decide only when its rows run.
//!
//! Source of chunked prefill: "Sarathi-Serve" (Agrawal et al. 2024).

use std::collections::VecDeque;
use std::time::Duration;

use crate::block_manager::BlockManager;
use crate::engine_load::EngineLoad;
use crate::error::Error;
use crate::sequence::{RequestId, Sequence};

/// How much one forward pass may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleLimits {
    /// Sequences that run at once, at least 1; each of them yields one row of logits a pass, and one for each guess.
    pub max_running: usize,
    /// Guessed tokens a pass, of all sequences together.
    pub max_drafted: usize,
    /// Prompt tokens a pass, at least 1.
    pub prefill_chunk: usize,
    /// Those of them whose logits are wanted, at least 1.
    pub prompt_logit_rows: usize,
}

impl ScheduleLimits {
    /// Most rows (tokens) of a pass.
    pub fn max_rows(&self) -> usize {
        self.max_running + self.max_drafted + self.prefill_chunk
    }

    /// Most rows of logits of a pass.
    pub fn max_logit_rows(&self) -> usize {
        self.max_running + self.max_drafted + self.prompt_logit_rows
    }
}

/// The part of a forward pass that belongs to one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Index into [`Scheduler::running`].
    pub index: usize,
    /// How many of its pending tokens run.
    pub n_tokens: usize,
    /// How many guesses run behind them; only behind the last pending token.
    pub n_drafted: usize,
    /// Whether these are its last pending tokens, so that the next one is drawn from the last row.
    pub draws: bool,
}

/// The queue and the running set.
pub struct Scheduler {
    limits: ScheduleLimits,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>, // [<= max_running], in order of arrival
}

impl Scheduler {
    /// Nothing waiting, nothing running.
    pub fn new(limits: ScheduleLimits) -> Scheduler {
        assert!(limits.max_running > 0 && limits.prefill_chunk > 0 && limits.prompt_logit_rows > 0);
        Scheduler {
            limits,
            waiting: VecDeque::new(),
            running: Vec::new(),
        }
    }

    /// Puts a sequence at the end of the queue.
    ///
    /// # Errors
    /// [`Error::NeverFits`] when even the empty cache has too few blocks for it.
    pub fn submit(
        &mut self,
        mut sequence: Sequence,
        now: Duration,
        blocks: &BlockManager,
    ) -> Result<(), Error> {
        let needed = BlockManager::blocks_for(sequence.positions_needed());
        let available = blocks.n_blocks();
        if needed > available {
            return Err(Error::NeverFits { needed, available });
        }
        sequence.arrive(now);
        self.waiting.push_back(sequence);
        Ok(())
    }

    /// Forgets a sequence wherever it is and frees its blocks. Unknown names are ignored: it may just have ended.
    pub fn cancel(&mut self, id: RequestId, blocks: &mut BlockManager) {
        self.waiting.retain(|sequence| sequence.id() != id);
        if let Some(sequence) = self.running.iter_mut().find(|s| s.id() == id) {
            sequence.end();
        }
        self.retire(blocks);
    }

    /// Admits who fits, then writes the next pass into `plan`: decode rows first, then prompt chunks. An empty plan
    /// means that there is nothing to do.
    pub fn schedule(&mut self, now: Duration, blocks: &mut BlockManager, plan: &mut Vec<Chunk>) {
        self.admit(now, blocks);
        plan.clear();
        let n_decoding = self.running.iter().filter(|s| !s.is_prefilling()).count();
        let room = self.limits.max_drafted.checked_div(n_decoding).unwrap_or(0);
        let numbered = self.running.iter_mut().enumerate();
        plan.extend(
            numbered
                .filter(|(_, s)| !s.is_prefilling())
                .map(|(index, sequence)| Chunk {
                    index,
                    n_tokens: 1,
                    n_drafted: sequence.draft(room),
                    draws: true,
                }),
        );
        let mut budget = self.limits.prefill_chunk;
        let mut logit_rows = self.limits.prompt_logit_rows;
        let numbered = self.running.iter().enumerate();
        for (index, sequence) in numbered.filter(|(_, s)| s.is_prefilling()) {
            let pending = sequence.pending().len();
            let mut n_tokens = pending.min(budget);
            if sequence.collects_prompt_logprobs() {
                n_tokens = n_tokens.min(logit_rows);
                logit_rows -= n_tokens;
            }
            if n_tokens == 0 {
                continue;
            }
            budget -= n_tokens;
            plan.push(Chunk {
                index,
                n_tokens,
                n_drafted: 0,
                draws: n_tokens == pending,
            });
        }
    }

    /// Lets those go whose time is over, after handing them to `ended` with the time that they had.
    pub fn expire(
        &mut self,
        now: Duration,
        blocks: &mut BlockManager,
        mut ended: impl FnMut(&mut Sequence, Duration),
    ) {
        let mut expired = |sequence: &mut Sequence| {
            let missed = sequence.missed_deadline(now);
            if let Some(after) = missed {
                ended(sequence, after);
            }
            missed.is_some()
        };
        self.waiting.retain_mut(|sequence| !expired(sequence));
        self.running.iter_mut().for_each(|sequence| {
            expired(sequence);
        });
        self.retire(blocks);
    }

    /// `load` with what the scheduler knows.
    pub fn load(&self, load: EngineLoad) -> EngineLoad {
        EngineLoad {
            waiting: self.waiting.len(),
            waiting_prompt_tokens: self.waiting.iter().map(|s| s.pending().len()).sum(),
            running: self.running.len(),
            max_running: self.limits.max_running,
            ..load
        }
    }

    /// Lets finished sequences go and frees their blocks.
    pub fn retire(&mut self, blocks: &mut BlockManager) {
        self.running.retain_mut(|sequence| {
            if sequence.is_finished() {
                blocks.release(sequence.block_table_mut());
            }
            !sequence.is_finished()
        });
    }

    /// The running sequences; a [`Chunk`] points into them.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// The same, to advance them.
    pub fn running_mut(&mut self) -> &mut [Sequence] {
        &mut self.running
    }

    /// How many wait.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    fn admit(&mut self, now: Duration, blocks: &mut BlockManager) {
        while self.running.len() < self.limits.max_running {
            let indices = 0..self.waiting.len();
            let Some(index) = indices.min_by_key(|&i| self.waiting[i].terms().priority) else {
                return;
            };
            let next = &self.waiting[index];
            let Some(table) = blocks.allocate(next.positions_needed()) else {
                return;
            };
            let mut sequence = self.waiting.remove(index).expect("it was found there");
            sequence.begin(now);
            *sequence.block_table_mut() = table;
            self.running.push(sequence);
        }
    }
}

#[cfg(test)]
mod tests;
