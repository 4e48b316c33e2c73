//! One span of keys and values stored as bytes: integer products, exact, then float factors.
//!
//! ```text
//! q8 = round(q a), a = 127 / absmax(q)        s[p] = (q8 . k8[p]) * kscale[p] * (1 / sqrt(head_dim) / a)
//! w[p] = exp(s[p] - m) * vscale[p]            r[p] = w[p] * 32258 / max w      r = 254 * high + low, bytes both
//! acc = ((sum high[p] v8[p]) * 254 + sum low[p] v8[p]) * (max w / 32258)
//! ```
//!
//! Queries carry the same error as the keys that they meet; weights have 15 bits, which the bytes of values hide. Sums of
//! a span stay below 2^23, so they are exact as floats too.

use super::queries::{Heads, MOST_QUERIES, Queries, Room};
use super::{Place, SPAN, softmax};
use crate::backend::KV_BLOCK;
use crate::cpu::isa::{Isa, LANES};
use crate::cpu::kv_cache::int8::{Int8Blocks, Int8Head, vectors};
use crate::cpu::memory::{Disjoint, Memory};
use crate::cpu::quantize::quantize_row;
use crate::error::KernelError;

/// A weight is `HIGH * high + low` with bytes of -127..=127.
const HIGH: f32 = 254.0;

/// The greatest weight.
const GREATEST: f32 = 127.0 * HIGH;

/// Greatest weights below which a span's values count as zeros: their inverse is no number.
const LEAST: f32 = 1e-30;

/// Adding and subtracting 1.5 * 2^23 rounds a float of up to 2^22 to a whole number, half to even.
const ROUND: f32 = 12_582_912.0;

/// Quads of four positions in a span.
const QUADS: usize = SPAN / 4;

/// Queries and weights as bytes, of all threads.
#[derive(Debug)]
pub struct Bytes {
    queries: Memory<i8>,       // [threads, MOST_QUERIES, padded head_dim]
    weights: Memory<Halves>,   // [threads, MOST_QUERIES]
    sums: Memory<[i32; 3]>,    // [threads, MOST_QUERIES]
    factors: Memory<[f32; 2]>, // [threads, MOST_QUERIES]
    padded: usize,
}

/// High and low bytes of the weights of a span.
type Halves = [[[i8; 4]; QUADS]; 2];

/// One thread's bytes.
pub struct ByteRoom<'a> {
    queries: &'a mut [i8],
    weights: &'a mut [Halves],
    sums: &'a mut [[i32; 3]], // of q8, of the high and of the low bytes of the weights
    factors: &'a mut [[f32; 2]], // of scores, 1 / sqrt(head_dim) / a, and of sums of values, max w / 32258
    padded: usize,
}

impl ByteRoom<'_> {
    /// The room from query `first` on.
    #[inline(always)]
    pub fn behind(&mut self, first: usize) -> ByteRoom<'_> {
        ByteRoom {
            queries: &mut self.queries[first * self.padded..],
            weights: &mut self.weights[first..],
            sums: &mut self.sums[first..],
            factors: &mut self.factors[first..],
            padded: self.padded,
        }
    }
}

/// The threads' bytes, shared.
pub struct ByteRooms<'a> {
    queries: Disjoint<'a, i8>,
    weights: Disjoint<'a, Halves>,
    sums: Disjoint<'a, [i32; 3]>,
    factors: Disjoint<'a, [f32; 2]>,
    padded: usize,
}

impl Bytes {
    /// Room for `threads` threads.
    pub fn new(what: &'static str, head_dim: usize, threads: usize) -> Result<Bytes, KernelError> {
        let padded = 4 * vectors(head_dim);
        let n = threads * MOST_QUERIES;
        Ok(Bytes {
            queries: Memory::zeroed(what, n * padded)?,
            weights: Memory::zeroed(what, n)?,
            sums: Memory::zeroed(what, n)?,
            factors: Memory::zeroed(what, n)?,
            padded,
        })
    }

    /// To be given to threads.
    pub fn rooms(&mut self) -> ByteRooms<'_> {
        ByteRooms {
            queries: Disjoint::new(&mut self.queries),
            weights: Disjoint::new(&mut self.weights),
            sums: Disjoint::new(&mut self.sums),
            factors: Disjoint::new(&mut self.factors),
            padded: self.padded,
        }
    }
}

impl ByteRooms<'_> {
    /// The room of one thread.
    ///
    /// # Safety
    /// Nobody else has this thread's room.
    #[inline(always)]
    pub unsafe fn room(&self, thread: usize) -> ByteRoom<'_> {
        let (first, padded) = (thread * MOST_QUERIES, self.padded);
        // SAFETY: the caller's.
        unsafe {
            ByteRoom {
                queries: self.queries.range(first * padded, MOST_QUERIES * padded),
                weights: self.weights.range(first, MOST_QUERIES),
                sums: self.sums.range(first, MOST_QUERIES),
                factors: self.factors.range(first, MOST_QUERIES),
                padded,
            }
        }
    }
}

/// Blocks of a span, with keys and values of one head.
struct Head<'a> {
    numbers: &'a Int8Blocks,
    layer: usize,
    kv_head: usize,
    blocks: &'a [u32],
}

impl<'a> Head<'a> {
    /// The head in block `index`.
    #[inline(always)]
    fn block(&self, index: usize) -> Int8Head<'a> {
        self.numbers
            .head(self.layer, self.blocks[index], self.kv_head)
    }
}

/// Quantises the queries, once for all spans.
#[inline(always)]
pub fn prepare<I: Isa>(isa: I, queries: &Queries<'_>, bytes: &mut ByteRoom<'_>) {
    let scale = 1.0 / (queries.head_dim() as f32).sqrt();
    for i in 0..queries.len() {
        let q = &mut bytes.queries[i * bytes.padded..][..bytes.padded];
        let a = quantize_row(isa, queries.get(i), q);
        bytes.sums[i][0] = q.iter().map(|&q| i32::from(q)).sum();
        bytes.factors[i][0] = scale / a;
    }
}

/// Sums of a span, whose blocks these are, into the room's parts; the blocks `after` them come next. Memory is busy all the
/// time: values are asked for with the keys, and the next head's keys with the values.
#[inline(always)]
pub fn span<I: Isa>(
    isa: I,
    heads: &Heads<'_>,
    numbers: &Int8Blocks,
    blocks: &[u32],
    after: &[u32],
    start: usize,
    room: &mut Room<'_>,
) {
    let head = |h, blocks| Head {
        numbers,
        layer: heads.call.layer,
        kv_head: heads.part.first_head + h,
        blocks,
    };
    for h in 0..heads.part.n_heads {
        let (queries, mut room) = (heads.queries(h), heads.room(h, room));
        let next = match h + 1 < heads.part.n_heads {
            true => head(h + 1, blocks),
            false => head(0, after),
        };
        let head = head(h, blocks);
        score(isa, &head, &queries, start, &mut room);
        for i in 0..queries.len() {
            let (scores, sums) = room.scores_and_sums(i);
            let n = queries.seen(i, start);
            softmax::exponentials(isa, scores, n, sums);
            weights(isa, &head, n, i, &mut room);
        }
        add(isa, &head, &next, &queries, start, &mut room);
    }
}

/// Scores of all queries.
#[inline(always)]
fn score<I: Isa>(
    isa: I,
    head: &Head<'_>,
    queries: &Queries<'_>,
    start: usize,
    room: &mut Room<'_>,
) {
    let wide = I::PANEL >= 16;
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
        let n = seen.div_ceil(KV_BLOCK);
        let mut first = 0;
        while first < n {
            let at = Place { first, i };
            first += match (together, n - first) {
                (4, 4..) if i == 0 => scores::<I, 4, 4, true>(isa, head, at, room),
                (4, 4..) => scores::<I, 4, 4, false>(isa, head, at, room),
                (4, _) => scores::<I, 4, 1, true>(isa, head, at, room),
                (2, 2..) => scores::<I, 2, 2, true>(isa, head, at, room),
                (2, _) => scores::<I, 2, 1, true>(isa, head, at, room),
                (_, 4..) if wide => scores::<I, 1, 4, true>(isa, head, at, room),
                _ => scores::<I, 1, 1, true>(isa, head, at, room),
            };
        }
        i += together;
    }
}

/// Adds up the weighted values of all queries; keys of `next` are asked for.
#[inline(always)]
fn add<I: Isa>(
    isa: I,
    head: &Head<'_>,
    next: &Head<'_>,
    queries: &Queries<'_>,
    start: usize,
    room: &mut Room<'_>,
) {
    let wide = I::PANEL >= 16;
    let mut i = 0;
    while i < queries.len() {
        let together = match queries.len() - i {
            4.. if wide => 4,
            2.. if wide => 2,
            _ => 1,
        };
        let mut seen = 0;
        for g in 0..together {
            seen = seen.max(queries.seen(i + g, start));
        }
        let n = seen.div_ceil(KV_BLOCK);
        match together {
            4 => values::<I, 4>(isa, head, next, n, i, room),
            2 => values::<I, 2>(isa, head, next, n, i, room),
            _ => values::<I, 1>(isa, head, next, n, i, room),
        }
        i += together;
    }
}

/// Scores of G queries with B blocks; returns B. With PREFETCH, these blocks' values are asked for.
#[inline(always)]
fn scores<I: Isa, const G: usize, const B: usize, const PREFETCH: bool>(
    isa: I,
    head: &Head<'_>,
    at: Place,
    room: &mut Room<'_>,
) -> usize {
    let Room { scores, bytes, .. } = room;
    let n = bytes.padded / 4;
    let mut q: [&[[i8; 4]]; G] = [&[]; G];
    let mut acc = [[isa.splat_i32(0); B]; G];
    for g in 0..G {
        let padded = bytes.padded;
        q[g] = &bytes.queries[(at.i + g) * padded..][..padded].as_chunks().0[..n];
        acc[g] = [isa.splat_i32(-I::BIAS * bytes.sums[at.i + g][0]); B];
    }
    let mut keys: [&[[i8; 4 * LANES]]; B] = [&[]; B];
    for (b, keys) in keys.iter_mut().enumerate() {
        *keys = &head.block(at.first + b).keys[..n];
    }
    let to_value = n * size_of::<[i8; 4 * LANES]>();
    for quad in 0..n {
        for b in 0..B {
            let key = isa.load_i8x64(&keys[b][quad]);
            if PREFETCH {
                isa.prefetch(&keys[b][quad], to_value);
            }
            for g in 0..G {
                acc[g][b] = isa.dot4(acc[g][b], key, q[g][quad]);
            }
        }
    }
    for (g, acc) in acc.iter().enumerate() {
        let factor = isa.splat(bytes.factors[at.i + g][0]);
        let to = &mut scores[(at.i + g) * SPAN + at.first * KV_BLOCK..][..B * KV_BLOCK];
        for (b, to) in to.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let scales = isa.load(&head.block(at.first + b).scales[0]);
            let scaled = isa.mul(isa.i32_to_f32(acc[b]), scales);
            isa.store(isa.mul(scaled, factor), to);
        }
    }
    B
}

/// The exponentials of query `i` times the values' scales, as bytes; 0 from the n-th on.
#[inline(always)]
fn weights<I: Isa>(isa: I, head: &Head<'_>, n: usize, i: usize, room: &mut Room<'_>) {
    let Room { scores, bytes, .. } = room;
    let scores = &mut scores[i * SPAN..][..SPAN];
    let (mut greatest, mut total, zero) = (isa.splat(0.0), isa.splat(0.0), isa.splat(0.0));
    let used = n.div_ceil(KV_BLOCK);
    let scores = &mut scores.as_chunks_mut::<LANES>().0[..used];
    for (block, w) in scores.iter_mut().enumerate() {
        let e = isa.load(w);
        let scaled = isa.mul(e, isa.load(&head.block(block).scales[1]));
        // Positions that are not seen have exponentials of 0 and scales of whoever was there before.
        let scaled = isa.select_lt(zero, e, scaled, zero);
        greatest = isa.max(scaled, greatest);
        total = isa.add(total, scaled);
        isa.store(scaled, w);
    }
    let greatest = isa.max_lane(greatest);
    let (to_bytes, from_bytes) = match greatest > LEAST {
        true => (GREATEST / greatest, greatest / GREATEST),
        false => (0.0, 0.0),
    };
    let [high, low] = &mut bytes.weights[i];
    high[used * 4..].fill([0; 4]);
    low[used * 4..].fill([0; 4]);
    let (high16, low16) = (
        high.as_flattened_mut().as_chunks_mut::<LANES>().0,
        low.as_flattened_mut().as_chunks_mut::<LANES>().0,
    );
    for ((w, high), low) in scores.iter().zip(high16).zip(low16) {
        let r = isa.mul(isa.load(w), isa.splat(to_bytes));
        let r = isa.select_lt(r, isa.splat(2.0 * GREATEST), r, zero);
        let rounded = isa.add(isa.mul(r, isa.splat(1.0 / HIGH)), isa.splat(ROUND));
        let whole = isa.sub(rounded, isa.splat(ROUND));
        isa.store_i8(whole, high);
        isa.store_i8(isa.sub(r, isa.mul(whole, isa.splat(HIGH))), low);
    }
    let sum =
        |quads: &[[i8; 4]]| -> i32 { quads.as_flattened().iter().map(|&q| i32::from(q)).sum() };
    (bytes.sums[i][1], bytes.sums[i][2]) = (sum(high), sum(low));
    // A scale that is no number makes the values none.
    let finite = isa.sum(total) < f32::INFINITY;
    bytes.factors[i][1] = if finite { from_bytes } else { f32::NAN };
}

/// Weighted values of G queries over the first `n_blocks` blocks.
#[inline(always)]
fn values<I: Isa, const G: usize>(
    isa: I,
    head: &Head<'_>,
    next: &Head<'_>,
    n_blocks: usize,
    i: usize,
    room: &mut Room<'_>,
) {
    let (mut chunk, n) = (0, room.bytes.padded / LANES);
    while chunk < n {
        chunk += match n - chunk {
            2.. if I::PANEL >= 16 => {
                some_values::<I, G, 2>(isa, head, next, n_blocks, i, chunk, room)
            }
            _ => some_values::<I, G, 1>(isa, head, next, n_blocks, i, chunk, room),
        };
    }
}

/// The same for V vectors of 16 dimensions from vector `chunk` on; returns V.
#[inline(always)]
fn some_values<I: Isa, const G: usize, const V: usize>(
    isa: I,
    head: &Head<'_>,
    next: &Head<'_>,
    n_blocks: usize,
    i: usize,
    chunk: usize,
    room: &mut Room<'_>,
) -> usize {
    let bytes = &room.bytes;
    let mut high = [[isa.splat_i32(0); V]; G];
    let mut low = [[isa.splat_i32(0); V]; G];
    for g in 0..G {
        let [_, sum_high, sum_low] = bytes.sums[i + g];
        high[g] = [isa.splat_i32(-I::BIAS * sum_high); V];
        low[g] = [isa.splat_i32(-I::BIAS * sum_low); V];
    }
    let weights: &[Halves; G] = bytes.weights[i..]
        .first_chunk()
        .expect("weights of each query");
    for index in 0..n_blocks {
        let values = &head.block(index).values[4 * chunk..][..4 * V];
        if i == 0 && index < next.blocks.len() {
            let next = next.block(index);
            if chunk == 0 {
                isa.prefetch(&next.scales[0], 0);
                isa.prefetch(&next.scales[1], 0);
            }
            for key in &next.keys[4 * chunk..][..4 * V] {
                isa.prefetch(key, 0);
            }
        }
        for quad in 0..4 {
            for v in 0..V {
                let value = isa.load_i8x64(&values[4 * v + quad]);
                for g in 0..G {
                    let [high_q, low_q] = &weights[g];
                    high[g][v] = isa.dot4(high[g][v], value, high_q[4 * index + quad]);
                    low[g][v] = isa.dot4(low[g][v], value, low_q[4 * index + quad]);
                }
            }
        }
    }
    let mut factors = [0.0; G];
    for (g, factor) in factors.iter_mut().enumerate() {
        *factor = bytes.factors[i + g][1];
    }
    let (_, sums, sums_len) = room.parts();
    for g in 0..G {
        let from_bytes = isa.splat(factors[g]);
        let sums = &mut sums[(i + g) * sums_len + chunk * LANES..][..V * LANES];
        for (v, sums) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let high = isa.mul(isa.i32_to_f32(high[g][v]), isa.splat(HIGH));
            let sum = isa.add(high, isa.i32_to_f32(low[g][v]));
            isa.store(isa.mul(sum, from_bytes), sums);
        }
    }
    V
}
