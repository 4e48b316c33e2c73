//! Stored blocks of an embedding or head, widened to vectors of 16 floats in registers.
//!
//! Every product of a scale and a code is exact or rounded once (an f16 scale has 11 bits, a sub-scale 6 or 8, a code
//! at most 8), so the values are those of [`bitnet_quantization::dequantize`] bit for bit, in whatever order they are
//! multiplied. Formulas and sources: `bitnet-quantization`, one file per format.

use crate::cpu::isa::{Isa, LANES};
use bitnet_quantization::floats::f16_to_f32;

/// A storage type whose blocks can be widened.
pub trait Codec: Copy + Send + Sync {
    /// Values of a block, a multiple of 16.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;

    /// Calls `emit` with the `LEN / 16` vectors of one block, in order.
    fn widen<I: Isa>(self, isa: I, block: &[u8], emit: impl FnMut(I::F32x16));
}

/// 32-bit floats.
#[derive(Debug, Clone, Copy)]
pub struct F32;
/// 16-bit floats.
#[derive(Debug, Clone, Copy)]
pub struct F16;
/// Upper halves of 32-bit floats.
#[derive(Debug, Clone, Copy)]
pub struct BF16;
/// `d * q`.
#[derive(Debug, Clone, Copy)]
pub struct Q8_0;
/// `d * (q - 8)`.
#[derive(Debug, Clone, Copy)]
pub struct Q4_0;
/// `d * q + m`.
#[derive(Debug, Clone, Copy)]
pub struct Q4_1;
/// `d * (q - 16)`.
#[derive(Debug, Clone, Copy)]
pub struct Q5_0;
/// `d * sc * q - dmin * mn`, 4-bit codes.
#[derive(Debug, Clone, Copy)]
pub struct Q4K;
/// `d * sc * q - dmin * mn`, 5-bit codes.
#[derive(Debug, Clone, Copy)]
pub struct Q5K;
/// `d * sc * (q - 32)`.
#[derive(Debug, Clone, Copy)]
pub struct Q6K;
/// `d * (code - 1)`, five trits a byte.
#[derive(Debug, Clone, Copy)]
pub struct Tq1_0;
/// `d * (code - 1)`, blocks of 256.
#[derive(Debug, Clone, Copy)]
pub struct Tq2_0;
/// `d * (code - 1)`, blocks of 64.
#[derive(Debug, Clone, Copy)]
pub struct Q2_0;
/// `scale * (code - 1)` with one scale for the tensor, 128 layout.
#[derive(Debug, Clone, Copy)]
pub struct I2s {
    /// The tensor's scale.
    pub scale: f32,
}

/// The f16 at byte `at`.
#[inline(always)]
fn f16_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// `scale * q` for vectors of codes.
#[inline(always)]
fn scaled<I: Isa>(isa: I, q: &[i8], scale: f32, mut emit: impl FnMut(I::F32x16)) {
    let scale = isa.splat(scale);
    for q in q.as_chunks::<LANES>().0 {
        emit(isa.mul(scale, isa.load_i8(q)));
    }
}

/// `scale * q + offset` for vectors of codes.
#[inline(always)]
fn scaled_and_moved<I: Isa>(
    isa: I,
    q: &[i8],
    scale: f32,
    offset: f32,
    mut emit: impl FnMut(I::F32x16),
) {
    let (scale, offset) = (isa.splat(scale), isa.splat(offset));
    for q in q.as_chunks::<LANES>().0 {
        emit(isa.add(isa.mul(scale, isa.load_i8(q)), offset));
    }
}

impl Codec for F32 {
    const LEN: usize = LANES;
    const BYTES: usize = 4 * LANES;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], mut emit: impl FnMut(I::F32x16)) {
        let bytes = block.as_chunks::<4>().0;
        let values: [f32; LANES] = std::array::from_fn(|i| f32::from_le_bytes(bytes[i]));
        emit(isa.load(&values));
    }
}

impl Codec for F16 {
    const LEN: usize = LANES;
    const BYTES: usize = 2 * LANES;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], mut emit: impl FnMut(I::F32x16)) {
        emit(isa.load_f16(block.first_chunk().expect("a whole block")));
    }
}

impl Codec for BF16 {
    const LEN: usize = LANES;
    const BYTES: usize = 2 * LANES;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], mut emit: impl FnMut(I::F32x16)) {
        emit(isa.load_bf16(block.first_chunk().expect("a whole block")));
    }
}

impl Codec for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], emit: impl FnMut(I::F32x16)) {
        let q: [i8; 32] = std::array::from_fn(|i| block[2 + i] as i8);
        scaled(isa, &q, f16_at(block, 0), emit);
    }
}

/// The 32 nibbles of 16 bytes: low ones first.
#[inline(always)]
fn nibbles(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| {
        if i < 16 {
            bytes[i] & 15
        } else {
            bytes[i - 16] >> 4
        }
    })
}

impl Codec for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], emit: impl FnMut(I::F32x16)) {
        let q = nibbles(&block[2..18]).map(|q| q as i8 - 8);
        scaled(isa, &q, f16_at(block, 0), emit);
    }
}

impl Codec for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = 20;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], emit: impl FnMut(I::F32x16)) {
        let q = nibbles(&block[4..20]).map(|q| q as i8);
        scaled_and_moved(isa, &q, f16_at(block, 0), f16_at(block, 2), emit);
    }
}

impl Codec for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = 22;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], emit: impl FnMut(I::F32x16)) {
        let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
        let low = nibbles(&block[6..22]);
        let q: [i8; 32] =
            std::array::from_fn(|i| (low[i] | (((high >> i) & 1) << 4) as u8) as i8 - 16);
        scaled(isa, &q, f16_at(block, 0), emit);
    }
}

/// The 6-bit scale and minimum of sub-block `i` of a Q4_K or Q5_K block.
#[inline(always)]
fn scale_and_min(scales: &[u8], i: usize) -> (f32, f32) {
    let (scale, min) = if i < 4 {
        (scales[i] & 63, scales[i + 4] & 63)
    } else {
        (
            scales[i + 4] & 15 | (scales[i - 4] >> 6) << 4,
            scales[i + 4] >> 4 | (scales[i] >> 6) << 4,
        )
    };
    (f32::from(scale), f32::from(min))
}

impl Codec for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], mut emit: impl FnMut(I::F32x16)) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        for i in 0..8 {
            let codes = &block[16 + 32 * (i / 2)..][..32];
            let shift = 4 * (i % 2);
            let q: [i8; 32] = std::array::from_fn(|l| ((codes[l] >> shift) & 15) as i8);
            let (scale, min) = scale_and_min(&block[4..16], i);
            scaled_and_moved(isa, &q, d * scale, -(dmin * min), &mut emit);
        }
    }
}

impl Codec for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = 176;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], mut emit: impl FnMut(I::F32x16)) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let high = &block[16..48];
        for i in 0..8 {
            let codes = &block[48 + 32 * (i / 2)..][..32];
            let shift = 4 * (i % 2);
            let q: [i8; 32] = std::array::from_fn(|l| {
                ((codes[l] >> shift) & 15 | ((high[l] >> i) & 1) << 4) as i8
            });
            let (scale, min) = scale_and_min(&block[4..16], i);
            scaled_and_moved(isa, &q, d * scale, -(dmin * min), &mut emit);
        }
    }
}

impl Codec for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], mut emit: impl FnMut(I::F32x16)) {
        let d = f16_at(block, 208);
        for half in 0..2 {
            let low = &block[64 * half..][..64];
            let high = &block[128 + 32 * half..][..32];
            let scales = &block[192 + 8 * half..][..8];
            for s in 0..4 {
                let low = &low[32 * (s % 2)..][..32];
                let shift = 4 * (s / 2);
                let q: [i8; 32] = std::array::from_fn(|l| {
                    ((low[l] >> shift) & 15 | ((high[l] >> (2 * s)) & 3) << 4) as i8 - 32
                });
                scaled(isa, &q[..16], d * f32::from(scales[2 * s] as i8), &mut emit);
                scaled(
                    isa,
                    &q[16..],
                    d * f32::from(scales[2 * s + 1] as i8),
                    &mut emit,
                );
            }
        }
    }
}

impl Codec for Tq1_0 {
    const LEN: usize = 256;
    const BYTES: usize = 54;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], mut emit: impl FnMut(I::F32x16)) {
        const POW3: [u8; 5] = [1, 3, 9, 27, 81];
        // The digit that 3^n moves to the top of the byte.
        let trit =
            |byte: u8, n: usize| ((u16::from(byte.wrapping_mul(POW3[n])) * 3) >> 8) as i8 - 1;
        let d = f16_at(block, 52);
        for n in 0..5 {
            let q: [i8; 32] = std::array::from_fn(|m| trit(block[m], n));
            scaled(isa, &q, d, &mut emit);
        }
        for n in 0..5 {
            let q: [i8; 16] = std::array::from_fn(|m| trit(block[32 + m], n));
            scaled(isa, &q, d, &mut emit);
        }
        let q: [i8; 16] = std::array::from_fn(|i| trit(block[48 + i % 4], i / 4));
        scaled(isa, &q, d, emit);
    }
}

impl Codec for Tq2_0 {
    const LEN: usize = 256;
    const BYTES: usize = 66;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], mut emit: impl FnMut(I::F32x16)) {
        let d = f16_at(block, 64);
        for half in 0..2 {
            let codes = &block[32 * half..][..32];
            for s in 0..4 {
                let q: [i8; 32] = std::array::from_fn(|m| ((codes[m] >> (2 * s)) & 3) as i8 - 1);
                scaled(isa, &q, d, &mut emit);
            }
        }
    }
}

impl Codec for Q2_0 {
    const LEN: usize = 64;
    const BYTES: usize = 18;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], emit: impl FnMut(I::F32x16)) {
        let q: [i8; 64] =
            std::array::from_fn(|j| ((block[2 + j / 4] >> (2 * (j % 4))) & 3) as i8 - 1);
        scaled(isa, &q, f16_at(block, 0), emit);
    }
}

impl Codec for I2s {
    const LEN: usize = 128;
    const BYTES: usize = 32;

    #[inline(always)]
    fn widen<I: Isa>(self, isa: I, block: &[u8], mut emit: impl FnMut(I::F32x16)) {
        for s in 0..4 {
            let q: [i8; 32] = std::array::from_fn(|m| ((block[m] >> (6 - 2 * s)) & 3) as i8 - 1);
            scaled(isa, &q, self.scale, &mut emit);
        }
    }
}
