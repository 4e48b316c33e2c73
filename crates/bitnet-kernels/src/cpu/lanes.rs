//! What every float op shares: slices as vectors with a zero-filled tail, and the exponential.

use super::isa::{Isa, LANES};

/// A slice as whole vectors and the rest.
#[inline(always)]
pub fn chunks(x: &[f32]) -> (&[[f32; LANES]], &[f32]) {
    x.as_chunks::<LANES>()
}

/// Fewer than 16 floats as a vector, zeros behind them.
#[inline(always)]
pub fn load_tail<I: Isa>(isa: I, tail: &[f32]) -> I::F32x16 {
    let mut lanes = [0.0; LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    isa.load(&lanes)
}

/// The first lanes of a vector.
#[inline(always)]
pub fn store_tail<I: Isa>(isa: I, v: I::F32x16, tail: &mut [f32]) {
    let mut lanes = [0.0; LANES];
    isa.store(v, &mut lanes);
    tail.copy_from_slice(&lanes[..tail.len()]);
}

/// A function of two vectors, lane by lane. Not a closure: one that the compiler does not inline would be compiled
/// without the caller's instruction set, and `map` here is `#[inline(always)]`.
pub trait Lanewise: Copy {
    /// The function.
    fn map<I: Isa>(self, isa: I, a: I::F32x16, b: I::F32x16) -> I::F32x16;
}

/// `out[i] = f(a[i], b[i])`, 16 lanes at a time; the slices have one length.
#[inline(always)]
pub fn zip_into<I: Isa>(isa: I, a: &[f32], b: &[f32], out: &mut [f32], f: impl Lanewise) {
    let ((a, a_tail), (b, b_tail)) = (chunks(a), chunks(b));
    let (out, out_tail) = out.as_chunks_mut::<LANES>();
    for ((a, b), out) in a.iter().zip(b).zip(out) {
        isa.store(f.map(isa, isa.load(a), isa.load(b)), out);
    }
    if !out_tail.is_empty() {
        store_tail(
            isa,
            f.map(isa, load_tail(isa, a_tail), load_tail(isa, b_tail)),
            out_tail,
        );
    }
}

/// `x[i] = f(x[i], y[i])`, 16 lanes at a time; the slices have one length.
#[inline(always)]
pub fn update<I: Isa>(isa: I, x: &mut [f32], y: &[f32], f: impl Lanewise) {
    let (y, y_tail) = chunks(y);
    let (x, x_tail) = x.as_chunks_mut::<LANES>();
    for (x, y) in x.iter_mut().zip(y) {
        isa.store(f.map(isa, isa.load(x), isa.load(y)), x);
    }
    if !x_tail.is_empty() {
        store_tail(
            isa,
            f.map(isa, load_tail(isa, x_tail), load_tail(isa, y_tail)),
            x_tail,
        );
    }
}

/// `exp(x)`, within 2 ulp for x in -87..=88; 0 below -87, `exp(88)` above 88.
///
/// ```text
/// n = round(x / ln 2)      r = x - n ln 2 (ln 2 in two parts, the first with few bits: n * LN2_HIGH is exact)
/// exp(x) = 2^n * (1 + r + r^2 * P(r))      |r| <= ln 2 / 2
/// ```
///
/// P is the minimax polynomial of Cephes' `expf`.
#[inline(always)]
pub fn exp<I: Isa>(isa: I, x: I::F32x16) -> I::F32x16 {
    const LOWEST: f32 = -87.0; // exp(-87) is the last power whose 2^n is a normal number
    const HIGHEST: f32 = 88.0; // n = 127, the greatest exponent
    const LN2_HIGH: f32 = 0.693_359_4; // 9 significant bits
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds a float of up to 2^22 to a whole number, half to even.
    const ROUND: f32 = 12_582_912.0;
    const P: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];

    let clamped = isa.min(isa.max(x, isa.splat(LOWEST)), isa.splat(HIGHEST));
    let shifted = isa.add(
        isa.mul(clamped, isa.splat(std::f32::consts::LOG2_E)),
        isa.splat(ROUND),
    );
    let n = isa.sub(shifted, isa.splat(ROUND));
    let r = isa.sub(clamped, isa.mul(n, isa.splat(LN2_HIGH)));
    let r = isa.sub(r, isa.mul(n, isa.splat(LN2_LOW)));
    let mut p = isa.splat(P[0]);
    for c in &P[1..] {
        p = isa.add(isa.mul(p, r), isa.splat(*c));
    }
    let tail = isa.mul(p, isa.mul(r, r));
    let y = isa.add(isa.add(tail, r), isa.splat(1.0));
    let y = isa.mul(y, isa.pow2(n));
    isa.select_lt(x, isa.splat(LOWEST), isa.splat(0.0), y)
}
