//! TQ1_0 and TQ2_0, the ternary block types of llama.cpp: 256 trits and an f16 scale behind them. And PTQ1_0, PrismML's
//! TQ1_0 of 128 trits.
//!
//! ```text
//! TQ1_0, 54 bytes:  qs[48] qh[4] d    five trits a byte in base 3 (four in qh)
//! PTQ1_0, 28 bytes: qs[24] qh[2] d    the same
//! TQ2_0, 66 bytes:  qs[64]       d    four trits a byte as 2-bit codes 0, 1, 2
//! ```
//!
//! A TQ1_0 byte is `ceil(v * 256 / 243)` with `v = sum of t_n * 3^(4-n)` and `t` in 0..=2: a base-3 fraction of 256, so
//! that multiplying by 3 pushes the next digit out at the top: digit n is `((b * 3^n mod 256) * 3) >> 8`.
//! Source: llama.cpp `ggml-quants.c`, gguf-py `quants.py`; the packing is that of Spectra 1.1 (arXiv 2506.23025).

use crate::crumbs::{QuarterShifts, pack_group, unpack_group};
use crate::floats::f16_at;

/// Weights per block of both types.
pub(crate) const BLOCK_LEN: usize = 256;
/// Bytes per TQ1_0 block.
pub(crate) const TQ1_0_BYTES: usize = 54;
/// Bytes per TQ2_0 block.
pub(crate) const TQ2_0_BYTES: usize = 66;
/// Weights per PTQ1_0 block.
pub(crate) const PTQ1_0_LEN: usize = 128;
/// Bytes per PTQ1_0 block.
pub(crate) const PTQ1_0_BYTES: usize = 28;

/// The first quarter of a half block is in the lowest bits.
const TQ2_0_SHIFTS: QuarterShifts = [0, 2, 4, 6];

/// Where a TQ1_0 block keeps its digits: (first byte, bytes, digits per byte). Digit `n` of the run's byte `m` is
/// the run's value `bytes * n + m`.
const TQ1_0_RUNS: [Run; 3] = [(0, 32, 5), (32, 16, 5), (48, 4, 4)];
/// The same of a PTQ1_0 block.
const PTQ1_0_RUNS: [Run; 3] = [(0, 16, 5), (16, 8, 5), (24, 2, 4)];

/// First byte, bytes, digits per byte.
type Run = (usize, usize, usize);

/// Decodes the trits of a TQ1_0 block; every byte decodes to some trits. Returns the scale.
#[inline]
pub fn decode_tq1_0(block: &[u8; TQ1_0_BYTES], trits: &mut [i8; BLOCK_LEN]) -> f32 {
    let (run32, rest) = trits.split_at_mut(160);
    let (run16, run4) = rest.split_at_mut(80);
    decode_run::<32>(&block[..32], run32);
    decode_run::<16>(&block[32..48], run16);
    decode_run::<4>(&block[48..52], run4);
    f16_at(block, TQ1_0_BYTES - 2)
}

/// Decodes the trits of a PTQ1_0 block; every byte decodes to some trits. Returns the scale.
#[inline]
pub fn decode_ptq1_0(block: &[u8; PTQ1_0_BYTES], trits: &mut [i8; PTQ1_0_LEN]) -> f32 {
    let (run16, rest) = trits.split_at_mut(80);
    let (run8, run2) = rest.split_at_mut(40);
    decode_run::<16>(&block[..16], run16);
    decode_run::<8>(&block[16..24], run8);
    decode_run::<2>(&block[24..26], run2);
    f16_at(block, PTQ1_0_BYTES - 2)
}

/// Decodes a run of base-3 bytes, digit by digit.
#[inline]
fn decode_run<const BYTES: usize>(bytes: &[u8], trits: &mut [i8]) {
    for (trits, power) in trits
        .as_chunks_mut::<BYTES>()
        .0
        .iter_mut()
        .zip([1u8, 3, 9, 27, 81])
    {
        // A local array cannot overlap `bytes`, which is what lets the unrolled loop become vector instructions.
        let mut digits = [0; BYTES];
        for (trit, &byte) in digits.iter_mut().zip(bytes) {
            *trit = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as i8 - 1;
        }
        *trits = digits;
    }
}

/// Encodes 256 trits (already checked) and a scale given as f16 bytes.
pub(crate) fn encode_tq1_0(trits: &[i8; BLOCK_LEN], scale: [u8; 2]) -> [u8; TQ1_0_BYTES] {
    encode_runs(trits, TQ1_0_RUNS, scale)
}

/// Encodes 128 trits (already checked) and a scale given as f16 bytes.
pub(crate) fn encode_ptq1_0(trits: &[i8; PTQ1_0_LEN], scale: [u8; 2]) -> [u8; PTQ1_0_BYTES] {
    encode_runs(trits, PTQ1_0_RUNS, scale)
}

fn encode_runs<const BYTES: usize>(trits: &[i8], runs: [Run; 3], scale: [u8; 2]) -> [u8; BYTES] {
    let mut block = [0; BYTES];
    let mut start = 0;
    for (first, n_bytes, n_digits) in runs {
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
    block[BYTES - 2..].copy_from_slice(&scale);
    block
}

/// Decodes the trits of a TQ2_0 block: two halves of 32 bytes for 128 values, crumb `s` of byte `m` is value
/// `32 s + m`. A code 3 comes out as 2. Returns the scale.
#[inline]
pub fn decode_tq2_0(block: &[u8; TQ2_0_BYTES], trits: &mut [i8; BLOCK_LEN]) -> f32 {
    for (trits, bytes) in trits
        .chunks_exact_mut(128)
        .zip(block[..64].as_chunks::<32>().0)
    {
        unpack_group(bytes, TQ2_0_SHIFTS, trits);
    }
    f16_at(block, TQ2_0_BYTES - 2)
}

/// Encodes 256 trits (already checked) and a scale given as f16 bytes.
pub(crate) fn encode_tq2_0(trits: &[i8; BLOCK_LEN], scale: [u8; 2]) -> [u8; TQ2_0_BYTES] {
    let mut block = [0; TQ2_0_BYTES];
    for (bytes, trits) in block[..64]
        .as_chunks_mut::<32>()
        .0
        .iter_mut()
        .zip(trits.chunks_exact(128))
    {
        *bytes = pack_group(trits, TQ2_0_SHIFTS);
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
