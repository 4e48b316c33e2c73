//! The dense product of the head: stored rows times f32 activations.
//!
//! ```text
//! out[i][r] = sum over columns of w[r][c] * x[x_rows[i]][c]: column c in lane c % 32, lanes folded 32, 16, 8, 4, 2, 1
//! ```
//!
//! For one token the head is the largest stream of all (half of the traffic of a 2B model with an f16 head), so weights
//! are widened in registers and used at once. For several tokens a chunk of rows is widened once into the L1 cache and
//! multiplied with all of them. Both add up in the same order, hence to the same bits.

use super::codec::Codec;
use super::embed::{widen, widen_rest};
use super::{Matrix, with_codec};
use crate::cpu::isa::{Isa, Kernel, LANES, Op};
use crate::cpu::lanes::load_tail;
use crate::cpu::memory::Disjoint;
use crate::cpu::threads::Pool;

/// Vectors of a row that are summed apart. An addition has a latency of 3 or 4 cycles, about as long as widening a vector
/// takes: with one chain the sum would be the limit.
const CHAINS: usize = 2;

/// Rows widened at once for several tokens: their chains of additions hide each other's latency.
const ROWS: usize = 4;

/// Columns widened at once for several tokens: 4 rows of 256 floats are 4 KiB of L1; a multiple of every block.
const COLS: usize = 256;

/// Tokens multiplied with a widened chunk: their sums, 4 by 16 vectors, are another 4 KiB.
const TOKENS: usize = 16;

/// Groups of rows in a range of one thread, at the least.
const LEAST_GROUPS: usize = 8;

/// `out [x_rows.len(), w.rows] = x[x_rows] * w^T`.
///
/// # Panics
/// If a row of x is outside of `x`.
pub fn matmul(kernel: Kernel, pool: &Pool, w: &Matrix, x: &[f32], x_rows: &[u32], out: &mut [f32]) {
    assert_eq!(
        out.len(),
        x_rows.len() * w.rows,
        "output is not [x_rows, rows]"
    );
    if x_rows.is_empty() {
        return;
    }
    let out = Disjoint::new(out);
    let n_groups = w.rows.div_ceil(ROWS);
    pool.for_ranges(n_groups, pool.grain(n_groups, LEAST_GROUPS), |groups, _| {
        let (first, end) = (groups.start * ROWS, w.rows.min(groups.end * ROWS));
        with_codec!(w, codec => kernel.run(Rows { codec, w, x, x_rows, first, end, out: &out }));
    });
}

/// Rows that one thread takes at a time when they are picked ones: enough for a barrier to pay.
const LEAST_PICKED: usize = 16;

/// `out[i] = w[rows[i]] . x`, the numbers of [`matmul`] bit for bit; x `[cols]`.
///
/// # Panics
/// If a row is not in the matrix.
pub fn dot_rows(kernel: Kernel, pool: &Pool, w: &Matrix, x: &[f32], rows: &[u32], out: &mut [f32]) {
    assert_eq!(
        (x.len(), out.len()),
        (w.cols, rows.len()),
        "shapes of a product of picked rows"
    );
    let out = Disjoint::new(out);
    pool.for_ranges(
        rows.len(),
        pool.grain(rows.len(), LEAST_PICKED),
        |range, _| {
            // SAFETY: ranges do not overlap.
            let out = unsafe { out.range(range.start, range.len()) };
            let rows = &rows[range];
            with_codec!(w, codec => kernel.run(PickedRows { codec, w, x, rows, out }));
        },
    );
}

/// Picked rows of the matrix with one token.
struct PickedRows<'a, C> {
    codec: C,
    w: &'a Matrix,
    x: &'a [f32],       // [cols]
    rows: &'a [u32],    // [n]
    out: &'a mut [f32], // [n]
}

impl<C: Codec> Op for PickedRows<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (row, out) in self.rows.iter().zip(self.out) {
            let sum = dot_one(isa, self.codec, self.w.row(*row as usize), self.x);
            *out = isa.sum(isa.add(sum[0], sum[1]));
        }
    }
}

/// Rows `first..end` of the matrix; one type a codec, so that each is compiled by itself.
struct Rows<'a, C> {
    codec: C,
    w: &'a Matrix,
    x: &'a [f32], // [_, cols]
    x_rows: &'a [u32],
    first: usize,
    end: usize,
    out: &'a Disjoint<'a, f32>, // [x_rows.len(), rows]
}

impl<C: Codec> Op for Rows<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut row = self.first;
        while row + ROWS <= self.end {
            self.rows::<I, ROWS>(isa, row);
            row += ROWS;
        }
        while row < self.end {
            self.rows::<I, 1>(isa, row);
            row += 1;
        }
    }
}

impl<C: Codec> Rows<'_, C> {
    /// R rows with all tokens.
    #[inline(always)]
    fn rows<I: Isa, const R: usize>(&self, isa: I, first: usize) {
        let stored: [&[u8]; R] = std::array::from_fn(|r| self.w.row(first + r));
        for (group, tokens) in self.x_rows.chunks(TOKENS).enumerate() {
            let from = group * TOKENS;
            if let [token] = tokens {
                let x = self.token(*token);
                let mut sums = [[isa.splat(0.0); CHAINS]; R];
                for (sums, stored) in sums.iter_mut().zip(&stored) {
                    *sums = dot_one(isa, self.codec, stored, x);
                }
                self.put(isa, from, first, &sums);
            } else {
                let mut sums = [[[isa.splat(0.0); CHAINS]; R]; TOKENS];
                self.dot_many(isa, &stored, tokens, &mut sums);
                for (t, sums) in sums.iter().take(tokens.len()).enumerate() {
                    self.put(isa, from + t, first, sums);
                }
            }
        }
    }

    /// Stores the results of R rows for token `t` of `x_rows`.
    #[inline(always)]
    fn put<I: Isa, const R: usize>(
        &self,
        isa: I,
        t: usize,
        first: usize,
        sums: &[[I::F32x16; CHAINS]; R],
    ) {
        // SAFETY: rows of the matrix are given to one thread, and these are their outputs for one token.
        let out = unsafe { self.out.range(t * self.w.rows + first, R) };
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = isa.sum(isa.add(sum[0], sum[1]));
        }
    }

    /// The activations of one token, `[cols]`.
    #[inline(always)]
    fn token(&self, row: u32) -> &[f32] {
        &self.x[row as usize * self.w.cols..][..self.w.cols]
    }

    /// Sums of R rows with up to [`TOKENS`] tokens, by chunks of columns.
    #[inline(always)]
    fn dot_many<I: Isa, const R: usize>(
        &self,
        isa: I,
        stored: &[&[u8]; R],
        tokens: &[u32],
        sums: &mut [[[I::F32x16; CHAINS]; R]; TOKENS],
    ) {
        let cols = self.w.cols;
        let mut weights = [[[0.0f32; LANES]; COLS / LANES]; R];
        for first in (0..cols).step_by(COLS) {
            let n = COLS.min(cols - first);
            for (weights, stored) in weights.iter_mut().zip(stored) {
                let weights = weights.as_flattened_mut();
                // A partial last vector needs its zeros anew.
                weights[n..n.next_multiple_of(LANES)].fill(0.0);
                let stored = &stored[first * C::BYTES / C::LEN..(first + n) * C::BYTES / C::LEN];
                widen(self.codec, isa, stored, &mut weights[..n]);
            }
            let (pairs, last) = tokens.as_chunks::<2>();
            let (pair_sums, last_sums) = sums.as_chunks_mut::<2>();
            for ([a, b], sums) in pairs.iter().zip(pair_sums.iter_mut()) {
                tile(
                    isa,
                    &weights,
                    [&self.token(*a)[first..][..n], &self.token(*b)[first..][..n]],
                    sums,
                );
            }
            if let [a] = last {
                let sums = pair_sums
                    .get_mut(pairs.len())
                    .map_or(last_sums, |pair| &mut pair[..1]);
                let sums = sums.first_chunk_mut().expect("sums of the last token");
                tile(isa, &weights, [&self.token(*a)[first..][..n]], sums);
            }
        }
    }
}

/// `sums[t][r] += w[r] * x[t]` over one chunk of columns, one chain after the other: two times R times T sums would not
/// fit into the registers of AVX2.
#[inline(always)]
fn tile<I: Isa, const R: usize, const T: usize>(
    isa: I,
    weights: &[[[f32; LANES]; COLS / LANES]; R],
    x: [&[f32]; T],
    sums: &mut [[[I::F32x16; CHAINS]; R]; T],
) {
    let n = x[0].len();
    let whole = n / LANES;
    for chain in 0..CHAINS {
        let mut acc = [[isa.splat(0.0); R]; T];
        for (acc, sums) in acc.iter_mut().zip(sums.iter()) {
            for (acc, sums) in acc.iter_mut().zip(sums) {
                *acc = sums[chain];
            }
        }
        for column in (chain..n.div_ceil(LANES)).step_by(CHAINS) {
            let mut w = [isa.splat(0.0); R];
            for (w, weights) in w.iter_mut().zip(weights) {
                *w = isa.load(&weights[column]);
            }
            for t in 0..T {
                let x = if column < whole {
                    isa.load(&x[t].as_chunks::<LANES>().0[column])
                } else {
                    load_tail(isa, &x[t][whole * LANES..])
                };
                for r in 0..R {
                    acc[t][r] = isa.add(acc[t][r], isa.mul(w[r], x));
                }
            }
        }
        for (acc, sums) in acc.iter().zip(sums.iter_mut()) {
            for (acc, sums) in acc.iter().zip(sums) {
                sums[chain] = *acc;
            }
        }
    }
}

/// The sums of one row with one token, widened in registers.
///
/// Rows follow each other in memory, so this is one stream, which hardware prefetchers follow best. Prefetching by hand
/// costs more than it gives: mapped files lie in 4 KiB pages, and on Zen 4 a prefetch into a page that the TLB does not
/// know stalls (Q8_0: 31 ms with, 21 ms without).
#[inline(always)]
fn dot_one<I: Isa, C: Codec>(isa: I, codec: C, stored: &[u8], x: &[f32]) -> [I::F32x16; CHAINS] {
    // Blocks that are taken at once: whole rounds of the chains.
    let at_once = (CHAINS * LANES / C::LEN).max(1);
    let mut sums = [isa.splat(0.0); CHAINS];
    let mut bytes = stored.chunks_exact(at_once * C::BYTES);
    let mut values = x.chunks_exact(at_once * C::LEN);
    for (bytes, x) in (&mut bytes).zip(&mut values) {
        for (b, block) in bytes.chunks_exact(C::BYTES).enumerate() {
            let parts = codec.parts(isa, block);
            for i in 0..C::LEN / LANES {
                let vector = b * (C::LEN / LANES) + i;
                let product = isa.mul(
                    codec.vector(isa, block, &parts, i),
                    isa.load(&x.as_chunks::<LANES>().0[vector]),
                );
                sums[vector % CHAINS] = isa.add(sums[vector % CHAINS], product);
            }
        }
    }
    // Only plain floats have a rest: less than a round of vectors, the last of them partial.
    let (bytes, x) = (bytes.remainder(), values.remainder());
    for ((sum, bytes), x) in sums
        .iter_mut()
        .zip(bytes.chunks(C::BYTES))
        .zip(x.chunks(LANES))
    {
        *sum = isa.add(
            *sum,
            isa.mul(widen_rest(codec, isa, bytes), load_tail(isa, x)),
        );
    }
    sums
}
