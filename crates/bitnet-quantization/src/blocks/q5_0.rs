//! Q5_0: 32 5-bit codes with an f16 scale; the fifth bits are together in a u32.
//!
//! ```text
//! 22 bytes:  d qh(u32) qs[16]    code j      = (qs[j] & 15) | bit j of qh << 4
//!                                code 16 + j = (qs[j] >> 4) | bit 16 + j of qh << 4    j < 16
//!                                value = d * (code - 16)
//! ```

use super::{inverse, nibbles, scale_bytes, scaled_codes, signed_absmax};
use crate::floats::f16_at;

/// Values per block.
pub const BLOCK_LEN: usize = 32;
/// Bytes per block.
pub const BLOCK_BYTES: usize = 22;

/// Decodes a block.
#[inline]
pub fn decode(block: &[u8; BLOCK_BYTES], values: &mut [f32; BLOCK_LEN]) {
    let d = f16_at(block, 0);
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    let mut codes = [0; BLOCK_LEN];
    for (j, (code, nibble)) in codes.iter_mut().zip(nibbles(&block[6..])).enumerate() {
        *code = nibble as i8 - if fifth & (1 << j) == 0 { 16 } else { 0 };
    }
    *values = scaled_codes(d, &codes);
}

/// Encodes a block: the value of largest magnitude becomes code 0. The error is a scale beyond f16.
pub(super) fn encode(values: &[f32; BLOCK_LEN]) -> Result<[u8; BLOCK_BYTES], f32> {
    let d = signed_absmax(values) / -16.0;
    let inverse = inverse(d);
    let codes = values.map(|value| ((value * inverse + 16.5) as u8).min(31));
    let fifth = codes
        .iter()
        .enumerate()
        .fold(0u32, |fifth, (j, &code)| fifth | u32::from(code >> 4) << j);
    let mut block = [0; BLOCK_BYTES];
    block[..2].copy_from_slice(&scale_bytes(d)?);
    block[2..6].copy_from_slice(&fifth.to_le_bytes());
    for (j, q) in block[6..].iter_mut().enumerate() {
        *q = (codes[j] & 15) | codes[16 + j] << 4;
    }
    Ok(block)
}
