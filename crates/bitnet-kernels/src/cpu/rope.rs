//! Rotary position embedding.
//!
//! ```text
//! (x1, x2) of a pair becomes (x1 cos - x2 sin, x2 cos + x1 sin)
//! ```
//!
//! Source: transformers `apply_rotary_pos_emb`; Su et al., 2021 (arXiv 2104.09864).

use super::isa::{Isa, LANES, Op};
use super::lanes::{chunks, load_tail, store_tail};
use crate::rope_table::{RopeStyle, RopeTable};

/// Rotates all heads of some token rows.
pub struct Rope<'a> {
    /// `[n, n_heads * head_dim]`.
    pub x: &'a mut [f32],
    /// Length of a head.
    pub head_dim: usize,
    /// Position of each row, `[n]`.
    pub positions: &'a [u32],
    /// Angles.
    pub table: &'a RopeTable,
}

impl Op for Rope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let n_rot = self.table.n_rot();
        assert!(
            n_rot <= self.head_dim,
            "n_rot = {n_rot} in heads of {}",
            self.head_dim
        );
        if n_rot == 0 || self.positions.is_empty() {
            return;
        }
        let row_len = self.x.len() / self.positions.len();
        for (row, &position) in self.x.chunks_exact_mut(row_len).zip(self.positions) {
            let (cos, sin) = self.table.at(position as usize);
            for head in row.chunks_exact_mut(self.head_dim) {
                match self.table.style() {
                    RopeStyle::Neox => {
                        let (first, second) = head[..n_rot].split_at_mut(n_rot / 2);
                        rotate_halves(isa, first, second, cos, sin);
                    }
                    RopeStyle::Norm => rotate_neighbours(&mut head[..n_rot], cos, sin),
                }
            }
        }
    }
}

/// Pairs `(first[j], second[j])`.
#[inline(always)]
fn rotate_halves<I: Isa>(isa: I, first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32]) {
    let ((cos, cos_tail), (sin, sin_tail)) = (chunks(cos), chunks(sin));
    let (first, first_tail) = first.as_chunks_mut::<LANES>();
    let (second, second_tail) = second.as_chunks_mut::<LANES>();
    for (((first, second), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (y1, y2) = rotate(
            isa,
            isa.load(first),
            isa.load(second),
            isa.load(cos),
            isa.load(sin),
        );
        isa.store(y1, first);
        isa.store(y2, second);
    }
    if !first_tail.is_empty() {
        let (x1, x2) = (load_tail(isa, first_tail), load_tail(isa, second_tail));
        let (y1, y2) = rotate(
            isa,
            x1,
            x2,
            load_tail(isa, cos_tail),
            load_tail(isa, sin_tail),
        );
        store_tail(isa, y1, first_tail);
        store_tail(isa, y2, second_tail);
    }
}

/// 16 pairs.
#[inline(always)]
fn rotate<I: Isa>(
    isa: I,
    x1: I::F32x16,
    x2: I::F32x16,
    cos: I::F32x16,
    sin: I::F32x16,
) -> (I::F32x16, I::F32x16) {
    (
        isa.sub(isa.mul(x1, cos), isa.mul(x2, sin)),
        isa.add(isa.mul(x2, cos), isa.mul(x1, sin)),
    )
}

/// Pairs `(x[2j], x[2j + 1])`; the compiler finds the shuffles, and nothing here is hot.
#[inline(always)]
fn rotate_neighbours(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, cos), sin) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        let [x1, x2] = *pair;
        *pair = [x1 * cos - x2 * sin, x2 * cos + x1 * sin];
    }
}
