//! Q6_K: 256 6-bit codes in sixteen sub-blocks of 16 with int8 scales under one f16 scale.
//!
//! ```text
//! 210 bytes:  ql[128] qh[64] scales[16] d
//!
//! half h (128 values), quarter s (32 values), lane l < 32:  value 128 h + 32 s + l
//!   low 4 bits   of ql[64 h + 32 (s & 1) + l]: low nibble for s < 2, else high nibble
//!   high 2 bits  (qh[32 h + l] >> 2 s) & 3
//!   scale        d * scales[8 h + 2 s + l / 16]
//!   value        scale * (code - 32)
//! ```

use super::{inverse, scale_bytes, scaled_codes, signed_absmax};
use crate::floats::f16_at;

/// Values per block.
pub const BLOCK_LEN: usize = 256;
/// Bytes per block.
pub const BLOCK_BYTES: usize = 210;

/// First byte of the sub-block scales.
const SCALES: usize = 192;
/// First byte of the block's scale.
const D: usize = 208;

/// Decodes a block.
#[inline]
pub fn decode(block: &[u8; BLOCK_BYTES], values: &mut [f32; BLOCK_LEN]) {
    let d = f16_at(block, D);
    for (h, values) in values.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let scales = &block[SCALES + 8 * h..][..8];
        for (s, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let low = &block[64 * h + 32 * (s & 1)..][..32];
            let high = &block[128 + 32 * h..][..32];
            let mut codes = [0; 32];
            for ((code, &low), &high) in codes.iter_mut().zip(low).zip(high) {
                *code = ((low >> (4 * (s >> 1)) & 15) | (high >> (2 * s) & 3) << 4) as i8 - 32;
            }
            let (codes, values) = (codes.as_chunks::<16>().0, values.as_chunks_mut::<16>().0);
            for ((values, codes), &scale) in values.iter_mut().zip(codes).zip(&scales[2 * s..]) {
                *values = scaled_codes(d * f32::from(scale as i8), codes);
            }
        }
    }
}

/// Encodes a block: in each sub-block the value of largest magnitude becomes code 0 (-32), as far as the int8
/// scale allows. The error is a scale beyond f16.
pub(super) fn encode(values: &[f32; BLOCK_LEN]) -> Result<[u8; BLOCK_BYTES], f32> {
    let (subs, _) = values.as_chunks::<16>();
    let mut wanted = [0.0; 16];
    for (wanted, sub) in wanted.iter_mut().zip(subs) {
        *wanted = signed_absmax(sub) / -32.0;
    }
    // The largest sub-block scale becomes -128; the sign of d follows.
    let bytes = scale_bytes(signed_absmax(&wanted) / -128.0)?;
    let mut block = [0; BLOCK_BYTES];
    block[D..].copy_from_slice(&bytes);
    let d = f16_at(&bytes, 0);
    let inverse_d = inverse(d);
    for (sub, (values, wanted)) in subs.iter().zip(wanted).enumerate() {
        let scale = (wanted * inverse_d).round() as i8;
        block[SCALES + sub] = scale as u8;
        let inverse = inverse(d * f32::from(scale));
        let (h, s, l) = (sub / 8, sub % 8 / 2, sub % 2 * 16);
        for (i, value) in values.iter().enumerate() {
            let code = ((value * inverse).round().clamp(-32.0, 31.0) as i8 + 32) as u8;
            block[64 * h + 32 * (s & 1) + l + i] |= (code & 15) << (4 * (s >> 1));
            block[128 + 32 * h + l + i] |= (code >> 4) << (2 * s);
        }
    }
    Ok(block)
}
