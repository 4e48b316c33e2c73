//! Trits as an embedding or a head: dense values like any others, because activations are not quantised there.

use super::{Codec, Scaled, pair};
use crate::cpu::isa::{Isa, LANES};

/// `d * (code - 1)`, five trits a byte.
#[derive(Debug, Clone, Copy)]
pub struct Tq1_0;

/// `d * (code - 1)`, blocks of 256.
#[derive(Debug, Clone, Copy)]
pub struct Tq2_0;

/// `d * (code - 1)`, blocks of 64.
#[derive(Debug, Clone, Copy)]
pub struct Q2_0;

/// `d * (code - 1)`, blocks of 128.
#[derive(Debug, Clone, Copy)]
pub struct Pq2_0;

/// `d * (code - 1)`, five trits a byte, blocks of 128.
#[derive(Debug, Clone, Copy)]
pub struct Ptq1_0;

/// `scale * (code - 1)` with one scale for the tensor, 128 layout.
#[derive(Debug, Clone, Copy)]
pub struct I2s {
    /// The tensor's scale.
    pub scale: f32,
}

impl Codec for Tq1_0 {
    const LEN: usize = 256;
    const BYTES: usize = 54;
    type Parts = Scaled<16>;

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, block: &[u8]) -> Scaled<16> {
        let mut q = [[0; LANES]; 16];
        let out = q.as_flattened_mut();
        for n in 0..5 {
            trits(&mut out[32 * n..][..32], &block[..32], n);
            trits(&mut out[160 + 16 * n..][..16], &block[32..48], n);
        }
        for n in 0..4 {
            trits(&mut out[240 + 4 * n..][..4], &block[48..52], n);
        }
        Scaled {
            q,
            d: pair(block, 52),
        }
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &Scaled<16>, i: usize) -> I::F32x16 {
        parts.vector(isa, i)
    }
}

/// Digit `n` of base-3 bytes, less one: 3^n moves it to the top.
#[inline(always)]
fn trits(q: &mut [i8], bytes: &[u8], n: usize) {
    const POW3: [u8; 5] = [1, 3, 9, 27, 81];
    for (q, byte) in q.iter_mut().zip(bytes) {
        *q = ((u16::from(byte.wrapping_mul(POW3[n])) * 3) >> 8) as i8 - 1;
    }
}

impl Codec for Ptq1_0 {
    const LEN: usize = 128;
    const BYTES: usize = 28;
    type Parts = Scaled<8>;

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, block: &[u8]) -> Scaled<8> {
        let mut q = [[0; LANES]; 8];
        let out = q.as_flattened_mut();
        for n in 0..5 {
            trits(&mut out[16 * n..][..16], &block[..16], n);
            trits(&mut out[80 + 8 * n..][..8], &block[16..24], n);
        }
        for n in 0..4 {
            trits(&mut out[120 + 2 * n..][..2], &block[24..26], n);
        }
        Scaled {
            q,
            d: pair(block, 26),
        }
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &Scaled<8>, i: usize) -> I::F32x16 {
        parts.vector(isa, i)
    }
}

impl Codec for Tq2_0 {
    const LEN: usize = 256;
    const BYTES: usize = 66;
    type Parts = Scaled<16>;

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, block: &[u8]) -> Scaled<16> {
        let mut q = [[0; LANES]; 16];
        for (i, q) in q
            .as_flattened_mut()
            .as_chunks_mut::<32>()
            .0
            .iter_mut()
            .enumerate()
        {
            for (q, codes) in q.iter_mut().zip(&block[32 * (i / 4)..][..32]) {
                *q = ((codes >> (2 * (i % 4))) & 3) as i8 - 1;
            }
        }
        Scaled {
            q,
            d: pair(block, 64),
        }
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &Scaled<16>, i: usize) -> I::F32x16 {
        parts.vector(isa, i)
    }
}

impl Codec for Q2_0 {
    const LEN: usize = 64;
    const BYTES: usize = 18;
    type Parts = Scaled<4>;

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, block: &[u8]) -> Scaled<4> {
        let mut q = [[0; LANES]; 4];
        crumbs(q.as_flattened_mut(), &block[2..18]);
        Scaled {
            q,
            d: pair(block, 0),
        }
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &Scaled<4>, i: usize) -> I::F32x16 {
        parts.vector(isa, i)
    }
}

impl Codec for Pq2_0 {
    const LEN: usize = 128;
    const BYTES: usize = 34;
    type Parts = Scaled<8>;

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, block: &[u8]) -> Scaled<8> {
        let mut q = [[0; LANES]; 8];
        crumbs(q.as_flattened_mut(), &block[2..34]);
        Scaled {
            q,
            d: pair(block, 0),
        }
    }

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, _block: &[u8], parts: &Scaled<8>, i: usize) -> I::F32x16 {
        parts.vector(isa, i)
    }
}

/// The four crumbs of each byte, less one.
#[inline(always)]
fn crumbs(q: &mut [i8], bytes: &[u8]) {
    for (q, byte) in q.as_chunks_mut::<4>().0.iter_mut().zip(bytes) {
        // Each crumb moved to a byte of its own.
        let byte = u32::from(*byte);
        let spread = (byte & 3) | (byte & 12) << 6 | (byte & 48) << 12 | (byte & 192) << 18;
        *q = spread.to_le_bytes().map(|code| code as i8 - 1);
    }
}

impl Codec for I2s {
    const LEN: usize = 128;
    const BYTES: usize = 32;
    type Parts = [[i8; LANES]; 8];

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, block: &[u8]) -> [[i8; LANES]; 8] {
        let mut q = [[0; LANES]; 8];
        for (s, q) in q
            .as_flattened_mut()
            .as_chunks_mut::<32>()
            .0
            .iter_mut()
            .enumerate()
        {
            for (q, codes) in q.iter_mut().zip(block) {
                *q = ((codes >> (6 - 2 * s)) & 3) as i8 - 1;
            }
        }
        q
    }

    #[inline(always)]
    fn vector<I: Isa>(
        self,
        isa: I,
        _block: &[u8],
        parts: &[[i8; LANES]; 8],
        i: usize,
    ) -> I::F32x16 {
        isa.mul(isa.splat(self.scale), isa.load_i8(&parts[i]))
    }
}
