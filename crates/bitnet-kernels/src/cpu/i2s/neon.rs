//! The ternary strip product on NEON, a quarter of a tile (4 rows) to a register: with `sdot`, or without.
//!
//! Without `sdot`, products are summed in 16 bits and flushed to 32 every `FLUSH` tiles: a product is at most
//! 2 * 128 = 256 in magnitude, four land in a lane per tile, 16 tiles make 16384. With `sdot` sums are 32-bit from the
//! start. The intrinsic for it is not stable, the instruction in inline assembly is.

use std::arch::aarch64::*;
use std::arch::asm;

use super::Tile;
use crate::cpu::isa::LANES;

/// Tiles between two flushes of 16-bit sums. 31 would be the most that 16 bits allow.
const FLUSH: usize = 16;
const _: () = assert!(FLUSH * 4 * 256 <= i16::MAX as usize);

/// Tiles that all quarters are taken from before the next ones: 2 KiB, which stay in the L1 cache.
const BLOCK: usize = 32;

/// `acc[t][r] += sum of code * q` with `sdot`, see [`Isa::ternary_dot`](crate::cpu::isa::Isa::ternary_dot).
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(crate) fn dot_by_sdot<const T: usize>(
    tiles: &[Tile],
    quads: &[[[i8; 4]; T]],
    acc: &mut [[i32; LANES]; T],
) {
    if T == 1 {
        return dot_one_by_sdot(tiles, quads.as_flattened(), &mut acc[0]);
    }
    let quads = quads.as_chunks::<4>().0;
    for (tiles, quads) in tiles.chunks(BLOCK).zip(quads.chunks(BLOCK)) {
        for quarter in 0..4 {
            let mut sums = [vdupq_n_s32(0); T];
            for (tile, quads) in tiles.iter().zip(quads) {
                for (codes, quads) in crumbs(quarter_of(tile, quarter)).iter().zip(quads) {
                    for t in 0..T {
                        sums[t] = sdot(sums[t], *codes, broadcast(quads[t]));
                    }
                }
            }
            for (acc, sum) in acc.iter_mut().zip(sums) {
                add_to(acc, quarter, sum);
            }
        }
    }
}

/// One token row: all quarters at once, so that the tiles are one stream.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn dot_one_by_sdot(tiles: &[Tile], quads: &[[i8; 4]], acc: &mut [i32; LANES]) {
    let mut sums = [vdupq_n_s32(0); 4];
    for (tile, quads) in tiles.iter().zip(quads.as_chunks::<4>().0) {
        let q = quads.map(|quad| broadcast(quad));
        for quarter in 0..4 {
            for (codes, q) in crumbs(quarter_of(tile, quarter)).into_iter().zip(q) {
                sums[quarter] = sdot(sums[quarter], codes, q);
            }
        }
    }
    for (quarter, sum) in sums.into_iter().enumerate() {
        add_to(acc, quarter, sum);
    }
}

/// See [`Isa::dot4`](crate::cpu::isa::Isa::dot4).
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(crate) fn dot4_by_sdot(
    mut acc: [int32x4_t; 4],
    bytes: [int8x16_t; 4],
    q: [i8; 4],
) -> [int32x4_t; 4] {
    let q = broadcast(q);
    for (acc, bytes) in acc.iter_mut().zip(bytes) {
        *acc = sdot(*acc, bytes, q);
    }
    acc
}

/// See [`Isa::dot4`](crate::cpu::isa::Isa::dot4). Two products are at most 2 * 127 * 127, which 16 bits hold.
#[target_feature(enable = "neon")]
#[inline]
pub(crate) fn dot4_by_smull(
    mut acc: [int32x4_t; 4],
    bytes: [int8x16_t; 4],
    q: [i8; 4],
) -> [int32x4_t; 4] {
    let q = broadcast(q);
    for (acc, bytes) in acc.iter_mut().zip(bytes) {
        *acc = smull_dot(*acc, bytes, q);
    }
    acc
}

/// `sum[i] + bytes[4i..4i + 4] . q[4i..4i + 4]` without `sdot`; sums of two products must fit in 16 bits.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn smull_dot(sum: int32x4_t, bytes: int8x16_t, q: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(bytes), vget_low_s8(q));
    let high = vmull_high_s8(bytes, q);
    vpadalq_s16(sum, vpaddq_s16(low, high))
}

/// `acc[t][r] += sum of code * q` without `sdot`, see [`Isa::ternary_dot`](crate::cpu::isa::Isa::ternary_dot).
#[target_feature(enable = "neon")]
#[inline]
pub(crate) fn dot_by_smull<const T: usize>(
    tiles: &[Tile],
    quads: &[[[i8; 4]; T]],
    acc: &mut [[i32; LANES]; T],
) {
    let quads = quads.as_chunks::<4>().0;
    for (tiles, quads) in tiles.chunks(FLUSH).zip(quads.chunks(FLUSH)) {
        for quarter in 0..4 {
            // Rows 0 and 1 of the quarter in the first register, 2 and 3 in the second; four sums for each row.
            let mut sums = [[vdupq_n_s16(0); 2]; T];
            for (tile, quads) in tiles.iter().zip(quads) {
                for (codes, quads) in crumbs(quarter_of(tile, quarter)).into_iter().zip(quads) {
                    for t in 0..T {
                        let q = broadcast(quads[t]);
                        sums[t][0] = vmlal_s8(sums[t][0], vget_low_s8(codes), vget_low_s8(q));
                        sums[t][1] = vmlal_high_s8(sums[t][1], codes, q);
                    }
                }
            }
            for (acc, [low, high]) in acc.iter_mut().zip(sums) {
                add_to(
                    acc,
                    quarter,
                    vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)),
                );
            }
        }
    }
}

/// `sum[i] += code[4i..4i + 4] . q[4i..4i + 4]`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) fn sdot(mut sum: int32x4_t, codes: int8x16_t, q: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's features include the instruction; registers only.
    unsafe {
        asm!("sdot {sum:v}.4s, {codes:v}.16b, {q:v}.16b",
             sum = inout(vreg) sum, codes = in(vreg) codes, q = in(vreg) q,
             options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Four rows of a tile.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn quarter_of(tile: &Tile, quarter: usize) -> uint8x16_t {
    let bytes = &tile.as_chunks::<16>().0[quarter];
    // SAFETY: 16 bytes are readable.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// The four crumbs of every byte; at most 2, so they are the same numbers signed.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn crumbs(codes: uint8x16_t) -> [int8x16_t; 4] {
    let three = vdupq_n_u8(3);
    [
        vreinterpretq_s8_u8(vandq_u8(codes, three)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(codes), three)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(codes), three)),
        vreinterpretq_s8_u8(vshrq_n_u8::<6>(codes)),
    ]
}

/// Four activations in every lane.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn broadcast(quad: [i8; 4]) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(quad.map(|q| q as u8))))
}

/// Adds the sums of four rows.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn add_to(acc: &mut [i32; LANES], quarter: usize, sums: int32x4_t) {
    let rows = &mut acc.as_chunks_mut::<4>().0[quarter];
    // SAFETY: 4 integers are readable and writable.
    unsafe { vst1q_s32(rows.as_mut_ptr(), vaddq_s32(vld1q_s32(rows.as_ptr()), sums)) }
}

/// Sums that depend on nothing but themselves: four pipes with a latency of three or four.
const CHAINS: usize = 16;

/// See [`Isa::int8_rounds`](crate::cpu::isa::Isa::int8_rounds).
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(crate) fn int8_rounds_by_sdot(rounds: usize) -> u64 {
    let (codes, q) = (
        vdupq_n_s8(std::hint::black_box(2)),
        vdupq_n_s8(std::hint::black_box(-3)),
    );
    let mut sums = [vdupq_n_s32(0); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = sdot(*sum, codes, q);
        }
    }
    std::hint::black_box(sums.into_iter().fold(0, |a, b| a ^ vaddvq_s32(b)));
    (rounds * CHAINS * 16) as u64
}

/// See [`Isa::int8_rounds`](crate::cpu::isa::Isa::int8_rounds). Each product reads the last sum: a product of constants
/// would leave the loop.
#[target_feature(enable = "neon")]
#[inline]
pub(crate) fn int8_rounds_by_smull(rounds: usize) -> u64 {
    let q = vdup_n_s8(std::hint::black_box(-3));
    let mut sums = [vdupq_n_s16(std::hint::black_box(2)); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = vmlal_s8(*sum, vget_low_s8(vreinterpretq_s8_s16(*sum)), q);
        }
    }
    std::hint::black_box(sums.into_iter().fold(0, |a, b| a ^ vaddvq_s16(b)));
    (rounds * CHAINS * 8) as u64
}
