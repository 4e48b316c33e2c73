//! TQ1_0 and TQ2_0, the ternary block types of llama.cpp: 256 trits and an f16 scale behind them.
//!
//! ```text
//! TQ1_0, 54 bytes:  qs[48] qh[4] d    five trits a byte in base 3 (four in qh)
//! TQ2_0, 66 bytes:  qs[64]       d    four trits a byte as 2-bit codes 0, 1, 2
//! ```
//!
//! A TQ1_0 byte is `ceil(v * 256 / 243)` with `v = sum of t_n * 3^(4-n)` and `t` in 0..=2: a base-3 fraction of 256, so
//! that multiplying by 3 pushes the next digit out at the top: digit n is `((b * 3^n mod 256) * 3) >> 8`.
//! Source: llama.cpp `ggml-quants.c`, gguf-py `quants.py`; the packing is that of Spectra 1.1 (arXiv 2506.23025).

use crate::floats::f16_at;

/// Weights per block of both types.
pub(crate) const BLOCK_LEN: usize = 256;
/// Bytes per TQ1_0 block.
pub(crate) const TQ1_0_BYTES: usize = 54;
/// Bytes per TQ2_0 block.
pub(crate) const TQ2_0_BYTES: usize = 66;

/// Where a TQ1_0 block keeps its digits: (first byte, bytes, digits per byte). Digit `n` of the run's byte `m` is
/// the run's value `bytes * n + m`.
const TQ1_0_RUNS: [(usize, usize, usize); 3] = [(0, 32, 5), (32, 16, 5), (48, 4, 4)];

/// Decodes the trits of a TQ1_0 block; every byte decodes to some trits. Returns the scale.
#[inline]
pub fn decode_tq1_0(block: &[u8; TQ1_0_BYTES], trits: &mut [i8; BLOCK_LEN]) -> f32 {
    let mut rest = &mut trits[..];
    for (first, n_bytes, n_digits) in TQ1_0_RUNS {
        let mut power = 1u8;
        for _ in 0..n_digits {
            let (digits, tail) = rest.split_at_mut(n_bytes);
            for (trit, &byte) in digits.iter_mut().zip(&block[first..first + n_bytes]) {
                *trit = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as i8 - 1;
            }
            rest = tail;
            power = power.wrapping_mul(3);
        }
    }
    f16_at(block, TQ1_0_BYTES - 2)
}

/// Encodes 256 trits (already checked) and a scale given as f16 bytes.
pub(crate) fn encode_tq1_0(trits: &[i8; BLOCK_LEN], scale: [u8; 2]) -> [u8; TQ1_0_BYTES] {
    let mut block = [0; TQ1_0_BYTES];
    let mut start = 0;
    for (first, n_bytes, n_digits) in TQ1_0_RUNS {
        for m in 0..n_bytes {
            // A missing fifth digit is 0, which is why the power of the first is always 81.
            let digits = (0..5).map(|n| {
                if n < n_digits {
                    (trits[start + n_bytes * n + m] + 1) as u16
                } else {
                    0
                }
            });
            let value = digits.fold(0, |value, digit| value * 3 + digit);
            block[first + m] = (value * 256).div_ceil(243) as u8;
        }
        start += n_bytes * n_digits;
    }
    block[TQ1_0_BYTES - 2..].copy_from_slice(&scale);
    block
}

/// Decodes the trits of a TQ2_0 block: two halves of 32 bytes for 128 values, crumb `s` of byte `m` is value
/// `32 s + m`. A code 3 comes out as 2. Returns the scale.
#[inline]
pub fn decode_tq2_0(block: &[u8; TQ2_0_BYTES], trits: &mut [i8; BLOCK_LEN]) -> f32 {
    for (half, bytes) in block[..64].as_chunks::<32>().0.iter().enumerate() {
        for s in 0..4 {
            let quarter = &mut trits[128 * half + 32 * s..][..32];
            for (trit, &byte) in quarter.iter_mut().zip(bytes) {
                *trit = ((byte >> (2 * s)) & 3) as i8 - 1;
            }
        }
    }
    f16_at(block, TQ2_0_BYTES - 2)
}

/// Encodes 256 trits (already checked) and a scale given as f16 bytes.
pub(crate) fn encode_tq2_0(trits: &[i8; BLOCK_LEN], scale: [u8; 2]) -> [u8; TQ2_0_BYTES] {
    let mut block = [0; TQ2_0_BYTES];
    for (i, &trit) in trits.iter().enumerate() {
        block[32 * (i / 128) + i % 32] |= ((trit + 1) as u8) << (2 * (i % 128 / 32));
    }
    block[TQ2_0_BYTES - 2..].copy_from_slice(&scale);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tq1_0_byte_holds_its_five_digits() {
        for value in 0..243u16 {
            let digits = [81, 27, 9, 3, 1].map(|power| (value / power % 3) as i8 - 1);
            let mut trits = [0; BLOCK_LEN];
            for (n, digit) in digits.into_iter().enumerate() {
                trits[32 * n + 7] = digit;
            }
            let block = encode_tq1_0(&trits, [0, 0x3c]);
            let mut back = [9; BLOCK_LEN];
            assert_eq!(decode_tq1_0(&block, &mut back), 1.0);
            assert_eq!(back, trits);
        }
    }

    #[test]
    fn any_tq1_0_bytes_decode_to_trits() {
        for byte in 0..=255 {
            let mut trits = [9; BLOCK_LEN];
            decode_tq1_0(&[byte; TQ1_0_BYTES], &mut trits);
            assert!(trits.iter().all(|trit| (-1..=1).contains(trit)), "{byte}");
        }
    }

    #[test]
    fn each_tq2_0_value_has_the_place_of_the_formula() {
        for i in 0..BLOCK_LEN {
            let mut trits = [-1; BLOCK_LEN];
            trits[i] = 1;
            let block = encode_tq2_0(&trits, [0, 0]);
            let (half, s, m) = (i / 128, i % 128 / 32, i % 32);
            assert_eq!(
                block.iter().position(|&byte| byte != 0),
                Some(32 * half + m)
            );
            assert_eq!(block[32 * half + m], 2 << (2 * s));
            let mut back = [0; BLOCK_LEN];
            decode_tq2_0(&block, &mut back);
            assert_eq!(back, trits);
        }
    }
}
