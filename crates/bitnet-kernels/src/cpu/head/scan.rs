//! The scan: an estimate of every logit and a number that the logit cannot exceed.
//!
//! ```text
//! estimate = sum over blocks of s_b * a_b * (sum of (code - 15.5) * digit)        exact, then f32
//! upper    = estimate + min(m * (sum over blocks of s_b * spread_b), M * spread) + floor        m, M: the row's constants
//! ```

use super::hidden::Hidden;
use super::*;
use crate::cpu::isa::{Isa, Kernel, Op};
use crate::cpu::memory::{Disjoint, Memory};
use crate::cpu::quantize::Panel;
use crate::cpu::threads::Pool;

/// Strips of a range of one thread, at the least: 32 KiB each at 3,000 columns.
const LEAST_STRIPS: usize = 4;

/// Results of a scan, row by row and the greatest of each strip.
#[derive(Debug)]
pub struct Scores {
    /// `[n, n_strips]` of 16 rows.
    pub estimates: Memory<[f32; LANES]>,
    /// `[n, n_strips]` of 16 rows.
    pub uppers: Memory<[f32; LANES]>,
    /// `[n, n_strips]`: the greatest estimate and the greatest upper bound.
    pub best: Memory<[f32; 2]>,
}

impl Scores {
    /// No room.
    pub fn new() -> Result<Scores, KernelError> {
        const WHAT: &str = "estimates of the head";
        Ok(Scores {
            estimates: Memory::zeroed(WHAT, 0)?,
            uppers: Memory::zeroed(WHAT, 0)?,
            best: Memory::zeroed(WHAT, 0)?,
        })
    }

    /// Makes room for `n` rows of `n_strips` strips.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn reserve(&mut self, n: usize, n_strips: usize) -> Result<(), KernelError> {
        const WHAT: &str = "estimates of the head";
        self.estimates.reserve(WHAT, n * n_strips)?;
        self.uppers.reserve(WHAT, n * n_strips)?;
        self.best.reserve(WHAT, n * n_strips)
    }
}

/// The greatest of 16 numbers, none of them NaN.
#[inline(always)]
pub fn greatest(lanes: &[f32; LANES]) -> f32 {
    lanes
        .iter()
        .fold(f32::NEG_INFINITY, |max, &v| if v > max { v } else { max })
}

/// Scans the whole copy for all rows of `hidden`.
pub fn scan(kernel: Kernel, pool: &Pool, copy: &HeadCopy, hidden: &Hidden, scores: &mut Scores) {
    let n_strips = copy.n_strips();
    let n = hidden.n() * n_strips;
    let estimates = Disjoint::new(&mut scores.estimates[..n]);
    let uppers = Disjoint::new(&mut scores.uppers[..n]);
    let best = Disjoint::new(&mut scores.best[..n]);
    pool.for_ranges(n_strips, pool.grain(n_strips, LEAST_STRIPS), |range, _| {
        kernel.run(Strips {
            copy,
            hidden,
            first: range.start,
            end: range.end,
            estimates: &estimates,
            uppers: &uppers,
            best: &best,
        });
    });
}

/// Strips `first..end`.
struct Strips<'a> {
    copy: &'a HeadCopy,
    hidden: &'a Hidden,
    first: usize,
    end: usize,
    estimates: &'a Disjoint<'a, [f32; LANES]>,
    uppers: &'a Disjoint<'a, [f32; LANES]>,
    best: &'a Disjoint<'a, [f32; 2]>,
}

impl Op for Strips<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for strip in self.first..self.end {
            for panel in self.hidden.panels() {
                match (panel.width, self.hidden.digits()) {
                    (16, 1) => self.panel::<I, 16, 16>(isa, strip, panel),
                    (8, 1) => self.panel::<I, 8, 8>(isa, strip, panel),
                    (8, _) => self.panel::<I, 8, 4>(isa, strip, panel),
                    (4, 1) => self.panel::<I, 4, 4>(isa, strip, panel),
                    (4, _) => self.panel::<I, 4, 2>(isa, strip, panel),
                    (2, 1) => self.panel::<I, 2, 2>(isa, strip, panel),
                    (2, _) => self.panel::<I, 2, 1>(isa, strip, panel),
                    _ => self.panel::<I, 1, 1>(isa, strip, panel),
                }
            }
        }
    }
}

impl Strips<'_> {
    /// One strip for the P digits of N token rows.
    #[inline(always)]
    fn panel<I: Isa, const P: usize, const N: usize>(&self, isa: I, strip: usize, panel: Panel) {
        let Strips { copy, hidden, .. } = self;
        let (n_blocks, n_strips) = (copy.n_blocks, copy.n_strips());
        let (first, digits) = (panel.first / hidden.digits(), const { P / N });
        let mut spreads = [&[][..]; N];
        for (i, spreads) in spreads.iter_mut().enumerate() {
            *spreads = &hidden.spreads(first + i)[..n_blocks];
        }
        let (quads, zeros, factors) = hidden.panel::<P>(panel);
        let blocks = copy.codes[strip * n_blocks..][..n_blocks].iter().zip(quads);
        let scales = copy.scales[strip * n_blocks..][..n_blocks].iter();
        let mut estimates = [[0.0f32; LANES]; P];
        let mut sums = [[0.0f32; LANES]; N]; // of s_b * spread_b
        // Loops in this one have constant lengths: behind a branch, products would part from the loads of their factors, and
        // each of these go through a general register.
        for (b, (((block, quads), scale), (zeros, factors))) in blocks
            .zip(scales)
            .zip(zeros.iter().zip(factors))
            .enumerate()
        {
            let mut acc = [[0; LANES]; P];
            isa.code_dot(block, quads, &mut acc);
            let scale = isa.load_bf16(scale);
            for p in 0..P {
                // Both are below 2^24 and halves at most: exact.
                let sum = isa.sub(isa.load_i32(&acc[p]), isa.splat(zeros[p]));
                let term = isa.mul(sum, isa.splat(factors[p]));
                let term = isa.mul(term, scale);
                isa.store(isa.add(isa.load(&estimates[p]), term), &mut estimates[p]);
            }
            for (sum, spreads) in sums.iter_mut().zip(&spreads) {
                let term = isa.mul(scale, isa.splat(spreads[b]));
                isa.store(isa.add(isa.load(sum), term), sum);
            }
        }
        let [of_blocks, of_row] = &copy.bounds[strip];
        let (of_blocks, of_row) = (isa.load(of_blocks), isa.load(of_row));
        for i in 0..N {
            let index = first + i;
            // SAFETY: a strip is given to one thread, and these are its results for one token row.
            let (estimate, upper, best) = unsafe {
                let at = index * n_strips + strip;
                (
                    &mut self.estimates.range(at, 1)[0],
                    &mut self.uppers.range(at, 1)[0],
                    &mut self.best.range(at, 1)[0],
                )
            };
            let mut total = isa.load(&estimates[i * digits]);
            if digits == 2 {
                total = isa.add(total, isa.load(&estimates[i * digits + 1]));
            }
            isa.store(total, estimate);
            let known = hidden.row(index);
            let by_blocks = isa.mul(of_blocks, isa.load(&sums[i]));
            let by_row = isa.mul(of_row, isa.splat(known.spreads[0]));
            let bound = isa.add(isa.min(by_blocks, by_row), isa.splat(known.floor));
            isa.store(isa.add(total, bound), upper);
            *best = [greatest(estimate), greatest(upper)];
        }
    }
}
