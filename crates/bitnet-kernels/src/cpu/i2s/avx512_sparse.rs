//! Products with chosen rows or columns with `vpdpbusd`, see the layouts in [`rows`](super::rows) and
//! [`columns`](super::columns).
//!
//! Chosen rows and columns lie apart, where no hardware prefetcher finds them: the list says what comes, so each line
//! is asked for some hundred lines before it is needed. Crumbs stay where they are, as in the strip product of one
//! token row: masks give 1, 4, 16, 64 times the code, each crumb has its own sum, shifted right once at the end.

use std::arch::x86_64::*;

use super::columns::{BLOCK_ROWS, CHUNK};
use super::rows::RowQuads;
use super::{TILE, Tile};
use crate::cpu::isa::Isa;
use crate::cpu::isa::avx512::Avx512;

/// Rows that share the loads of the activations: 16 sums, 4 codes, 4 masks fill the registers.
const ROWS: usize = 4;

/// Groups of rows between the one in work and the one that is fetched: 160 lines at 2560 columns. Measured on Zen 4: 64
/// lines are slower, 256 no faster.
const GROUPS_AHEAD: usize = 4;

/// See [`Isa::ternary_rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
pub(crate) fn rows(
    isa: Avx512,
    vectors: &[Tile],
    list: &[u32],
    quads: &[RowQuads],
    out: &mut [i32],
) {
    let n = quads.len();
    let masks = masks();
    for (group, out) in out.chunks_mut(ROWS).enumerate() {
        // The last group may be short: it computes its last row more than once.
        let row_at = |i: usize| list[i.min(list.len() - 1)] as usize;
        let rows: [&[Tile]; ROWS] =
            std::array::from_fn(|r| &vectors[row_at(group * ROWS + r) * n..][..n]);
        let ahead: [usize; ROWS] =
            std::array::from_fn(|r| row_at((group + GROUPS_AHEAD) * ROWS + r) * n);
        let mut sums = [[_mm512_setzero_si512(); 4]; ROWS];
        let mut fetched = 0;
        for (v, quads) in quads.iter().enumerate() {
            // Line after line of one row, then of the next: neighbours arrive faster than lines apart.
            for _ in 0..ROWS {
                isa.prefetch_near(&vectors[ahead[fetched / n] + fetched % n], 0);
                fetched += 1;
            }
            let codes: [__m512i; ROWS] = [
                load(&rows[0][v]),
                load(&rows[1][v]),
                load(&rows[2][v]),
                load(&rows[3][v]),
            ];
            for crumb in 0..4 {
                let q = load_q(&quads[crumb]);
                for r in 0..ROWS {
                    let masked = _mm512_and_si512(codes[r], masks[crumb]);
                    sums[r][crumb] = _mm512_dpbusd_epi32(sums[r][crumb], masked, q);
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            let low = _mm512_add_epi32(sums[0], _mm512_srai_epi32::<2>(sums[1]));
            let high = _mm512_add_epi32(
                _mm512_srai_epi32::<4>(sums[2]),
                _mm512_srai_epi32::<6>(sums[3]),
            );
            *out = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
        }
    }
}

/// See [`Isa::ternary_columns`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
pub(crate) fn columns(isa: Avx512, vectors: &[Tile], list: &[u32], q: &[i8], sums: &mut [i32]) {
    let n_blocks = sums.len() / BLOCK_ROWS;
    let masks = masks();
    let quads = q.as_chunks::<4>().0;
    let (chunk_quads, mut next) = (CHUNK / 4, CHUNK);
    let chunks = list.as_chunks::<4>().0.chunks(chunk_quads);
    for (columns, quads) in chunks.zip(quads.chunks(chunk_quads)) {
        // The lines of the next chunk are fetched while this one is in work, column after column.
        let ahead = &list[next.min(list.len())..];
        let (mut fetched_column, mut fetched_line) = (0, 0);
        next += CHUNK;
        for (block, sums) in sums.chunks_exact_mut(BLOCK_ROWS).enumerate() {
            let mut acc = [_mm512_setzero_si512(); 16];
            for (columns, quad) in columns.iter().zip(quads) {
                for _ in 0..4 {
                    let Some(&column) = ahead.get(fetched_column) else {
                        break;
                    };
                    isa.prefetch_near(&vectors[column as usize * n_blocks + fetched_line], 0);
                    fetched_line += 1;
                    if fetched_line == n_blocks {
                        (fetched_column, fetched_line) = (fetched_column + 1, 0);
                    }
                }
                let q = _mm512_set1_epi32(i32::from_le_bytes(quad.map(|q| q as u8)));
                let codes = [
                    load(&vectors[columns[0] as usize * n_blocks + block]),
                    load(&vectors[columns[1] as usize * n_blocks + block]),
                    load(&vectors[columns[2] as usize * n_blocks + block]),
                    load(&vectors[columns[3] as usize * n_blocks + block]),
                ];
                let (low, high) = (
                    _mm512_unpacklo_epi8(codes[0], codes[1]),
                    _mm512_unpackhi_epi8(codes[0], codes[1]),
                );
                let (low2, high2) = (
                    _mm512_unpacklo_epi8(codes[2], codes[3]),
                    _mm512_unpackhi_epi8(codes[2], codes[3]),
                );
                let mixed = [
                    _mm512_unpacklo_epi16(low, low2),
                    _mm512_unpackhi_epi16(low, low2),
                    _mm512_unpacklo_epi16(high, high2),
                    _mm512_unpackhi_epi16(high, high2),
                ];
                for v in 0..4 {
                    for crumb in 0..4 {
                        let masked = _mm512_and_si512(mixed[v], masks[crumb]);
                        acc[4 * v + crumb] = _mm512_dpbusd_epi32(acc[4 * v + crumb], masked, q);
                    }
                }
            }
            let sums = sums.as_chunks_mut::<TILE>().0;
            for v in 0..4 {
                add_to(&mut sums[4 * v], acc[4 * v]);
                add_to(&mut sums[4 * v + 1], _mm512_srai_epi32::<2>(acc[4 * v + 1]));
                add_to(&mut sums[4 * v + 2], _mm512_srai_epi32::<4>(acc[4 * v + 2]));
                add_to(&mut sums[4 * v + 3], _mm512_srai_epi32::<6>(acc[4 * v + 3]));
            }
        }
    }
}

/// Bits of each crumb in every byte.
#[target_feature(enable = "avx512f")]
#[inline]
fn masks() -> [__m512i; 4] {
    [
        _mm512_set1_epi8(3),
        _mm512_set1_epi8(12),
        _mm512_set1_epi8(48),
        _mm512_set1_epi8(192u8 as i8),
    ]
}

/// 64 bytes of codes in a register.
#[target_feature(enable = "avx512f")]
#[inline]
fn load(vector: &Tile) -> __m512i {
    // SAFETY: 64 bytes are readable.
    unsafe { _mm512_loadu_si512(vector.as_ptr().cast()) }
}

/// 64 activations in a register.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_q(q: &[i8; 64]) -> __m512i {
    // SAFETY: 64 bytes are readable.
    unsafe { _mm512_loadu_si512(q.as_ptr().cast()) }
}

/// `sums += acc`.
#[target_feature(enable = "avx512f")]
#[inline]
fn add_to(sums: &mut [i32; TILE], acc: __m512i) {
    // SAFETY: 64 bytes are readable and writable.
    unsafe {
        let total = _mm512_add_epi32(_mm512_loadu_si512(sums.as_ptr().cast()), acc);
        _mm512_storeu_si512(sums.as_mut_ptr().cast(), total);
    }
}
