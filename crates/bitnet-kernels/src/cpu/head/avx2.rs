//! The two integer products with `vpmaddubsw`: u8 codes times s8 activations, two products to a 16-bit lane.
//!
//! A product of the scan is at most 2 * 31 * 128 = 7936 in magnitude, so four of them fit into 16 bits before they are
//! flushed to 32; the four crumb products of a block, 2 * 3 * 128 each, fit as well.

use std::arch::x86_64::*;

use super::{BLOCK, CodeBlock, Crumbs, QUADS};
use crate::cpu::isa::avx2::Avx2;
use crate::cpu::isa::{Isa, LANES};

/// Quads between two flushes.
const FLUSH: usize = 4;
const _: () = assert!(FLUSH * 2 * 31 * 128 <= i16::MAX as usize);

/// How far ahead of the line in work the stream is prefetched, as for ternary weights.
const AHEAD: usize = 8192;

/// `acc[p][r] += sum of code * q`, see [`Isa::code_dot`].
#[target_feature(enable = "avx2,f16c")]
#[inline]
pub(crate) fn code_dot<const P: usize>(
    isa: Avx2,
    block: &CodeBlock,
    quads: &[[[i8; 4]; P]; QUADS],
    acc: &mut [[i32; LANES]; P],
) {
    let nibble = _mm256_set1_epi8(0x0f);
    let (low_fifth, high_fifth) = (_mm256_set1_epi8(0x10), _mm256_set1_epi8(0x08));
    let (code, ones) = (_mm256_set1_epi8(0x1f), _mm256_set1_epi16(1));
    for half in 0..2 {
        let mut totals = [_mm256_setzero_si256(); P];
        for (group, [fifths, nibbles @ ..]) in block.iter().enumerate() {
            if P <= 2 && half == 0 {
                isa.prefetch(fifths, AHEAD);
            }
            // In bits 4 and 3; what a 16-bit shift carries over a byte border is masked off below.
            let bits = half_of(fifths, half);
            let fifths = [
                [bits; 2],
                [_mm256_srli_epi16::<2>(bits); 2],
                [_mm256_slli_epi16::<2>(bits); 2],
                [_mm256_srli_epi16::<3>(bits), _mm256_slli_epi16::<3>(bits)],
            ];
            for pair in 0..2 {
                let mut sums = [_mm256_setzero_si256(); P];
                for i in 2 * pair..2 * pair + 2 {
                    let line = &nibbles[i];
                    if P <= 2 && half == 0 {
                        isa.prefetch(line, AHEAD);
                    }
                    let codes = half_of(line, half);
                    let low = _mm256_or_si256(
                        _mm256_and_si256(codes, nibble),
                        _mm256_and_si256(fifths[i][0], low_fifth),
                    );
                    let high = _mm256_or_si256(
                        _mm256_andnot_si256(nibble, codes),
                        _mm256_and_si256(fifths[i][1], high_fifth),
                    );
                    let high = _mm256_and_si256(_mm256_srli_epi16::<3>(high), code);
                    let quads = &quads[8 * group + 2 * i..][..2];
                    for p in 0..P {
                        let low = _mm256_maddubs_epi16(low, broadcast(quads[0][p]));
                        let high = _mm256_maddubs_epi16(high, broadcast(quads[1][p]));
                        sums[p] = _mm256_add_epi16(sums[p], _mm256_add_epi16(low, high));
                    }
                }
                for p in 0..P {
                    totals[p] = _mm256_add_epi32(totals[p], _mm256_madd_epi16(sums[p], ones));
                }
            }
        }
        for (acc, total) in acc.iter_mut().zip(totals) {
            let rows = &mut acc.as_chunks_mut::<8>().0[half];
            // SAFETY: 32 bytes are readable and writable.
            unsafe {
                let total = _mm256_add_epi32(_mm256_loadu_si256(rows.as_ptr().cast()), total);
                _mm256_storeu_si256(rows.as_mut_ptr().cast(), total);
            }
        }
    }
}

/// `sum of crumb * q`, see [`Isa::crumb_dot`].
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) fn crumb_dot(crumbs: &Crumbs, q: &[i8; BLOCK]) -> i32 {
    let three = _mm256_set1_epi8(3);
    // SAFETY: 32 bytes are readable.
    let stored = unsafe { _mm256_loadu_si256(crumbs.as_ptr().cast()) };
    let crumbs = [
        _mm256_and_si256(stored, three),
        _mm256_and_si256(_mm256_srli_epi16::<2>(stored), three),
        _mm256_and_si256(_mm256_srli_epi16::<4>(stored), three),
        _mm256_and_si256(_mm256_srli_epi16::<6>(stored), three),
    ];
    let mut sums = _mm256_setzero_si256();
    for (crumbs, q) in crumbs.into_iter().zip(q.as_chunks::<32>().0) {
        // SAFETY: 32 bytes are readable.
        let q = unsafe { _mm256_loadu_si256(q.as_ptr().cast()) };
        sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(crumbs, q));
    }
    let eight = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
    let four = _mm_add_epi32(
        _mm256_castsi256_si128(eight),
        _mm256_extracti128_si256::<1>(eight),
    );
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
}

/// Eight rows of a line.
#[target_feature(enable = "avx2")]
#[inline]
fn half_of(line: &[u8; 64], half: usize) -> __m256i {
    let bytes = &line.as_chunks::<32>().0[half];
    // SAFETY: 32 bytes are readable.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Four activations in every lane.
#[target_feature(enable = "avx2")]
#[inline]
fn broadcast(quad: [i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(quad.map(|q| q as u8)))
}
