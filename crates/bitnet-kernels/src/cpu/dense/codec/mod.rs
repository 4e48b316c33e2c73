//! Stored blocks of an embedding or head, widened to vectors of 16 floats in registers.
//!
//! Every product of a scale and a code is exact or rounded once (an f16 scale has 11 bits, a sub-scale 6 or 8, a code
//! at most 8), so the values are those of [`bitnet_quantization::dequantize`] bit for bit, in whatever order they are
//! multiplied. Formulas and sources: `bitnet-quantization`, one file per format.

mod blocks;
mod floats;
mod super_blocks;
mod ternary;

use crate::cpu::isa::{Isa, LANES};

pub use blocks::{Q4_0, Q4_1, Q5_0, Q8_0};
pub use floats::{BF16, F16, F32};
pub use super_blocks::{Q4K, Q5K, Q6K};
pub use ternary::{I2s, Pq2_0, Ptq1_0, Q2_0, Tq1_0, Tq2_0};

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
