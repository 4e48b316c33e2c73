//! RMSNorm, as Hugging Face computes it in f32.
//!
//! ```text
//! y = weight * (x * (1 / sqrt(mean(x^2) + eps)))
//! ```
//!
//! Source: transformers `modeling_bitnet.py`, `BitNetRMSNorm`; Zhang and Sennrich, 2019 (arXiv 1910.07467).

use super::isa::{Isa, Op};
use super::lanes::{Lanewise, chunks, load_tail, update, zip_into};

/// Elements below which one thread is faster than a barrier.
pub const PARALLEL_FROM: usize = 1 << 15;

/// Normalises rows of `weight.len()` elements.
pub struct RmsNorm<'a> {
    /// `[n_rows, weight.len()]`.
    pub x: &'a [f32],
    /// Gain of each element of a row.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// `[n_rows, weight.len()]`.
    pub out: &'a mut [f32],
}

impl Op for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let len = self.weight.len();
        for (x, out) in self.x.chunks_exact(len).zip(self.out.chunks_exact_mut(len)) {
            let factor = inverse_rms(isa, x, self.eps);
            zip_into(isa, x, self.weight, out, Gain { factor });
        }
    }
}

/// Normalises rows of `weight.len()` elements in place.
pub struct RmsNormInPlace<'a> {
    /// `[n_rows, weight.len()]`.
    pub x: &'a mut [f32],
    /// Gain of each element of a row.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

impl Op for RmsNormInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for x in self.x.chunks_exact_mut(self.weight.len()) {
            let factor = inverse_rms(isa, x, self.eps);
            update(isa, x, self.weight, Gain { factor });
        }
    }
}

/// `weight * (x * factor)`.
#[derive(Clone, Copy)]
struct Gain {
    factor: f32,
}

impl Lanewise for Gain {
    #[inline(always)]
    fn map<I: Isa>(self, isa: I, x: I::F32x16, weight: I::F32x16) -> I::F32x16 {
        isa.mul(weight, isa.mul(x, isa.splat(self.factor)))
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
fn inverse_rms<I: Isa>(isa: I, x: &[f32], eps: f32) -> f32 {
    let (whole, tail) = chunks(x);
    let mut sum = isa.splat(0.0);
    for v in whole {
        let v = isa.load(v);
        sum = isa.add(sum, isa.mul(v, v));
    }
    if !tail.is_empty() {
        let v = load_tail(isa, tail);
        sum = isa.add(sum, isa.mul(v, v));
    }
    1.0 / (isa.sum(sum) / x.len() as f32 + eps).sqrt()
}
