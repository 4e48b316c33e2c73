//! NEON: four registers are sixteen lanes. Two capabilities: every AArch64 CPU has the first, newer ones `sdot`.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Isa, LANES, Op};
use crate::cpu::head::{self, BLOCK, CodeBlock, Crumbs, QUADS};
use crate::cpu::i2s::rows::RowQuads;
use crate::cpu::i2s::{self, Tile};

/// Proof that this CPU has NEON.
#[derive(Debug, Clone, Copy)]
pub struct Neon(());

/// Proof that this CPU has NEON and the int8 dot product (`FEAT_DotProd`, Cortex-A55/A76 and later, Apple A11 and later).
#[derive(Debug, Clone, Copy)]
pub struct NeonDot(Neon);

impl Neon {
    /// Asks the CPU.
    pub fn new() -> Option<Neon> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    /// Runs `op` compiled for these instructions.
    #[inline]
    pub fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "neon")]
        fn compiled<O: Op>(isa: Neon, op: O) -> O::Output {
            op.run(isa)
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { compiled(self, op) }
    }
}

impl NeonDot {
    /// Asks the CPU.
    pub fn new() -> Option<NeonDot> {
        Neon::new()
            .filter(|_| std::arch::is_aarch64_feature_detected!("dotprod"))
            .map(NeonDot)
    }

    /// Runs `op` compiled for these instructions.
    #[inline]
    pub fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "neon,dotprod")]
        fn compiled<O: Op>(isa: NeonDot, op: O) -> O::Output {
            op.run(isa)
        }
        // SAFETY: `self` proves that the CPU has the features.
        unsafe { compiled(self, op) }
    }
}

/// Lanes 0..4, 4..8, 8..12, 12..16.
type Quarters = [float32x4_t; 4];

/// A lane-wise operation on quarters.
macro_rules! lanewise {
    ($op:ident, $a:expr, $b:expr) => {
        // SAFETY: a value of the implementing type proves NEON.
        unsafe {
            [
                $op($a[0], $b[0]),
                $op($a[1], $b[1]),
                $op($a[2], $b[2]),
                $op($a[3], $b[3]),
            ]
        }
    };
}

impl Isa for Neon {
    type F32x16 = Quarters;
    type I32x16 = [int32x4_t; 4];
    type I8x64 = [int8x16_t; 4];

    const BIAS: i32 = 0;

    // 8 sums, 4 registers of unpacked codes, a broadcast and products, of 32.
    const PANEL: usize = 8;

    #[inline(always)]
    fn splat(self, v: f32) -> Quarters {
        // SAFETY: `self` proves NEON.
        unsafe { [vdupq_n_f32(v); 4] }
    }

    #[inline(always)]
    fn splat_f16(self, bits: [u8; 2]) -> Quarters {
        self.load_f16(
            [bits; LANES]
                .as_flattened()
                .first_chunk()
                .expect("16 pairs are 32 bytes"),
        )
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Quarters {
        // SAFETY: `self` proves NEON; 16 floats are readable.
        unsafe { [0, 4, 8, 12].map(|i| vld1q_f32(from.as_ptr().add(i))) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> Quarters {
        let widen = |i: usize| {
            let wide: float32x4_t;
            // SAFETY: `self` proves NEON, of which `fcvtl` is a part; 8 bytes at 2 * i <= 24 are readable.
            unsafe {
                let halves = vld1_u8(from.as_ptr().add(2 * i));
                asm!("fcvtl {wide:v}.4s, {halves:v}.4h", wide = out(vreg) wide, halves = in(vreg) halves,
                     options(pure, nomem, nostack, preserves_flags));
            }
            wide
        };
        [0, 4, 8, 12].map(widen)
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> Quarters {
        // SAFETY: `self` proves NEON; 8 bytes at 2 * i <= 24 are readable.
        unsafe {
            [0, 4, 8, 12].map(|i| {
                let bits = vreinterpret_u16_u8(vld1_u8(from.as_ptr().add(2 * i)));
                vreinterpretq_f32_u32(vshll_n_u16::<16>(bits))
            })
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> Quarters {
        // SAFETY: `self` proves NEON; 16 bytes are readable.
        unsafe {
            let bytes = vld1q_s8(from.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        }
    }

    #[inline(always)]
    fn load_i32(self, from: &[i32; LANES]) -> Quarters {
        // SAFETY: `self` proves NEON; 16 integers are readable.
        unsafe { [0, 4, 8, 12].map(|i| vcvtq_f32_s32(vld1q_s32(from.as_ptr().add(i)))) }
    }

    #[inline(always)]
    fn splat_i32(self, v: i32) -> [int32x4_t; 4] {
        // SAFETY: `self` proves NEON.
        unsafe { [vdupq_n_s32(v); 4] }
    }

    #[inline(always)]
    fn load_i8x64(self, from: &[i8; 4 * LANES]) -> [int8x16_t; 4] {
        // SAFETY: `self` proves NEON; 64 bytes are readable.
        unsafe {
            [
                vld1q_s8(from.as_ptr()),
                vld1q_s8(from.as_ptr().add(16)),
                vld1q_s8(from.as_ptr().add(32)),
                vld1q_s8(from.as_ptr().add(48)),
            ]
        }
    }

    #[inline(always)]
    fn dot4(self, acc: [int32x4_t; 4], bytes: [int8x16_t; 4], q: [i8; 4]) -> [int32x4_t; 4] {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::neon::dot4_by_smull(acc, bytes, q) }
    }

    #[inline(always)]
    fn load_sums(self, from: &[i32; LANES]) -> [int32x4_t; 4] {
        // SAFETY: `self` proves NEON; 64 bytes are readable.
        unsafe {
            [
                vld1q_s32(from.as_ptr()),
                vld1q_s32(from.as_ptr().add(4)),
                vld1q_s32(from.as_ptr().add(8)),
                vld1q_s32(from.as_ptr().add(12)),
            ]
        }
    }

    #[inline(always)]
    fn store_sums(self, v: [int32x4_t; 4], to: &mut [i32; LANES]) {
        // SAFETY: `self` proves NEON; 64 bytes are writable.
        unsafe {
            vst1q_s32(to.as_mut_ptr(), v[0]);
            vst1q_s32(to.as_mut_ptr().add(4), v[1]);
            vst1q_s32(to.as_mut_ptr().add(8), v[2]);
            vst1q_s32(to.as_mut_ptr().add(12), v[3]);
        }
    }

    #[inline(always)]
    fn add_sums(self, a: [int32x4_t; 4], b: [int32x4_t; 4]) -> [int32x4_t; 4] {
        // SAFETY: `self` proves NEON.
        unsafe {
            [
                vaddq_s32(a[0], b[0]),
                vaddq_s32(a[1], b[1]),
                vaddq_s32(a[2], b[2]),
                vaddq_s32(a[3], b[3]),
            ]
        }
    }

    #[inline(always)]
    fn i32_to_f32(self, v: [int32x4_t; 4]) -> Quarters {
        // SAFETY: `self` proves NEON.
        unsafe {
            [
                vcvtq_f32_s32(v[0]),
                vcvtq_f32_s32(v[1]),
                vcvtq_f32_s32(v[2]),
                vcvtq_f32_s32(v[3]),
            ]
        }
    }

    #[inline(always)]
    fn store(self, v: Quarters, to: &mut [f32; LANES]) {
        for (quarter, to) in v.into_iter().zip(to.as_chunks_mut::<4>().0) {
            // SAFETY: `self` proves NEON; 4 floats are writable.
            unsafe { vst1q_f32(to.as_mut_ptr(), quarter) }
        }
    }

    #[inline(always)]
    fn store_i8(self, v: Quarters, to: &mut [i8; LANES]) {
        // SAFETY: `self` proves NEON; 16 bytes are writable. `fcvtns` rounds half to even.
        unsafe {
            let words = v.map(|quarter| vmovn_s32(vcvtnq_s32_f32(quarter)));
            let (low, high) = (
                vcombine_s16(words[0], words[1]),
                vcombine_s16(words[2], words[3]),
            );
            vst1q_s8(
                to.as_mut_ptr(),
                vcombine_s8(vmovn_s16(low), vmovn_s16(high)),
            );
        }
    }

    #[inline(always)]
    fn add(self, a: Quarters, b: Quarters) -> Quarters {
        lanewise!(vaddq_f32, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Quarters, b: Quarters) -> Quarters {
        lanewise!(vsubq_f32, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Quarters, b: Quarters) -> Quarters {
        lanewise!(vmulq_f32, a, b)
    }

    #[inline(always)]
    fn div(self, a: Quarters, b: Quarters) -> Quarters {
        lanewise!(vdivq_f32, a, b)
    }

    #[inline(always)]
    fn max(self, a: Quarters, b: Quarters) -> Quarters {
        // Not `fmax`: it returns NaN where one is NaN.
        self.select_lt(b, a, a, b)
    }

    #[inline(always)]
    fn min(self, a: Quarters, b: Quarters) -> Quarters {
        self.select_lt(a, b, a, b)
    }

    #[inline(always)]
    fn abs(self, a: Quarters) -> Quarters {
        // SAFETY: `self` proves NEON.
        unsafe { a.map(|quarter| vabsq_f32(quarter)) }
    }

    #[inline(always)]
    fn select_lt(self, a: Quarters, b: Quarters, x: Quarters, y: Quarters) -> Quarters {
        // SAFETY: `self` proves NEON.
        unsafe { [0, 1, 2, 3].map(|i| vbslq_f32(vcltq_f32(a[i], b[i]), x[i], y[i])) }
    }

    #[inline(always)]
    fn pow2(self, n: Quarters) -> Quarters {
        // SAFETY: `self` proves NEON.
        unsafe {
            n.map(|quarter| {
                let exponent = vaddq_s32(vcvtnq_s32_f32(quarter), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
            })
        }
    }

    #[inline(always)]
    fn sum(self, v: Quarters) -> f32 {
        // SAFETY: `self` proves NEON.
        unsafe {
            let four = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
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
        unsafe { i2s::neon::dot_by_smull(tiles, quads, acc) }
    }

    #[inline(always)]
    fn code_dot<const P: usize>(
        self,
        block: &CodeBlock,
        quads: &[[[i8; 4]; P]; QUADS],
        acc: &mut [[i32; LANES]; P],
    ) {
        // SAFETY: `self` proves NEON.
        unsafe { head::neon::code_dot(block, quads, acc) }
    }

    #[inline(always)]
    fn crumb_dot(self, crumbs: &Crumbs, q: &[i8; BLOCK]) -> i32 {
        // SAFETY: `self` proves NEON.
        unsafe { head::neon::crumb_dot(crumbs, q) }
    }

    const SPARSE: bool = true;

    #[inline(always)]
    fn ternary_rows(self, vectors: &[Tile], list: &[u32], quads: &[RowQuads], out: &mut [i32]) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::neon_sparse::rows_by_smull(vectors, list, quads, out) }
    }

    #[inline(always)]
    fn ternary_columns(self, vectors: &[Tile], list: &[u32], q: &[i8], sums: &mut [i32]) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::neon_sparse::columns_by_smull(vectors, list, q, sums) }
    }

    #[inline(always)]
    fn int8_rounds(self, rounds: usize) -> u64 {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::neon::int8_rounds_by_smull(rounds) }
    }
}

/// Float lanes of `NeonDot` are those of its `Neon`.
macro_rules! as_neon {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            self.0.$name($($arg),*)
        })*
    };
}

impl Isa for NeonDot {
    type F32x16 = Quarters;
    type I32x16 = [int32x4_t; 4];
    type I8x64 = [int8x16_t; 4];

    const BIAS: i32 = 0;

    // 8 sums and 4 registers of unpacked codes; a quarter of the rows at a time, as without `sdot`.
    const PANEL: usize = 8;

    as_neon! {
        splat(v: f32) -> Quarters;
        splat_f16(bits: [u8; 2]) -> Quarters;
        load(from: &[f32; LANES]) -> Quarters;
        load_f16(from: &[u8; 2 * LANES]) -> Quarters;
        load_bf16(from: &[u8; 2 * LANES]) -> Quarters;
        load_i8(from: &[i8; LANES]) -> Quarters;
        load_i32(from: &[i32; LANES]) -> Quarters;
        splat_i32(v: i32) -> [int32x4_t; 4];
        load_i8x64(from: &[i8; 4 * LANES]) -> [int8x16_t; 4];
        load_sums(from: &[i32; LANES]) -> [int32x4_t; 4];
        store_sums(v: [int32x4_t; 4], to: &mut [i32; LANES]) -> ();
        add_sums(a: [int32x4_t; 4], b: [int32x4_t; 4]) -> [int32x4_t; 4];
        i32_to_f32(v: [int32x4_t; 4]) -> Quarters;
        store(v: Quarters, to: &mut [f32; LANES]) -> ();
        store_i8(v: Quarters, to: &mut [i8; LANES]) -> ();
        add(a: Quarters, b: Quarters) -> Quarters;
        sub(a: Quarters, b: Quarters) -> Quarters;
        mul(a: Quarters, b: Quarters) -> Quarters;
        div(a: Quarters, b: Quarters) -> Quarters;
        max(a: Quarters, b: Quarters) -> Quarters;
        min(a: Quarters, b: Quarters) -> Quarters;
        abs(a: Quarters) -> Quarters;
        select_lt(a: Quarters, b: Quarters, x: Quarters, y: Quarters) -> Quarters;
        pow2(n: Quarters) -> Quarters;
        sum(v: Quarters) -> f32;
    }

    #[inline(always)]
    fn dot4(self, acc: [int32x4_t; 4], bytes: [int8x16_t; 4], q: [i8; 4]) -> [int32x4_t; 4] {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::neon::dot4_by_sdot(acc, bytes, q) }
    }

    #[inline(always)]
    fn ternary_dot<const T: usize>(
        self,
        tiles: &[Tile],
        quads: &[[[i8; 4]; T]],
        acc: &mut [[i32; LANES]; T],
    ) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::neon::dot_by_sdot(tiles, quads, acc) }
    }

    #[inline(always)]
    fn code_dot<const P: usize>(
        self,
        block: &CodeBlock,
        quads: &[[[i8; 4]; P]; QUADS],
        acc: &mut [[i32; LANES]; P],
    ) {
        // SAFETY: `self` proves NEON.
        unsafe { head::neon::code_dot(block, quads, acc) }
    }

    #[inline(always)]
    fn crumb_dot(self, crumbs: &Crumbs, q: &[i8; BLOCK]) -> i32 {
        // SAFETY: `self` proves NEON.
        unsafe { head::neon::crumb_dot(crumbs, q) }
    }

    const SPARSE: bool = true;

    #[inline(always)]
    fn ternary_rows(self, vectors: &[Tile], list: &[u32], quads: &[RowQuads], out: &mut [i32]) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::neon_sparse::rows_by_sdot(vectors, list, quads, out) }
    }

    #[inline(always)]
    fn ternary_columns(self, vectors: &[Tile], list: &[u32], q: &[i8], sums: &mut [i32]) {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::neon_sparse::columns_by_sdot(vectors, list, q, sums) }
    }

    #[inline(always)]
    fn int8_rounds(self, rounds: usize) -> u64 {
        // SAFETY: `self` proves the features that the function is compiled for.
        unsafe { i2s::neon::int8_rounds_by_sdot(rounds) }
    }
}
