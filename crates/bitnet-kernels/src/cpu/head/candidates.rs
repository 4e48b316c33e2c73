//! From bounds to candidates: every row that could still be kept, with exactly the full head's logit.
//!
//! ```text
//! 1. scan; rows that the caller names (their logits will be changed) are set aside
//! 2. the best by estimate are multiplied exactly; the k-th best of these is a level that k rows reach
//! 3. rows whose upper bound is below the level cannot be kept; if many are left, their bounds are refined
//! 4. the rest is multiplied exactly, and so are the named rows
//! ```
//!
//! Where so many rows are left that the full head is cheaper, or the bound does not hold (a hidden state that is not
//! finite), the row is left to the full head.

use super::hidden::Hidden;
use super::refine::Refine;
use super::scan::{Scores, greatest, scan};
use super::*;
use crate::backend::{Candidate, CandidateRequest, Candidates, Keep};
use crate::cpu::dense::{Matrix, dot_rows};
use crate::cpu::isa::Kernel;
use crate::cpu::memory::{Disjoint, Memory};
use crate::cpu::threads::Pool;

/// Token rows scanned together: the widest panel, and 16 MiB of estimates at a vocabulary of 128 k.
const AT_ONCE: usize = 16;

/// Rows that are left to the exact product without refining, at the most: refining costs a barrier and an eighth of what
/// an f16 row costs.
const UNREFINED: usize = 192;

/// The full head is taken when more than one in this many rows would have to be multiplied exactly: picked rows are read
/// in pieces, which streams at about half the speed.
const TOO_MANY: usize = 4;

/// Rows that one thread takes at a time, so that a barrier is worth it.
const GRAIN: usize = 16;

/// A head with its small copy, and what computes.
#[derive(Debug, Clone, Copy)]
pub struct Searchable<'a> {
    /// Instruction set.
    pub kernel: Kernel,
    /// Threads.
    pub pool: &'a Pool,
    /// The full head.
    pub w: &'a Matrix,
    /// Its copy.
    pub copy: &'a HeadCopy,
}

/// What the search needs besides the copy; made once.
#[derive(Debug)]
pub struct Search {
    hidden: Hidden,
    scores: Scores,
    strips: Vec<u32>,    // [n_strips], by estimate
    rows: Vec<u32>,      // those to multiply exactly
    values: Memory<f32>, // bounds or logits of `rows`
}

impl Search {
    /// Without room.
    pub fn new() -> Result<Search, KernelError> {
        Ok(Search {
            hidden: Hidden::new()?,
            scores: Scores::new()?,
            strips: Vec::new(),
            rows: Vec::new(),
            values: Memory::zeroed("candidates", 0)?,
        })
    }

    /// Finds the candidates of every token row of `request`; see [`Backend::head_candidates`](crate::Backend::head_candidates).
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    ///
    /// # Panics
    /// If a row or a named id is out of range.
    pub fn run(
        &mut self,
        head: &Searchable<'_>,
        x: &[f32],
        request: &CandidateRequest<'_>,
        out: &mut Candidates,
    ) -> Result<(), KernelError> {
        let copy = head.copy;
        assert_eq!(
            (copy.rows, copy.cols),
            (head.w.rows(), head.w.cols()),
            "the copy is of this head"
        );
        out.clear();
        self.values.reserve("candidates", copy.rows)?;
        // A vector that is too short would grow in the middle of decoding.
        self.rows.clear();
        self.rows.reserve(copy.rows + request.named.len());
        let most = copy.rows / TOO_MANY + copy.n_strips();
        out.entries
            .reserve(request.x_rows.len() * most + request.named.len());
        for first in (0..request.x_rows.len()).step_by(AT_ONCE) {
            let end = request.x_rows.len().min(first + AT_ONCE);
            let x_rows = &request.x_rows[first..end];
            // Two digits of a row must fit into a panel.
            self.hidden
                .quantize(x, x_rows, copy.cols, head.kernel.panel().max(2))?;
            self.scores.reserve(x_rows.len(), copy.n_strips())?;
            scan(head.kernel, head.pool, copy, &self.hidden, &mut self.scores);
            out.work.bytes += copy.scan_bytes() as u64;
            for (index, &x_row) in x_rows.iter().enumerate() {
                let x = &x[x_row as usize * copy.cols..][..copy.cols];
                let mut one = OneRow {
                    head,
                    copy,
                    x,
                    index,
                    search: self,
                    keep: request.keeps[first + index],
                    named: request.named_of(first + index),
                };
                let start = out.entries.len();
                let found = one.find(out);
                if !found {
                    out.entries.truncate(start);
                    out.work.full += 1;
                }
                out.work.searched += 1;
                out.rows.push(found.then_some(start..out.entries.len()));
            }
        }
        Ok(())
    }
}

/// The search of one token row.
struct OneRow<'a> {
    head: &'a Searchable<'a>,
    copy: &'a HeadCopy,
    x: &'a [f32], // [cols]
    index: usize, // in the scan
    search: &'a mut Search,
    keep: Keep,
    named: &'a [u32],
}

impl OneRow<'_> {
    /// Appends the candidates to `out`; `false` when the full head has to do it.
    fn find(&mut self, out: &mut Candidates) -> bool {
        let start = out.entries.len();
        if !self.search.hidden.row(self.index).tame {
            return false;
        }
        self.set_aside();
        let k = match self.keep {
            Keep::Best(k) => k.max(1) as usize,
            Keep::Near(_) => 1,
        };
        // Some more than k: two of the best may share a strip, of which only one is picked.
        let n_picks = k.saturating_add(k / 4 + 3);
        if n_picks > self.copy.n_strips() {
            return false;
        }
        self.pick(n_picks);
        if self.search.rows.len() < k {
            return false;
        }
        self.multiply(out);
        let level = self.level(&mut out.entries[start..], k);
        self.survivors(level);
        if self.search.rows.len() > UNREFINED {
            self.refine(level, out);
        }
        if self.search.rows.len() > self.copy.rows / TOO_MANY {
            return false;
        }
        self.search.rows.extend_from_slice(self.named);
        self.multiply(out);
        let found = &mut out.entries[start..];
        found.sort_unstable_by_key(|candidate| candidate.id);
        // A caller may name a row twice.
        let mut kept = 1;
        for i in 1..found.len() {
            if found[i].id != found[kept - 1].id {
                found[kept] = found[i];
                kept += 1;
            }
        }
        out.entries.truncate(start + kept);
        true
    }

    /// Takes the rows out of the estimates that have none: those beyond the last, wild ones (which survive whatever the
    /// level is), and named ones.
    fn set_aside(&mut self) {
        let copy = self.copy;
        for row in copy.rows..copy.n_strips() * LANES {
            self.put(row, f32::NEG_INFINITY);
        }
        for &row in copy.wild() {
            self.put(row as usize, f32::INFINITY);
        }
        for &row in self.named {
            assert!((row as usize) < copy.rows, "row {row} of {}", copy.rows);
            self.put(row as usize, f32::NEG_INFINITY);
        }
    }

    /// Gives a row the lowest estimate and an upper bound.
    fn put(&mut self, row: usize, upper: f32) {
        let at = self.index * self.copy.n_strips() + row / LANES;
        let scores = &mut self.search.scores;
        scores.estimates[at][row % LANES] = f32::NEG_INFINITY;
        scores.uppers[at][row % LANES] = upper;
        scores.best[at] = [
            greatest(&scores.estimates[at]),
            greatest(&scores.uppers[at]),
        ];
    }

    /// The best row by estimate of each of the `n` best strips.
    fn pick(&mut self, n: usize) {
        let n_strips = self.copy.n_strips();
        let first = self.index * n_strips;
        let search = &mut *self.search;
        let best = &search.scores.best[first..][..n_strips];
        search.strips.clear();
        search.strips.extend(0..n_strips as u32);
        let by_estimate = |a: &u32, b: &u32| best[*b as usize][0].total_cmp(&best[*a as usize][0]);
        search.strips.select_nth_unstable_by(n - 1, by_estimate);
        search.rows.clear();
        for &strip in &search.strips[..n] {
            let at = first + strip as usize;
            let estimates = &search.scores.estimates[at];
            let wanted = greatest(estimates);
            if wanted == f32::NEG_INFINITY {
                continue;
            }
            if let Some(lane) = estimates.iter().position(|&v| v == wanted) {
                // It is multiplied now: not again.
                search.scores.uppers[at][lane] = f32::NEG_INFINITY;
                search.rows.push((strip as usize * LANES + lane) as u32);
            }
        }
    }

    /// A number that the logit of every kept row reaches, the named ones apart.
    fn level(&self, picked: &mut [Candidate], k: usize) -> f32 {
        picked.sort_unstable_by(|a, b| b.logit.total_cmp(&a.logit));
        match self.keep {
            Keep::Best(_) => picked[k - 1].logit,
            Keep::Near(distance) => {
                let level = f64::from(picked[0].logit) - f64::from(distance);
                // The caller compares exponentials in f64; f32 rounds here.
                (level as f32).next_down()
            }
        }
    }

    /// Rows whose upper bound reaches `level`.
    fn survivors(&mut self, level: f32) {
        let n_strips = self.copy.n_strips();
        let first = self.index * n_strips;
        let search = &mut *self.search;
        search.rows.clear();
        let scores = &search.scores;
        let uppers = &scores.uppers[first..][..n_strips];
        for ((strip, best), uppers) in (0u32..).zip(&scores.best[first..][..n_strips]).zip(uppers) {
            if best[1] < level {
                continue;
            }
            for (lane, &upper) in (0u32..).zip(uppers) {
                if upper >= level {
                    search.rows.push(strip * LANES as u32 + lane);
                }
            }
        }
    }

    /// Drops the rows whose sharper bound does not reach `level`.
    fn refine(&mut self, level: f32, out: &mut Candidates) {
        let Search {
            hidden,
            scores,
            rows,
            values,
            ..
        } = &mut *self.search;
        let (n, n_strips) = (rows.len(), self.copy.n_strips());
        out.work.refined += n as u64;
        out.work.bytes += (n * self.copy.refine_bytes()) as u64;
        let uppers = Disjoint::new(&mut values[..n]);
        let estimates = &scores.estimates[self.index * n_strips..][..n_strips];
        let (picked, hidden) = (&rows[..], &*hidden);
        let grain = self.head.pool.grain(n, GRAIN);
        self.head.pool.for_ranges(n, grain, |range, _| {
            self.head.kernel.run(Refine {
                copy: self.copy,
                hidden,
                index: self.index,
                rows: &picked[range.clone()],
                estimates,
                // SAFETY: ranges do not overlap.
                uppers: unsafe { uppers.range(range.start, range.len()) },
            });
        });
        let mut kept = 0;
        for i in 0..n {
            // A wild row has no estimate, hence no bound.
            let wild = scores.uppers[self.index * n_strips + rows[i] as usize / LANES]
                [rows[i] as usize % LANES]
                == f32::INFINITY;
            if wild || values[i] >= level {
                rows[kept] = rows[i];
                kept += 1;
            }
        }
        rows.truncate(kept);
    }

    /// Multiplies the rows at hand exactly and appends them to `out`.
    fn multiply(&mut self, out: &mut Candidates) {
        let Search { rows, values, .. } = &mut *self.search;
        // Named rows may make more of them than there are values.
        for rows in rows.chunks(values.len().max(1)) {
            let values = &mut values[..rows.len()];
            dot_rows(
                self.head.kernel,
                self.head.pool,
                self.head.w,
                self.x,
                rows,
                values,
            );
            let new = rows.iter().zip(&*values);
            out.entries
                .extend(new.map(|(&id, &logit)| Candidate { id, logit }));
        }
        out.work.rescored += rows.len() as u64;
        out.work.bytes += (rows.len() * self.head.w.row_bytes()) as u64;
    }
}
