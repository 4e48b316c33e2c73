//! Products with chosen rows or columns with `vpdpbusd`, and lists of them with `vpcompressd`, see the layouts in
//! [`rows`](super::rows) and [`columns`](super::columns).
//!
//! Crumbs stay where they are, as in the strip product of one token row: masks give 1, 4, 16, 64 times the code, each
//! crumb has its own sum, shifted right once at the end. How rows and columns come from memory: [`fetch`](super::fetch).

use std::arch::x86_64::*;

use super::columns::{BLOCK_ROWS, CHUNK};
use super::fetch::{Ahead, fetch, to_next_block};
use super::rows::RowQuads;
use super::{TILE, Tile, scalar_sparse};
use crate::cpu::isa::avx512::Avx512;
use crate::cpu::isa::{Isa, LANES};

/// Rows that share the loads of the activations: 16 sums, 4 codes, 4 masks fill the registers.
const ROWS: usize = 4;

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
    let mut ahead = Ahead::of(vectors, n, list, LANES);
    for (group, out) in out.chunks_mut(ROWS).enumerate() {
        // The last group may be short: it computes its last row more than once.
        let row_at = |i: usize| &vectors[list[i.min(list.len() - 1)] as usize * n..][..n];
        let rows: [&[Tile]; ROWS] = std::array::from_fn(|r| row_at(group * ROWS + r));
        let next: [&[Tile]; ROWS] = std::array::from_fn(|r| row_at((group + 1) * ROWS + r));
        let mut sums = [[_mm512_setzero_si512(); 4]; ROWS];
        for (v, quads) in quads.iter().enumerate() {
            ahead.step(isa, ROWS);
            for next in next {
                isa.prefetch_near(&next[v], 0);
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
    fetch(isa, vectors, n_blocks, &list[..CHUNK.min(list.len())]);
    let mut ahead = Ahead::of(vectors, n_blocks, list, CHUNK);
    let chunks = list.as_chunks::<4>().0.chunks(CHUNK / 4);
    for (columns, quads) in chunks.zip(quads.chunks(CHUNK / 4)) {
        for (block, sums) in sums.chunks_exact_mut(BLOCK_ROWS).enumerate() {
            let to_next = to_next_block(block, n_blocks);
            let mut acc = [_mm512_setzero_si512(); 16];
            for (columns, quad) in columns.iter().zip(quads) {
                ahead.step(isa, columns.len());
                let q = _mm512_set1_epi32(i32::from_le_bytes(quad.map(|q| q as u8)));
                let codes = columns.map(|column| {
                    let vector = &vectors[column as usize * n_blocks + block];
                    isa.prefetch_near(vector, to_next);
                    load(vector)
                });
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

/// See [`Isa::list_nonzero`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
pub(crate) fn list_nonzero(q: &[i8], list: &mut [u32], kept: &mut [i8]) -> usize {
    let (groups, rest) = q.as_chunks::<LANES>();
    let mut places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let mut n = 0;
    for q in groups {
        // SAFETY: 16 bytes are readable: `q` is an array of 16.
        let q = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(q.as_ptr().cast()) });
        let is_kept = _mm512_test_epi32_mask(q, q);
        let (list, kept) = (&mut list[n..][..LANES], &mut kept[n..][..LANES]);
        // SAFETY: 16 elements of either are writable, as they were cut above.
        unsafe {
            let places = _mm512_maskz_compress_epi32(is_kept, places);
            _mm512_storeu_si512(list.as_mut_ptr().cast(), places);
            let q = _mm512_cvtepi32_epi8(_mm512_maskz_compress_epi32(is_kept, q));
            _mm_storeu_si128(kept.as_mut_ptr().cast(), q);
        }
        n += is_kept.count_ones() as usize;
        places = _mm512_add_epi32(places, _mm512_set1_epi32(LANES as i32));
    }
    let before = q.len() - rest.len();
    let found = scalar_sparse::list_nonzero(rest, &mut list[n..], &mut kept[n..]);
    list[n..][..found]
        .iter_mut()
        .for_each(|place| *place += before as u32);
    n + found
}

/// See [`Isa::list_positive`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
pub(crate) fn list_positive(x: &[f32], list: &mut [u32]) -> usize {
    let (groups, rest) = x.as_chunks::<LANES>();
    let mut places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let mut n = 0;
    for x in groups {
        // SAFETY: 64 bytes are readable.
        let x = unsafe { _mm512_loadu_ps(x.as_ptr()) };
        let is_kept = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_setzero_ps());
        let list = &mut list[n..][..LANES];
        // SAFETY: 16 elements are writable, as they were cut above.
        unsafe {
            let places = _mm512_maskz_compress_epi32(is_kept, places);
            _mm512_storeu_si512(list.as_mut_ptr().cast(), places);
        }
        n += is_kept.count_ones() as usize;
        places = _mm512_add_epi32(places, _mm512_set1_epi32(LANES as i32));
    }
    let before = x.len() - rest.len();
    let found = scalar_sparse::list_positive(rest, &mut list[n..]);
    list[n..][..found]
        .iter_mut()
        .for_each(|place| *place += before as u32);
    n + found
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
