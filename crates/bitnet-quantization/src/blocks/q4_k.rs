//! Q4_K: 256 4-bit codes in eight sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum.
//!
//! ```text
//! 144 bytes:  d dmin scales[12] qs[128]
//!
//! sub-blocks 2c and 2c + 1: low and high nibbles of qs[32 c .. 32 c + 32]
//! value = d * sc * code - dmin * mn
//!
//! scales[0..4]   bits 5:0  sc 0..4     bits 7:6  upper bits of sc 4..8
//! scales[4..8]   bits 5:0  mn 0..4     bits 7:6  upper bits of mn 4..8
//! scales[8..12]  bits 3:0  lower bits of sc 4..8     bits 7:4  lower bits of mn 4..8
//! ```

use super::shifted_codes;
use crate::floats::f16_at;

/// Values per block.
pub const BLOCK_LEN: usize = 256;
/// Bytes per block.
pub const BLOCK_BYTES: usize = 144;

/// Decodes a block.
#[inline]
pub fn decode(block: &[u8; BLOCK_BYTES], values: &mut [f32; BLOCK_LEN]) {
    let scales = SubBlockScales::read(block);
    for (sub, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scales.of(sub);
        let codes = &block[16 + 32 * (sub / 2)..][..32];
        let mut decoded = [0; 32];
        for (code, &codes) in decoded.iter_mut().zip(codes) {
            *code = (codes >> (4 * (sub % 2)) & 15) as i8;
        }
        *values = shifted_codes(scale, &decoded, -min);
    }
}

/// The scales and minima of the eight sub-blocks; Q5_K starts with the same 16 bytes.
pub(super) struct SubBlockScales {
    d: f32,
    dmin: f32,
    packed: [u8; 12],
}

impl SubBlockScales {
    /// Reads the first 16 bytes of a block.
    #[inline]
    pub fn read<const BYTES: usize>(block: &[u8; BYTES]) -> Self {
        let mut packed = [0; 12];
        packed.copy_from_slice(&block[4..16]);
        SubBlockScales {
            d: f16_at(block, 0),
            dmin: f16_at(block, 2),
            packed,
        }
    }

    /// Scale and minimum of sub-block `i` < 8.
    #[inline]
    pub fn of(&self, i: usize) -> (f32, f32) {
        let p = &self.packed;
        let (scale, min) = if i < 4 {
            (p[i] & 63, p[i + 4] & 63)
        } else {
            (
                (p[i + 4] & 15) | p[i - 4] >> 6 << 4,
                (p[i + 4] >> 4) | p[i] >> 6 << 4,
            )
        };
        (self.d * f32::from(scale), self.dmin * f32::from(min))
    }
}
