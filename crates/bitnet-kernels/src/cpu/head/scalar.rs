//! The two integer products in plain Rust: the meaning that the vector kernels copy.

use super::{BLOCK, CodeBlock, Crumbs, FIFTH_BITS, QUADS};
use crate::cpu::isa::LANES;

/// `acc[p][r] += sum of code * q`, see [`Isa::code_dot`](crate::cpu::isa::Isa::code_dot).
#[inline(always)]
pub(crate) fn code_dot<const P: usize>(
    block: &CodeBlock,
    quads: &[[[i8; 4]; P]; QUADS],
    acc: &mut [[i32; LANES]; P],
) {
    for (k, quads) in quads.iter().enumerate() {
        let [fifths, nibbles @ ..] = &block[k / 8];
        let line = k % 8 / 2;
        for r in 0..LANES {
            for j in 0..4 {
                let (nibbles, fifths) = (nibbles[line][4 * r + j], fifths[4 * r + j]);
                let fifth = (fifths >> FIFTH_BITS[line][k % 2]) & 1;
                let code = i32::from(match k % 2 {
                    0 => (nibbles & 15) | (fifth << 4),
                    _ => ((nibbles >> 4) << 1) | fifth,
                });
                for (acc, quad) in acc.iter_mut().zip(quads) {
                    acc[r] += code * i32::from(quad[j]);
                }
            }
        }
    }
}

/// `sum of crumb * q`, see [`Isa::crumb_dot`](crate::cpu::isa::Isa::crumb_dot).
#[inline(always)]
pub(crate) fn crumb_dot(crumbs: &Crumbs, q: &[i8; BLOCK]) -> i32 {
    let mut sum = 0;
    for (p, q) in q.as_chunks::<{ BLOCK / 4 }>().0.iter().enumerate() {
        for (crumbs, q) in crumbs.iter().zip(q) {
            sum += i32::from((crumbs >> (2 * p)) & 3) * i32::from(*q);
        }
    }
    sum
}
