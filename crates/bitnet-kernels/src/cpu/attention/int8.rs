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
use super::{Place, SPAN, Stream, softmax};
use crate::backend::KV_BLOCK;
use crate::cpu::isa::{Isa, LANES};
use crate::cpu::kv_cache::int8::{Bytes as Vector, Int8Blocks, vectors};
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
    queries: Memory<i8>,          // [threads, MOST_QUERIES, padded head_dim]
    weights: Memory<Halves>,      // [threads, MOST_QUERIES]
    sums: Memory<[i32; 3]>,       // [threads, MOST_QUERIES]
    factors: Memory<[f32; 2]>,    // [threads, MOST_QUERIES]
    totals: Memory<[i32; LANES]>, // [threads, MOST_QUERIES, vectors of 16 dimensions, 2]
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
    totals: &'a mut [[i32; LANES]], // sums of values times high and low bytes
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
            totals: &mut self.totals[first * totals_len(self.padded)..],
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
    totals: Disjoint<'a, [i32; LANES]>,
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
            totals: Memory::zeroed(what, n * totals_len(padded))?,
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
            totals: Disjoint::new(&mut self.totals),
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
        let totals = totals_len(padded);
        // SAFETY: the caller's.
        unsafe {
            ByteRoom {
                queries: self.queries.range(first * padded, MOST_QUERIES * padded),
                weights: self.weights.range(first, MOST_QUERIES),
                sums: self.sums.range(first, MOST_QUERIES),
                factors: self.factors.range(first, MOST_QUERIES),
                totals: self.totals.range(first * totals, MOST_QUERIES * totals),
                padded,
            }
        }
    }
}

/// Vectors of one query's totals.
fn totals_len(padded: usize) -> usize {
    padded / LANES * 2
}

/// The blocks of a span, and the first ones behind it.
struct Blocks<'a> {
    numbers: &'a Int8Blocks,
    places: [[usize; 2]; MOST_BLOCKS], // of the first head's keys and values
    n: usize,                          // of the span
    last: usize,                       // that has a place
}

/// Blocks of a span, and some behind it: more than [`Stream`] looks ahead unless a block has less than 1 KB, and then the
/// last of them is asked for again.
const MOST_BLOCKS: usize = SPAN / KV_BLOCK + 8;

/// Indices of a block's places.
const KEYS: usize = 0;

/// See [`KEYS`].
const VALUES: usize = 1;

impl<'a> Blocks<'a> {
    #[inline(always)]
    fn new(
        heads: &Heads<'_>,
        numbers: &'a Int8Blocks,
        blocks: &[u32],
        after: &[u32],
    ) -> Blocks<'a> {
        let mut places = [[0; 2]; MOST_BLOCKS];
        for (places, &block) in places.iter_mut().zip(blocks.iter().chain(after)) {
            *places = numbers
                .places(heads.call.layer, block)
                .map(|first| first + heads.part.first_head);
        }
        Blocks {
            numbers,
            places,
            n: blocks.len(),
            last: MOST_BLOCKS.min(blocks.len() + after.len()) - 1,
        }
    }

    /// Keys or values of head `h` of block `index`.
    #[inline(always)]
    fn bytes(&self, index: usize, h: usize, of: usize) -> &'a [Vector] {
        self.numbers.bytes_of(self.places[index][of] + h)
    }

    /// Their scales.
    #[inline(always)]
    fn scales(&self, index: usize, h: usize, of: usize) -> &'a [f32; LANES] {
        self.numbers.scales_of(self.places[index][of] + h)
    }

    /// The first line of the keys or values of head `h` of block `index`, or of the last one; asks for the scales.
    #[inline(always)]
    fn ahead<I: Isa>(&self, isa: I, (index, h): (usize, usize), of: usize) -> &'a Vector {
        let index = index.min(self.last);
        isa.prefetch_near(self.scales(index, h, KEYS), 0);
        isa.prefetch_near(self.scales(index, h, VALUES), 0);
        &self.bytes(index, h, of)[0]
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

/// Sums of a span, whose blocks these are, into the room's parts; the blocks `after` them come next. What comes a while
/// after the bytes in work is asked for all the time.
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
    let n_heads = heads.part.n_heads;
    let blocks = Blocks::new(heads, numbers, blocks, after);
    // All heads have as many queries, of the same rows.
    let mut seen = [0; MOST_QUERIES];
    let seen = &mut seen[..heads.queries.len()];
    for (i, seen) in seen.iter_mut().enumerate() {
        *seen = heads.queries(0).seen(i, start);
    }
    let stream = Stream::new(n_heads, 1, size_of_val(blocks.bytes(0, 0, KEYS)));
    for index in 0..blocks.n {
        for h in 0..n_heads {
            let (next, next_h) = stream.ahead(index, h);
            let next = match next.checked_sub(blocks.n) {
                None => blocks.ahead(isa, (next, next_h), KEYS),
                Some(first) => blocks.ahead(isa, (first, next_h), VALUES),
            };
            let mut room = heads.room(h, room);
            let scales = blocks.scales(index, h, KEYS);
            for (i, together) in together::<I>(seen.len()) {
                let keys = blocks.bytes(index, h, KEYS);
                let at = Place { first: index, i };
                match together {
                    4 if i == 0 => scores::<I, 4, true>(isa, keys, scales, at, next, &mut room),
                    4 => scores::<I, 4, false>(isa, keys, scales, at, next, &mut room),
                    2 => scores::<I, 2, true>(isa, keys, scales, at, next, &mut room),
                    _ => scores::<I, 1, true>(isa, keys, scales, at, next, &mut room),
                }
            }
        }
    }
    for h in 0..n_heads {
        let mut room = heads.room(h, room);
        for (i, &seen) in seen.iter().enumerate() {
            let (scores, sums) = room.scores_and_sums(i);
            softmax::exponentials(isa, scores, seen, sums);
            weights(isa, (&blocks, h), seen, i, &mut room);
        }
    }
    for index in 0..blocks.n {
        for h in 0..n_heads {
            let (next, next_h) = stream.ahead(index, h);
            let of = if next < blocks.n { VALUES } else { KEYS };
            let next = blocks.ahead(isa, (next, next_h), of);
            let mut room = heads.room(h, room);
            let values = blocks.bytes(index, h, VALUES);
            add(isa, values, index, next, seen.len(), &mut room.bytes);
        }
    }
    for h in 0..n_heads {
        let mut room = heads.room(h, room);
        for i in 0..seen.len() {
            finish(isa, i, &mut room);
        }
    }
}

/// The first query and the number of those whose scores are computed together, `n` in all.
#[inline(always)]
fn together<I: Isa>(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let i = first;
        let together = match n - i {
            0 => return None,
            4.. if I::PANEL >= 16 => 4,
            2.. => 2,
            _ => 1,
        };
        first += together;
        Some((i, together))
    })
}

/// Scores of G queries with a block; with ASKS, as many lines from `next` on are asked for.
#[inline(always)]
fn scores<I: Isa, const G: usize, const ASKS: bool>(
    isa: I,
    keys: &[Vector],
    scales: &[f32; LANES],
    at: Place,
    next: &Vector,
    room: &mut Room<'_>,
) {
    let Room { scores, bytes, .. } = room;
    let keys: &[[Vector; 2]] = keys.as_chunks().0;
    let mut q: [&[[[i8; 4]; 2]]; G] = [&[]; G];
    // Two sums each, so that products need not wait for each other.
    let mut acc = [[isa.splat_i32(0); 2]; G];
    for g in 0..G {
        let padded = bytes.padded;
        let query = &bytes.queries[(at.i + g) * padded..][..padded];
        q[g] = &query.as_chunks().0.as_chunks().0[..keys.len()];
        acc[g][0] = isa.splat_i32(-I::BIAS * bytes.sums[at.i + g][0]);
    }
    for (pair, keys) in keys.iter().enumerate() {
        for (odd, key) in keys.iter().enumerate() {
            let key = isa.load_i8x64(key);
            if ASKS {
                isa.prefetch_near(next, (2 * pair + odd) * size_of::<Vector>());
            }
            for g in 0..G {
                acc[g][odd] = isa.dot4(acc[g][odd], key, q[g][pair][odd]);
            }
        }
    }
    let scales = isa.load(scales);
    for (g, acc) in acc.iter().enumerate() {
        let factor = isa.splat(bytes.factors[at.i + g][0]);
        let to = &mut scores[(at.i + g) * SPAN + at.first * KV_BLOCK..];
        let to = to.first_chunk_mut().expect("a block of scores");
        let sum = isa.i32_to_f32(isa.add_sums(acc[0], acc[1]));
        isa.store(isa.mul(isa.mul(sum, scales), factor), to);
    }
}

/// The exponentials of query `i` times the values' scales, as bytes; 0 from the n-th on.
#[inline(always)]
fn weights<I: Isa>(
    isa: I,
    (blocks, h): (&Blocks<'_>, usize),
    n: usize,
    i: usize,
    room: &mut Room<'_>,
) {
    let Room { scores, bytes, .. } = room;
    let scores = &mut scores[i * SPAN..][..SPAN];
    let (mut greatest, mut total, zero) = (isa.splat(0.0), isa.splat(0.0), isa.splat(0.0));
    let used = n.div_ceil(KV_BLOCK);
    let scores = &mut scores.as_chunks_mut::<LANES>().0[..used];
    for (block, w) in scores.iter_mut().enumerate() {
        let e = isa.load(w);
        let scaled = isa.mul(e, isa.load(blocks.scales(block, h, VALUES)));
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
    let totals = &mut bytes.totals[i * totals_len(bytes.padded)..][..totals_len(bytes.padded)];
    for [high, low] in totals.as_chunks_mut::<2>().0 {
        high.fill(-I::BIAS * bytes.sums[i][1]);
        low.fill(-I::BIAS * bytes.sums[i][2]);
    }
}

/// Adds the weighted values of block `index` to the totals of `n` queries; as many lines from `next` on are asked for.
#[inline(always)]
fn add<I: Isa>(
    isa: I,
    values: &[Vector],
    index: usize,
    next: &Vector,
    n: usize,
    bytes: &mut ByteRoom<'_>,
) {
    let (mut chunk, chunks) = (0, bytes.padded / LANES);
    while chunk < chunks {
        chunk += match chunks - chunk {
            4.. if I::PANEL >= 16 => add_some::<I, 4>(isa, values, chunk, index, next, n, bytes),
            2.. if I::PANEL >= 16 => add_some::<I, 2>(isa, values, chunk, index, next, n, bytes),
            _ => add_some::<I, 1>(isa, values, chunk, index, next, n, bytes),
        };
    }
}

/// The same for V vectors of 16 dimensions from vector `chunk` on; returns V.
#[inline(always)]
fn add_some<I: Isa, const V: usize>(
    isa: I,
    values: &[Vector],
    chunk: usize,
    index: usize,
    next: &Vector,
    n: usize,
    bytes: &mut ByteRoom<'_>,
) -> usize {
    let lines: &[[Vector; 4]; V] = values.as_chunks().0[chunk..]
        .first_chunk()
        .expect("whole vectors of dimensions");
    let mut value = [[isa.load_i8x64(&lines[0][0]); 4]; V];
    for v in 0..V {
        for quad in 0..4 {
            value[v][quad] = isa.load_i8x64(&lines[v][quad]);
            isa.prefetch_near(next, (4 * (chunk + v) + quad) * size_of::<Vector>());
        }
    }
    let len = totals_len(bytes.padded);
    for (i, [high, low]) in bytes.weights[..n].iter().enumerate() {
        let totals = &mut bytes.totals[i * len..][..len];
        let (high, low) = (
            &high.as_chunks::<4>().0[index],
            &low.as_chunks::<4>().0[index],
        );
        let totals: &mut [[[i32; LANES]; 2]; V] = totals.as_chunks_mut().0[chunk..]
            .first_chunk_mut()
            .expect("a total for each vector");
        let mut sums = totals
            .each_ref()
            .map(|[high, low]| [isa.load_sums(high), isa.load_sums(low)]);
        for quad in 0..4 {
            for v in 0..V {
                sums[v][0] = isa.dot4(sums[v][0], value[v][quad], high[quad]);
                sums[v][1] = isa.dot4(sums[v][1], value[v][quad], low[quad]);
            }
        }
        for (sums, totals) in sums.iter().zip(totals) {
            isa.store_sums(sums[0], &mut totals[0]);
            isa.store_sums(sums[1], &mut totals[1]);
        }
    }
    V
}

/// Turns the totals of query `i` into its sums.
#[inline(always)]
fn finish<I: Isa>(isa: I, i: usize, room: &mut Room<'_>) {
    let Room {
        bytes,
        parts,
        sums_len,
        ..
    } = room;
    let (len, padded) = (totals_len(bytes.padded), bytes.padded);
    let totals = &bytes.totals[i * len..][..len];
    let from_bytes = isa.splat(bytes.factors[i][1]);
    let sums = &mut parts[i * *sums_len..][..padded];
    let sums = sums.as_chunks_mut::<LANES>().0;
    for ([high, low], sums) in totals.as_chunks::<2>().0.iter().zip(sums) {
        let high = isa.mul(isa.load_i32(high), isa.splat(HIGH));
        let sum = isa.add(high, isa.load_i32(low));
        isa.store(isa.mul(sum, from_bytes), sums);
    }
}
