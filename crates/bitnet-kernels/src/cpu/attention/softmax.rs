//! The exponentials of a span, and the sums of spans merged in their order.
//!
//! Sums of a query are `[value_len + 16]`: the accumulated values, then the greatest score and the sum of weights.

use crate::cpu::isa::{Isa, LANES};
use crate::cpu::lanes::{exp, store_tail};

/// Floats behind the accumulated values.
pub const STATE: usize = LANES;

/// Turns the first `n` scores into `exp(score - max)`, the rest of the last vector into 0, and notes the maximum and the
/// sum behind the values of `sums`.
#[inline(always)]
pub fn exponentials<I: Isa>(isa: I, scores: &mut [f32], n: usize, sums: &mut [f32]) {
    let scores = &mut scores[..n.next_multiple_of(LANES)];
    scores[n..].fill(f32::NEG_INFINITY);
    let scores = scores.as_chunks_mut::<LANES>().0;
    let mut max = isa.splat(f32::NEG_INFINITY);
    for v in scores.iter() {
        max = isa.max(isa.load(v), max);
    }
    let greatest = isa.max_lane(max);
    let max = isa.splat(greatest);
    let mut sum = isa.splat(0.0);
    for v in scores {
        let e = exp(isa, isa.sub(isa.load(v), max));
        sum = isa.add(sum, e);
        isa.store(e, v);
    }
    let [.., state] = sums.as_chunks_mut::<LANES>().0 else {
        return;
    };
    (state[0], state[1]) = (greatest, isa.sum(sum));
}

/// Adds the sums of the next span.
#[inline(always)]
pub fn merge<I: Isa>(isa: I, whole: &mut [f32], part: &[f32]) {
    let (Some((state, whole)), Some((next, part))) = (
        whole.as_chunks_mut::<LANES>().0.split_last_mut(),
        part.as_chunks::<LANES>().0.split_last(),
    ) else {
        return;
    };
    let max = if state[0] > next[0] {
        state[0]
    } else {
        next[0]
    };
    let old = exp(isa, isa.splat(state[0] - max));
    let new = exp(isa, isa.splat(next[0] - max));
    for (whole, part) in whole.iter_mut().zip(part) {
        let sum = isa.add(isa.mul(isa.load(whole), old), isa.mul(isa.load(part), new));
        isa.store(sum, whole);
    }
    let weights = isa.add(
        isa.mul(isa.splat(state[1]), old),
        isa.mul(isa.splat(next[1]), new),
    );
    let mut lanes = [0.0; LANES];
    isa.store(weights, &mut lanes);
    (state[0], state[1]) = (max, lanes[0]);
}

/// The values divided by the sum of weights.
#[inline(always)]
pub fn finish<I: Isa>(isa: I, whole: &[f32], out: &mut [f32]) {
    let Some((state, whole)) = whole.as_chunks::<LANES>().0.split_last() else {
        return;
    };
    let sum = isa.splat(state[1]);
    for (whole, out) in whole.iter().zip(out.chunks_mut(LANES)) {
        let v = isa.div(isa.load(whole), sum);
        match out.as_mut_array::<LANES>() {
            Some(out) => isa.store(v, out),
            None => store_tail(isa, v, out),
        }
    }
}
