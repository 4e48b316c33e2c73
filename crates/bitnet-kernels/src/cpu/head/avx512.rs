//! The scan's product with `vpdpbusd`: u8 codes times s8 activations, four products to a 32-bit lane.
//!
//! A nibble and the top bit of its code are put together in a register (a shift, a mask and one `vpternlog` for 64 codes)
//! and used by all token rows. Sums are exact: 31 * 128 * 128 is far from 2^31.

use std::arch::x86_64::*;

use super::{CodeBlock, NIBBLE_LINES, QUADS};
use crate::cpu::isa::avx512::Avx512;
use crate::cpu::isa::{Isa, LANES};

/// How far ahead of the line in work the stream is prefetched, as for ternary weights.
const AHEAD: usize = 8192;

/// Token rows up to which two chains of sums a row fit into the registers beside codes and masks.
const TWO_CHAINS: usize = 8;

/// `acc[p][r] += sum of code * q`, see [`Isa::code_dot`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
pub(crate) fn code_dot<const P: usize>(
    isa: Avx512,
    block: &CodeBlock,
    quads: &[[[i8; 4]; P]; QUADS],
    acc: &mut [[i32; LANES]; P],
) {
    let (nibble, bit) = (_mm512_set1_epi8(15), _mm512_set1_epi8(16));
    // With few token rows the latency of one chain would be the limit.
    let odd = usize::from(P <= TWO_CHAINS);
    let mut sums = [[_mm512_setzero_si512(); P]; 2];
    let (nibbles, tops) = block.split_at(NIBBLE_LINES);
    for (group, top) in tops.iter().enumerate() {
        isa.prefetch(top, AHEAD);
        // Bit p of every byte moved to bit 4; what a 16-bit shift carries over a byte border is masked off below.
        let t = load(top);
        let tops = [
            _mm512_slli_epi16::<4>(t),
            _mm512_slli_epi16::<3>(t),
            _mm512_slli_epi16::<2>(t),
            _mm512_slli_epi16::<1>(t),
            t,
            _mm512_srli_epi16::<1>(t),
            _mm512_srli_epi16::<2>(t),
            _mm512_srli_epi16::<3>(t),
        ];
        for i in 0..4 {
            let line = &nibbles[4 * group + i];
            isa.prefetch(line, AHEAD);
            let codes = load(line);
            let low = _mm512_or_si512(
                _mm512_and_si512(codes, nibble),
                _mm512_and_si512(tops[2 * i], bit),
            );
            let high = _mm512_or_si512(
                _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble),
                _mm512_and_si512(tops[2 * i + 1], bit),
            );
            let quads = &quads[8 * group + 2 * i..][..2];
            for p in 0..P {
                sums[0][p] = _mm512_dpbusd_epi32(sums[0][p], low, broadcast(quads[0][p]));
            }
            for p in 0..P {
                sums[odd][p] = _mm512_dpbusd_epi32(sums[odd][p], high, broadcast(quads[1][p]));
            }
        }
    }
    for (p, acc) in acc.iter_mut().enumerate() {
        let sum = if odd == 1 {
            _mm512_add_epi32(sums[0][p], sums[1][p])
        } else {
            sums[0][p]
        };
        // SAFETY: 64 bytes are readable and writable.
        unsafe {
            let total = _mm512_add_epi32(_mm512_loadu_si512(acc.as_ptr().cast()), sum);
            _mm512_storeu_si512(acc.as_mut_ptr().cast(), total);
        }
    }
}

/// A line in a register.
#[target_feature(enable = "avx512f")]
#[inline]
fn load(line: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes are readable.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

/// Four activations in every lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(quad: [i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(quad.map(|q| q as u8)))
}
