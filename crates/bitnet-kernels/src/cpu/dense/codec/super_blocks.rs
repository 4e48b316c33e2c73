//! Super-blocks of 256 values, whose sub-blocks have scales of their own.

use super::{Codec, pair};
use crate::cpu::isa::{Isa, LANES};

/// `d * sc * q - dmin * mn`, 4-bit codes.
#[derive(Debug, Clone, Copy)]
pub struct Q4K;

/// `d * sc * q - dmin * mn`, 5-bit codes.
#[derive(Debug, Clone, Copy)]
pub struct Q5K;

/// `d * sc * (q - 32)`.
#[derive(Debug, Clone, Copy)]
pub struct Q6K;

/// Codes of a super-block of 256 and the scale of each 16 of them: `scale * q`.
pub struct SubScaled {
    q: [[i8; LANES]; 16],
    scales: [f32; 16],
}

impl SubScaled {
    #[inline(always)]
    fn vector<I: Isa>(&self, isa: I, i: usize) -> I::F32x16 {
        isa.mul(isa.splat(self.scales[i]), isa.load_i8(&self.q[i]))
    }
}

/// The same with an offset for each 16: `scale * q - offset`.
pub struct SubMoved {
    scaled: SubScaled,
    offsets: [f32; 16],
}

impl SubMoved {
    #[inline(always)]
    fn vector<I: Isa>(&self, isa: I, i: usize) -> I::F32x16 {
        isa.sub(self.scaled.vector(isa, i), isa.splat(self.offsets[i]))
    }
}

/// The 6-bit scale and minimum of sub-block `i` of a Q4_K or Q5_K block.
#[inline(always)]
fn scale_and_min(scales: &[u8], i: usize) -> (i8, i8) {
    let (scale, min) = if i < 4 {
        (scales[i] & 63, scales[i + 4] & 63)
    } else {
        (
            (scales[i + 4] & 15) | ((scales[i - 4] >> 6) << 4),
            (scales[i + 4] >> 4) | ((scales[i] >> 6) << 4),
        )
    };
    (scale as i8, min as i8)
}

/// Codes of a Q4_K or Q5_K block with the scales and minima of its sub-blocks.
#[inline(always)]
fn sub_blocks<I: Isa>(isa: I, q: [[i8; LANES]; 16], block: &[u8]) -> SubMoved {
    let [mut scales, mut mins] = [[0; LANES]; 2];
    for i in 0..8 {
        let (scale, min) = scale_and_min(&block[4..16], i);
        scales[2 * i..][..2].fill(scale);
        mins[2 * i..][..2].fill(min);
    }
    let [mut out_scales, mut offsets] = [[0.0; LANES]; 2];
    isa.store(
        isa.mul(isa.splat_f16(pair(block, 0)), isa.load_i8(&scales)),
        &mut out_scales,
    );
    isa.store(
        isa.mul(isa.splat_f16(pair(block, 2)), isa.load_i8(&mins)),
        &mut offsets,
    );
    SubMoved {
        scaled: SubScaled {
            q,
            scales: out_scales,
        },
        offsets,
    }
}

impl Codec for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;
    type Parts = SubMoved;

    #[inline(always)]
    fn parts<I: Isa>(self, isa: I, block: &[u8]) -> SubMoved {
        let mut q = [[0; LANES]; 16];
        for (i, q) in q
            .as_flattened_mut()
            .as_chunks_mut::<32>()
            .0
            .iter_mut()
            .enumerate()
        {
            let codes = &block[16 + 32 * (i / 2)..][..32];
            for (q, code) in q.iter_mut().zip(codes) {
                *q = ((code >> (4 * (i % 2))) & 15) as i8;
            }
        }
        sub_blocks(isa, q, block)
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &SubMoved, i: usize) -> I::F32x16 {
        parts.vector(isa, i)
    }
}

impl Codec for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = 176;
    type Parts = SubMoved;

    #[inline(always)]
    fn parts<I: Isa>(self, isa: I, block: &[u8]) -> SubMoved {
        let mut q = [[0; LANES]; 16];
        for (i, q) in q
            .as_flattened_mut()
            .as_chunks_mut::<32>()
            .0
            .iter_mut()
            .enumerate()
        {
            let (high, codes) = (&block[16..48], &block[48 + 32 * (i / 2)..][..32]);
            for ((q, code), high) in q.iter_mut().zip(codes).zip(high) {
                *q = (((code >> (4 * (i % 2))) & 15) | (((high >> i) & 1) << 4)) as i8;
            }
        }
        sub_blocks(isa, q, block)
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &SubMoved, i: usize) -> I::F32x16 {
        parts.vector(isa, i)
    }
}

impl Codec for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;
    type Parts = SubScaled;

    #[inline(always)]
    fn parts<I: Isa>(self, isa: I, block: &[u8]) -> SubScaled {
        let mut q = [[0; LANES]; 16];
        for (i, q) in q
            .as_flattened_mut()
            .as_chunks_mut::<32>()
            .0
            .iter_mut()
            .enumerate()
        {
            let (half, s) = (i / 4, i % 4);
            let low = &block[64 * half + 32 * (s % 2)..][..32];
            let high = &block[128 + 32 * half..][..32];
            for ((q, low), high) in q.iter_mut().zip(low).zip(high) {
                *q = (((low >> (4 * (s / 2))) & 15) | (((high >> (2 * s)) & 3) << 4)) as i8 - 32;
            }
        }
        let mut stored = [0; LANES];
        for (stored, byte) in stored.iter_mut().zip(&block[192..208]) {
            *stored = *byte as i8;
        }
        let mut scales = [0.0; LANES];
        isa.store(
            isa.mul(isa.splat_f16(pair(block, 208)), isa.load_i8(&stored)),
            &mut scales,
        );
        SubScaled { q, scales }
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &SubScaled, i: usize) -> I::F32x16 {
        parts.vector(isa, i)
    }
}
