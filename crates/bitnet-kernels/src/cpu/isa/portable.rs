//! Sixteen lanes in plain Rust: what runs where nothing better is known, and what the others are tested against.

use super::{Isa, LANES};
use crate::cpu::i2s::{self, Tile};
use bitnet_quantization::floats::{bf16_to_f32, f16_to_f32};

/// No instruction set beyond the build target's.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn map(a: [f32; LANES], f: impl Fn(f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Isa for Portable {
    type F32x16 = [f32; LANES];
    type I32x16 = [i32; LANES];
    type I8x64 = [i8; 4 * LANES];

    const BIAS: i32 = 0;

    // Sums of four token rows are what a plain loop keeps at hand.
    const PANEL: usize = 4;

    #[inline(always)]
    fn splat(self, v: f32) -> [f32; LANES] {
        [v; LANES]
    }

    #[inline(always)]
    fn splat_f16(self, bits: [u8; 2]) -> [f32; LANES] {
        [f16_to_f32(u16::from_le_bytes(bits)); LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> [f32; LANES] {
        *from
    }

    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| f16_to_f32(u16::from_le_bytes([from[2 * i], from[2 * i + 1]])))
    }

    #[inline(always)]
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| bf16_to_f32(u16::from_le_bytes([from[2 * i], from[2 * i + 1]])))
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| f32::from(from[i]))
    }

    #[inline(always)]
    fn load_i32(self, from: &[i32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| from[i] as f32)
    }

    #[inline(always)]
    fn splat_i32(self, v: i32) -> [i32; LANES] {
        [v; LANES]
    }

    #[inline(always)]
    fn load_i8x64(self, from: &[i8; 4 * LANES]) -> [i8; 4 * LANES] {
        *from
    }

    #[inline(always)]
    fn dot4(self, acc: [i32; LANES], bytes: [i8; 4 * LANES], q: [i8; 4]) -> [i32; LANES] {
        let product = |i: usize, j: usize| i32::from(bytes[4 * i + j]) * i32::from(q[j]);
        std::array::from_fn(|i| {
            acc[i] + product(i, 0) + product(i, 1) + product(i, 2) + product(i, 3)
        })
    }

    #[inline(always)]
    fn load_sums(self, from: &[i32; LANES]) -> [i32; LANES] {
        *from
    }

    #[inline(always)]
    fn store_sums(self, v: [i32; LANES], to: &mut [i32; LANES]) {
        *to = v;
    }

    #[inline(always)]
    fn add_sums(self, a: [i32; LANES], b: [i32; LANES]) -> [i32; LANES] {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    fn i32_to_f32(self, v: [i32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| v[i] as f32)
    }

    #[inline(always)]
    fn store(self, v: [f32; LANES], to: &mut [f32; LANES]) {
        *to = v;
    }

    #[inline(always)]
    fn store_i8(self, v: [f32; LANES], to: &mut [i8; LANES]) {
        *to = std::array::from_fn(|i| v[i].round_ties_even() as i8);
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn abs(self, a: [f32; LANES]) -> [f32; LANES] {
        map(a, f32::abs)
    }

    #[inline(always)]
    fn select_lt(
        self,
        a: [f32; LANES],
        b: [f32; LANES],
        x: [f32; LANES],
        y: [f32; LANES],
    ) -> [f32; LANES] {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }

    #[inline(always)]
    fn pow2(self, n: [f32; LANES]) -> [f32; LANES] {
        // A float's exponent field is its power of two plus 127.
        map(n, |n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn ternary_dot<const T: usize>(
        self,
        tiles: &[Tile],
        quads: &[[[i8; 4]; T]],
        acc: &mut [[i32; LANES]; T],
    ) {
        i2s::scalar::dot(tiles, quads, acc);
    }

    // Plain code is bound by arithmetic: what is left out is not computed either.
    const SPARSE: bool = true;

    #[inline(always)]
    fn int8_rounds(self, rounds: usize) -> u64 {
        i2s::scalar::int8_rounds(rounds)
    }
}
