//! The strip product of five codes a byte in plain Rust: the meaning that the vector kernel copies.

use super::{CODE, DIGITS};
use crate::cpu::i2s::Tile;
use crate::cpu::isa::LANES;

/// `acc[t][r] += sum of code * q` over the tiles, see [`Isa::t5_dot`](crate::cpu::isa::Isa::t5_dot).
pub(crate) fn dot<const T: usize>(
    tiles: &[Tile],
    quads: &[[[i8; 4]; T]],
    acc: &mut [[i32; LANES]; T],
) {
    for (tile, quads) in tiles.iter().zip(quads.as_chunks::<DIGITS>().0) {
        for (lane, bytes) in tile.as_chunks::<4>().0.iter().enumerate() {
            for (j, byte) in bytes.iter().enumerate() {
                for (code, quad) in CODE.digits(*byte).into_iter().zip(quads) {
                    for (acc, q) in acc.iter_mut().zip(quad) {
                        acc[lane] += i32::from(code) * i32::from(q[j]);
                    }
                }
            }
        }
    }
}
