//! Blocks of 32 values with an f16 scale.

use super::{Codec, Scaled, pair};
use crate::cpu::isa::{Isa, LANES};

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

/// Codes of a block of 32, its f16 scale and f16 offset: `d * q + m`.
pub struct Moved {
    scaled: Scaled<2>,
    m: [u8; 2],
}

impl Codec for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34;
    type Parts = Scaled<2>;

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, block: &[u8]) -> Scaled<2> {
        let mut q = [[0; LANES]; 2];
        for (q, byte) in q.as_flattened_mut().iter_mut().zip(&block[2..34]) {
            *q = *byte as i8;
        }
        Scaled {
            q,
            d: pair(block, 0),
        }
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &Scaled<2>, i: usize) -> I::F32x16 {
        parts.vector(isa, i)
    }
}

/// The 32 nibbles of 16 bytes, low ones first, less `zero`.
#[inline(always)]
fn nibbles(bytes: &[u8], zero: i8) -> [[i8; LANES]; 2] {
    let [mut low, mut high] = [[0; LANES]; 2];
    for ((low, high), byte) in low.iter_mut().zip(&mut high).zip(bytes) {
        *low = (byte & 15) as i8 - zero;
        *high = (byte >> 4) as i8 - zero;
    }
    [low, high]
}

impl Codec for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18;
    type Parts = Scaled<2>;

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, block: &[u8]) -> Scaled<2> {
        Scaled {
            q: nibbles(&block[2..18], 8),
            d: pair(block, 0),
        }
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &Scaled<2>, i: usize) -> I::F32x16 {
        parts.vector(isa, i)
    }
}

impl Codec for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = 20;
    type Parts = Moved;

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, block: &[u8]) -> Moved {
        let scaled = Scaled {
            q: nibbles(&block[4..20], 0),
            d: pair(block, 0),
        };
        Moved {
            scaled,
            m: pair(block, 2),
        }
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &Moved, i: usize) -> I::F32x16 {
        isa.add(parts.scaled.vector(isa, i), isa.splat_f16(parts.m))
    }
}

impl Codec for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = 22;
    type Parts = Scaled<2>;

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, block: &[u8]) -> Scaled<2> {
        let mut q = nibbles(&block[6..22], 16);
        let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
        for (i, q) in q.as_flattened_mut().iter_mut().enumerate() {
            *q += (((high >> i) & 1) << 4) as i8;
        }
        Scaled {
            q,
            d: pair(block, 0),
        }
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &Scaled<2>, i: usize) -> I::F32x16 {
        parts.vector(isa, i)
    }
}
