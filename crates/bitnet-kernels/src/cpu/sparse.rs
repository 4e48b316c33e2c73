//! Exact sparsity for one token row: weights of channels that are exactly 0 are not read.
//!
//! ```text
//! rows of up:       relu(gate)^2 = 0: the product is 0 whatever the row holds
//! columns of down:  q = 0: the column adds 0 to every sum
//! ```
//!
//! The bytes that come out are those of the dense product. Sums are integers, so leaving out zeros changes nothing, and
//! the scaling afterwards is the same expression. A row of up that is left out gives +0 where the dense product may give
//! -0: the sub-norm squares it, the int8 rounding compares and rounds it, and both make the same of either zero. The
//! dense product would give NaN if the row's sum overflowed to infinity (a hostile scale, an infinite activation): rows
//! are left out only where the largest sum possible times the scale is finite.
//!
//! Chosen rows and columns lie apart, and memory gives lines that lie apart more slowly than a stream: so they are
//! chosen only below a share, see [`ShareRace`].

use super::i2s::Tile;
use super::i2s::columns::{BLOCK_ROWS, CHUNK, ColumnTernary};
use super::i2s::fetch::fetch;
use super::i2s::rows::{RowQuads, RowTernary, row_quads};
use super::isa::{Isa, Kernel, LANES, Op};
use super::memory::{Disjoint, Memory};
use super::quantize::{Panel, QuantizedRows};
use super::share_race::ShareRace;
use super::threads::Pool;
use crate::error::KernelError;

/// Columns of a range of one thread, at the least, unless threads would have less than four ranges: the first chunk of a range
/// is waited for.
const LEAST_COLUMNS: usize = 4 * CHUNK;

/// Rows of a range of one thread, at the least.
const LEAST_ROWS: usize = 32;

/// What the products need beside weights and activations; grows with the first use and stays.
#[derive(Debug)]
pub struct SparseScratch {
    list: Memory<u32>,       // rows or columns to read, and padding
    q: Memory<i8>,           // activations of the columns of the list
    quads: Memory<RowQuads>, // activations in the order of the row layout
    sums: Memory<i32>,       // [threads, rows rounded up to blocks]
    /// Whether leaving out rows pays.
    pub row_race: ShareRace,
    /// Whether leaving out columns pays.
    pub column_race: ShareRace,
}

const WHAT: &str = "scratch of sparse products";

impl SparseScratch {
    /// Nothing yet, for so many threads.
    ///
    /// # Errors
    /// None in practice: no memory is asked for.
    pub fn new(threads: usize) -> Result<SparseScratch, KernelError> {
        Ok(SparseScratch {
            list: Memory::zeroed(WHAT, 0)?,
            q: Memory::zeroed(WHAT, 0)?,
            quads: Memory::zeroed(WHAT, 0)?,
            sums: Memory::zeroed(WHAT, 0)?,
            row_race: ShareRace::new(threads),
            column_race: ShareRace::new(threads),
        })
    }

    /// Lists the columns whose activation is not 0; returns how many there are.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn list_columns(
        &mut self,
        kernel: Kernel,
        x: &QuantizedRows,
    ) -> Result<usize, KernelError> {
        let q = x.quads::<1>(ONE_ROW).as_flattened().as_flattened();
        self.list.reserve(WHAT, q.len() + LANES)?;
        self.q.reserve(WHAT, q.len() + LANES)?;
        let n = kernel.run(ListNonzero {
            q,
            list: &mut self.list,
            kept: &mut self.q,
        });
        // Kernels take four columns at a time: any column with an activation of 0 fills up.
        self.q[n..][..4].fill(0);
        self.list[n..][..4].fill(0);
        Ok(n)
    }

    /// Lists the rows whose gate is above 0; returns how many there are.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn list_open_rows(&mut self, kernel: Kernel, gate: &[f32]) -> Result<usize, KernelError> {
        self.list.reserve(WHAT, gate.len() + LANES)?;
        Ok(kernel.run(ListPositive {
            x: gate,
            list: &mut self.list,
        }))
    }

    /// `out[row] = relu(gate[row])^2 * product` for the first `n` listed rows and the one row of `x`; other elements of
    /// `out` stay as they are.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn row_products(
        &mut self,
        kernel: Kernel,
        pool: &Pool,
        x: &QuantizedRows,
        (weight, gate): (&RowTernary, &[f32]),
        n: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        assert_eq!(weight.cols(), x.cols(), "columns of the weight");
        let n_vectors = weight.n_vectors();
        self.quads.reserve(WHAT, n_vectors)?;
        let quads = &mut self.quads[..n_vectors];
        row_quads(x.quads::<1>(ONE_ROW).as_flattened(), quads);
        let (quads, list, out) = (&*quads, &self.list[..n], Disjoint::new(out));
        pool.for_ranges(n, pool.grain(n, LEAST_ROWS), |range, _| {
            kernel.run(RowProducts {
                vectors: weight.vectors(),
                list: &list[range],
                quads,
                sum: x.sums::<1>(ONE_ROW, 0)[0],
                factor: weight.scale() / x.scales()[0],
                gate,
                out: &out,
            });
        });
        Ok(())
    }

    /// The products of the first `n` listed columns with the one row of `x`, scaled: `out` `[rows]`.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn column_products(
        &mut self,
        kernel: Kernel,
        pool: &Pool,
        x: &QuantizedRows,
        (columns, scale): (&ColumnTernary, f32),
        n: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let n = n.next_multiple_of(4);
        let n_sums = columns.n_blocks() * BLOCK_ROWS;
        self.sums.reserve(WHAT, pool.threads() * n_sums)?;
        let all_sums = &mut self.sums[..pool.threads() * n_sums];
        all_sums.fill(0);
        let (list, q) = (&self.list[..n], &self.q[..n]);
        let sums = Disjoint::new(all_sums);
        let least = LEAST_COLUMNS.min(n.div_ceil(4 * pool.threads()));
        let grain = pool.grain(n, least).next_multiple_of(CHUNK);
        pool.for_ranges(n, grain, |range, thread| {
            kernel.run(ColumnProducts {
                vectors: columns.vectors(),
                list: &list[range.clone()],
                q: &q[range],
                // SAFETY: no other running call has this thread's number, and the arrays of two numbers do not overlap.
                sums: unsafe { sums.range(thread * n_sums, n_sums) },
            });
        });
        kernel.run(AddThreads {
            threads: &self.sums[..pool.threads() * n_sums],
            sum: x.sums::<1>(ONE_ROW, 0)[0],
            factor: scale / x.scales()[0],
            out,
        });
        Ok(())
    }
}

/// The panel of the only token row.
const ONE_ROW: Panel = Panel { first: 0, width: 1 };

/// Lists what is not 0.
struct ListNonzero<'a> {
    q: &'a [i8],
    list: &'a mut [u32],
    kept: &'a mut [i8],
}

impl Op for ListNonzero<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> usize {
        isa.list_nonzero(self.q, self.list, self.kept)
    }
}

/// Lists what is above 0.
struct ListPositive<'a> {
    x: &'a [f32],
    list: &'a mut [u32],
}

impl Op for ListPositive<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> usize {
        isa.list_positive(self.x, self.list)
    }
}

/// Listed rows of one thread.
struct RowProducts<'a> {
    vectors: &'a [Tile],
    list: &'a [u32],
    quads: &'a [RowQuads],
    sum: i32, // of all activations: codes are trits plus one
    factor: f32,
    gate: &'a [f32], // [rows]
    out: &'a Disjoint<'a, f32>,
}

impl Op for RowProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut dots = [0; LANES];
        let mut rest = self.list;
        let first = &rest[..LANES.min(rest.len())];
        fetch(isa, self.vectors, self.quads.len(), first);
        while !rest.is_empty() {
            let n = rest.len().min(LANES);
            isa.ternary_rows(self.vectors, rest, self.quads, &mut dots[..n]);
            for (&row, dot) in rest[..n].iter().zip(&dots) {
                let y = (dot - self.sum) as f32 * self.factor;
                // SAFETY: a row is listed once.
                let out = unsafe { &mut self.out.range(row as usize, 1)[0] };
                let gate = self.gate[row as usize];
                let relu = if gate > 0.0 { gate } else { 0.0 };
                *out = relu * relu * y;
            }
            rest = &rest[n..];
        }
    }
}

/// Listed columns of one range.
struct ColumnProducts<'a> {
    vectors: &'a [Tile],
    list: &'a [u32],
    q: &'a [i8],
    sums: &'a mut [i32],
}

impl Op for ColumnProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        isa.ternary_columns(self.vectors, self.list, self.q, self.sums);
    }
}

/// Adds the sums of all threads and scales them.
struct AddThreads<'a> {
    threads: &'a [i32], // [threads, sums]
    sum: i32,
    factor: f32,
    out: &'a mut [f32], // [rows], rows <= sums
}

impl Op for AddThreads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let n_sums = self.out.len().next_multiple_of(BLOCK_ROWS);
        for (group, out) in self.out.chunks_mut(LANES).enumerate() {
            let mut acc = [-self.sum; LANES];
            for sums in self.threads.chunks_exact(n_sums) {
                for (acc, sum) in acc.iter_mut().zip(&sums[group * LANES..][..LANES]) {
                    *acc += sum;
                }
            }
            let mut y = [0.0; LANES];
            isa.store(isa.mul(isa.load_i32(&acc), isa.splat(self.factor)), &mut y);
            out.copy_from_slice(&y[..out.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::i2s::scalar_sparse;

    #[test]
    fn every_kernel_lists_what_the_scalar_one_lists() {
        let bytes = [0, 1, 0, 0, -128, 127, 0, -1, 0, 0, 0];
        let floats = [
            0.0,
            -0.0,
            1e-45,
            -1e-45,
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            1.0,
            -1.0,
        ];
        for kernel in Kernel::available() {
            for len in [0, 1, 15, 16, 17, 31, 32, 33, 1000] {
                for every in [1, 2, 3, 1001] {
                    let q: Vec<i8> = (0..len)
                        .map(|i| if i % every == 0 { bytes[i % 11] } else { 0 })
                        .collect();
                    let x: Vec<f32> = (0..len).map(|i| floats[i * every % 10]).collect();
                    let list = || vec![0; len + LANES];
                    let [(mut a, mut kept_a), (mut b, mut kept_b)] =
                        [0, 1].map(|_| (list(), vec![0; len + LANES]));
                    let n = kernel.run(ListNonzero {
                        q: &q,
                        list: &mut a,
                        kept: &mut kept_a,
                    });
                    assert_eq!(n, scalar_sparse::list_nonzero(&q, &mut b, &mut kept_b));
                    assert_eq!(
                        (&a[..n], &kept_a[..n]),
                        (&b[..n], &kept_b[..n]),
                        "{kernel:?}"
                    );
                    let n = kernel.run(ListPositive {
                        x: &x,
                        list: &mut a,
                    });
                    assert_eq!(n, scalar_sparse::list_positive(&x, &mut b));
                    assert_eq!(a[..n], b[..n], "{kernel:?}");
                }
            }
        }
    }
}
