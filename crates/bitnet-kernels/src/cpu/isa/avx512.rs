//! AVX-512 with VNNI: one register is sixteen lanes.
//!
//! `avx512f` brings FMA with it; nothing here uses it, and rustc never contracts a product and a sum.

use std::arch::x86_64::*;

use super::{Isa, LANES, Op};
use crate::cpu::head::{self, BLOCK, CodeBlock, Crumbs, QUADS};
use crate::cpu::i2s::rows::RowQuads;
use crate::cpu::i2s::{self, Tile};
use crate::cpu::t5;

/// Proof that this CPU has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Debug, Clone, Copy)]
pub struct Avx512 {
    vbmi: bool, // proof of VBMI too
}

impl Avx512 {
    /// Asks the CPU (and the system, whether it saves the registers).
    pub fn new() -> Option<Avx512> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        let vbmi = is_x86_feature_detected!("avx512vbmi");
        found.then_some(Avx512 { vbmi })
    }

    /// Whether the CPU has VBMI, without which weights of five a byte are as slow as in plain Rust.
    pub const fn has_vbmi(self) -> bool {
        self.vbmi
    }

    /// Runs `op` compiled for these instructions.
    #[inline]
    pub fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn compiled<O: Op>(isa: Avx512, op: O) -> O::Output {
            op.run(isa)
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { compiled(self, op) }
    }
}

impl Isa for Avx512 {
    type F32x16 = __m512;
    type I32x16 = __m512i;
    type I8x64 = __m512i;

    const BIAS: i32 = 128;

    // 16 sums, 4 registers of unpacked codes, a broadcast: 21 of the 32 registers, and enough independent chains for
    // two vpdpbusd of latency 5 per cycle.
    const PANEL: usize = 16;

    #[inline(always)]
    fn splat(self, v: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_set1_ps(v) }
    }

    #[inline(always)]
    fn splat_f16(self, bits: [u8; 2]) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes(bits))) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512F; 64 bytes are readable.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512F; 32 bytes are readable.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512F; 32 bytes are readable.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512F; 16 bytes are readable.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_i32(self, from: &[i32; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512F; 64 bytes are readable.
        unsafe { _mm512_cvtepi32_ps(_mm512_loadu_si512(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn splat_i32(self, v: i32) -> __m512i {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_set1_epi32(v) }
    }

    #[inline(always)]
    fn load_i8x64(self, from: &[i8; 4 * LANES]) -> __m512i {
        // SAFETY: `self` proves AVX-512F; 64 bytes are readable. Turning the sign bit over adds 128.
        unsafe {
            _mm512_xor_si512(
                _mm512_loadu_si512(from.as_ptr().cast()),
                _mm512_set1_epi8(i8::MIN),
            )
        }
    }

    #[inline(always)]
    fn dot4(self, acc: __m512i, bytes: __m512i, q: [i8; 4]) -> __m512i {
        let q = i32::from_le_bytes(q.map(|q| q as u8));
        // SAFETY: `self` proves AVX-512 VNNI.
        unsafe { _mm512_dpbusd_epi32(acc, bytes, _mm512_set1_epi32(q)) }
    }

    #[inline(always)]
    fn load_sums(self, from: &[i32; LANES]) -> __m512i {
        // SAFETY: `self` proves AVX-512F; 64 bytes are readable.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_sums(self, v: __m512i, to: &mut [i32; LANES]) {
        // SAFETY: `self` proves AVX-512F; 64 bytes are writable.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) }
    }

    #[inline(always)]
    fn add_sums(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn i32_to_f32(self, v: __m512i) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; LANES]) {
        // SAFETY: `self` proves AVX-512F; 64 bytes are writable.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn store_i8(self, v: __m512, to: &mut [i8; LANES]) {
        // SAFETY: `self` proves AVX-512F; 16 bytes are writable. The conversion rounds half to even (MXCSR's default).
        unsafe {
            _mm_storeu_si128(
                to.as_mut_ptr().cast(),
                _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)),
            )
        }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F. The instruction is `a > b ? a : b`.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F. The instruction is `a < b ? a : b`.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_abs_ps(a) }
    }

    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }

    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: `self` proves AVX-512F and DQ.
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
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
        unsafe { i2s::avx512::dot(self, tiles, quads, acc) }
    }

    const SPARSE: bool = true;

    #[inline(always)]
    fn ternary_rows(self, vectors: &[Tile], list: &[u32], quads: &[RowQuads], out: &mut [i32]) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::avx512_sparse::rows(self, vectors, list, quads, out) }
    }

    #[inline(always)]
    fn ternary_columns(self, vectors: &[Tile], list: &[u32], q: &[i8], sums: &mut [i32]) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::avx512_sparse::columns(self, vectors, list, q, sums) }
    }

    #[inline(always)]
    fn list_nonzero(self, q: &[i8], list: &mut [u32], kept: &mut [i8]) -> usize {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::avx512_sparse::list_nonzero(q, list, kept) }
    }

    #[inline(always)]
    fn list_positive(self, x: &[f32], list: &mut [u32]) -> usize {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::avx512_sparse::list_positive(x, list) }
    }

    #[inline(always)]
    fn t5_dot<const T: usize>(
        self,
        tiles: &[Tile],
        quads: &[[[i8; 4]; T]],
        acc: &mut [[i32; LANES]; T],
    ) {
        if self.vbmi {
            // SAFETY: `self` proves the features that the function is compiled for.
            unsafe { t5::avx512::dot(self, tiles, quads, acc) }
        } else {
            t5::scalar::dot(tiles, quads, acc);
        }
    }

    #[inline(always)]
    fn code_dot<const P: usize>(
        self,
        block: &CodeBlock,
        quads: &[[[i8; 4]; P]; QUADS],
        acc: &mut [[i32; LANES]; P],
    ) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { head::avx512::code_dot(self, block, quads, acc) }
    }

    #[inline(always)]
    fn crumb_dot(self, crumbs: &Crumbs, q: &[i8; BLOCK]) -> i32 {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { head::avx2::crumb_dot(crumbs, q) }
    }

    #[inline(always)]
    fn int8_rounds(self, rounds: usize) -> u64 {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::avx512::int8_rounds(rounds) }
    }
}
