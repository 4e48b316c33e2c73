//! Keys and values as signed bytes, in the order that integer dot products read them.
//!
//! ```text
//! key or value of one position and head:   scale = absmax / 127 (at least 1e-5 / 127)      byte = round(x / scale)
//! [group of 8 blocks][layer]:
//!     keys   [block][kv head][dims / 4][16 positions][4 dims]
//!     values [block][kv head][dims / 16][4][16 dims][4 positions]        dims rounded up to 16
//!     scales, in memory of their own: [block][kv head][16 positions], of the keys and then of the values
//! ```

use std::ops::Range;

use super::super::isa::{Isa, LANES, Op};
use super::super::memory::{Disjoint, Memory};
use super::super::quantize::{factor, to_i8};
use super::Write;
use super::places::Places;
use crate::backend::{KV_BLOCK, KvShape};
use crate::error::KernelError;

/// Sixteen lanes of four bytes.
pub type Bytes = [i8; 4 * LANES];

/// Bytes and scales of a cache.
pub struct Int8Blocks {
    bytes: Memory<Bytes>,         // [place, vectors]
    scales: Memory<[f32; LANES]>, // [place]
    layout: Int8Layout,
}

/// Where heads lie: the keys of a head of a block have a place, and so have its values.
#[derive(Debug, Clone, Copy)]
struct Int8Layout {
    places: Places,
    vectors: usize,
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
                places: Places {
                    n_layers: shape.n_layers,
                    n_blocks: shape.n_blocks,
                    lens: [shape.n_kv_heads; 2],
                },
                vectors,
            },
        })
    }

    /// Size of keys, values and scales in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.bytes[..]) + size_of_val(&self.scales[..])
    }

    /// Gives the memory of blocks back to the system.
    pub(super) fn forget(&mut self, blocks: Range<u32>) {
        let vectors = self.layout.vectors;
        for places in self.layout.places.of_blocks(blocks) {
            self.bytes
                .forget(places.start * vectors..places.end * vectors);
            self.scales.forget(places);
        }
    }

    /// The places of the first head's keys and values; other heads follow.
    #[inline(always)]
    pub fn places(&self, layer: usize, block: u32) -> [usize; 2] {
        self.layout.places.of(layer, block)
    }

    /// The keys `[dims / 4]` or the values `[dims / 16 * 4]` of a place.
    #[inline(always)]
    pub fn bytes_of(&self, place: usize) -> &[Bytes] {
        let vectors = self.layout.vectors;
        &self.bytes[place * vectors..][..vectors]
    }

    /// Their scales.
    #[inline(always)]
    pub fn scales_of(&self, place: usize) -> &[f32; LANES] {
        &self.scales[place]
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
            let places = to.layout.places.of(write.layer, block);
            let places = places.map(|first| first + head);
            // SAFETY: a head is given to one thread, no other head's bytes and scales lie here, and keys and values are
            // apart.
            let ([keys, values], [key_scales, value_scales]) = unsafe {
                (
                    places.map(|place| to.bytes.range(place * vectors, vectors)),
                    places.map(|place| to.scales.range(place, 1)),
                )
            };
            let (key, value) = write.key_and_value(row, head);
            key_scales[0][slot] = scale(isa, key);
            let a = factor(isa, key);
            for (chunk, keys) in key.chunks(LANES).zip(keys.chunks_exact_mut(4)) {
                let q = quantized(isa, chunk, a);
                for (key, q) in keys.iter_mut().zip(q.as_chunks::<4>().0) {
                    key.as_chunks_mut::<4>().0[slot] = *q;
                }
            }
            value_scales[0][slot] = scale(isa, value);
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
