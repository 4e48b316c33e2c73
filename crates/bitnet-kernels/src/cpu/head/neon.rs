//! The two integer products on NEON, four rows of a block to a register.
//!
//! Products are summed in 16 bits (8 of 31 * 128 = 3968 fit) and flushed to 32. The codes of eight quads are put together
//! from four nibble lines and one line of fifth bits.

use std::arch::aarch64::*;

use super::{BLOCK, CodeBlock, Crumbs, QUADS};
use crate::cpu::isa::LANES;

/// Quads between two flushes: those of one line of fifth bits.
const FLUSH: usize = 8;
const _: () = assert!(FLUSH * 31 * 128 <= i16::MAX as usize);

/// `acc[p][r] += sum of code * q`, see [`Isa::code_dot`](crate::cpu::isa::Isa::code_dot).
#[target_feature(enable = "neon")]
#[inline]
pub(crate) fn code_dot<const P: usize>(
    block: &CodeBlock,
    quads: &[[[i8; 4]; P]; QUADS],
    acc: &mut [[i32; LANES]; P],
) {
    for quarter in 0..4 {
        for (group, [fifths, nibbles @ ..]) in block.iter().enumerate() {
            let bits = quarter_of(fifths, quarter);
            let (low_fifth, high_fifth) = (vdupq_n_u8(0x10), vdupq_n_u8(0x08));
            let last = vbslq_u8(low_fifth, vshrq_n_u8::<3>(bits), vshlq_n_u8::<3>(bits));
            let fifths = [bits, vshrq_n_u8::<2>(bits), vshlq_n_u8::<2>(bits), last];
            let mut codes = [vdupq_n_s8(0); FLUSH];
            for (i, (line, fifths)) in nibbles.iter().zip(fifths).enumerate() {
                let (line, nibble) = (quarter_of(line, quarter), vdupq_n_u8(0x0f));
                let low = vbslq_u8(nibble, line, vandq_u8(fifths, low_fifth));
                let high = vbslq_u8(nibble, vandq_u8(fifths, high_fifth), line);
                codes[2 * i] = vreinterpretq_s8_u8(low);
                codes[2 * i + 1] = vreinterpretq_s8_u8(vshrq_n_u8::<3>(high));
            }
            for p in 0..P {
                let mut sums = [vdupq_n_s16(0); 2];
                for (codes, quads) in codes.iter().zip(&quads[FLUSH * group..][..FLUSH]) {
                    let q = broadcast(quads[p]);
                    sums[0] = vmlal_s8(sums[0], vget_low_s8(*codes), vget_low_s8(q));
                    sums[1] = vmlal_high_s8(sums[1], *codes, q);
                }
                let total = vpaddq_s32(vpaddlq_s16(sums[0]), vpaddlq_s16(sums[1]));
                let rows = &mut acc[p].as_chunks_mut::<4>().0[quarter];
                // SAFETY: 4 integers are readable and writable.
                unsafe {
                    vst1q_s32(
                        rows.as_mut_ptr(),
                        vaddq_s32(vld1q_s32(rows.as_ptr()), total),
                    )
                }
            }
        }
    }
}

/// `sum of crumb * q`, see [`Isa::crumb_dot`](crate::cpu::isa::Isa::crumb_dot).
#[target_feature(enable = "neon")]
#[inline]
pub(crate) fn crumb_dot(crumbs: &Crumbs, q: &[i8; BLOCK]) -> i32 {
    let mut sums = vdupq_n_s16(0);
    for (half, stored) in crumbs.as_chunks::<16>().0.iter().enumerate() {
        // SAFETY: 16 bytes are readable.
        let stored = unsafe { vld1q_u8(stored.as_ptr()) };
        for p in 0..4 {
            let shifted = vshlq_u8(stored, vdupq_n_s8(-2 * p as i8));
            let crumbs = vreinterpretq_s8_u8(vandq_u8(shifted, vdupq_n_u8(3)));
            let q = &q[32 * p + 16 * half..][..16];
            // SAFETY: 16 bytes are readable.
            let q = unsafe { vld1q_s8(q.as_ptr()) };
            // 16 products of at most 3 * 128 stay below 2^15 in a lane.
            sums = vmlal_s8(sums, vget_low_s8(crumbs), vget_low_s8(q));
            sums = vmlal_high_s8(sums, crumbs, q);
        }
    }
    vaddlvq_s16(sums)
}

/// Four rows of a line.
#[target_feature(enable = "neon")]
#[inline]
fn quarter_of(line: &[u8; 64], quarter: usize) -> uint8x16_t {
    let bytes = &line.as_chunks::<16>().0[quarter];
    // SAFETY: 16 bytes are readable.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// Four activations in every lane.
#[target_feature(enable = "neon")]
#[inline]
fn broadcast(quad: [i8; 4]) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(quad.map(|q| q as u8))))
}
