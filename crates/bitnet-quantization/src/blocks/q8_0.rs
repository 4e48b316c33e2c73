//! Q8_0: 32 int8 values with an f16 scale.
//!
//! ```text
//! 34 bytes:  d i8[32]    value j = d * q[j]
//! ```

use super::{absmax, inverse, scale_bytes};
use crate::floats::f16_at;

/// Values per block.
pub const BLOCK_LEN: usize = 32;
/// Bytes per block.
pub const BLOCK_BYTES: usize = 34;

/// Decodes a block.
#[inline]
pub fn decode(block: &[u8; BLOCK_BYTES], values: &mut [f32; BLOCK_LEN]) {
    let d = f16_at(block, 0);
    for (value, &q) in values.iter_mut().zip(&block[2..]) {
        *value = d * f32::from(q as i8);
    }
}

/// Encodes a block: `d` is the largest magnitude over 127. The error is a scale beyond f16.
pub(super) fn encode(values: &[f32; BLOCK_LEN]) -> Result<[u8; BLOCK_BYTES], f32> {
    let d = absmax(values) / 127.0;
    let inverse = inverse(d);
    let mut block = [0; BLOCK_BYTES];
    block[..2].copy_from_slice(&scale_bytes(d)?);
    for (q, value) in block[2..].iter_mut().zip(values) {
        *q = (value * inverse).round() as i8 as u8;
    }
    Ok(block)
}
