//! Rows that are looked at again: two more bits of every weight make the estimate four times as sharp.
//!
//! ```text
//! estimate += sum over blocks of s_b * a_b / 8 * (sum of (2 crumb - 3) * q)        first digits alone
//! upper     = estimate + min(m2 * (sum over blocks of s_b * spread2_b), M2 * spread2) + floor
//! ```

use super::hidden::Hidden;
use super::*;
use crate::cpu::isa::{Isa, Op};

/// Rows between the one in work and the one that is fetched: they lie apart, so no hardware prefetcher finds them.
const ROWS_AHEAD: usize = 4;

impl HeadCopy {
    /// Hints that what is read of `row` when it is looked at again will be read soon.
    #[inline(always)]
    fn fetch_refinement<I: Isa>(&self, isa: I, row: usize) {
        let (n_blocks, n_scales) = (self.n_blocks, self.n_scales());
        let crumbs = self.crumbs[row * n_blocks..][..n_blocks].as_flattened();
        for line in crumbs.chunks(64) {
            isa.prefetch_near(&line[0], 0);
        }
        for line in self.row_scales[row * n_scales..][..n_scales].chunks(2) {
            isa.prefetch_near(&line[0], 0);
        }
        isa.prefetch_near(&self.row_bounds[row], 0);
    }
}

/// The sharper upper bounds of `rows` for token row `index`.
pub struct Refine<'a> {
    /// The copy.
    pub copy: &'a HeadCopy,
    /// The token rows.
    pub hidden: &'a Hidden,
    /// Which of them.
    pub index: usize,
    /// Rows to look at.
    pub rows: &'a [u32],
    /// The scan's estimates of this token row, `[n_strips]`.
    pub estimates: &'a [[f32; LANES]],
    /// `[rows.len()]`.
    pub uppers: &'a mut [f32],
}

impl Op for Refine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let (n_blocks, n_scales) = (self.copy.n_blocks, self.copy.n_scales());
        let (digits, figures) = self.hidden.blocks(self.index);
        let known = self.hidden.row(self.index);
        for (i, (row, upper)) in self.rows.iter().zip(self.uppers).enumerate() {
            let row = *row as usize;
            if let Some(ahead) = self.rows.get(i + ROWS_AHEAD) {
                self.copy.fetch_refinement(isa, *ahead as usize);
            }
            let crumbs = &self.copy.crumbs[row * n_blocks..][..n_blocks];
            let scales = &self.copy.row_scales[row * n_scales..][..n_scales];
            let (mut estimates, mut spreads) = (isa.splat(0.0), isa.splat(0.0));
            let groups = crumbs
                .chunks(BLOCKS_AT_ONCE)
                .zip(digits.chunks(BLOCKS_AT_ONCE));
            for (((crumbs, digits), scales), figures) in groups.zip(scales).zip(figures) {
                let mut acc = [0; LANES];
                for ((acc, crumbs), digits) in acc.iter_mut().zip(crumbs).zip(digits) {
                    *acc = 2 * isa.crumb_dot(crumbs, digits);
                }
                let [factor, sum, spread] = figures;
                let scale = isa.load_bf16(scales);
                // Whole numbers far below 2^24: exact.
                let acc = isa.sub(isa.load_i32(&acc), isa.load(sum));
                let term = isa.mul(isa.mul(acc, isa.load(factor)), scale);
                estimates = isa.add(estimates, term);
                spreads = isa.add(spreads, isa.mul(scale, isa.load(spread)));
            }
            let [of_blocks, of_row] = self.copy.row_bounds[row];
            let bound = (of_blocks * isa.sum(spreads)).min(of_row * known.spreads[1]);
            let scanned = self.estimates[row / LANES][row % LANES];
            *upper = scanned + isa.sum(estimates) + (bound + known.floor);
        }
    }
}
