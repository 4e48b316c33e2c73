//! Keys and values as signed bytes, in the order that integer dot products read them.
//!
//! ```text
//! key or value of one position and head:   scale = absmax / 127 (at least 1e-5 / 127)      byte = round(x / scale)
//! [physical block][layer][kv head]:   keys   [dims / 4][16 positions][4 dims]
//!                                     values [dims / 16][4][16 dims][4 positions]          dims rounded up to 16
//!                                     scales [2][16 positions], in memory of their own
//! ```

use std::ops::Range;

use super::super::isa::{Isa, LANES, Op};
use super::super::memory::{Disjoint, Memory};
use super::super::quantize::{factor, to_i8};
use super::Write;
use crate::backend::{KV_BLOCK, KvShape};
use crate::error::KernelError;

/// Sixteen lanes of four bytes.
pub type Bytes = [i8; 4 * LANES];

/// Bytes and scales of a cache.
pub struct Int8Blocks {
    bytes: Memory<Bytes>,         // [n_blocks, n_layers, n_kv_heads, 2 * vectors]
    scales: Memory<[f32; LANES]>, // [n_blocks, n_layers, n_kv_heads, 2]
    layout: Int8Layout,
}

/// Where heads lie.
#[derive(Debug, Clone, Copy)]
struct Int8Layout {
    n_layers: usize,
    n_kv_heads: usize,
    vectors: usize,
}

impl Int8Layout {
    #[inline(always)]
    fn head(self, layer: usize, block: u32, head: usize) -> usize {
        (block as usize * self.n_layers + layer) * self.n_kv_heads + head
    }
}

/// One head of one block.
pub struct Int8Head<'a> {
    /// Keys, `[dims / 4]`.
    pub keys: &'a [Bytes],
    /// Values, `[dims / 16 * 4]`.
    pub values: &'a [Bytes],
    /// Scales of the keys and of the values.
    pub scales: &'a [[f32; LANES]; 2],
}

/// Vectors of four dimensions of a key, and as many of a value.
pub fn vectors(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES) / 4
}

impl Int8Blocks {
    /// Zeros for `shape`, whose size in bytes the caller has found to be a number.
    pub(super) fn new(what: &'static str, shape: KvShape) -> Result<Int8Blocks, KernelError> {
        let vectors = vectors(shape.head_dim);
        let heads = shape.n_layers * shape.n_blocks * shape.n_kv_heads;
        Ok(Int8Blocks {
            bytes: Memory::zeroed(what, heads * 2 * vectors)?,
            scales: Memory::zeroed(what, heads * 2)?,
            layout: Int8Layout {
                n_layers: shape.n_layers,
                n_kv_heads: shape.n_kv_heads,
                vectors,
            },
        })
    }

    /// Bytes of keys, values and scales.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.bytes[..]) + size_of_val(&self.scales[..])
    }

    /// Gives the memory of heads back to the system.
    pub(super) fn forget(&mut self, heads: Range<usize>) {
        let vectors = 2 * self.layout.vectors;
        self.bytes
            .forget(heads.start * vectors..heads.end * vectors);
        self.scales.forget(2 * heads.start..2 * heads.end);
    }

    /// One head of one block.
    #[inline(always)]
    pub fn head(&self, layer: usize, block: u32, head: usize) -> Int8Head<'_> {
        let Int8Layout { vectors, .. } = self.layout;
        let index = self.layout.head(layer, block, head);
        let bytes = &self.bytes[2 * vectors * index..][..2 * vectors];
        let (keys, values) = bytes.split_at(vectors);
        let scales = self.scales[2 * index..]
            .first_chunk()
            .expect("two lines of scales for each head");
        Int8Head {
            keys,
            values,
            scales,
        }
    }

    /// What threads write to, and where.
    pub(super) fn writer(&mut self) -> Int8Writer<'_> {
        Int8Writer {
            bytes: Disjoint::new(&mut self.bytes),
            scales: Disjoint::new(&mut self.scales),
            layout: self.layout,
        }
    }
}

/// Shared by the threads of one write.
pub struct Int8Writer<'a> {
    bytes: Disjoint<'a, Bytes>,
    scales: Disjoint<'a, [f32; LANES]>,
    layout: Int8Layout,
}

/// Writes all rows of one KV head.
pub struct WriteHead<'a> {
    pub(super) write: &'a Write<'a>,
    pub(super) to: &'a Int8Writer<'a>,
    pub(super) head: usize,
}

impl Op for WriteHead<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let WriteHead { write, to, head } = self;
        let vectors = to.layout.vectors;
        for row in 0..write.batch.len() {
            let (block, slot) = write.place(row);
            let index = to.layout.head(write.layer, block, head);
            // SAFETY: a head is given to one thread, and no other head's bytes and scales lie here.
            let (bytes, scales) = unsafe {
                (
                    to.bytes.range(2 * vectors * index, 2 * vectors),
                    to.scales.range(2 * index, 2),
                )
            };
            let (keys, values) = bytes.split_at_mut(vectors);
            let (key, value) = write.key_and_value(row, head);
            scales[0][slot] = scale(isa, key);
            let a = factor(isa, key);
            for (chunk, keys) in key.chunks(LANES).zip(keys.chunks_exact_mut(4)) {
                let q = quantized(isa, chunk, a);
                for (key, q) in keys.iter_mut().zip(q.as_chunks::<4>().0) {
                    key.as_chunks_mut::<4>().0[slot] = *q;
                }
            }
            scales[1][slot] = scale(isa, value);
            let a = factor(isa, value);
            for (chunk, values) in value.chunks(LANES).zip(values.chunks_exact_mut(4)) {
                let q = quantized(isa, chunk, a);
                for (value, q) in values[slot / 4].as_chunks_mut::<4>().0.iter_mut().zip(q) {
                    value[slot % 4] = q;
                }
            }
        }
    }
}

/// What a byte of these numbers is worth; NaN if one is not finite, so that a broken model is not hidden.
#[inline(always)]
fn scale<I: Isa>(isa: I, x: &[f32]) -> f32 {
    if x.iter().any(|v| !v.is_finite()) {
        return f32::NAN;
    }
    1.0 / factor(isa, x)
}

/// Up to 16 numbers as bytes, zeros behind them.
#[inline(always)]
fn quantized<I: Isa>(isa: I, x: &[f32], a: f32) -> [i8; LANES] {
    let mut q = [0; LANES];
    let mut lanes = [0.0; LANES];
    lanes[..x.len()].copy_from_slice(x);
    to_i8(isa, isa.load(&lanes), a, &mut q);
    q
}

const _: () = assert!(KV_BLOCK == LANES, "a block's positions are lanes");
