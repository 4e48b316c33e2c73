//! One span of keys and values stored as floats.
//!
//! A vector of keys is one dimension of 16 positions, so a score is a lane; even and odd dimensions sum apart, then
//! both. A vector of values is 16 dimensions of one position; they are added in the order of positions.

use std::ops::Range;

use super::queries::{Heads, Queries, Room};
use super::{Place, SPAN, Stream, softmax};
use crate::backend::KV_BLOCK;
use crate::cpu::isa::{Isa, LANES};
use crate::cpu::kv_cache::{HeadLayout, Stored};

/// Keys of one head in one block, a vector of 16 positions for each dimension.
type Keys<'a, T> = &'a [[T; LANES]];

/// Values of one head in one block, and others to ask for with them.
#[derive(Clone, Copy)]
struct Values<'a, T> {
    /// `[16 positions][len]`.
    here: &'a [T],
    /// The others, of the same shape.
    ahead: Option<&'a [T]>,
    /// Length of a value.
    len: usize,
}

/// Blocks of a span, with keys and values of the heads of an item.
struct Span<'a, T> {
    numbers: &'a [T],
    layout: HeadLayout,
    layer: usize,
    first_head: usize,
    blocks: &'a [u32],
}

impl<'a, T: Stored> Span<'a, T> {
    /// Keys of head `h` in block `index`, or in the last one.
    #[inline(always)]
    fn keys(&self, index: usize, h: usize) -> Keys<'a, T> {
        let [keys, _] = self.head(index, h);
        self.numbers[keys].as_chunks().0
    }

    /// Its values.
    #[inline(always)]
    fn values(&self, index: usize, h: usize) -> &'a [T] {
        let [_, values] = self.head(index, h);
        &self.numbers[values]
    }

    #[inline(always)]
    fn head(&self, index: usize, h: usize) -> [Range<usize>; 2] {
        let block = self.blocks[index.min(self.blocks.len() - 1)];
        self.layout.head(self.layer, block, self.first_head + h)
    }
}

/// Vectors in a cache line: two of f16.
const fn vectors_of_a_line<T>() -> usize {
    64 / size_of::<[T; LANES]>()
}

/// Sums of a span, whose blocks these are, into the room's parts.
#[inline(always)]
pub fn span<I: Isa, T: Stored>(
    isa: I,
    heads: &Heads<'_>,
    numbers: &[T],
    blocks: &[u32],
    start: usize,
    room: &mut Room<'_>,
) {
    let layout = heads.call.cache.layout();
    let span = Span {
        numbers,
        layout,
        layer: heads.call.layer,
        first_head: heads.part.first_head,
        blocks,
    };
    // Registers for sums: four queries by two blocks by even and odd, or a quarter of that where a vector is several. With
    // few queries memory is what takes the time, and one block after the other is the order in which keys lie.
    let two = I::PANEL >= 16 && heads.queries.len() > 4;
    let stride = if two { 2 } else { 1 };
    let stream = Stream::new(heads.part.n_heads, stride, size_of_val(span.keys(0, 0)));
    for first in (0..blocks.len()).step_by(stride) {
        for h in 0..heads.part.n_heads {
            let keys = [0, 1].map(|b| span.keys(first + b, h));
            let (next, next_h) = stream.ahead(first, h);
            let ahead = [0, 1].map(|b| match next < blocks.len() {
                true => span.keys(next + b, next_h),
                // The values follow, from the first block on.
                false => span.values(b, next_h).as_chunks().0,
            });
            let n = stride.min(blocks.len() - first);
            score(
                isa,
                [&keys[..n], &ahead[..n]],
                &heads.queries(h),
                first,
                start,
                &mut heads.room(h, room),
            );
        }
    }
    for h in 0..heads.part.n_heads {
        let (queries, mut room) = (heads.queries(h), heads.room(h, room));
        for i in 0..queries.len() {
            let (scores, sums) = room.scores_and_sums(i);
            sums.fill(0.0);
            softmax::exponentials(isa, scores, queries.seen(i, start), sums);
        }
    }
    let stream = Stream::new(heads.part.n_heads, 1, size_of_val(span.values(0, 0)));
    for first in 0..blocks.len() {
        for h in 0..heads.part.n_heads {
            let (next, next_h) = stream.ahead(first, h);
            let values = Values {
                here: span.values(first, h),
                ahead: Some(span.values(next, next_h)),
                len: layout.value_len(),
            };
            add(
                isa,
                values,
                &heads.queries(h),
                first,
                start,
                &mut heads.room(h, room),
            );
        }
    }
}

/// Scores of all queries with one or two blocks from block `first` on; those ahead are asked for with their keys.
#[inline(always)]
fn score<I: Isa, T: Stored>(
    isa: I,
    [keys, ahead]: [&[Keys<'_, T>]; 2],
    queries: &Queries<'_>,
    first: usize,
    start: usize,
    room: &mut Room<'_>,
) {
    let wide = I::PANEL >= 16;
    let mut at = Place { first, i: 0 };
    while at.i < queries.len() {
        let together = match queries.len() - at.i {
            4.. if wide => 4,
            2.. => 2,
            _ => 1,
        };
        let mut seen = 0;
        for g in 0..together {
            seen = seen.max(queries.seen(at.i + g, start));
        }
        let here = seen
            .div_ceil(KV_BLOCK)
            .saturating_sub(at.first)
            .min(keys.len());
        // The first queries to come here ask for what is ahead; few do so too.
        let lead = at.i == 0;
        match (together, here) {
            (_, 0) => {}
            (4, 2) if lead => scores::<I, T, 4, 2, true>(isa, keys, ahead, queries, at, room),
            (4, 2) => scores::<I, T, 4, 2, false>(isa, keys, ahead, queries, at, room),
            (4, _) => scores::<I, T, 4, 1, true>(isa, keys, ahead, queries, at, room),
            (2, 2) => scores::<I, T, 2, 2, true>(isa, keys, ahead, queries, at, room),
            (2, _) if lead => scores::<I, T, 2, 1, true>(isa, keys, ahead, queries, at, room),
            (2, _) => scores::<I, T, 2, 1, false>(isa, keys, ahead, queries, at, room),
            (_, 2) => scores::<I, T, 1, 2, true>(isa, keys, ahead, queries, at, room),
            _ => scores::<I, T, 1, 1, true>(isa, keys, ahead, queries, at, room),
        }
        at.i += together;
    }
}

/// Scores of G queries with B blocks; with ASKS, others are asked for with their keys.
#[inline(always)]
fn scores<I: Isa, T: Stored, const G: usize, const B: usize, const ASKS: bool>(
    isa: I,
    keys: &[Keys<'_, T>],
    ahead: &[Keys<'_, T>],
    queries: &Queries<'_>,
    at: Place,
    room: &mut Room<'_>,
) {
    let mut q: [&[f32]; G] = [&[]; G];
    for (g, q) in q.iter_mut().enumerate() {
        *q = queries.get(at.i + g);
    }
    let head_dim = q[0].len();
    let mut key: [Keys<'_, T>; B] = [&[]; B];
    let mut next: [Keys<'_, T>; B] = [&[]; B];
    for b in 0..B {
        (key[b], next[b]) = (&keys[b][..head_dim], &ahead[b][..head_dim]);
    }
    let mut even = [[isa.splat(0.0); B]; G];
    let mut odd = [[isa.splat(0.0); B]; G];
    for pair in 0..head_dim / 2 {
        let mut key0 = [isa.splat(0.0); B];
        let mut key1 = [isa.splat(0.0); B];
        for b in 0..B {
            key0[b] = T::load(isa, &key[b][2 * pair]);
            key1[b] = T::load(isa, &key[b][2 * pair + 1]);
            if ASKS {
                isa.prefetch_near(&next[b][2 * pair], 0);
                if vectors_of_a_line::<T>() == 1 {
                    isa.prefetch_near(&next[b][2 * pair + 1], 0);
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
                let key = T::load(isa, &key[b][head_dim - 1]);
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

/// Adds the weighted values of block `first` to the sums of all queries; those ahead are asked for once.
#[inline(always)]
fn add<I: Isa, T: Stored>(
    isa: I,
    mut block: Values<'_, T>,
    queries: &Queries<'_>,
    first: usize,
    start: usize,
    room: &mut Room<'_>,
) {
    let wide = I::PANEL >= 16;
    let left = |i| {
        queries
            .seen(i, start)
            .saturating_sub(first * KV_BLOCK)
            .min(KV_BLOCK)
    };
    let mut at = Place { first, i: 0 };
    while at.i < queries.len() {
        let i = at.i;
        let n = left(i);
        let together = match queries.len() - i {
            4.. if wide && left(i + 1) == n && left(i + 2) == n && left(i + 3) == n => 4,
            2.. if left(i + 1) == n => 2,
            _ => 1,
        };
        if n > 0 {
            match together {
                4 => values::<I, T, 4>(isa, block, n, at, room),
                2 => values::<I, T, 2>(isa, block, n, at, room),
                _ => values::<I, T, 1>(isa, block, n, at, room),
            }
            block.ahead = None;
        }
        at.i += together;
    }
}

/// Adds the weighted values of the first n positions of a block to the sums of G queries.
#[inline(always)]
fn values<I: Isa, T: Stored, const G: usize>(
    isa: I,
    block: Values<'_, T>,
    n: usize,
    at: Place,
    room: &mut Room<'_>,
) {
    let value_len = block.len;
    let mut from = 0;
    while from < value_len {
        from += LANES
            * match (value_len - from) / LANES {
                4.. => some_values::<I, T, G, 4>(isa, block, n, from, at, room),
                2.. => some_values::<I, T, G, 2>(isa, block, n, from, at, room),
                _ => some_values::<I, T, G, 1>(isa, block, n, from, at, room),
            };
    }
}

/// The same for V vectors of 16 dimensions from dimension `from` on; returns V.
#[inline(always)]
fn some_values<I: Isa, T: Stored, const G: usize, const V: usize>(
    isa: I,
    block: Values<'_, T>,
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
    for (slot, start) in (from..).step_by(block.len).take(n).enumerate() {
        let part = start..start + V * LANES;
        let value = block.here[part.clone()].as_chunks::<LANES>().0;
        if let Some(ahead) = block.ahead {
            // Line by line, whatever the order in which values are added.
            let first = from * KV_BLOCK + slot * V * LANES;
            let vectors = ahead[first..first + V * LANES].as_chunks::<LANES>().0;
            for line in vectors.iter().step_by(vectors_of_a_line::<T>()) {
                isa.prefetch_near(line, 0);
            }
        }
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
