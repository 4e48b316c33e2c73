//! Q5_K: Q4_K with a fifth bit per code.
//!
//! ```text
//! 176 bytes:  d dmin scales[12] qh[32] qs[128]
//!
//! lane l of sub-block i: code = nibble (as in Q4_K) | bit i of qh[l] << 4
//! value = d * sc * code - dmin * mn
//! ```

use super::q4_k::SubBlockScales;
use super::shifted_codes;

/// Values per block.
pub const BLOCK_LEN: usize = 256;
/// Bytes per block.
pub const BLOCK_BYTES: usize = 176;

/// Decodes a block.
#[inline]
pub fn decode(block: &[u8; BLOCK_BYTES], values: &mut [f32; BLOCK_LEN]) {
    let scales = SubBlockScales::read(block);
    for (sub, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scales.of(sub);
        let fifth = &block[16..48];
        let codes = &block[48 + 32 * (sub / 2)..][..32];
        let mut decoded = [0; 32];
        for ((code, &codes), &fifth) in decoded.iter_mut().zip(codes).zip(fifth) {
            *code = ((codes >> (4 * (sub % 2)) & 15) | (fifth >> sub & 1) << 4) as i8;
        }
        *values = shifted_codes(scale, &decoded, -min);
    }
}
