//! The ternary strip product with `vpmaddubsw`: u8 codes times s8 activations, two products to a 16-bit lane.
//!
//! 16-bit sums are flushed to 32 bits every `FLUSH` tiles. A product of `vpmaddubsw` is at most 2 * 2 * 128 = 512 in
//! magnitude (it saturates only beyond 32767), four of them make a tile, and 8 tiles make 16384: no sum can overflow.
//!
//! For one token row, unpacking is what time goes by. The second and the fourth crumb stay four times too large and have
//! sums of their own, shifted right at each flush: two products to a tile, each of -2048..=2032.

use std::arch::x86_64::*;

use super::Tile;
use crate::cpu::isa::avx2::Avx2;
use crate::cpu::isa::{Isa, LANES};

/// Tiles between two flushes: the most that one token row's sums allow; those of more rows would allow 15.
pub(super) const FLUSH: usize = 8;
const _: () = assert!(FLUSH * 4 * 512 <= i16::MAX as usize);
// Below zero, where activations reach -128; above it a product ends at 2032.
const _: () = assert!(FLUSH * 2 * 2048 <= i16::MIN.unsigned_abs() as usize);

/// How far ahead of the tile in work the stream is prefetched: two pages of 4 KiB, because a hardware prefetcher stops at
/// a page's end. Measured on Zen 4: 4 KiB are slower, 16 KiB no faster. Here it makes no difference on a Zen 5 whether it
/// is fetched into the L2 or the L1 cache.
const AHEAD: usize = 8192;

/// `acc[t][r] += sum of code * q`, see [`Isa::ternary_dot`].
#[target_feature(enable = "avx2,f16c")]
#[inline]
pub(crate) fn dot<const T: usize>(
    isa: Avx2,
    tiles: &[Tile],
    quads: &[[[i8; 4]; T]],
    acc: &mut [[i32; LANES]; T],
) {
    if T == 1 {
        return dot_one(isa, tiles, quads.as_flattened(), &mut acc[0]);
    }
    let quads = quads.as_chunks::<4>().0;
    for (tiles, quads) in tiles.chunks(FLUSH).zip(quads.chunks(FLUSH)) {
        for half in 0..2 {
            let mut sums = [_mm256_setzero_si256(); T];
            for (tile, quads) in tiles.iter().zip(quads) {
                for (codes, quads) in crumbs(half_of(tile, half)).iter().zip(quads) {
                    for t in 0..T {
                        let products = _mm256_maddubs_epi16(*codes, broadcast(quads[t]));
                        sums[t] = _mm256_add_epi16(sums[t], products);
                    }
                }
            }
            for (acc, sum) in acc.iter_mut().zip(sums) {
                let rows = acc[8 * half..]
                    .first_chunk_mut()
                    .expect("a half of 16 rows");
                add_to(rows, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
            }
        }
    }
}

/// One token row: both halves of a tile at once, which share the loads of the activations.
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn dot_one(isa: Avx2, tiles: &[Tile], quads: &[[i8; 4]], acc: &mut [i32; LANES]) {
    let quads = quads.as_chunks::<4>().0;
    let mut totals = [_mm256_setzero_si256(); 2];
    for (tiles, quads) in tiles.chunks(FLUSH).zip(quads.chunks(FLUSH)) {
        let mut sums = [CrumbSums::new(); 2];
        for (tile, quads) in tiles.iter().zip(quads) {
            isa.prefetch(tile, AHEAD);
            let q = quads.map(|quad| broadcast(quad));
            for (half, sums) in sums.iter_mut().enumerate() {
                sums.add(half_of(tile, half), q);
            }
        }
        for (total, sums) in totals.iter_mut().zip(sums) {
            *total = _mm256_add_epi32(*total, sums.total());
        }
    }
    for (rows, total) in acc.as_chunks_mut::<8>().0.iter_mut().zip(totals) {
        add_to(rows, total);
    }
}

/// 16-bit sums of crumbs times activations: of the first and third crumbs, and four times those of the others. They hold
/// what [`FLUSH`] times [`add`](CrumbSums::add) gives.
#[derive(Clone, Copy)]
pub(super) struct CrumbSums {
    ones: __m256i,
    fours: __m256i,
}

impl CrumbSums {
    /// Zeros.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn new() -> CrumbSums {
        CrumbSums {
            ones: _mm256_setzero_si256(),
            fours: _mm256_setzero_si256(),
        }
    }

    /// Adds the four crumbs of every byte times four vectors of activations.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn add(&mut self, codes: __m256i, q: [__m256i; 4]) {
        let crumbs = crumbs_in_place(codes);
        let products = |i: usize| _mm256_maddubs_epi16(crumbs[i], q[i]);
        let (ones, fours) = (
            _mm256_add_epi16(products(0), products(2)),
            _mm256_add_epi16(products(1), products(3)),
        );
        self.ones = _mm256_add_epi16(self.ones, ones);
        self.fours = _mm256_add_epi16(self.fours, fours);
    }

    /// Sums of neighbouring lanes in 32 bits, the fours divided by four.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn total(self) -> __m256i {
        let one = _mm256_set1_epi16(1);
        let fours = _mm256_madd_epi16(self.fours, one);
        _mm256_add_epi32(
            _mm256_madd_epi16(self.ones, one),
            _mm256_srai_epi32::<2>(fours),
        )
    }
}

/// The four crumbs of every byte, the second and the fourth four times as large: one shift instead of three.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn crumbs_in_place(codes: __m256i) -> [__m256i; 4] {
    let (three, twelve) = (_mm256_set1_epi8(3), _mm256_set1_epi8(12));
    let high = _mm256_srli_epi16::<4>(codes);
    [
        _mm256_and_si256(codes, three),
        _mm256_and_si256(codes, twelve),
        _mm256_and_si256(high, three),
        _mm256_and_si256(high, twelve),
    ]
}

/// Half of 64 bytes of codes: of a tile, or of a vector of a row or column.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn half_of(tile: &Tile, half: usize) -> __m256i {
    let bytes = &tile.as_chunks::<32>().0[half];
    // SAFETY: 32 bytes are readable.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The four crumbs of every byte. Bits that a 16-bit shift carries over a byte border are masked off.
#[target_feature(enable = "avx2")]
#[inline]
fn crumbs(codes: __m256i) -> [__m256i; 4] {
    let three = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(codes, three),
        _mm256_and_si256(_mm256_srli_epi16::<2>(codes), three),
        _mm256_and_si256(_mm256_srli_epi16::<4>(codes), three),
        _mm256_and_si256(_mm256_srli_epi16::<6>(codes), three),
    ]
}

/// Four activations in every lane.
#[target_feature(enable = "avx2")]
#[inline]
fn broadcast(quad: [i8; 4]) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(quad.map(|q| q as u8)))
}

/// `acc += sums`.
#[target_feature(enable = "avx2")]
#[inline]
fn add_to(acc: &mut [i32; 8], sums: __m256i) {
    // SAFETY: 32 bytes are readable and writable.
    unsafe {
        let total = _mm256_add_epi32(_mm256_loadu_si256(acc.as_ptr().cast()), sums);
        _mm256_storeu_si256(acc.as_mut_ptr().cast(), total);
    }
}

/// Sums that depend on nothing but themselves: two `vpmaddubsw` and additions of latency 6 together per cycle need 12.
const CHAINS: usize = 12;

/// See [`Isa::int8_rounds`]. Each product reads the last sum: a product of constants would leave the loop.
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) fn int8_rounds(rounds: usize) -> u64 {
    let q = _mm256_set1_epi8(std::hint::black_box(-3));
    let mut sums = [_mm256_set1_epi8(std::hint::black_box(2)); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(*sum, q));
        }
    }
    let total = sums
        .into_iter()
        .fold(_mm256_setzero_si256(), |a, b| _mm256_add_epi16(a, b));
    std::hint::black_box(_mm256_extract_epi16::<0>(total));
    (rounds * CHAINS * 32) as u64
}
