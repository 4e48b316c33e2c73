//! Which tokens of which sequences run in the next forward pass.
//!
//! Rules, in this order: every running sequence that generates gets its one row; then up to `prefill_chunk` prompt
//! tokens (fewer beside decode rows) are shared out by rank, and within a priority to the tenants for whom least was
//! done. So a running sequence never stalls, a long prompt never holds up those who already read their answers, many
//! prompts of one tenant do not hold up those of others, and prompts of several sequences may share a pass.
//!
//! Sequences take KV blocks as they grow, so any of them may use the whole context while blocks last. When none is
//! left, the running sequence of the highest [`Rank`] gives up its place: its blocks are freed, and later its tokens,
//! prompt and generated, are run again (pre-emption by recompute; what the prefix cache still holds of them is found).
//! It waits before all newcomers that would rank behind it. A newcomer of a lower priority takes the places of such as
//! rank behind it; [`queue`] says which newcomer is next. Nobody overtakes whoever is next and waits for blocks.
//!
//! Decode rows may bring guesses of what follows them (see [`crate::speculative`]); what the pass has room for is
//! shared evenly, so one sequence alone guesses far and a full batch, which has no time to spare, hardly at all.
//!
//! What a sequence yields never depends on these choices: they decide only when its rows run.
//!
//! Sources: chunked prefill from "Sarathi-Serve" (Agrawal et al. 2024), pre-emption by recompute from "PagedAttention"
//! (Kwon et al. 2023).

use std::time::Duration;

use bitnet_kernels::{KV_BLOCK, PANEL_ROWS};

use crate::block_manager::BlockManager;
use crate::engine_load::EngineLoad;
use crate::error::Error;
use crate::sequence::{Advance, Overdue, RequestId, Sequence};

pub mod fairness;
pub mod queue;
pub mod rank;

use fairness::Fairness;
use queue::Queue;
pub use rank::{AGEING, PRIORITIES, Rank};

/// How much one forward pass may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleLimits {
    /// Sequences that run at once, at least 1; each of them yields one row of logits a pass, and one for each guess.
    pub max_running: usize,
    /// Guessed tokens a pass, of all sequences together.
    pub max_drafted: usize,
    /// Prompt tokens a pass, at least 1.
    pub prefill_chunk: usize,
    /// Prompt tokens of a pass that decodes too, from 1 to `prefill_chunk`; a few more fill its
    /// last panel of rows where they fit in `prefill_chunk`.
    pub prefill_beside: usize,
    /// Prompt tokens a pass whose logits are wanted, at least 1.
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
    /// Whether these are its last pending tokens and the next one is drawn from the last row.
    pub draws: bool,
}

/// The queue, those that gave up their place, and the running set.
pub struct Scheduler {
    limits: ScheduleLimits,
    queue: Queue,
    preempted: Vec<Sequence>, // by rank
    running: Vec<Sequence>,   // [<= max_running], by rank
    prefilling: Vec<usize>,   // scratch: indices into `running`
    fairness: Fairness,
    counts: Counts,
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    places: u64,
    preemptions: u64,
    prefix_queries: u64,
    prefix_hits: u64,
}

impl Scheduler {
    /// Nothing waiting, nothing running.
    pub fn new(limits: ScheduleLimits) -> Scheduler {
        assert!(
            limits.max_running > 0
                && (1..=limits.prefill_chunk).contains(&limits.prefill_beside)
                && limits.prompt_logit_rows > 0
        );
        Scheduler {
            limits,
            queue: Queue::default(),
            preempted: Vec::with_capacity(limits.max_running),
            running: Vec::with_capacity(limits.max_running),
            prefilling: Vec::with_capacity(limits.max_running),
            fairness: Fairness::default(),
            counts: Counts::default(),
        }
    }

    /// Puts a sequence in the queue at `now`.
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
        self.fairness.arrive(sequence.terms().tenant);
        self.queue.push(sequence, now);
        Ok(())
    }

    /// Forgets a sequence wherever it is and frees its blocks. Unknown names are ignored: it may just have ended.
    pub fn cancel(&mut self, id: RequestId, blocks: &mut BlockManager) {
        self.end_if(blocks, |sequence| sequence.id() == id);
    }

    /// Whether a sequence has had a place: it runs, or gave its place up. `false` for one that waits or is not here.
    pub fn has_run(&self, id: RequestId) -> bool {
        let ran = self.running.iter().chain(&self.preempted);
        ran.into_iter().any(|sequence| sequence.id() == id)
    }

    /// Lets those go whose time is over, after handing them to `ended` with which time it is.
    pub fn expire(
        &mut self,
        now: Duration,
        blocks: &mut BlockManager,
        mut ended: impl FnMut(&mut Sequence, Overdue),
    ) {
        self.end_if(blocks, |sequence| {
            let overdue = sequence.overdue(now);
            if let Some(overdue) = overdue {
                ended(sequence, overdue);
            }
            overdue.is_some()
        });
    }

    fn end_if(&mut self, blocks: &mut BlockManager, mut ends: impl FnMut(&mut Sequence) -> bool) {
        let fairness = &mut self.fairness;
        let mut leaves = |sequence: &mut Sequence| {
            let leaves = ends(sequence);
            if leaves {
                fairness.leave(sequence.terms().tenant);
            }
            leaves
        };
        self.queue.remove_if(&mut leaves);
        self.preempted.retain_mut(|sequence| !leaves(sequence));
        self.running.retain_mut(|sequence| {
            let leaves = leaves(sequence);
            if leaves {
                sequence.leave_cache(blocks);
            }
            !leaves
        });
    }

    /// Takes the places and blocks of all that run: the cache is lost, and their tokens are to be run again.
    pub fn restart(&mut self, now: Duration, blocks: &mut BlockManager) {
        for sequence in &mut self.running {
            sequence.finish_draft(); // of which nothing was confirmed
        }
        while !self.running.is_empty() {
            self.preempt_last(now, blocks);
        }
    }

    /// Lets finished sequences go and frees their blocks.
    pub fn retire(&mut self, blocks: &mut BlockManager) {
        self.end_if(blocks, |sequence| sequence.is_finished());
    }

    /// Gives places to who is next, then writes the next pass into `plan`: decode rows first, then prompt chunks. An
    /// empty plan means that there is nothing to do.
    pub fn schedule(&mut self, now: Duration, blocks: &mut BlockManager, plan: &mut Vec<Chunk>) {
        plan.clear();
        self.grow(now, blocks);
        self.admit(now, blocks);
        self.plan_decode(blocks, plan);
        self.plan_prefill(blocks, plan);
    }

    /// Notes what a pass did for running sequence `index`, of which `n_drawn` tokens were then drawn.
    pub fn settle(
        &mut self,
        index: usize,
        done: Advance,
        n_drawn: usize,
        blocks: &mut BlockManager,
    ) {
        let sequence = &mut self.running[index];
        let tenant = sequence.terms().tenant;
        self.fairness.charge(tenant, done.n_prompt, n_drawn);
        sequence.keep_full_blocks(blocks);
    }

    /// The running sequences, by rank; a [`Chunk`] points into them.
    pub fn running(&self) -> &[Sequence] {
        &self.running
    }

    /// The same, to advance them.
    pub fn running_mut(&mut self) -> &mut [Sequence] {
        &mut self.running
    }

    /// How many wait, for a first place or to get theirs back.
    pub fn n_waiting(&self) -> usize {
        self.queue.iter().len() + self.preempted.len()
    }

    /// `load` with what the scheduler knows.
    pub fn load(&self, load: EngineLoad) -> EngineLoad {
        let waiting = self.queue.iter().chain(&self.preempted);
        EngineLoad {
            waiting: self.n_waiting(),
            waiting_prompt_tokens: waiting.map(|sequence| sequence.pending().len()).sum(),
            running: self.running.len(),
            max_running: self.limits.max_running,
            preemptions: self.counts.preemptions,
            prefix_queries: self.counts.prefix_queries,
            prefix_hits: self.counts.prefix_hits,
            ..load
        }
    }

    /// Gets everybody who decodes the block for its next row, the lowest ranks first, at the cost of the highest.
    fn grow(&mut self, now: Duration, blocks: &mut BlockManager) {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &mut self.running[index];
            // Who is still prefilling got the blocks for that with its place.
            let end = sequence.start_position() + 1;
            if sequence.is_prefilling() || blocks.grow(sequence.block_table_mut(), end) {
                index += 1;
            } else {
                self.preempt_last(now, blocks);
            }
        }
    }

    /// Gives places to who is next, as long as there are places and blocks.
    fn admit(&mut self, now: Duration, blocks: &mut BlockManager) {
        loop {
            let newcomer = self.queue.next(&self.fairness);
            let newcomer =
                newcomer.map(|(index, standing)| (index, Rank::new(standing, self.counts.places)));
            let returning = self.preempted.first().and_then(Sequence::rank);
            let (newcomer, rank) = match (newcomer, returning) {
                (Some((index, rank)), None) => (Some(index), rank),
                (Some((index, rank)), Some(returning)) if rank < returning => (Some(index), rank),
                (_, Some(returning)) => (None, returning),
                (None, None) => return,
            };
            let candidate = match newcomer {
                Some(index) => self.queue.get_mut(index),
                None => &mut self.preempted[0],
            };
            candidate.find_prefix(blocks);
            let wanted = BlockManager::blocks_for(candidate.n_tokens());
            let missing = wanted - candidate.block_table().len();
            let priority = rank::priority(candidate.terms());
            let Some(n_displaced) =
                displaced(&self.running, self.limits, blocks, missing, priority, rank)
            else {
                candidate.leave_cache(blocks);
                return;
            };
            let mut sequence = match newcomer {
                Some(index) => self.queue.take(index, now),
                None => self.preempted.remove(0),
            };
            for _ in 0..n_displaced {
                self.preempt_last(now, blocks);
            }
            if sequence.rank().is_none() {
                self.counts.places += 1;
                if blocks.keeps_prefixes() {
                    self.counts.prefix_queries += sequence.n_prompt() as u64;
                }
            }
            sequence.begin(rank, now);
            self.counts.prefix_hits += sequence.count_found() as u64;
            let n_tokens = sequence.n_tokens();
            let grown = blocks.grow(sequence.block_table_mut(), n_tokens);
            assert!(grown, "the blocks were counted");
            let place = self.running.partition_point(|s| s.rank() < Some(rank));
            self.running.insert(place, sequence);
        }
    }

    /// Takes its place from the running sequence of the highest rank.
    fn preempt_last(&mut self, now: Duration, blocks: &mut BlockManager) {
        let mut sequence = self.running.pop().expect("somebody runs");
        sequence.preempt(blocks, now);
        self.counts.preemptions += 1;
        let place = self
            .preempted
            .partition_point(|waiting| waiting.rank() < sequence.rank());
        self.preempted.insert(place, sequence);
    }

    /// One row for everybody who decodes, and guesses behind them.
    fn plan_decode(&mut self, blocks: &mut BlockManager, plan: &mut Vec<Chunk>) {
        let n_running = self.running.len();
        let n_decoding = self.running.iter().filter(|s| !s.is_prefilling()).count();
        let room = self.limits.max_drafted.checked_div(n_decoding).unwrap_or(0);
        for (index, sequence) in self.running.iter_mut().enumerate() {
            if sequence.is_prefilling() {
                continue;
            }
            let end = sequence.start_position() + 1;
            let held = sequence.block_table().len() * KV_BLOCK - end;
            // A guess may take a block only while one is left for everybody's next token.
            let spare = blocks.n_free() > n_running;
            let n_drafted = sequence.draft(if spare { room } else { room.min(held) });
            let grown = blocks.grow(sequence.block_table_mut(), end + n_drafted);
            assert!(grown, "a draft reaches one block further at most");
            plan.push(Chunk {
                index,
                n_tokens: 1,
                n_drafted,
                draws: true,
            });
        }
    }

    /// Chunks of prompts, and of texts that are run again, by rank.
    fn plan_prefill(&mut self, blocks: &mut BlockManager, plan: &mut Vec<Chunk>) {
        let mut budget = match plan.is_empty() {
            true => self.limits.prefill_chunk,
            false => self.budget_beside(plan.iter().map(|c| c.n_tokens + c.n_drafted).sum()),
        };
        let mut logit_rows = self.limits.prompt_logit_rows;
        let mut order = std::mem::take(&mut self.prefilling);
        order.clear();
        let prefilling = |&index: &usize| self.running[index].is_prefilling();
        order.extend((0..self.running.len()).filter(prefilling));
        for place in 0..order.len() {
            if budget == 0 {
                break;
            }
            self.next_of_priority(&mut order[place..]);
            let index = order[place];
            let sequence = &mut self.running[index];
            // Others may have filled blocks since it got its place, or do so in this very pass.
            sequence.find_prefix(blocks);
            self.counts.prefix_hits += sequence.count_found() as u64;
            let sequence = &self.running[index];
            if blocks.keeps_prefixes()
                && plan.iter().any(|chunk| {
                    sequence.will_find_next_block(&self.running[chunk.index], chunk.n_tokens)
                })
            {
                continue;
            }
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
                draws: n_tokens == pending && !sequence.is_embedding(),
            });
        }
        self.prefilling = order;
    }

    /// Prompt tokens of a pass with `n_rows` others: `prefill_beside`, and what fills the last panel of rows, which costs
    /// nearly the same with few of them. Whoever asks for less than a panel wants short passes before all.
    fn budget_beside(&self, n_rows: usize) -> usize {
        let beside = self.limits.prefill_beside;
        match beside < PANEL_ROWS {
            true => beside,
            false => (n_rows + beside).next_multiple_of(PANEL_ROWS) - n_rows,
        }
        .min(self.limits.prefill_chunk)
    }

    /// Puts in front of `order`, which is by rank, the one of the first one's priority for whose tenant least was done.
    /// A place alone is no fair share: many of one tenant could hold places and let the others' prompts wait.
    fn next_of_priority(&self, order: &mut [usize]) {
        let terms = |index: usize| self.running[index].terms();
        let Some(&first) = order.first() else {
            return;
        };
        let of_priority = |&(_, &index): &(usize, &usize)| {
            rank::priority(terms(index)) == rank::priority(terms(first))
        };
        let least = order
            .iter()
            .enumerate()
            .filter(of_priority)
            .min_by_key(|&(_, &index)| self.fairness.service(terms(index).tenant));
        if let Some((place, _)) = least {
            order[..=place].rotate_right(1);
        }
    }
}

/// How many of the last of `running` have to give up their places so that somebody of `priority` and `rank` gets one
/// and `missing` blocks; `None` when that cannot be. Only for those of a lower priority, and only if they rank behind
/// it.
fn displaced(
    running: &[Sequence],
    limits: ScheduleLimits,
    blocks: &BlockManager,
    missing: usize,
    priority: i32,
    rank: Rank,
) -> Option<usize> {
    let mut free = blocks.n_free();
    for (n_displaced, n_left) in (0..=running.len()).rev().enumerate() {
        // A block more for each that runs: nobody has to give way for this one's sake at once.
        if n_left < limits.max_running && free >= missing + n_left {
            return Some(n_displaced);
        }
        let last = running[..n_left].last()?;
        if rank::priority(last.terms()) <= priority || last.rank() < Some(rank) {
            return None;
        }
        free += blocks.n_held_alone(last.block_table());
    }
    None
}

#[cfg(test)]
mod tests;
