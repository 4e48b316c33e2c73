//! Hidden states as the scan multiplies them: int8 by blocks of columns, with what the rounding can cost.
//!
//! ```text
//! h_b = a_b * (q + fine / 254) + d_b        q, fine in -127..=127, a_b = max |h_b| / 127
//! ```
//!
//! A few token rows take both digits, for the scan waits for memory anyway; more rows take the first alone, because then
//! products are what takes the time.

use super::pack::above;
use super::*;
use crate::cpu::memory::Memory;
use crate::cpu::quantize::{Panel, panels};
use crate::error::KernelError;

/// Token rows that take two digits. With five, ten products a block outweigh the reading on AVX-512.
const TWO_DIGITS: usize = 4;

/// Steps of the second digit in one of the first.
const FINE: f32 = 254.0;

/// Hidden states of a few token rows.
#[derive(Debug)]
pub struct Hidden {
    n: usize,
    digits: usize, // of each row: 1 or 2
    n_blocks: usize,
    widest: usize,              // panel
    quads: Memory<[i8; 4]>,     // panels of [n_blocks, QUADS, width] digits
    zeros: Memory<f32>,         // panels of [n_blocks, width]: ZERO_CODE * sum of digits, exact
    factors: Memory<f32>,       // panels of [n_blocks, width]: a_b, or a_b / FINE
    spreads: Memory<f32>,       // [n, n_blocks]: what the scan's constant is multiplied with
    rows: Vec<HiddenRow>,       // [n]
    first: Memory<[i8; BLOCK]>, // [n, n_blocks]: the first digits in column order
    figures: Memory<Figures>,   // [n, groups of 16 blocks]
}

/// What refining needs of 16 blocks: factor / 8, three times the sum of the first digits (exact), and what the row's
/// constant is multiplied with.
pub type Figures = [[f32; LANES]; 3];

/// What is known about one token row.
#[derive(Debug, Clone, Copy, Default)]
pub struct HiddenRow {
    /// Whether it is finite and small enough for the bound.
    pub tame: bool,
    /// What the constant of a whole row is multiplied with, for the scan and after refining.
    pub spreads: [f32; 2],
    /// The part of the bound that no scale multiplies.
    pub floor: f32,
}

impl Hidden {
    /// No rows.
    pub fn new() -> Result<Hidden, KernelError> {
        const WHAT: &str = "hidden states of the head";
        Ok(Hidden {
            n: 0,
            digits: 1,
            n_blocks: 0,
            widest: 1,
            quads: Memory::zeroed(WHAT, 0)?,
            zeros: Memory::zeroed(WHAT, 0)?,
            factors: Memory::zeroed(WHAT, 0)?,
            spreads: Memory::zeroed(WHAT, 0)?,
            rows: Vec::new(),
            first: Memory::zeroed(WHAT, 0)?,
            figures: Memory::zeroed(WHAT, 0)?,
        })
    }

    /// Takes rows `x_rows` of x `[_, cols]` for panels of up to `widest` digits. Allocates only when there are more rows
    /// or columns than ever before.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn quantize(
        &mut self,
        x: &[f32],
        x_rows: &[u32],
        cols: usize,
        widest: usize,
    ) -> Result<(), KernelError> {
        const WHAT: &str = "hidden states of the head";
        let n = x_rows.len();
        let n_blocks = cols.div_ceil(BLOCK);
        // A panel holds both digits of a row.
        let digits = if n <= TWO_DIGITS && widest >= 2 { 2 } else { 1 };
        (self.n, self.digits, self.n_blocks, self.widest) = (n, digits, n_blocks, widest);
        self.quads.reserve(WHAT, n * digits * n_blocks * QUADS)?;
        self.zeros.reserve(WHAT, n * digits * n_blocks)?;
        self.factors.reserve(WHAT, n * digits * n_blocks)?;
        self.spreads.reserve(WHAT, n * n_blocks)?;
        self.first.reserve(WHAT, n * n_blocks)?;
        self.figures
            .reserve(WHAT, n * n_blocks.div_ceil(BLOCKS_AT_ONCE))?;
        self.rows.clear();
        self.rows.resize(n, HiddenRow::default());
        for panel in panels(n * digits, widest) {
            for index in panel.first / digits..(panel.first + panel.width) / digits {
                let x = &x[x_rows[index] as usize * cols..][..cols];
                self.quantize_row(x, index, panel);
            }
        }
        Ok(())
    }

    fn quantize_row(&mut self, x: &[f32], index: usize, panel: Panel) {
        let n_blocks = self.n_blocks;
        let count = |n: usize| n as f64;
        // Roundings on the way of one product: the scan's (factor, scale, sum of blocks), the refinement's, and the full
        // head's chain of every 32nd column; each counted generously.
        let steps = count(x.len()) / 32.0 + 2.0 * count(n_blocks) + 64.0;
        let rounding = 1.01 * steps * ROUNDOFF;
        // |e_b| <= m s_b and |w^_b| <= SHARE m s_b for a row's constant m; the full head rounds |w_b| <= |w^_b| + |e_b|.
        let spread = |length: f64, lost: f64| {
            length * (1.0 + (CODE_SHARE + 1.0) * rounding) + CODE_SHARE * lost
        };
        // Refined rows: the crumbs meet the first digits alone.
        let refined_spread = |length: f64, lost: f64, lost_by_one: f64| {
            let shares = REFINED_SHARE + CRUMB_SHARE + 1.0;
            length * (1.0 + shares * rounding) + REFINED_SHARE * lost + CRUMB_SHARE * lost_by_one
        };
        let mut squares = [0.0; 3]; // of h, of what is lost as scanned and by one digit
        let mut floor = 0.0;
        let groups = n_blocks.div_ceil(BLOCKS_AT_ONCE);
        self.figures[index * groups..][..groups].fill([[0.0; LANES]; 3]);
        for b in 0..n_blocks {
            let x = &x[b * BLOCK..x.len().min((b + 1) * BLOCK)];
            let block = QuantizedBlock::new(x);
            for digit in 0..self.digits {
                let at = panel.first * n_blocks
                    + b * panel.width
                    + (index * self.digits + digit - panel.first);
                let (q, factor) = match digit {
                    0 => (&block.first, block.factor),
                    _ => (&block.second, block.factor / FINE),
                };
                self.zeros[at] = ZERO_CODE * sum(q) as f32;
                self.factors[at] = factor;
                let quads = &mut self.quads
                    [panel.first * n_blocks * QUADS + b * QUADS * panel.width..]
                    [..QUADS * panel.width];
                let lane = index * self.digits + digit - panel.first;
                let to = quads.iter_mut().skip(lane).step_by(panel.width);
                for (to, from) in to.zip(q.as_chunks::<4>().0) {
                    *to = *from;
                }
            }
            let lost = if self.digits == 2 {
                block.lost_by_two
            } else {
                block.lost_by_one
            };
            let lengths = [block.length, lost, block.lost_by_one];
            for (sum, length) in squares.iter_mut().zip(lengths) {
                *sum += length * length;
            }
            floor += block.length;
            // The scan sums these products in f32.
            self.spreads[index * n_blocks + b] =
                above(spread(block.length, lost) * (1.0 + rounding));
            self.first[index * n_blocks + b] = block.first;
            let figures = &mut self.figures[index * groups + b / BLOCKS_AT_ONCE];
            let refined = refined_spread(block.length, lost, block.lost_by_one);
            for (figures, value) in figures.iter_mut().zip([
                block.factor / 8.0,
                3.0 * sum(&block.first) as f32,
                above(refined * (1.0 + rounding)),
            ]) {
                figures[b % BLOCKS_AT_ONCE] = value;
            }
        }
        let [length, lost, lost_by_one] = squares.map(|sum: f64| sum.sqrt() * (1.0 + rounding));
        self.rows[index] = HiddenRow {
            // NaN compares false.
            tame: length <= LARGEST_NORM,
            spreads: [
                above(spread(length, lost)),
                above(refined_spread(length, lost, lost_by_one)),
            ],
            floor: above(2.0 * FLOOR * floor + f64::from(f32::MIN_POSITIVE)),
        };
    }

    /// Token rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Digits of each row.
    pub fn digits(&self) -> usize {
        self.digits
    }

    /// What is known about a row.
    pub fn row(&self, index: usize) -> HiddenRow {
        self.rows[index]
    }

    /// The panels of digits.
    pub fn panels(&self) -> impl Iterator<Item = Panel> {
        panels(self.n * self.digits, self.widest)
    }

    /// Digits, zeros and factors of a panel, `[n_blocks]`.
    #[inline(always)]
    #[expect(clippy::type_complexity, reason = "three slices of one panel")]
    pub fn panel<const P: usize>(
        &self,
        panel: Panel,
    ) -> (&[[[[i8; 4]; P]; QUADS]], &[[f32; P]], &[[f32; P]]) {
        assert_eq!(panel.width, P, "panel width");
        let (first, n) = (panel.first * self.n_blocks, P * self.n_blocks);
        let quads = &self.quads[first * QUADS..][..n * QUADS];
        (
            quads.as_chunks::<P>().0.as_chunks::<QUADS>().0,
            self.zeros[first..][..n].as_chunks::<P>().0,
            self.factors[first..][..n].as_chunks::<P>().0,
        )
    }

    /// What a row's constant is multiplied with, `[n_blocks]`.
    #[inline(always)]
    pub fn spreads(&self, index: usize) -> &[f32] {
        &self.spreads[index * self.n_blocks..][..self.n_blocks]
    }

    /// One row's first digits `[n_blocks]`, and figures `[groups of 16 blocks]`.
    #[inline(always)]
    pub fn blocks(&self, index: usize) -> (&[[i8; BLOCK]], &[Figures]) {
        let groups = self.n_blocks.div_ceil(BLOCKS_AT_ONCE);
        (
            &self.first[index * self.n_blocks..][..self.n_blocks],
            &self.figures[index * groups..][..groups],
        )
    }
}

/// One block of a hidden state.
struct QuantizedBlock {
    factor: f32,
    first: [i8; BLOCK],
    second: [i8; BLOCK],
    length: f64,      // |h_b|
    lost_by_one: f64, // |h_b - a q|
    lost_by_two: f64, // |h_b - a (q + fine / 254)|
}

impl QuantizedBlock {
    fn new(x: &[f32]) -> QuantizedBlock {
        let (mut first, mut second) = ([0; BLOCK], [0; BLOCK]);
        let largest = x.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        let factor = if largest >= LEAST_WEIGHT {
            largest / 127.0
        } else {
            0.0
        };
        let inverse = if factor > 0.0 { 1.0 / factor } else { 0.0 };
        let fine = factor / FINE;
        let mut squares = [0.0f64; 3];
        for ((v, q), fine_q) in x.iter().zip(&mut first).zip(&mut second) {
            let digit = round(v * inverse);
            let rest = v - digit * factor;
            let fine_digit = round(rest * inverse * FINE);
            (*q, *fine_q) = (digit as i8, fine_digit as i8);
            // Lengths are taken of what is really left: exact products in f64.
            let one = f64::from(*v) - f64::from(digit) * f64::from(factor);
            let two = one - f64::from(fine_digit) * f64::from(fine);
            squares[0] += f64::from(*v) * f64::from(*v);
            squares[1] += one * one;
            squares[2] += two * two;
        }
        // Rounding in f64 is far below a part in 10^9.
        let [length, lost_by_one, lost_by_two] = squares.map(|s| s.sqrt() * (1.0 + 1e-9));
        QuantizedBlock {
            factor,
            first,
            second,
            length,
            lost_by_one,
            lost_by_two,
        }
    }
}

/// Half to even, as a whole number in -127..=127; NaN gives 0.
fn round(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds a float of up to 2^22 to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let rounded = (x + ROUND) - ROUND;
    if rounded.abs() <= 127.0 {
        rounded
    } else if rounded > 0.0 {
        127.0
    } else if rounded < 0.0 {
        -127.0
    } else {
        0.0
    }
}

fn sum(q: &[i8; BLOCK]) -> i32 {
    q.iter().map(|&q| i32::from(q)).sum()
}
