//! The ternary strip product with `vpdpbusd`: u8 codes times s8 activations, four products to a 32-bit lane.
//!
//! ```text
//! one token row:   the crumbs stay where they are: masks 3, 12, 48, 192 give 1, 4, 16, 64 times the code, each crumb
//!                  has its own sum, and the sums are shifted right once at the end. 4 masks + 4 products a tile.
//! more token rows: crumbs are shifted down once and used by all rows.
//! ```
//!
//! `vpdpbusd` sums in 32 bits without saturation. The widest sum is the last crumb's of one token row: 64 * 2 * 128 for
//! each of a quarter of the columns, below 2^31 for [`MAX_COLS`](super::MAX_COLS); it is a multiple of 64, so the
//! arithmetic shift is exact. Layout and tricks: `design.md` 8.5.

use std::arch::x86_64::*;

use super::Tile;
use crate::cpu::isa::avx512::Avx512;
use crate::cpu::isa::{Isa, LANES};

/// How far ahead of the tile in work the stream is prefetched: two pages of 4 KiB, because a hardware prefetcher stops at
/// a page's end. Measured on Zen 4, into the L2 cache: 4 KiB are slower, 16 KiB no faster. For one token row it is fetched
/// into the L1 cache: a token of 2B-4T takes a Zen 5 1 to 5 % less time.
pub(crate) const AHEAD: usize = 8192;

/// `acc[t][r] += sum of code * q`, see [`Isa::ternary_dot`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
pub(crate) fn dot<const T: usize>(
    isa: Avx512,
    tiles: &[Tile],
    quads: &[[[i8; 4]; T]],
    acc: &mut [[i32; LANES]; T],
) {
    let quads = quads.as_chunks::<4>().0;
    if T == 1 {
        let mut sums = [_mm512_setzero_si512(); 4];
        for (tile, quads) in tiles.iter().zip(quads) {
            isa.prefetch_near(tile, AHEAD);
            let codes = load(tile);
            for crumb in 0..4 {
                let masked = _mm512_and_si512(codes, _mm512_set1_epi8((3u8 << (2 * crumb)) as i8));
                sums[crumb] = _mm512_dpbusd_epi32(sums[crumb], masked, broadcast(quads[crumb][0]));
            }
        }
        let low = _mm512_add_epi32(sums[0], _mm512_srai_epi32::<2>(sums[1]));
        let high = _mm512_add_epi32(
            _mm512_srai_epi32::<4>(sums[2]),
            _mm512_srai_epi32::<6>(sums[3]),
        );
        add_to(&mut acc[0], _mm512_add_epi32(low, high));
    } else {
        let three = _mm512_set1_epi8(3);
        let mut sums = [_mm512_setzero_si512(); T];
        for (tile, quads) in tiles.iter().zip(quads) {
            isa.prefetch(tile, AHEAD);
            let codes = load(tile);
            // Bits that a 16-bit shift carries over a byte border are masked off.
            let crumbs = [
                _mm512_and_si512(codes, three),
                _mm512_and_si512(_mm512_srli_epi16::<2>(codes), three),
                _mm512_and_si512(_mm512_srli_epi16::<4>(codes), three),
                _mm512_and_si512(_mm512_srli_epi16::<6>(codes), three),
            ];
            for (crumb, quads) in crumbs.iter().zip(quads) {
                for t in 0..T {
                    sums[t] = _mm512_dpbusd_epi32(sums[t], *crumb, broadcast(quads[t]));
                }
            }
        }
        for (acc, sum) in acc.iter_mut().zip(sums) {
            add_to(acc, sum);
        }
    }
}

/// A tile in a register.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn load(tile: &Tile) -> __m512i {
    // SAFETY: 64 bytes are readable.
    unsafe { _mm512_loadu_si512(tile.as_ptr().cast()) }
}

/// Four activations in every lane.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn broadcast(quad: [i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(quad.map(|q| q as u8)))
}

/// `acc += sums`.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn add_to(acc: &mut [i32; LANES], sums: __m512i) {
    // SAFETY: 64 bytes are readable and writable.
    unsafe {
        let total = _mm512_add_epi32(_mm512_loadu_si512(acc.as_ptr().cast()), sums);
        _mm512_storeu_si512(acc.as_mut_ptr().cast(), total);
    }
}

/// Sums that depend on nothing but themselves: two `vpdpbusd` of latency 5 per cycle need 10.
const CHAINS: usize = 12;

/// See [`Isa::int8_rounds`].
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
pub(crate) fn int8_rounds(rounds: usize) -> u64 {
    let (codes, q) = (
        _mm512_set1_epi8(std::hint::black_box(2)),
        _mm512_set1_epi8(std::hint::black_box(-3)),
    );
    let mut sums = [_mm512_setzero_si512(); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, codes, q);
        }
    }
    let total = sums
        .into_iter()
        .fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi32(a, b));
    std::hint::black_box(_mm512_reduce_add_epi32(total));
    (rounds * CHAINS * 64) as u64
}
