//! Q4_0: 32 4-bit codes with an f16 scale.
//!
//! ```text
//! 18 bytes:  d qs[16]    value j      = d * ((qs[j] & 15) - 8)
//!                        value 16 + j = d * ((qs[j] >> 4) - 8)    j < 16
//! ```

use super::{inverse, nibbles, scale_bytes, scaled_codes, signed_absmax};
use crate::floats::f16_at;

/// Values per block.
pub const BLOCK_LEN: usize = 32;
/// Bytes per block.
pub const BLOCK_BYTES: usize = 18;

/// Decodes a block.
#[inline]
pub fn decode(block: &[u8; BLOCK_BYTES], values: &mut [f32; BLOCK_LEN]) {
    let d = f16_at(block, 0);
    *values = scaled_codes(d, &nibbles(&block[2..]).map(|nibble| nibble as i8 - 8));
}

/// Encodes a block: the value of largest magnitude becomes code 0. The error is a scale beyond f16.
pub(super) fn encode(values: &[f32; BLOCK_LEN]) -> Result<[u8; BLOCK_BYTES], f32> {
    let d = signed_absmax(values) / -8.0;
    let inverse = inverse(d);
    let code = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    let mut block = [0; BLOCK_BYTES];
    block[..2].copy_from_slice(&scale_bytes(d)?);
    for (j, q) in block[2..].iter_mut().enumerate() {
        *q = code(values[j]) | code(values[16 + j]) << 4;
    }
    Ok(block)
}
