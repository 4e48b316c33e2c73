//! Stored blocks of an embedding or head, widened to vectors of 16 floats in registers.
//!
//! Every product of a scale and a code is exact or rounded once (an f16 scale has 11 bits, a sub-scale 6 or 8, a code
//! at most 8), so the values are those of [`bitnet_quantization::dequantize`] bit for bit, in whatever order they are
//! multiplied. Formulas and sources: `bitnet-quantization`, one file per format.

use crate::cpu::isa::{Isa, LANES};

/// A storage type whose blocks can be widened.
///
/// All methods are `#[inline(always)]` and none takes a closure: a closure that the compiler does not inline is
/// compiled without the caller's instruction set.
pub trait Codec: Copy + Send + Sync {
    /// Values of a block, a multiple of 16.
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// What is taken out of a block once, for all its vectors.
    type Parts;

    /// Takes a block apart.
    fn parts<I: Isa>(self, isa: I, block: &[u8]) -> Self::Parts;

    /// Vector `i` of `LEN / 16`: values `16i..16i + 16` of the block.
    fn vector<I: Isa>(self, isa: I, block: &[u8], parts: &Self::Parts, i: usize) -> I::F32x16;
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

/// The two bytes at `at`.
#[inline(always)]
fn pair(block: &[u8], at: usize) -> [u8; 2] {
    [block[at], block[at + 1]]
}

/// Codes of a block and its f16 scale: `d * q`.
pub struct Scaled<const VECTORS: usize> {
    q: [[i8; LANES]; VECTORS],
    d: [u8; 2],
}

impl<const VECTORS: usize> Scaled<VECTORS> {
    #[inline(always)]
    fn vector<I: Isa>(&self, isa: I, i: usize) -> I::F32x16 {
        isa.mul(isa.splat_f16(self.d), isa.load_i8(&self.q[i]))
    }
}

/// Codes of a block of 32, its f16 scale and f16 offset: `d * q + m`.
pub struct Moved {
    scaled: Scaled<2>,
    m: [u8; 2],
}

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

impl Codec for F32 {
    const LEN: usize = LANES;
    const BYTES: usize = 4 * LANES;
    type Parts = ();

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, _block: &[u8]) {}

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, block: &[u8], _parts: &(), _i: usize) -> I::F32x16 {
        let mut values = [0.0; LANES];
        for (value, bytes) in values.iter_mut().zip(block.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        isa.load(&values)
    }
}

impl Codec for F16 {
    const LEN: usize = LANES;
    const BYTES: usize = 2 * LANES;
    type Parts = ();

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, _block: &[u8]) {}

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, block: &[u8], _parts: &(), _i: usize) -> I::F32x16 {
        isa.load_f16(block.first_chunk().expect("a whole block"))
    }
}

impl Codec for BF16 {
    const LEN: usize = LANES;
    const BYTES: usize = 2 * LANES;
    type Parts = ();

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, _block: &[u8]) {}

    #[inline(always)]
    fn vector<I: Isa>(self, isa: I, block: &[u8], _parts: &(), _i: usize) -> I::F32x16 {
        isa.load_bf16(block.first_chunk().expect("a whole block"))
    }
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

impl Codec for Tq1_0 {
    const LEN: usize = 256;
    const BYTES: usize = 54;
    type Parts = Scaled<16>;

    #[inline(always)]
    fn parts<I: Isa>(self, _isa: I, block: &[u8]) -> Scaled<16> {
        let mut q = [[0; LANES]; 16];
        /// Digit `n` of a byte, less one: 3^n moves it to the top.
        #[inline(always)]
        fn trits(q: &mut [i8], bytes: &[u8], n: usize) {
            const POW3: [u8; 5] = [1, 3, 9, 27, 81];
            for (q, byte) in q.iter_mut().zip(bytes) {
                *q = ((u16::from(byte.wrapping_mul(POW3[n])) * 3) >> 8) as i8 - 1;
            }
        }
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
        for (q, byte) in q
            .as_flattened_mut()
            .as_chunks_mut::<4>()
            .0
            .iter_mut()
            .zip(&block[2..18])
        {
            // The four crumbs of a byte, each moved to a byte of its own.
            let byte = u32::from(*byte);
            let spread = (byte & 3) | (byte & 12) << 6 | (byte & 48) << 12 | (byte & 192) << 18;
            *q = spread.to_le_bytes().map(|code| code as i8 - 1);
        }
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
