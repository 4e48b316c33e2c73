//! Causal attention over the paged KV cache, in spans of positions.
//!
//! ```text
//! s[p] = (q . k[p]) / sqrt(head_dim)      p = 0..=position      out = sum exp(s[p]) v[p] / sum exp(s[p])
//!
//! a span (256 positions):    m = max s[p]      l = sum exp(s[p] - m)      acc = sum exp(s[p] - m) v[p]
//! spans, in their order:     M' = max(M, m)    L' = L exp(M - M') + l exp(m - M')    the same for the accumulators
//! ```
//!
//! The result is a function of the row's own sequence, whatever is computed together. All ways give the same bytes: an
//! item of work is some rows of one sequence with the query heads of one KV head, over all their spans, so that keys and
//! values are read once for many rows (prefill); with few rows, it has all KV heads, so that memory is read as a stream
//! (decode); or, where that makes too few items for the threads (a token of a long context), an item is one span of it
//! and the spans are merged afterwards.
//! Source: Vaswani et al., 2017; grouped queries: Ainslie et al., 2023 (arXiv 2305.13245); spans: Dao et al., 2022 (arXiv
//! 2205.14135), and 2023, "Flash-Decoding", for items of one span.

mod floats;
mod int8;
mod queries;
mod softmax;

use super::isa::{Isa, Kernel, Op};
use super::kv_cache::{KvBlocks, Numbers};
use super::memory::Disjoint;
use super::threads::Pool;
use crate::backend::{BatchView, KV_BLOCK};
pub use queries::Scratch;
use queries::{Heads, MOST_QUERIES, Plan, Queries, Room};

/// Multiplications below which one thread is faster than a barrier.
const PARALLEL_FROM: usize = 1 << 16;

/// Positions that are softmaxed together: a KV head's values stay in the L2 cache for all queries of a prompt's chunk, and
/// a long context has enough spans for all threads. Results depend on it.
const SPAN: usize = 256;

/// Items that a thread should find, so that all end together.
const ITEMS_PER_THREAD: usize = 4;

/// One call of attention.
pub struct Attention<'a> {
    /// Queries, `[n, n_heads * head_dim]`.
    pub q: &'a [f32],
    /// Keys and values.
    pub cache: &'a KvBlocks,
    /// Layer.
    pub layer: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Where the rows belong.
    pub batch: &'a BatchView<'a>,
}

impl Attention<'_> {
    /// Computes all rows into out `[n, n_heads * head_dim]`.
    ///
    /// # Panics
    /// If a layer, position or block is outside of the cache.
    pub fn run(&self, kernel: Kernel, pool: &Pool, out: &mut [f32]) {
        self.check(out);
        let shape = self.cache.shape();
        let work: usize = self
            .batch
            .positions
            .iter()
            .map(|&p| (p as usize + 1) * self.n_heads * shape.head_dim)
            .sum();
        let threads = if work < PARALLEL_FROM {
            1
        } else {
            pool.threads()
        };
        let mut scratch = self.cache.scratch();
        let plan = scratch.plan(self, threads);
        let grain = if threads == 1 { plan.n_items } else { 1 };
        let out = Disjoint::new(out);
        pool.for_ranges(plan.n_items, grain, |items, thread| {
            for item in items {
                kernel.run(Item {
                    call: self,
                    plan: &plan,
                    // The last rows of a prompt have the longest contexts: they start first.
                    item: plan.n_items - 1 - item,
                    thread,
                    out: &out,
                });
            }
        });
        if plan.apart {
            let n = self.batch.len() * self.n_heads;
            let grain = if threads == 1 { n } else { pool.grain(n, 1) };
            pool.for_ranges(n, grain, |heads, _| {
                kernel.run(Merge {
                    call: self,
                    plan: &plan,
                    first: heads.start,
                    end: heads.end,
                    out: &out,
                });
            });
        }
    }

    fn check(&self, out: &[f32]) {
        let shape = self.cache.shape();
        assert!(
            self.layer < shape.n_layers,
            "layer {} of {}",
            self.layer,
            shape.n_layers
        );
        assert!(
            self.n_heads.is_multiple_of(shape.n_kv_heads),
            "{} heads for {} KV heads",
            self.n_heads,
            shape.n_kv_heads
        );
        assert_eq!(
            self.q.len(),
            self.batch.len() * self.n_heads * shape.head_dim,
            "queries are not [n, heads, head_dim]"
        );
        assert_eq!(
            out.len(),
            self.q.len(),
            "output is not [n, heads, head_dim]"
        );
        for row in 0..self.batch.len() {
            let used = &self.batch.blocks_of(row)[..=self.batch.positions[row] as usize / KV_BLOCK];
            assert!(
                used.iter().all(|&block| (block as usize) < shape.n_blocks),
                "KV block outside of the cache"
            );
            assert!(
                used.len() <= shape.n_blocks,
                "more positions than the cache has"
            );
        }
    }

    /// Query heads of a KV head.
    fn group(&self) -> usize {
        self.n_heads / self.cache.shape().n_kv_heads
    }

    /// Spans that the row at this position attends to.
    fn n_spans(&self, row: usize) -> usize {
        (self.batch.positions[row] as usize + 1).div_ceil(SPAN)
    }
}

/// One item of the plan.
struct Item<'a> {
    call: &'a Attention<'a>,
    plan: &'a Plan<'a>,
    item: usize,
    thread: usize,
    out: &'a Disjoint<'a, f32>,
}

impl Op for Item<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Item { call, plan, .. } = self;
        // With spans apart, an item is one span of what is otherwise an item.
        let (item, span) = match plan.apart {
            true => (self.item / plan.n_spans, Some(self.item % plan.n_spans)),
            false => (self.item, None),
        };
        let part = plan.parts[item];
        // SAFETY: `thread` is this call's alone while it runs.
        let mut room = unsafe { plan.room(self.thread) };
        let n = part.tile.n_rows * call.group();
        for first in (0..n).step_by(MOST_QUERIES) {
            let heads = Heads {
                call,
                part,
                queries: first..n.min(first + MOST_QUERIES),
            };
            self.spans(isa, &heads, span, &mut room);
        }
    }
}

impl Item<'_> {
    /// One span, or all of them and then the outputs.
    #[inline(always)]
    fn spans<I: Isa>(&self, isa: I, heads: &Heads<'_>, span: Option<usize>, room: &mut Room<'_>) {
        let Item { call, plan, .. } = self;
        if let Numbers::I8(_) = call.cache.numbers() {
            for h in 0..heads.part.n_heads {
                int8::prepare(isa, &heads.queries(h), &mut heads.room(h, room).bytes);
            }
        }
        let most_seen = heads.queries(0).most_seen();
        let blocks = call.batch.blocks_of(heads.part.tile.first_row);
        let blocks = &blocks[..most_seen.div_ceil(KV_BLOCK)];
        let n_spans = most_seen.div_ceil(SPAN);
        let spans = match span {
            Some(span) => span..(span + 1).min(n_spans),
            None => 0..n_spans,
        };
        for span in spans {
            let start = span * SPAN;
            let len = SPAN.min(most_seen - start);
            let span_blocks = &blocks[start / KV_BLOCK..][..len.div_ceil(KV_BLOCK)];
            match call.cache.numbers() {
                Numbers::F32(numbers) => {
                    floats::span(isa, heads, numbers, span_blocks, start, room);
                }
                Numbers::F16(numbers) => {
                    floats::span(isa, heads, numbers, span_blocks, start, room);
                }
                Numbers::I8(numbers) => {
                    let after = match plan.apart {
                        true => &[],
                        false => &blocks[((start + SPAN) / KV_BLOCK).min(blocks.len())..],
                    };
                    int8::span(isa, heads, numbers, span_blocks, after, start, room);
                }
            }
            for h in 0..heads.part.n_heads {
                self.keep_or_merge(isa, &heads.queries(h), span, &mut heads.room(h, room));
            }
        }
        if plan.apart {
            return;
        }
        for h in 0..heads.part.n_heads {
            let queries = heads.queries(h);
            let mut room = heads.room(h, room);
            for i in 0..queries.len() {
                let head_dim = queries.head_dim();
                // SAFETY: an item is given to one thread, and these are the outputs of one of its heads.
                let out = unsafe { self.out.range(queries.index(i) * head_dim, head_dim) };
                softmax::finish(isa, room.sums(i).0, out);
            }
        }
    }

    /// Keeps the sums of a span where spans are apart, else adds them to those of the spans before it.
    #[inline(always)]
    fn keep_or_merge<I: Isa>(
        &self,
        isa: I,
        queries: &Queries<'_>,
        span: usize,
        room: &mut Room<'_>,
    ) {
        for i in (0..queries.len()).filter(|&i| queries.seen(i, span * SPAN) > 0) {
            let (whole, part) = room.sums(i);
            if self.plan.apart {
                // SAFETY: an item is given to one thread, and this is the place of its span and query.
                unsafe { self.plan.kept(queries.index(i), span) }.copy_from_slice(part);
            } else if span == 0 {
                whole.copy_from_slice(part);
            } else {
                softmax::merge(isa, whole, part);
            }
        }
    }
}

/// The first block of the span and the first query that a step is about.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    i: usize,
}

/// Bytes between what is in work and what is asked for: what memory gives while it answers. 16 KB are a little slower, 32
/// take a sixth longer.
const AHEAD: usize = 8 << 10;

/// The order in which a span's keys, and then its values, are read: some blocks at a time, and in them one head after
/// the other. Heads lie behind each other in a block and blocks in their group, so an item with all heads reads a stream,
/// line by line, which the hardware's prefetching follows too: it comes from memory up to twice as fast as the pieces of
/// one head.
#[derive(Clone, Copy)]
struct Stream {
    /// Heads of the item.
    n_heads: usize,
    /// Blocks that are read together.
    stride: usize,
    /// Pieces between the one in work and the one that is asked for.
    far: usize,
}

impl Stream {
    /// A piece is `bytes` of one head in one block.
    #[inline(always)]
    fn new(n_heads: usize, stride: usize, bytes: usize) -> Stream {
        Stream {
            n_heads,
            stride,
            far: (AHEAD / (stride * bytes).max(1)).max(1),
        }
    }

    /// Block and head to ask for while head `h` of the blocks from `first` on is in work.
    #[inline(always)]
    fn ahead(self, first: usize, h: usize) -> (usize, usize) {
        let piece = h + self.far;
        (
            first + piece / self.n_heads * self.stride,
            piece % self.n_heads,
        )
    }
}

/// Merges the spans of heads `first..end` of `[n, n_heads]`, kept apart.
struct Merge<'a> {
    call: &'a Attention<'a>,
    plan: &'a Plan<'a>,
    first: usize,
    end: usize,
    out: &'a Disjoint<'a, f32>,
}

impl Op for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let head_dim = self.call.cache.shape().head_dim;
        for head in self.first..self.end {
            // SAFETY: a head is given to one thread, and nobody keeps spans now.
            let whole = unsafe { self.plan.kept(head, 0) };
            for span in 1..self.call.n_spans(head / self.call.n_heads) {
                // SAFETY: as above; another span's place is another.
                softmax::merge(isa, whole, unsafe { self.plan.kept(head, span) });
            }
            // SAFETY: as above; these are the head's outputs.
            let out = unsafe { self.out.range(head * head_dim, head_dim) };
            softmax::finish(isa, whole, out);
        }
    }
}
