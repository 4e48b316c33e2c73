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

use crate::block_manager::BlockManager;
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
        assert!(limits.max_running > 0 && limits.prefill_chunk > 0);
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
    pub fn submit(&mut self, sequence: Sequence, blocks: &BlockManager) -> Result<(), Error> {
        let needed = BlockManager::blocks_for(sequence.positions_needed());
        let available = blocks.n_blocks();
        if needed > available {
            return Err(Error::NeverFits { needed, available });
        }
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
    pub fn schedule(&mut self, blocks: &mut BlockManager, plan: &mut Vec<Chunk>) {
        self.admit(blocks);
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
        let numbered = self.running.iter().enumerate();
        for (index, sequence) in numbered.filter(|(_, s)| s.is_prefilling()) {
            let pending = sequence.pending().len();
            let n_tokens = pending.min(budget);
            if n_tokens == 0 {
                break;
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

    fn admit(&mut self, blocks: &mut BlockManager) {
        while self.running.len() < self.limits.max_running {
            let Some(next) = self.waiting.front() else {
                return;
            };
            let Some(table) = blocks.allocate(next.positions_needed()) else {
                return;
            };
            let mut sequence = self.waiting.pop_front().expect("it was at the front");
            *sequence.block_table_mut() = table;
            self.running.push(sequence);
        }
    }
}

#[cfg(test)]
mod tests;
