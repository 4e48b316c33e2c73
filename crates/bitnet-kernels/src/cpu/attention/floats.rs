//! One span of keys and values stored as floats.
//!
//! A vector of keys is one dimension of 16 positions, so a score is a lane; even and odd dimensions sum apart, then
//! both. A vector of values is 16 dimensions of one position; they are added in the order of positions.

use super::queries::{Queries, Room};
use super::{Attention, Place, SPAN, softmax};
use crate::backend::KV_BLOCK;
use crate::cpu::isa::{Isa, LANES};
use crate::cpu::kv_cache::{HeadLayout, Stored};

/// Keys and values of one KV head of one layer.
pub struct FloatHead<'a, T> {
    numbers: &'a [T],
    layout: HeadLayout,
    layer: usize,
    kv_head: usize,
}

impl<'a, T: Stored> FloatHead<'a, T> {
    /// Those of the call's layer.
    #[inline(always)]
    pub fn new(call: &Attention<'a>, numbers: &'a [T], kv_head: usize) -> Self {
        FloatHead {
            numbers,
            layout: call.cache.layout(),
            layer: call.layer,
            kv_head,
        }
    }

    /// Keys `[head_dim][16]` and values `[16][value_len]` of a block.
    #[inline(always)]
    fn block(&self, block: u32) -> (&'a [[T; LANES]], &'a [T]) {
        let head = &self.numbers[self.layout.head(self.layer, block, self.kv_head)];
        self.layout.split(head)
    }
}

/// Sums of a span, whose blocks these are, into the room's parts.
#[inline(always)]
pub fn span<I: Isa, T: Stored>(
    isa: I,
    head: &FloatHead<'_, T>,
    blocks: &[u32],
    queries: &Queries<'_>,
    start: usize,
    room: &mut Room<'_>,
) {
    // Registers for sums: four queries by two blocks by even and odd, or a quarter of that where a vector is several.
    let wide = I::PANEL >= 16;
    let mut first = 0;
    while first < blocks.len() {
        let n = if wide && first + 1 < blocks.len() {
            2
        } else {
            1
        };
        let mut i = 0;
        while i < queries.len() {
            let together = match queries.len() - i {
                4.. if wide => 4,
                2.. => 2,
                _ => 1,
            };
            let mut seen = 0;
            for g in 0..together {
                seen = seen.max(queries.seen(i + g, start));
            }
            let here = seen.div_ceil(KV_BLOCK).saturating_sub(first).min(n);
            // The first queries to come here bring the blocks into the caches.
            let (lead, at) = (i == 0, Place { first, i });
            match (together, here) {
                (_, 0) => {}
                (4, 2) if lead => scores::<I, T, 4, 2, true>(isa, head, blocks, queries, at, room),
                (4, 2) => scores::<I, T, 4, 2, false>(isa, head, blocks, queries, at, room),
                (4, _) => scores::<I, T, 4, 1, true>(isa, head, blocks, queries, at, room),
                (2, 2) => scores::<I, T, 2, 2, true>(isa, head, blocks, queries, at, room),
                (2, _) => scores::<I, T, 2, 1, true>(isa, head, blocks, queries, at, room),
                (_, 2) => scores::<I, T, 1, 2, true>(isa, head, blocks, queries, at, room),
                _ => scores::<I, T, 1, 1, true>(isa, head, blocks, queries, at, room),
            }
            i += together;
        }
        first += n;
    }
    for i in 0..queries.len() {
        let (scores, sums) = room.scores_and_sums(i);
        sums.fill(0.0);
        softmax::exponentials(isa, scores, queries.seen(i, start), sums);
    }
    for (index, &block) in blocks.iter().enumerate() {
        let (_, block) = head.block(block);
        let mut i = 0;
        while i < queries.len() {
            let left = |i| {
                queries
                    .seen(i, start)
                    .saturating_sub(index * KV_BLOCK)
                    .min(KV_BLOCK)
            };
            let n = left(i);
            let together = match queries.len() - i {
                4.. if wide && left(i + 1) == n && left(i + 2) == n && left(i + 3) == n => 4,
                2.. if left(i + 1) == n => 2,
                _ => 1,
            };
            if n > 0 {
                let at = Place { first: index, i };
                match together {
                    4 => values::<I, T, 4>(isa, head, block, n, at, room),
                    2 => values::<I, T, 2>(isa, head, block, n, at, room),
                    _ => values::<I, T, 1>(isa, head, block, n, at, room),
                }
            }
            i += together;
        }
    }
}

/// Scores of G queries with B blocks; with PREFETCH these blocks' values and the next blocks' keys are asked for.
#[inline(always)]
fn scores<I: Isa, T: Stored, const G: usize, const B: usize, const PREFETCH: bool>(
    isa: I,
    head: &FloatHead<'_, T>,
    blocks: &[u32],
    queries: &Queries<'_>,
    at: Place,
    room: &mut Room<'_>,
) {
    let mut q: [&[f32]; G] = [&[]; G];
    for (g, q) in q.iter_mut().enumerate() {
        *q = queries.get(at.i + g);
    }
    let head_dim = q[0].len();
    let mut keys: [&[[T; LANES]]; B] = [&[]; B];
    let mut to_values = [0; B]; // bytes from a key to the value that is asked for with it
    let mut to_next = [0; B]; // bytes from a key to the next blocks'
    for b in 0..B {
        let (here, values) = head.block(blocks[at.first + b]);
        keys[b] = &here[..head_dim];
        to_values[b] = values.as_ptr().addr().wrapping_sub(here.as_ptr().addr());
        if let Some(&next) = blocks.get(at.first + b + B) {
            let (next, _) = head.block(next);
            to_next[b] = next.as_ptr().addr().wrapping_sub(here.as_ptr().addr());
        }
    }
    let mut even = [[isa.splat(0.0); B]; G];
    let mut odd = [[isa.splat(0.0); B]; G];
    for pair in 0..head_dim / 2 {
        let mut key0 = [isa.splat(0.0); B];
        let mut key1 = [isa.splat(0.0); B];
        for b in 0..B {
            key0[b] = T::load(isa, &keys[b][2 * pair]);
            key1[b] = T::load(isa, &keys[b][2 * pair + 1]);
            if PREFETCH {
                isa.prefetch(&keys[b][2 * pair], to_next[b]);
                isa.prefetch(&keys[b][2 * pair], to_values[b]);
                // Two vectors of f16 are one cache line.
                if size_of::<[T; LANES]>() == 64 {
                    isa.prefetch(&keys[b][2 * pair + 1], to_next[b]);
                    isa.prefetch(&keys[b][2 * pair + 1], to_values[b]);
                }
            }
        }
        for g in 0..G {
            let (q0, q1) = (isa.splat(q[g][2 * pair]), isa.splat(q[g][2 * pair + 1]));
            for b in 0..B {
                even[g][b] = isa.add(even[g][b], isa.mul(q0, key0[b]));
                odd[g][b] = isa.add(odd[g][b], isa.mul(q1, key1[b]));
            }
        }
    }
    if head_dim % 2 == 1 {
        for g in 0..G {
            let q = isa.splat(q[g][head_dim - 1]);
            for b in 0..B {
                let key = T::load(isa, &keys[b][head_dim - 1]);
                even[g][b] = isa.add(even[g][b], isa.mul(q, key));
            }
        }
    }
    let scale = isa.splat(1.0 / (head_dim as f32).sqrt());
    for g in 0..G {
        let to = &mut room.scores[(at.i + g) * SPAN + at.first * KV_BLOCK..][..B * KV_BLOCK];
        for (b, to) in to.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            isa.store(isa.mul(isa.add(even[g][b], odd[g][b]), scale), to);
        }
    }
}

/// Adds the weighted values of the first n positions of a block to the sums of G queries.
#[inline(always)]
fn values<I: Isa, T: Stored, const G: usize>(
    isa: I,
    head: &FloatHead<'_, T>,
    block: &[T],
    n: usize,
    at: Place,
    room: &mut Room<'_>,
) {
    let value_len = head.layout.value_len();
    let mut from = 0;
    while from < value_len {
        from += LANES
            * match (value_len - from) / LANES {
                4.. => some_values::<I, T, G, 4>(isa, block, value_len, n, from, at, room),
                2.. => some_values::<I, T, G, 2>(isa, block, value_len, n, from, at, room),
                _ => some_values::<I, T, G, 1>(isa, block, value_len, n, from, at, room),
            };
    }
}

/// The same for V vectors of 16 dimensions from dimension `from` on; returns V.
#[inline(always)]
fn some_values<I: Isa, T: Stored, const G: usize, const V: usize>(
    isa: I,
    block: &[T],
    value_len: usize,
    n: usize,
    from: usize,
    at: Place,
    room: &mut Room<'_>,
) -> usize {
    let (weights, sums, sums_len) = room.parts();
    let mut w: [&[f32]; G] = [&[]; G];
    let mut acc = [[isa.splat(0.0); V]; G];
    for g in 0..G {
        w[g] = &weights[(at.i + g) * SPAN + at.first * KV_BLOCK..][..n];
        let sums = &sums[(at.i + g) * sums_len + from..][..V * LANES];
        for (acc, sums) in acc[g].iter_mut().zip(sums.as_chunks::<LANES>().0) {
            *acc = isa.load(sums);
        }
    }
    for (slot, value) in block.chunks_exact(value_len).take(n).enumerate() {
        let value = value[from..][..V * LANES].as_chunks::<LANES>().0;
        for g in 0..G {
            let weight = isa.splat(w[g][slot]);
            for v in 0..V {
                acc[g][v] = isa.add(acc[g][v], isa.mul(weight, T::load(isa, &value[v])));
            }
        }
    }
    for (g, acc) in acc.iter().enumerate() {
        let sums = &mut sums[(at.i + g) * sums_len + from..][..V * LANES];
        for (acc, sums) in acc.iter().zip(sums.as_chunks_mut::<LANES>().0) {
            isa.store(*acc, sums);
        }
    }
    V
}
