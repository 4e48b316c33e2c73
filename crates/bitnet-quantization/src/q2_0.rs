//! Q2_0 in groups of 64, llama.cpp's 2-bit type that PrismML's Ternary-Bonsai models are published in, and PQ2_0, which
//! is the same in groups of 128.
//!
//! ```text
//! Q2_0,  18 bytes:  d qs[16]    code of value j = (qs[j / 4] >> 2 (j % 4)) & 3,   weight = (code - 1) * d
//! PQ2_0, 34 bytes:  d qs[32]
//! ```
//!
//! Codes 0, 1, 2 are -1, 0, +1; code 3 would be +2, which a ternary file never holds.
//! Source: llama.cpp `ggml-quants.c`; PrismML's fork of it for PQ2_0, whose first files call it Q2_0.

use crate::floats::f16_at;

/// Weights per block.
pub(crate) const BLOCK_LEN: usize = 64;
/// Bytes per block.
pub(crate) const BLOCK_BYTES: usize = 18;
/// Weights per PQ2_0 block.
pub(crate) const PQ2_0_LEN: usize = 128;
/// Bytes per PQ2_0 block.
pub(crate) const PQ2_0_BYTES: usize = 34;

/// Decodes the trits of a block; a code 3 comes out as 2. Returns the scale.
#[inline]
pub fn decode_q2_0(block: &[u8; BLOCK_BYTES], trits: &mut [i8; BLOCK_LEN]) -> f32 {
    trits.copy_from_slice(decode_64(&block[2..]).as_flattened());
    f16_at(block, 0)
}

/// Decodes the trits of a PQ2_0 block; a code 3 comes out as 2. Returns the scale.
#[inline]
pub fn decode_pq2_0(block: &[u8; PQ2_0_BYTES], trits: &mut [i8; PQ2_0_LEN]) -> f32 {
    let (first, second) = trits.split_at_mut(64);
    first.copy_from_slice(decode_64(&block[2..18]).as_flattened());
    second.copy_from_slice(decode_64(&block[18..]).as_flattened());
    f16_at(block, 0)
}

#[inline]
fn decode_64(codes: &[u8]) -> [[i8; 4]; 16] {
    // A local array cannot overlap `codes`: see `crumbs`.
    let mut decoded = [[0; 4]; 16];
    for (four, &byte) in decoded.iter_mut().zip(codes) {
        // The four crumbs of a byte are spread over the bytes of a u32, first to nibble pairs, then to bytes:
        // this way the loop works on whole 32-bit lanes.
        let mut codes = u32::from(byte);
        codes = (codes | codes << 12) & 0x000f_000f;
        codes = (codes | codes << 6) & 0x0303_0303;
        // Minus one in every byte; the top bits keep the borrow of a code 0 inside its byte.
        let trits = ((codes | 0x8080_8080) - 0x0101_0101) ^ 0x8080_8080;
        *four = trits.to_le_bytes().map(|trit| trit as i8);
    }
    decoded
}

/// Encodes 64 trits (already checked) and a scale given as f16 bytes.
pub(crate) fn encode_q2_0(trits: &[i8; BLOCK_LEN], scale: [u8; 2]) -> [u8; BLOCK_BYTES] {
    encode(trits, scale)
}

/// Encodes 128 trits (already checked) and a scale given as f16 bytes.
pub(crate) fn encode_pq2_0(trits: &[i8; PQ2_0_LEN], scale: [u8; 2]) -> [u8; PQ2_0_BYTES] {
    encode(trits, scale)
}

fn encode<const BYTES: usize>(trits: &[i8], scale: [u8; 2]) -> [u8; BYTES] {
    let mut block = [0; BYTES];
    block[..2].copy_from_slice(&scale);
    for (j, &trit) in trits.iter().enumerate() {
        block[2 + j / 4] |= ((trit + 1) as u8) << (2 * (j % 4));
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_decodes_to_its_four_codes_minus_one() {
        for byte in 0..=255u8 {
            let mut block = [byte; BLOCK_BYTES];
            block[..2].copy_from_slice(&[0, 0x40]);
            let mut trits = [9; BLOCK_LEN];
            assert_eq!(decode_q2_0(&block, &mut trits), 2.0);
            for (j, trit) in trits.into_iter().enumerate() {
                assert_eq!(
                    trit,
                    ((byte >> (2 * (j % 4))) & 3) as i8 - 1,
                    "byte {byte} value {j}"
                );
            }
        }
    }

    #[test]
    fn each_value_has_the_place_of_the_formula() {
        for j in 0..BLOCK_LEN {
            let mut trits = [-1; BLOCK_LEN];
            trits[j] = 0;
            let block = encode_q2_0(&trits, [0, 0]);
            assert_eq!(block.iter().position(|&byte| byte != 0), Some(2 + j / 4));
            assert_eq!(block[2 + j / 4], 1 << (2 * (j % 4)));
        }
    }
}
