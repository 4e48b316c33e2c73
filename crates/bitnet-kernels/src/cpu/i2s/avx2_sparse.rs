//! Products with chosen rows or columns with `vpmaddubsw`, see the layouts in [`rows`](super::rows) and
//! [`columns`](super::columns).
//!
//! Sums are 16-bit and flushed to 32 bits before they can overflow: a product of `vpmaddubsw` with codes of at most 2 is
//! -512..=508. The second and the fourth crumb make it four times that (see [`avx2`](super::avx2)), so 16 products fit.

use std::arch::x86_64::*;

use super::avx2::{CrumbSums, FLUSH, crumbs_in_place, half_of};
use super::columns::{BLOCK_ROWS, CHUNK};
use super::fetch::{Ahead, fetch};
use super::rows::RowQuads;
use super::{TILE, Tile};
use crate::cpu::isa::avx2::Avx2;
use crate::cpu::isa::{Isa, LANES};

// A pair of columns gives a 16-bit sum one product.
const _: () = assert!(CHUNK / 2 * 2048 <= i16::MIN.unsigned_abs() as usize);

/// See [`Isa::ternary_rows`].
#[target_feature(enable = "avx2,f16c")]
#[inline]
pub(crate) fn rows(isa: Avx2, vectors: &[Tile], list: &[u32], quads: &[RowQuads], out: &mut [i32]) {
    let n = quads.len();
    let mut ahead = Ahead::of(vectors, n, list, LANES);
    for (i, out) in out.iter_mut().enumerate() {
        let row = &vectors[list[i] as usize * n..][..n];
        let next = &vectors[list[(i + 1).min(list.len() - 1)] as usize * n..][..n];
        let mut total = _mm256_setzero_si256();
        let chunks = row.chunks(FLUSH).zip(next.chunks(FLUSH));
        for ((row, next), quads) in chunks.zip(quads.chunks(FLUSH)) {
            let mut sums = [CrumbSums::new(); 2];
            for ((codes, next), quads) in row.iter().zip(next).zip(quads) {
                ahead.step(isa, 1);
                isa.prefetch_near(next, 0);
                for (half, sums) in sums.iter_mut().enumerate() {
                    let q = [0, 1, 2, 3].map(|crumb| half_q(&quads[crumb], half));
                    sums.add(half_of(codes, half), q);
                }
            }
            let both = _mm256_add_epi32(sums[0].total(), sums[1].total());
            total = _mm256_add_epi32(total, both);
        }
        let mut lanes = [0i32; 8];
        // SAFETY: 32 bytes are writable.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), total) };
        *out = lanes.iter().sum();
    }
}

/// See [`Isa::ternary_columns`]. Two columns interleaved bytewise: a 16-bit lane is one row position of both.
#[target_feature(enable = "avx2,f16c")]
#[inline]
pub(crate) fn columns(isa: Avx2, vectors: &[Tile], list: &[u32], q: &[i8], sums: &mut [i32]) {
    let n_blocks = sums.len() / BLOCK_ROWS;
    fetch(isa, vectors, n_blocks, &list[..CHUNK.min(list.len())]);
    let mut ahead = Ahead::of(vectors, n_blocks, list, CHUNK);
    let chunks = list.as_chunks::<2>().0.chunks(CHUNK / 2);
    for (columns, q) in chunks.zip(q.as_chunks::<2>().0.chunks(CHUNK / 2)) {
        for (block, sums) in sums.chunks_exact_mut(BLOCK_ROWS).enumerate() {
            for half in 0..2 {
                // Of two columns a line is read in both halves.
                ahead.step(isa, columns.len());
                let mut acc = [[_mm256_setzero_si256(); 4]; 2];
                for (pair, q) in columns.iter().zip(q) {
                    let q = _mm256_set1_epi16(i16::from_le_bytes(q.map(|q| q as u8)));
                    let [a, b] = pair
                        .map(|column| half_of(&vectors[column as usize * n_blocks + block], half));
                    let mixed = [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
                    for high in 0..2 {
                        let crumbs = crumbs_in_place(mixed[high]);
                        for crumb in 0..4 {
                            let products = _mm256_maddubs_epi16(crumbs[crumb], q);
                            acc[high][crumb] = _mm256_add_epi16(acc[high][crumb], products);
                        }
                    }
                }
                for (high, acc) in acc.into_iter().enumerate() {
                    for (crumb, acc) in acc.into_iter().enumerate() {
                        // The second and the fourth are four times too large.
                        let acc = match crumb % 2 {
                            0 => acc,
                            _ => _mm256_srai_epi16::<2>(acc),
                        };
                        spread(acc, half, high, crumb, sums);
                    }
                }
            }
        }
    }
}

/// Adds 16-bit sums to where their rows are: lane `8k + j` is byte `32 half + 16k + 8 high + j` of the column's vector.
#[target_feature(enable = "avx2")]
#[inline]
fn spread(acc: __m256i, half: usize, high: usize, crumb: usize, sums: &mut [i32]) {
    let sums = sums.as_chunks_mut::<4>().0;
    let halves = [
        _mm256_castsi256_si128(acc),
        _mm256_extracti128_si256::<1>(acc),
    ];
    for (k, eight) in halves.into_iter().enumerate() {
        let wide = _mm256_cvtepi16_epi32(eight);
        let fours = [
            _mm256_castsi256_si128(wide),
            _mm256_extracti128_si256::<1>(wide),
        ];
        for (j, four) in fours.into_iter().enumerate() {
            let v = 2 * high + j;
            let to = &mut sums[(4 * v + crumb) * (TILE / 4) + 2 * half + k];
            // SAFETY: 16 bytes are readable and writable.
            unsafe {
                let total = _mm_add_epi32(_mm_loadu_si128(to.as_ptr().cast()), four);
                _mm_storeu_si128(to.as_mut_ptr().cast(), total);
            }
        }
    }
}

/// Half of a vector of activations.
#[target_feature(enable = "avx2")]
#[inline]
fn half_q(q: &[i8; 64], half: usize) -> __m256i {
    // SAFETY: 32 bytes are readable.
    unsafe { _mm256_loadu_si256(q.as_chunks::<32>().0[half].as_ptr().cast()) }
}
