//! The ternary strip product in plain Rust: the meaning that the vector kernels copy.

use super::Tile;
use crate::cpu::isa::LANES;

/// `acc[t][r] += sum of code * q` over the tiles, see [`Isa::ternary_dot`](crate::cpu::isa::Isa::ternary_dot).
#[inline(always)]
pub(crate) fn dot<const T: usize>(
    tiles: &[Tile],
    quads: &[[[i8; 4]; T]],
    acc: &mut [[i32; LANES]; T],
) {
    for (tile, quads) in tiles.iter().zip(quads.as_chunks::<4>().0) {
        for (crumb, quad) in quads.iter().enumerate() {
            for (acc, q) in acc.iter_mut().zip(quad) {
                for (acc, codes) in acc.iter_mut().zip(tile.as_chunks::<4>().0) {
                    for (code, q) in codes.iter().zip(q) {
                        *acc += i32::from((code >> (2 * crumb)) & 3) * i32::from(*q);
                    }
                }
            }
        }
    }
}

/// Multiply-adds of one round, all independent.
const CHAINS: usize = 64;

/// See [`Isa::int8_rounds`](crate::cpu::isa::Isa::int8_rounds).
#[inline(always)]
pub(crate) fn int8_rounds(rounds: usize) -> u64 {
    let factor = std::hint::black_box(3i32);
    let mut sums: [i32; CHAINS] = std::array::from_fn(|i| i as i32);
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sum.wrapping_mul(factor).wrapping_add(1);
        }
    }
    std::hint::black_box(sums);
    (rounds * CHAINS) as u64
}
