//! Activations to int8, row by row, in the order that the ternary kernels read them.
//!
//! ```text
//! a = 127 / max(absmax(x), 1e-5)        q = clamp(round_half_even(x * a), -128, 127)
//! ```
//!
//! Kernels take several token rows at once (a panel), because unpacking a tile of weights costs as much as multiplying
//! it. In a panel of T rows the four activations of a column quad lie side by side for all rows: `[cols / 4][T][4]`, so
//! that a kernel reads one linear stream. Source: `formats.md` 4.2, transformers `integrations/bitnet.py`.

use super::i2s::TILE;
use super::isa::{Isa, Kernel, LANES, Op};
use super::lanes::{chunks, load_tail};
use super::layout::Layout;
use super::memory::{Disjoint, Memory};
use super::threads::Pool;
use crate::backend::PANEL_ROWS;
use crate::error::KernelError;
use bitnet_quantization::activation::activation_factor;

/// Rows of a panel that kernels are compiled for, widest first.
pub const PANEL_WIDTHS: [usize; 5] = [PANEL_ROWS, 8, 4, 2, 1];

/// Elements below which a single thread quantises faster than a barrier takes.
const PARALLEL_FROM: usize = 1 << 15;

/// Columns that a row is stored with: whole tiles of every layout, and whole vectors.
pub const fn padded(cols: usize) -> usize {
    cols.next_multiple_of(Layout::T5.tile_cols())
        .next_multiple_of(LANES)
}

/// Rows of int8 activations.
#[derive(Debug)]
pub struct QuantizedRows {
    n_rows: usize,
    cols: usize,
    widest: usize,          // rows of the widest panel
    quads: Memory<[i8; 4]>, // [n_rows, padded / 4], in panels
    scales: Memory<f32>,    // a of each row, [n_rows]
    sum_len: usize,         // columns of a sum, a multiple of 16
    n_sums: usize,          // sums of a row
    sums: Memory<i32>,      // sums of q over runs of `sum_len` columns, [n_rows, padded / sum_len]
    rows: Memory<i8>,       // one row per thread while it is quantised, [threads, padded]
}

/// A run of token rows that a kernel takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panel {
    /// First token row.
    pub first: usize,
    /// Token rows: one of [`PANEL_WIDTHS`].
    pub width: usize,
}

/// The panels of `n_rows` rows, none wider than `widest`.
pub fn panels(n_rows: usize, widest: usize) -> impl Iterator<Item = Panel> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let width = PANEL_WIDTHS
            .into_iter()
            .find(|&width| width <= widest && width <= n_rows - first)?;
        let panel = Panel { first, width };
        first += width;
        Some(panel)
    })
}

impl QuantizedRows {
    /// No rows; memory comes with the first use and stays.
    pub fn new() -> Result<QuantizedRows, KernelError> {
        Ok(QuantizedRows {
            n_rows: 0,
            cols: 0,
            widest: 1,
            sum_len: TILE,
            n_sums: 0,
            quads: Memory::zeroed("int8 activations", 0)?,
            scales: Memory::zeroed("int8 activations", 0)?,
            sums: Memory::zeroed("int8 activations", 0)?,
            rows: Memory::zeroed("int8 activations", 0)?,
        })
    }

    /// Quantises x `[n_rows, cols]` and sums runs of `block_len` columns (`None`: of all). Allocates only when there
    /// are more rows or columns than ever before.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn quantize(
        &mut self,
        kernel: Kernel,
        pool: &Pool,
        x: &[f32],
        n_rows: usize,
        cols: usize,
        block_len: Option<usize>,
    ) -> Result<(), KernelError> {
        assert_eq!(x.len(), n_rows * cols, "activations are not [n_rows, cols]");
        const WHAT: &str = "int8 activations";
        let padded = padded(cols);
        let widest = kernel.panel();
        let sum_len = block_len.unwrap_or(padded);
        let n_sums = padded.checked_div(sum_len).unwrap_or(0);
        (self.n_rows, self.cols, self.widest) = (n_rows, cols, widest);
        (self.sum_len, self.n_sums) = (sum_len, n_sums);
        self.quads.reserve(WHAT, n_rows * padded / 4)?;
        self.scales.reserve(WHAT, n_rows)?;
        self.sums.reserve(WHAT, n_rows * n_sums)?;
        self.rows.reserve(WHAT, pool.threads() * padded)?;
        let quads = Disjoint::new(&mut self.quads);
        let scales = Disjoint::new(&mut self.scales);
        let sums = Disjoint::new(&mut self.sums);
        let rows = Disjoint::new(&mut self.rows);
        // Whole widest panels go to one thread each, so that a panel's memory has one writer.
        let n_panels = n_rows.div_ceil(widest);
        let grain = if x.len() < PARALLEL_FROM { n_panels } else { 1 };
        pool.for_ranges(n_panels, grain, |range, thread| {
            let (first, end) = (range.start * widest, n_rows.min(range.end * widest));
            // SAFETY: `thread` is this call's alone; ranges of panels do not overlap and neither do their rows.
            let (row, quads, scales, sums) = unsafe {
                (
                    rows.range(thread * padded, padded),
                    quads.range(first * padded / 4, (end - first) * padded / 4),
                    scales.range(first, end - first),
                    sums.range(first * n_sums, (end - first) * n_sums),
                )
            };
            let x = &x[first * cols..end * cols];
            kernel.run(QuantizePanels {
                x,
                cols,
                widest,
                row,
                quads,
                scales,
                sums,
                sum_len,
            });
        });
        Ok(())
    }

    /// Rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Columns, without padding.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `a` of each row, `[n_rows]`.
    pub fn scales(&self) -> &[f32] {
        &self.scales[..self.n_rows]
    }

    /// The panels these rows are stored in.
    pub fn panels(&self) -> impl Iterator<Item = Panel> {
        panels(self.n_rows, self.widest)
    }

    /// The quads of a panel, `[padded / 4]` of T rows' four activations.
    #[inline(always)]
    pub fn quads<const T: usize>(&self, panel: Panel) -> &[[[i8; 4]; T]] {
        assert_eq!(panel.width, T, "panel width");
        let quads = padded(self.cols) / 4;
        self.quads[panel.first * quads..][..T * quads]
            .as_chunks::<T>()
            .0
    }

    /// Columns of a run that is summed.
    pub fn sum_len(&self) -> usize {
        self.sum_len
    }

    /// Sums of the activations of a panel's rows over run `run` of `sum_len` columns.
    #[inline(always)]
    pub fn sums<const T: usize>(&self, panel: Panel, run: usize) -> [i32; T] {
        let sums = &self.sums[panel.first * self.n_sums..][..T * self.n_sums];
        std::array::from_fn(|t| sums[t * self.n_sums + run])
    }

    /// One row's activations, `[cols]`, in column order.
    pub fn row(&self, row: usize) -> Vec<i8> {
        let panel = self
            .panels()
            .find(|panel| row < panel.first + panel.width)
            .expect("row of this batch");
        let quads = padded(self.cols) / 4;
        let quads = &self.quads[panel.first * quads..][..panel.width * quads];
        let mut out: Vec<i8> = quads
            .iter()
            .skip(row - panel.first)
            .step_by(panel.width)
            .flatten()
            .copied()
            .collect();
        out.truncate(self.cols);
        out
    }
}

impl Default for QuantizedRows {
    fn default() -> Self {
        QuantizedRows::new().expect("no memory is asked for")
    }
}

/// Quantises whole panels, all of one thread.
struct QuantizePanels<'a> {
    x: &'a [f32], // [rows, cols]
    cols: usize,
    widest: usize,
    row: &'a mut [i8],        // [padded]
    quads: &'a mut [[i8; 4]], // [rows, padded / 4], in panels
    scales: &'a mut [f32],    // [rows]
    sums: &'a mut [i32],      // [rows, padded / sum_len]
    sum_len: usize,
}

impl Op for QuantizePanels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let QuantizePanels {
            x,
            cols,
            widest,
            row,
            quads,
            scales,
            sums,
            sum_len,
        } = self;
        let n_sums = row.len() / sum_len;
        let n_quads = row.len() / 4;
        for panel in panels(scales.len(), widest) {
            for lane in 0..panel.width {
                let index = panel.first + lane;
                scales[index] = quantize_row(isa, &x[index * cols..][..cols], row);
                let sums = &mut sums[index * n_sums..][..n_sums];
                for (sum, run) in sums.iter_mut().zip(row.chunks_exact(sum_len)) {
                    *sum = run.iter().map(|&q| i32::from(q)).sum();
                }
                let quads = &mut quads[panel.first * n_quads..][..panel.width * n_quads];
                if panel.width == 1 {
                    // Quads of one row lie as the row does.
                    quads.copy_from_slice(row.as_chunks::<4>().0);
                    continue;
                }
                for (to, from) in quads
                    .iter_mut()
                    .skip(lane)
                    .step_by(panel.width)
                    .zip(row.as_chunks::<4>().0)
                {
                    *to = *from;
                }
            }
        }
    }
}

/// Quantises one row into `q` `[padded]` (zeros beyond the columns) and returns `a`.
#[inline(always)]
pub fn quantize_row<I: Isa>(isa: I, x: &[f32], q: &mut [i8]) -> f32 {
    let a = factor(isa, x);
    let (whole, tail) = chunks(x);
    let q = q.as_chunks_mut::<LANES>().0;
    for (v, q) in whole.iter().zip(q.iter_mut()) {
        to_i8(isa, isa.load(v), a, q);
    }
    let rest = &mut q[whole.len()..];
    if let Some((q, padding)) = rest.split_first_mut() {
        to_i8(isa, load_tail(isa, tail), a, q);
        padding.fill([0; LANES]);
    }
    a
}

/// `a` of a row.
#[inline(always)]
pub fn factor<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let (whole, tail) = chunks(x);
    let mut absmax = isa.splat(0.0);
    for v in whole {
        absmax = isa.max(isa.abs(isa.load(v)), absmax);
    }
    absmax = isa.max(isa.abs(load_tail(isa, tail)), absmax);
    activation_factor(isa.max_lane(absmax))
}

/// 16 activations.
#[inline(always)]
pub fn to_i8<I: Isa>(isa: I, x: I::F32x16, a: f32, q: &mut [i8; LANES]) {
    // |x * a| is at most 127 and a rounding error, so no clamp is needed; what is not below 128 is NaN: 0, as in the
    // reference.
    let scaled = isa.mul(x, isa.splat(a));
    isa.store_i8(
        isa.select_lt(isa.abs(scaled), isa.splat(128.0), scaled, isa.splat(0.0)),
        q,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_cover_all_rows_widest_first() {
        for widest in [16, 8, 4] {
            for n_rows in 0..70 {
                let mut next = 0;
                let mut last = widest;
                for panel in panels(n_rows, widest) {
                    assert_eq!(panel.first, next);
                    assert!(panel.width <= last && PANEL_WIDTHS.contains(&panel.width));
                    (next, last) = (next + panel.width, panel.width);
                }
                assert_eq!(next, n_rows);
            }
        }
    }
}
