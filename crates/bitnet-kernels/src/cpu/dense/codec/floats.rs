//! Plain floats: a "block" is one vector.

use super::Codec;
use crate::cpu::isa::{Isa, LANES};

/// 32-bit floats.
#[derive(Debug, Clone, Copy)]
pub struct F32;

/// 16-bit floats.
#[derive(Debug, Clone, Copy)]
pub struct F16;

/// Upper halves of 32-bit floats.
#[derive(Debug, Clone, Copy)]
pub struct BF16;

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
