//! The dense product of the head: stored rows times f32 activations.
//!
//! ```text
//! out[i][r] = sum over columns of w[r][c] * x[x_rows[i]][c], column c in lane c % 16, lanes folded at the end
//! ```
//!
//! For one token the head is the largest stream of all (half of the traffic of a 2B model with an f16 head), so weights
//! are widened in registers and used at once. For several tokens a chunk of rows is widened once into the L1 cache and
//! multiplied with all of them. Both add up in the same order, hence to the same bits.

use super::codec::Codec;
use super::embed::widen;
use super::{Matrix, with_codec};
use crate::cpu::isa::{Isa, Kernel, LANES, Op};
use crate::cpu::lanes::load_tail;
use crate::cpu::memory::Disjoint;
use crate::cpu::threads::Pool;

/// Rows multiplied at once: four chains of additions hide their latency, and four streams are few for any prefetcher.
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
        kernel.run(Rows {
            w,
            x,
            x_rows,
            first,
            end,
            out: &out,
        });
    });
}

/// Rows `first..end` of the matrix.
struct Rows<'a> {
    w: &'a Matrix,
    x: &'a [f32], // [_, cols]
    x_rows: &'a [u32],
    first: usize,
    end: usize,
    out: &'a Disjoint<'a, f32>, // [x_rows.len(), rows]
}

impl Op for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        with_codec!(self.w, codec => {
            let mut row = self.first;
            while row + ROWS <= self.end {
                self.rows::<I, _, ROWS>(isa, codec, row);
                row += ROWS;
            }
            while row < self.end {
                self.rows::<I, _, 1>(isa, codec, row);
                row += 1;
            }
        });
    }
}

impl Rows<'_> {
    /// R rows with all tokens.
    #[inline(always)]
    fn rows<I: Isa, C: Codec, const R: usize>(&self, isa: I, codec: C, first: usize) {
        let row_bytes = self.w.row_bytes;
        let stored = &self.w.rows_from(first)[..R * row_bytes];
        let stored: [&[u8]; R] = std::array::from_fn(|r| &stored[r * row_bytes..][..row_bytes]);
        for (group, tokens) in self.x_rows.chunks(TOKENS).enumerate() {
            let put = |t: usize, sums: &[I::F32x16; R]| {
                let at = (group * TOKENS + t) * self.w.rows + first;
                // SAFETY: rows of the matrix are given to one thread, and these are their outputs for one token.
                let out = unsafe { self.out.range(at, R) };
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = isa.sum(*sum);
                }
            };
            if let [token] = tokens {
                put(0, &dot_one(isa, codec, &stored, self.token(*token)));
            } else {
                let mut sums = [[isa.splat(0.0); R]; TOKENS];
                self.dot_many(isa, codec, &stored, tokens, &mut sums);
                for (t, sums) in sums.iter().take(tokens.len()).enumerate() {
                    put(t, sums);
                }
            }
        }
    }

    /// The activations of one token, `[cols]`.
    #[inline(always)]
    fn token(&self, row: u32) -> &[f32] {
        &self.x[row as usize * self.w.cols..][..self.w.cols]
    }

    /// Sums of R rows with up to [`TOKENS`] tokens, by chunks of columns.
    #[inline(always)]
    fn dot_many<I: Isa, C: Codec, const R: usize>(
        &self,
        isa: I,
        codec: C,
        stored: &[&[u8]; R],
        tokens: &[u32],
        sums: &mut [[I::F32x16; R]; TOKENS],
    ) {
        let cols = self.w.cols;
        let mut weights = [[[0.0f32; LANES]; COLS / LANES]; R];
        for first in (0..cols).step_by(COLS) {
            let n = COLS.min(cols - first);
            for (weights, stored) in weights.iter_mut().zip(stored) {
                let per_value = |count: usize| count * C::BYTES / C::LEN;
                let stored = &stored[per_value(first)..per_value(first + n)];
                // The last chunk of a row with a partial vector needs its zeros anew.
                weights.as_flattened_mut()[n..n.next_multiple_of(LANES)].fill(0.0);
                widen(codec, isa, stored, &mut weights.as_flattened_mut()[..n]);
            }
            let mut t = 0;
            while t + 2 <= tokens.len() {
                let x = [tokens[t], tokens[t + 1]].map(|token| &self.token(token)[first..][..n]);
                let sums: &mut [[I::F32x16; R]; 2] =
                    sums[t..].first_chunk_mut().expect("two tokens");
                tile(isa, &weights, &x, sums);
                t += 2;
            }
            if t < tokens.len() {
                let sums: &mut [[I::F32x16; R]; 1] =
                    sums[t..].first_chunk_mut().expect("one token");
                tile(isa, &weights, &[&self.token(tokens[t])[first..][..n]], sums);
            }
        }
    }
}

/// `sums[t][r] += w[r] * x[t]` over one chunk of columns.
#[inline(always)]
fn tile<I: Isa, const R: usize, const T: usize>(
    isa: I,
    weights: &[[[f32; LANES]; COLS / LANES]; R],
    x: &[&[f32]; T],
    sums: &mut [[I::F32x16; R]; T],
) {
    let mut acc = *sums;
    let n = x[0].len();
    let mut add = |column: usize, x: [I::F32x16; T]| {
        for r in 0..R {
            let w = isa.load(&weights[r][column]);
            for t in 0..T {
                acc[t][r] = isa.add(acc[t][r], isa.mul(w, x[t]));
            }
        }
    };
    for column in 0..n / LANES {
        add(
            column,
            std::array::from_fn(|t| {
                isa.load(x[t][column * LANES..].first_chunk().expect("a vector"))
            }),
        );
    }
    if !n.is_multiple_of(LANES) {
        let whole = n / LANES;
        add(
            whole,
            std::array::from_fn(|t| load_tail(isa, &x[t][whole * LANES..])),
        );
    }
    *sums = acc;
}

/// Sums of R rows with one token, widened in registers.
#[inline(always)]
fn dot_one<I: Isa, C: Codec, const R: usize>(
    isa: I,
    codec: C,
    stored: &[&[u8]; R],
    x: &[f32],
) -> [I::F32x16; R] {
    let mut sums = [isa.splat(0.0); R];
    let n_blocks = x.len() / C::LEN;
    for block in 0..n_blocks {
        let x = x[block * C::LEN..][..C::LEN].as_chunks::<LANES>().0;
        for r in 0..R {
            let bytes = &stored[r][block * C::BYTES..][..C::BYTES];
            let mut sum = sums[r];
            let mut vector = 0;
            codec.widen(isa, bytes, |w| {
                sum = isa.add(sum, isa.mul(w, isa.load(&x[vector])));
                vector += 1;
            });
            sums[r] = sum;
        }
    }
    let x = &x[n_blocks * C::LEN..];
    if !x.is_empty() {
        let x = load_tail(isa, x);
        for r in 0..R {
            let rest = &stored[r][n_blocks * C::BYTES..];
            let mut block = [0u8; 4 * LANES];
            block[..rest.len()].copy_from_slice(rest);
            codec.widen(isa, &block[..C::BYTES], |w| {
                sums[r] = isa.add(sums[r], isa.mul(w, x))
            });
        }
    }
    sums
}
