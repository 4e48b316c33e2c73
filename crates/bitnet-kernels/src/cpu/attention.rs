//! Causal attention over the paged KV cache.
//!
//! ```text
//! s[p] = (q . k[p]) / sqrt(head_dim)      p = 0..=position      w[p] = exp(s[p] - max s)      out = sum w[p] v[p] / sum w[p]
//! ```
//!
//! One item of work is one token row and one KV head; the query heads of its group read each key and value once. The
//! result is a function of the row's own sequence: scores sum even and odd dimensions apart, then both; exponentials
//! sum in 16 lanes; values are added in the order of positions. Grouping heads or rows changes none of that.
//! Source: Vaswani et al., 2017; grouped queries: Ainslie et al., 2023 (arXiv 2305.13245).

use super::isa::{Isa, Kernel, LANES, Op};
use super::kv_cache::{HEADS_AT_ONCE, HeadLayout, KvBlocks, Numbers, Stored};
use super::lanes::{exp, store_tail};
use super::memory::Disjoint;
use super::threads::Pool;
use crate::backend::{BatchView, KV_BLOCK};

/// Multiplications below which one thread is faster than a barrier.
const PARALLEL_FROM: usize = 1 << 16;

/// Vectors of a value that are summed at once: 64 dimensions, enough chains to hide the latency of an addition.
const VECTORS_AT_ONCE: usize = 4;

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
        let n_items = self.batch.len() * shape.n_kv_heads;
        let work: usize = self
            .batch
            .positions
            .iter()
            .map(|&p| (p as usize + 1) * self.n_heads * shape.head_dim)
            .sum();
        let grain = if work < PARALLEL_FROM { n_items } else { 1 };
        let out = Disjoint::new(out);
        let mut scores = self.cache.scores();
        let scores = Disjoint::new(&mut scores);
        pool.for_ranges(n_items, grain, |items, thread| {
            let per_thread = HEADS_AT_ONCE * shape.n_blocks * KV_BLOCK;
            // SAFETY: `thread` is this call's alone while it runs, and so is its part of the room for scores.
            let scores = unsafe { scores.range(thread * per_thread, per_thread) };
            let (first, end) = (items.start, items.end);
            kernel.run(Items {
                call: self,
                first,
                end,
                scores,
                out: &out,
            });
        });
    }
}

/// Items `first..end` of `[n, n_kv_heads]`.
struct Items<'a> {
    call: &'a Attention<'a>,
    first: usize,
    end: usize,
    scores: &'a mut [f32],
    out: &'a Disjoint<'a, f32>,
}

impl Op for Items<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Items {
            call,
            first,
            end,
            scores,
            out,
        } = self;
        let shape = call.cache.shape();
        let group = call.n_heads / shape.n_kv_heads;
        for item in first..end {
            let (row, kv_head) = (item / shape.n_kv_heads, item % shape.n_kv_heads);
            let start = (row * call.n_heads + kv_head * group) * shape.head_dim;
            let len = group * shape.head_dim;
            // SAFETY: an item is given to one thread, and these are the outputs of its heads.
            let out = unsafe { out.range(start, len) };
            let q = &call.q[start..][..len];
            let n_positions = call.batch.positions[row] as usize + 1;
            let blocks = &call.batch.blocks_of(row)[..n_positions.div_ceil(KV_BLOCK)];
            match call.cache.numbers() {
                Numbers::F32(numbers) => {
                    let kv = Context {
                        numbers,
                        layout: call.cache.layout(),
                        layer: call.layer,
                        kv_head,
                        blocks,
                        n_positions,
                    };
                    kv.group(isa, q, scores, out, shape.head_dim);
                }
                Numbers::F16(numbers) => {
                    let kv = Context {
                        numbers,
                        layout: call.cache.layout(),
                        layer: call.layer,
                        kv_head,
                        blocks,
                        n_positions,
                    };
                    kv.group(isa, q, scores, out, shape.head_dim);
                }
            }
        }
    }
}

/// What one row's heads of one KV head attend to.
struct Context<'a, T> {
    numbers: &'a [T],
    layout: HeadLayout,
    layer: usize,
    kv_head: usize,
    blocks: &'a [u32], // physical blocks of positions 0..n_positions
    n_positions: usize,
}

impl<T: Stored> Context<'_, T> {
    /// All query heads of the group, q and out `[group, head_dim]`.
    #[inline(always)]
    fn group<I: Isa>(
        &self,
        isa: I,
        q: &[f32],
        scores: &mut [f32],
        out: &mut [f32],
        head_dim: usize,
    ) {
        let mut q = q;
        let mut out = out;
        while !q.is_empty() {
            let n = match q.len() / head_dim {
                HEADS_AT_ONCE.. => HEADS_AT_ONCE,
                2.. => 2,
                _ => 1,
            };
            let (q_now, q_rest) = q.split_at(n * head_dim);
            let (out_now, out_rest) = out.split_at_mut(n * head_dim);
            match n {
                HEADS_AT_ONCE => {
                    self.heads::<I, HEADS_AT_ONCE>(isa, q_now, scores, out_now, head_dim)
                }
                2 => self.heads::<I, 2>(isa, q_now, scores, out_now, head_dim),
                _ => self.heads::<I, 1>(isa, q_now, scores, out_now, head_dim),
            }
            (q, out) = (q_rest, out_rest);
        }
    }

    /// G query heads.
    #[inline(always)]
    fn heads<I: Isa, const G: usize>(
        &self,
        isa: I,
        q: &[f32],
        scores: &mut [f32],
        out: &mut [f32],
        head_dim: usize,
    ) {
        let padded = self.blocks.len() * KV_BLOCK;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let scores = &mut scores[..G * padded];
        let q: [&[f32]; G] = std::array::from_fn(|g| &q[g * head_dim..][..head_dim]);
        self.scores(isa, &q, scale, scores);
        let mut sums = [0.0; G];
        for (scores, sum) in scores.chunks_exact_mut(padded).zip(&mut sums) {
            scores[self.n_positions..].fill(f32::NEG_INFINITY);
            *sum = exponentials(isa, scores);
        }
        let mut from = 0;
        let vectors = self.layout.value_len() / LANES;
        while from < vectors {
            let sums = &sums;
            from += match vectors - from {
                VECTORS_AT_ONCE.. => {
                    self.values::<I, G, VECTORS_AT_ONCE>(isa, scores, sums, from, out, head_dim)
                }
                2.. => self.values::<I, G, 2>(isa, scores, sums, from, out, head_dim),
                _ => self.values::<I, G, 1>(isa, scores, sums, from, out, head_dim),
            };
        }
    }

    /// `scores[g][p] = (q[g] . k[p]) * scale` for whole blocks of positions.
    #[inline(always)]
    fn scores<I: Isa, const G: usize>(
        &self,
        isa: I,
        q: &[&[f32]; G],
        scale: f32,
        scores: &mut [f32],
    ) {
        let padded = self.blocks.len() * KV_BLOCK;
        for (logical, &block) in self.blocks.iter().enumerate() {
            let head = &self.numbers[self.layout.head(self.layer, block, self.kv_head)];
            let (keys, _) = self.layout.split(head);
            let mut even = [isa.splat(0.0); G];
            let mut odd = [isa.splat(0.0); G];
            let (pairs, last) = keys.as_chunks::<2>();
            for (pair, [key0, key1]) in pairs.iter().enumerate() {
                let (key0, key1) = (T::load(isa, key0), T::load(isa, key1));
                for g in 0..G {
                    even[g] = isa.add(even[g], isa.mul(isa.splat(q[g][2 * pair]), key0));
                    odd[g] = isa.add(odd[g], isa.mul(isa.splat(q[g][2 * pair + 1]), key1));
                }
            }
            for key in last {
                for g in 0..G {
                    even[g] = isa.add(
                        even[g],
                        isa.mul(isa.splat(q[g][2 * pairs.len()]), T::load(isa, key)),
                    );
                }
            }
            for g in 0..G {
                let to = scores[g * padded + logical * KV_BLOCK..]
                    .first_chunk_mut()
                    .expect("room for a block");
                isa.store(isa.mul(isa.add(even[g], odd[g]), isa.splat(scale)), to);
            }
        }
    }

    /// `out[g]` of V vectors of 16 dimensions from vector `from` on; returns V.
    #[inline(always)]
    fn values<I: Isa, const G: usize, const V: usize>(
        &self,
        isa: I,
        weights: &[f32],
        sums: &[f32; G],
        from: usize,
        out: &mut [f32],
        head_dim: usize,
    ) -> usize {
        let padded = self.blocks.len() * KV_BLOCK;
        let value_len = self.layout.value_len();
        let mut acc = [[isa.splat(0.0); V]; G];
        for (logical, &block) in self.blocks.iter().enumerate() {
            let head = &self.numbers[self.layout.head(self.layer, block, self.kv_head)];
            let (_, values) = self.layout.split(head);
            let first = logical * KV_BLOCK;
            let n = KV_BLOCK.min(self.n_positions - first);
            for (slot, value) in values.chunks_exact(value_len).take(n).enumerate() {
                let value = &value[from * LANES..][..V * LANES];
                let value = value.as_chunks::<LANES>().0;
                for g in 0..G {
                    let weight = isa.splat(weights[g * padded + first + slot]);
                    for v in 0..V {
                        acc[g][v] = isa.add(acc[g][v], isa.mul(weight, T::load(isa, &value[v])));
                    }
                }
            }
        }
        for (g, acc) in acc.iter().enumerate() {
            let out = &mut out[g * head_dim..][..head_dim][from * LANES..];
            for (out, acc) in out.chunks_mut(LANES).zip(acc) {
                store_tail(isa, isa.div(*acc, isa.splat(sums[g])), out);
            }
        }
        V
    }
}

/// Turns scores into `exp(score - max)` and returns their sum. Whole vectors; scores of -inf become 0.
#[inline(always)]
fn exponentials<I: Isa>(isa: I, scores: &mut [f32]) -> f32 {
    let scores = scores.as_chunks_mut::<LANES>().0;
    let mut max = isa.splat(f32::NEG_INFINITY);
    for v in scores.iter() {
        max = isa.max(isa.load(v), max);
    }
    let max = isa.splat(isa.max_lane(max));
    let mut sum = isa.splat(0.0);
    for v in scores {
        let e = exp(isa, isa.sub(isa.load(v), max));
        sum = isa.add(sum, e);
        isa.store(e, v);
    }
    isa.sum(sum)
}
