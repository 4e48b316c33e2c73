//! Q4_1: 32 4-bit codes with an f16 scale and an f16 minimum.
//!
//! ```text
//! 20 bytes:  d m qs[16]    value j      = d * (qs[j] & 15) + m
//!                          value 16 + j = d * (qs[j] >> 4) + m    j < 16
//! ```

use super::{inverse, nibbles, scale_bytes, shifted_codes};
use crate::floats::f16_at;

/// Values per block.
pub const BLOCK_LEN: usize = 32;
/// Bytes per block.
pub const BLOCK_BYTES: usize = 20;

/// Decodes a block.
#[inline]
pub fn decode(block: &[u8; BLOCK_BYTES], values: &mut [f32; BLOCK_LEN]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let mut codes = [0; BLOCK_LEN];
    for (code, nibble) in codes.iter_mut().zip(nibbles(&block[4..])) {
        *code = nibble as i8;
    }
    *values = shifted_codes(d, &codes, m);
}

/// Encodes a block: codes 0 and 15 are its smallest and largest value. The error is a scale or minimum beyond f16.
pub(super) fn encode(values: &[f32; BLOCK_LEN]) -> Result<[u8; BLOCK_BYTES], f32> {
    let (min, max) = values
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), &v| {
            (min.min(v), max.max(v))
        });
    let d = (max - min) / 15.0;
    let inverse = inverse(d);
    let code = |value: f32| (((value - min) * inverse + 0.5) as u8).min(15);
    let mut block = [0; BLOCK_BYTES];
    block[..2].copy_from_slice(&scale_bytes(d)?);
    block[2..4].copy_from_slice(&scale_bytes(min)?);
    for (j, q) in block[4..].iter_mut().enumerate() {
        *q = code(values[j]) | code(values[16 + j]) << 4;
    }
    Ok(block)
}
