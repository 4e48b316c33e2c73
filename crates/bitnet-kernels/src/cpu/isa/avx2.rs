//! AVX2: two registers are sixteen lanes.

use std::arch::x86_64::*;

use super::{Isa, LANES, Op};
use crate::cpu::head::{self, BLOCK, CodeBlock, Crumbs, QUADS};
use crate::cpu::i2s::rows::RowQuads;
use crate::cpu::i2s::{self, Tile};

/// Proof that this CPU has AVX2 and F16C.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// Asks the CPU (and the system, whether it saves the registers).
    pub fn new() -> Option<Avx2> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")).then_some(Avx2(()))
    }

    /// Runs `op` compiled for these instructions.
    #[inline]
    pub fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,f16c")]
        fn compiled<O: Op>(isa: Avx2, op: O) -> O::Output {
            op.run(isa)
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { compiled(self, op) }
    }
}

/// An expression for each of two halves. A closure would be compiled without the instruction set unless inlined.
macro_rules! both {
    ($halves:expr, |$half:ident| $body:expr) => {{
        let [$half, high] = $halves;
        let low = $body;
        let $half = high;
        [low, $body]
    }};
}

/// Lanes 0..8 and 8..16.
type Halves = [__m256; 2];

impl Isa for Avx2 {
    type F32x16 = Halves;
    type I32x16 = [__m256i; 2];
    type I8x64 = [__m256i; 2];

    const BIAS: i32 = 0;

    // 8 16-bit sums, 4 registers of unpacked codes, a broadcast and a product: 14 of the 16 registers.
    const PANEL: usize = 8;

    #[inline(always)]
    fn splat(self, v: f32) -> Halves {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_set1_ps(v); 2] }
    }

    #[inline(always)]
    fn splat_f16(self, bits: [u8; 2]) -> Halves {
        // SAFETY: `self` proves AVX2 and F16C.
        unsafe { [_mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(bits))); 2] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Halves {
        // SAFETY: `self` proves AVX2; 64 bytes are readable.
        unsafe {
            [
                _mm256_loadu_ps(from.as_ptr()),
                _mm256_loadu_ps(from.as_ptr().add(8)),
            ]
        }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> Halves {
        // SAFETY: `self` proves AVX2 and F16C; 32 bytes are readable.
        unsafe { both!(eights(from), |eight| _mm256_cvtph_ps(eight)) }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> Halves {
        // SAFETY: `self` proves AVX2; 32 bytes are readable.
        unsafe {
            both!(eights(from), |eight| _mm256_castsi256_ps(
                _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(eight))
            ))
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> Halves {
        // SAFETY: `self` proves AVX2; 16 bytes are readable.
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            both!([bytes, _mm_srli_si128::<8>(bytes)], |eight| {
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight))
            })
        }
    }

    #[inline(always)]
    fn load_i32(self, from: &[i32; LANES]) -> Halves {
        // SAFETY: `self` proves AVX2; 64 bytes are readable.
        unsafe {
            let halves: [__m256i; 2] = [
                _mm256_loadu_si256(from.as_ptr().cast()),
                _mm256_loadu_si256(from.as_ptr().add(8).cast()),
            ];
            both!(halves, |half| _mm256_cvtepi32_ps(half))
        }
    }

    #[inline(always)]
    fn splat_i32(self, v: i32) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_set1_epi32(v); 2] }
    }

    #[inline(always)]
    fn load_i8x64(self, from: &[i8; 4 * LANES]) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX2; 64 bytes are readable.
        unsafe {
            [
                _mm256_loadu_si256(from.as_ptr().cast()),
                _mm256_loadu_si256(from.as_ptr().add(32).cast()),
            ]
        }
    }

    #[inline(always)]
    fn dot4(self, acc: [__m256i; 2], bytes: [__m256i; 2], q: [i8; 4]) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX2. |q| times a byte with the sign of q: two products are at most 2 * 127 * 127, which
        // 16 bits hold.
        unsafe {
            let q = _mm256_set1_epi32(i32::from_le_bytes(q.map(|q| q as u8)));
            let (size, ones) = (_mm256_abs_epi8(q), _mm256_set1_epi16(1));
            let four = both!(bytes, |half| _mm256_madd_epi16(
                _mm256_maddubs_epi16(size, _mm256_sign_epi8(half, q)),
                ones
            ));
            [
                _mm256_add_epi32(acc[0], four[0]),
                _mm256_add_epi32(acc[1], four[1]),
            ]
        }
    }

    #[inline(always)]
    fn load_sums(self, from: &[i32; LANES]) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX2; 64 bytes are readable.
        unsafe {
            [
                _mm256_loadu_si256(from.as_ptr().cast()),
                _mm256_loadu_si256(from.as_ptr().add(8).cast()),
            ]
        }
    }

    #[inline(always)]
    fn store_sums(self, v: [__m256i; 2], to: &mut [i32; LANES]) {
        // SAFETY: `self` proves AVX2; 64 bytes are writable.
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), v[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(8).cast(), v[1]);
        }
    }

    #[inline(always)]
    fn add_sums(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn i32_to_f32(self, v: [__m256i; 2]) -> Halves {
        // SAFETY: `self` proves AVX2.
        unsafe { both!(v, |half| _mm256_cvtepi32_ps(half)) }
    }

    #[inline(always)]
    fn store(self, v: Halves, to: &mut [f32; LANES]) {
        // SAFETY: `self` proves AVX2; 64 bytes are writable.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
        }
    }

    #[inline(always)]
    fn store_i8(self, v: Halves, to: &mut [i8; LANES]) {
        // SAFETY: `self` proves AVX2; 16 bytes are writable. The conversion rounds half to even (MXCSR's default).
        unsafe {
            let [low, high] = both!(v, |half| _mm256_cvtps_epi32(half));
            // Packing works on 128-bit halves: the permutation puts the four groups of four words back in order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let bytes = _mm_packs_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn add(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn div(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn max(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: `self` proves AVX2. The instruction is `a > b ? a : b`.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn min(self, a: Halves, b: Halves) -> Halves {
        // SAFETY: `self` proves AVX2. The instruction is `a < b ? a : b`.
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn abs(self, a: Halves) -> Halves {
        // SAFETY: `self` proves AVX2.
        unsafe { both!(a, |half| _mm256_andnot_ps(_mm256_set1_ps(-0.0), half)) }
    }

    #[inline(always)]
    fn select_lt(self, a: Halves, b: Halves, x: Halves, y: Halves) -> Halves {
        // SAFETY: `self` proves AVX2.
        unsafe {
            [
                _mm256_blendv_ps(y[0], x[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
                _mm256_blendv_ps(y[1], x[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
            ]
        }
    }

    #[inline(always)]
    fn pow2(self, n: Halves) -> Halves {
        // SAFETY: `self` proves AVX2.
        unsafe {
            both!(n, |half| {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(half), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            })
        }
    }

    #[inline(always)]
    fn sum(self, v: Halves) -> f32 {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let eight = _mm256_add_ps(v[0], v[1]);
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, from: &T, ahead: usize) {
        // SAFETY: a prefetch reads nothing architecturally; any address is allowed.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(from).cast::<i8>().wrapping_add(ahead))
        }
    }

    #[inline(always)]
    fn prefetch_near<T>(self, from: &T, ahead: usize) {
        // SAFETY: a prefetch reads nothing architecturally; any address is allowed.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(from).cast::<i8>().wrapping_add(ahead))
        }
    }

    #[inline(always)]
    fn ternary_dot<const T: usize>(
        self,
        tiles: &[Tile],
        quads: &[[[i8; 4]; T]],
        acc: &mut [[i32; LANES]; T],
    ) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::avx2::dot(self, tiles, quads, acc) }
    }

    const SPARSE: bool = true;

    #[inline(always)]
    fn ternary_rows(self, vectors: &[Tile], list: &[u32], quads: &[RowQuads], out: &mut [i32]) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::avx2_sparse::rows(self, vectors, list, quads, out) }
    }

    #[inline(always)]
    fn ternary_columns(self, vectors: &[Tile], list: &[u32], q: &[i8], sums: &mut [i32]) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::avx2_sparse::columns(self, vectors, list, q, sums) }
    }

    #[inline(always)]
    fn code_dot<const P: usize>(
        self,
        block: &CodeBlock,
        quads: &[[[i8; 4]; P]; QUADS],
        acc: &mut [[i32; LANES]; P],
    ) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { head::avx2::code_dot(self, block, quads, acc) }
    }

    #[inline(always)]
    fn crumb_dot(self, crumbs: &Crumbs, q: &[i8; BLOCK]) -> i32 {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { head::avx2::crumb_dot(crumbs, q) }
    }

    #[inline(always)]
    fn int8_rounds(self, rounds: usize) -> u64 {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::avx2::int8_rounds(rounds) }
    }
}

/// 32 bytes as two registers.
///
/// # Safety
/// The CPU has SSE2, as every x86-64 CPU does.
#[inline(always)]
unsafe fn eights(from: &[u8; 2 * LANES]) -> [__m128i; 2] {
    // SAFETY: 32 bytes are readable.
    unsafe {
        [
            _mm_loadu_si128(from.as_ptr().cast()),
            _mm_loadu_si128(from.as_ptr().add(16).cast()),
        ]
    }
}
