//! CPU capabilities as values, and the sixteen f32 lanes that every float op is written in.
//!
//! Having an [`Avx512`](avx512::Avx512) is the proof that this CPU has the instructions: the only way to get one is
//! `new() -> Option<Self>`, which asks the CPU. An op is written once, generic over [`Isa`], and compiled for each
//! instruction set by [`Kernel::run`], the only place where the code path forks.
//!
//! All instruction sets give the same bits: lanes are IEEE add, sub, mul, div and compares in one order, a product and
//! a sum are never fused, and sums over lanes are folded 16 -> 8 -> 4 -> 2 -> 1. The habit is rten-simd's.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;

use super::head::{self, BLOCK, CodeBlock, Crumbs, QUADS};
use super::i2s::Tile;
use super::i2s::rows::RowQuads;
use super::layout::Layout;
use super::t5;
use crate::error::KernelError;

/// Lanes of a vector on every instruction set: the order of float sums depends on it, so it is one number for all.
pub const LANES: usize = 16;

/// Sixteen f32 lanes and the integer dot product of one instruction set.
///
/// Methods are safe because a value of the implementing type proves that the CPU can run them; they are only fast
/// inside [`Kernel::run`], where they are inlined into code compiled for the instruction set.
pub trait Isa: Copy + Send + Sync + 'static {
    /// Sixteen f32 lanes.
    type F32x16: Copy;
    /// Sixteen i32 lanes.
    type I32x16: Copy;
    /// 64 signed bytes in the form that [`dot4`](Isa::dot4) takes: four to a lane.
    type I8x64: Copy;

    /// What [`load_i8x64`](Isa::load_i8x64) adds to every byte: 128 where the dot product wants them unsigned, else 0.
    const BIAS: i32;

    /// Token rows that share one unpacking of a ternary tile: as many as there are registers for their sums.
    const PANEL: usize;

    /// All lanes `v`.
    fn splat(self, v: f32) -> Self::F32x16;
    /// All lanes one little-endian f16, widened (exact).
    fn splat_f16(self, bits: [u8; 2]) -> Self::F32x16;
    /// Loads 16 floats.
    fn load(self, from: &[f32; LANES]) -> Self::F32x16;
    /// Loads 16 little-endian f16 and widens them (exact).
    fn load_f16(self, from: &[u8; 2 * LANES]) -> Self::F32x16;
    /// Loads 16 little-endian bf16 and widens them (exact).
    fn load_bf16(self, from: &[u8; 2 * LANES]) -> Self::F32x16;
    /// Loads 16 signed bytes and converts them (exact).
    fn load_i8(self, from: &[i8; LANES]) -> Self::F32x16;
    /// Loads 16 integers and converts them, rounding half to even.
    fn load_i32(self, from: &[i32; LANES]) -> Self::F32x16;
    /// All lanes `v`.
    fn splat_i32(self, v: i32) -> Self::I32x16;
    /// Loads 64 bytes of -127..=127, each plus [`BIAS`](Isa::BIAS).
    fn load_i8x64(self, from: &[i8; 4 * LANES]) -> Self::I8x64;
    /// `acc[l] += sum over j < 4 of bytes[4 l + j] * q[j]`, exact, for q of -127..=127.
    fn dot4(self, acc: Self::I32x16, bytes: Self::I8x64, q: [i8; 4]) -> Self::I32x16;
    /// Loads 16 integers as they are.
    fn load_sums(self, from: &[i32; LANES]) -> Self::I32x16;
    /// Stores them.
    fn store_sums(self, v: Self::I32x16, to: &mut [i32; LANES]);
    /// `a + b` of integers.
    fn add_sums(self, a: Self::I32x16, b: Self::I32x16) -> Self::I32x16;
    /// Integers as floats, rounding half to even.
    fn i32_to_f32(self, v: Self::I32x16) -> Self::F32x16;
    /// Stores 16 floats.
    fn store(self, v: Self::F32x16, to: &mut [f32; LANES]);
    /// Rounds each lane half to even and stores it as a byte. Lanes are within -128..=127.
    fn store_i8(self, v: Self::F32x16, to: &mut [i8; LANES]);
    /// `a + b`.
    fn add(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;
    /// `a - b`.
    fn sub(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;
    /// `a * b`.
    fn mul(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;
    /// `a / b`.
    fn div(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;
    /// `if a > b { a } else { b }`: b where one is NaN.
    fn max(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;
    /// `if a < b { a } else { b }`: b where one is NaN.
    fn min(self, a: Self::F32x16, b: Self::F32x16) -> Self::F32x16;
    /// `|a|`.
    fn abs(self, a: Self::F32x16) -> Self::F32x16;
    /// `if a < b { x } else { y }`.
    fn select_lt(
        self,
        a: Self::F32x16,
        b: Self::F32x16,
        x: Self::F32x16,
        y: Self::F32x16,
    ) -> Self::F32x16;
    /// `2^n` for lanes that are whole numbers in -126..=127.
    fn pow2(self, n: Self::F32x16) -> Self::F32x16;

    /// The sum of the lanes: lane j += lane j + half, for half = 8, 4, 2, 1.
    #[inline(always)]
    fn sum(self, v: Self::F32x16) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        let mut half = LANES / 2;
        while half > 0 {
            for j in 0..half {
                lanes[j] += lanes[j + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// The greatest lane.
    #[inline(always)]
    fn max_lane(self, v: Self::F32x16) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        lanes
            .into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }

    /// Hints that the cache line `ahead` bytes behind the start of `from` will be read soon. It is fetched into the L2
    /// cache: the few line buffers of the L1 cache stay free for what is being read.
    #[inline(always)]
    fn prefetch<T>(self, _from: &T, _ahead: usize) {}

    /// The same into the L1 cache: measured faster where one token row meets its weights and where lines lie apart, whose
    /// arithmetic leaves line buffers free.
    #[inline(always)]
    fn prefetch_near<T>(self, _from: &T, _ahead: usize) {}

    /// Exact integer products of one 16-row strip with T token rows:
    ///
    /// ```text
    /// acc[t][r] += sum over columns of code(row r, column) * q(token t, column)
    /// ```
    ///
    /// `tiles` are the strip's tiles (see [`i2s`](super::i2s)); `quads[k][t]` are columns `4k..4k+4` of token row t,
    /// four quads to a tile. Codes are 0, 1, 2.
    fn ternary_dot<const T: usize>(
        self,
        tiles: &[Tile],
        quads: &[[[i8; 4]; T]],
        acc: &mut [[i32; LANES]; T],
    );

    /// [`ternary_dot`](Isa::ternary_dot) of tiles with five codes a byte (see [`t5`]), five quads to a tile.
    #[inline(always)]
    fn t5_dot<const T: usize>(
        self,
        tiles: &[Tile],
        quads: &[[[i8; 4]; T]],
        acc: &mut [[i32; LANES]; T],
    ) {
        t5::scalar::dot(tiles, quads, acc);
    }

    /// Exact integer products of one block of the head's small copy with P rows of digits:
    ///
    /// ```text
    /// acc[p][r] += sum over columns of code(row r, column) * q(p, column)
    /// ```
    ///
    /// The layout is drawn in [`head`]; `quads[k][p]` are columns `4k..4k+4` of row p. Stored codes are 0 to
    /// 31.
    #[inline(always)]
    fn code_dot<const P: usize>(
        self,
        block: &CodeBlock,
        quads: &[[[i8; 4]; P]; QUADS],
        acc: &mut [[i32; LANES]; P],
    ) {
        head::scalar::code_dot(block, quads, acc);
    }

    /// The exact sum of crumb * q over one row's block of the head's small copy.
    #[inline(always)]
    fn crumb_dot(self, crumbs: &Crumbs, q: &[i8; BLOCK]) -> i32 {
        head::scalar::crumb_dot(crumbs, q)
    }

    /// Whether there are kernels for chosen rows and columns that are faster than reading everything. Without them the
    /// methods below work and are not used.
    const SPARSE: bool = false;

    /// Exact integer products of chosen rows in [row layout](super::i2s::rows) with one token row:
    /// `out[i] = sum over columns of code(row list[i], column) * q(column)`. `quads` are the activations in the order of
    /// the layout, `vectors` is `[_, quads.len()]`. `out` has at most [`LANES`] elements. `list` may be longer: what follows is
    /// read ahead, so that callers ask only for the first [`LANES`] rows of a list themselves.
    #[inline(always)]
    fn ternary_rows(self, vectors: &[Tile], list: &[u32], quads: &[RowQuads], out: &mut [i32]) {
        super::i2s::scalar_sparse::rows(vectors, list, quads, out);
    }

    /// Exact integer products of chosen columns in [column layout](super::i2s::columns) with one token row:
    /// `sums[row] += sum over i of code(row, column list[i]) * q[i]`. `sums` are whole blocks of 256 rows; `list` and `q`
    /// have one length, a multiple of 4.
    #[inline(always)]
    fn ternary_columns(self, vectors: &[Tile], list: &[u32], q: &[i8], sums: &mut [i32]) {
        super::i2s::scalar_sparse::columns(vectors, list, q, sums);
    }

    /// Lists the places of activations that are not 0, in order, beside the activations; returns how many there are. `list`
    /// and `kept` have at least [`LANES`] elements more than `q`, which may all be written.
    #[inline(always)]
    fn list_nonzero(self, q: &[i8], list: &mut [u32], kept: &mut [i8]) -> usize {
        super::i2s::scalar_sparse::list_nonzero(q, list, kept)
    }

    /// Lists the places of what is above 0, in order; returns how many there are. `list` has at least [`LANES`] elements
    /// more than `x`, which may all be written.
    #[inline(always)]
    fn list_positive(self, x: &[f32], list: &mut [u32]) -> usize {
        super::i2s::scalar_sparse::list_positive(x, list)
    }

    /// Runs `rounds` rounds of independent int8 multiply-adds in registers, with the widest instruction there is, and
    /// returns how many it did: the machine's limit, for [`measure`](crate::measure).
    fn int8_rounds(self, rounds: usize) -> u64;
}

/// Work that is written once for all instruction sets. `run` must be `#[inline(always)]`.
pub trait Op {
    /// What comes out.
    type Output;
    /// Does the work with the lanes of one instruction set.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// One of the ternary kernels, proven to run on this CPU: a layout of the weights and the instruction set that float ops
/// use too.
#[derive(Debug, Clone, Copy)]
pub enum Kernel {
    /// Plain Rust.
    Scalar(portable::Portable),
    /// Plain Rust, five weights a byte.
    ScalarT5(portable::Portable),
    /// 256-bit `vpmaddubsw`.
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    /// 512-bit `vpdpbusd`.
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    /// 512-bit `vpdpbusd`, five weights a byte looked up with `vpermi2b`.
    #[cfg(target_arch = "x86_64")]
    Avx512T5(avx512::Avx512),
    /// 128-bit `smull`.
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
    /// 128-bit `sdot`.
    #[cfg(target_arch = "aarch64")]
    NeonDot(neon::NeonDot),
}

/// Every kernel name there is, on any CPU.
const KERNEL_NAMES: [&str; 7] = [
    "x86-i2s-avx512vnni",
    "x86-t5-avx512vbmi",
    "x86-i2s-avx2",
    "arm-i2s-neondot",
    "arm-i2s-neon",
    "scalar-i2s",
    "scalar-t5",
];

impl Kernel {
    /// The kernels that this CPU can run: instruction sets fastest first, plain Rust last; the 2-bit kernel of each
    /// before that of five weights a byte, which only [a probe](super::probe) prefers.
    pub fn available() -> Vec<Kernel> {
        let mut kernels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(isa) = avx512::Avx512::new() {
                kernels.push(Kernel::Avx512(isa));
                if isa.has_vbmi() {
                    kernels.push(Kernel::Avx512T5(isa));
                }
            }
            kernels.extend(avx2::Avx2::new().map(Kernel::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        {
            kernels.extend(neon::NeonDot::new().map(Kernel::NeonDot));
            kernels.extend(neon::Neon::new().map(Kernel::Neon));
        }
        kernels.push(Kernel::Scalar(portable::Portable));
        kernels.push(Kernel::ScalarT5(portable::Portable));
        kernels
    }

    /// The kernel of this name, or the first one.
    ///
    /// # Errors
    /// [`KernelError::Kernel`] for a name that is unknown or not available here, with those that are.
    pub fn choose(name: Option<&str>) -> Result<Kernel, KernelError> {
        let available = Kernel::available();
        let Some(name) = name else {
            return Ok(available[0]);
        };
        available
            .iter()
            .copied()
            .find(|kernel| kernel.name() == name)
            .ok_or_else(|| KernelError::Kernel {
                name: name.to_owned(),
                problem: if KERNEL_NAMES.contains(&name) {
                    "not supported by this CPU"
                } else {
                    "unknown"
                },
                available: available.iter().map(|kernel| kernel.name()).collect(),
            })
    }

    /// Name of the kernel, `{arch}-{format}-{isa}`.
    pub const fn name(self) -> &'static str {
        match self {
            Kernel::Scalar(_) => "scalar-i2s",
            Kernel::ScalarT5(_) => "scalar-t5",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(_) => "x86-i2s-avx2",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(_) => "x86-i2s-avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512T5(_) => "x86-t5-avx512vbmi",
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(_) => "arm-i2s-neon",
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonDot(_) => "arm-i2s-neondot",
        }
    }

    /// Whether this is the fallback without vector instructions of its own.
    pub const fn is_scalar(self) -> bool {
        matches!(self, Kernel::Scalar(_) | Kernel::ScalarT5(_))
    }

    /// How weights are packed for it.
    pub const fn layout(self) -> Layout {
        match self {
            Kernel::ScalarT5(_) => Layout::T5,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512T5(_) => Layout::T5,
            _ => Layout::I2s,
        }
    }

    /// The kernel of the same instruction set that packs five weights a byte, where that is worth a try.
    pub const fn with_five_a_byte(self) -> Option<Kernel> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(isa) if isa.has_vbmi() => Some(Kernel::Avx512T5(isa)),
            _ => None,
        }
    }

    /// Token rows that the kernel takes at once, see [`Isa::PANEL`].
    pub const fn panel(self) -> usize {
        const fn of<I: Isa>(_: I) -> usize {
            I::PANEL
        }
        match self {
            Kernel::Scalar(isa) | Kernel::ScalarT5(isa) => of(isa),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(isa) => of(isa),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(isa) | Kernel::Avx512T5(isa) => of(isa),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(isa) => of(isa),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonDot(isa) => of(isa),
        }
    }

    /// Whether leaving out rows and columns pays, see [`Isa::SPARSE`].
    pub const fn sparse(self) -> bool {
        const fn of<I: Isa>(_: I) -> bool {
            I::SPARSE
        }
        match self {
            Kernel::Scalar(isa) | Kernel::ScalarT5(isa) => of(isa),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(isa) => of(isa),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(isa) | Kernel::Avx512T5(isa) => of(isa),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(isa) => of(isa),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonDot(isa) => of(isa),
        }
    }

    /// Runs `op` compiled for this kernel's instruction set.
    #[inline]
    pub fn run<O: Op>(self, op: O) -> O::Output {
        match self {
            Kernel::Scalar(isa) | Kernel::ScalarT5(isa) => op.run(isa),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512(isa) | Kernel::Avx512T5(isa) => isa.run(op),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon(isa) => isa.run(op),
            #[cfg(target_arch = "aarch64")]
            Kernel::NeonDot(isa) => isa.run(op),
        }
    }
}

/// Names of the kernels that this CPU can run, fastest first.
pub fn available_kernels() -> Vec<&'static str> {
    Kernel::available().into_iter().map(Kernel::name).collect()
}
