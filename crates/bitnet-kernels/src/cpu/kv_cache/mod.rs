//! Keys and values of all layers, in blocks of 16 positions that sequences own through their block tables.
//!
//! ```text
//! [group of 8 blocks][layer]:
//!     keys   [block][kv head][head_dim][16 positions]   transposed: one vector is one dimension of 16 keys, so scores
//!                                                       need no sum across lanes
//!     values [block][kv head][16 positions][head_dim rounded up to 16]
//! ```
//!
//! Or as bytes with scales, see [`int8`]. `places.rs` says where blocks lie. Paging after vLLM (Kwon et al., 2023, arXiv
//! 2309.06180): nothing is moved when a sequence grows or ends.

pub mod int8;
mod places;

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::attention::Scratch;
use super::isa::{Isa, Kernel, LANES};
use super::memory::{Disjoint, Memory, Plain};
use super::threads::Pool;
use crate::backend::{BatchView, KV_BLOCK, KvShape, KvType};
use crate::error::KernelError;
use int8::{Int8Blocks, WriteHead};
use places::Places;

/// Numbers written below which one thread is faster than a barrier.
const PARALLEL_FROM: usize = 1 << 14;

/// Keys, values and the room that attention to them takes.
pub struct KvBlocks {
    shape: KvShape,
    numbers: Numbers,
    scratch: Mutex<Scratch>,
}

/// The stored keys and values.
pub enum Numbers {
    /// As f32.
    F32(Memory<f32>),
    /// As little-endian f16.
    F16(Memory<[u8; 2]>),
    /// As bytes and scales.
    I8(Int8Blocks),
}

/// A type that keys and values are stored in.
pub trait Stored: Plain {
    /// The nearest stored number, ties to even.
    fn from_f32(v: f32) -> Self;
    /// Widens 16 of them (exact).
    fn load<I: Isa>(isa: I, from: &[Self; LANES]) -> I::F32x16;
}

impl Stored for f32 {
    #[inline(always)]
    fn from_f32(v: f32) -> f32 {
        v
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, from: &[f32; LANES]) -> I::F32x16 {
        isa.load(from)
    }
}

impl Stored for [u8; 2] {
    #[inline(always)]
    fn from_f32(v: f32) -> [u8; 2] {
        half::f16::from_f32(v).to_le_bytes()
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, from: &[[u8; 2]; LANES]) -> I::F32x16 {
        let bytes = from
            .as_flattened()
            .as_array()
            .expect("16 pairs are 32 bytes");
        isa.load_f16(bytes)
    }
}

/// Where one head of one block lies.
#[derive(Debug, Clone, Copy)]
pub struct HeadLayout {
    places: Places,
    n_kv_heads: usize,
    head_dim: usize,
}

impl HeadLayout {
    /// Length of a stored value: whole vectors.
    #[inline(always)]
    pub fn value_len(self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// The ranges of the keys `[head_dim][16]` and of the values `[16][value_len]` of one head of one block.
    #[inline(always)]
    pub fn head(self, layer: usize, block: u32, head: usize) -> [Range<usize>; 2] {
        let [keys, values] = self.places.of(layer, block);
        let (key, value) = (KV_BLOCK * self.head_dim, KV_BLOCK * self.value_len());
        let (keys, values) = (keys + head * key, values + head * value);
        [keys..keys + key, values..values + value]
    }
}

impl KvBlocks {
    /// Room for `shape`, zeroed.
    ///
    /// # Errors
    /// [`KernelError::TooLarge`], [`KernelError::OutOfMemory`].
    pub fn new(shape: KvShape, threads: usize) -> Result<KvBlocks, KernelError> {
        let KvShape {
            n_layers,
            n_blocks,
            n_kv_heads,
            head_dim,
            kv_type,
        } = shape;
        let too_large = || KernelError::TooLarge {
            what: "KV cache",
            dims: vec![n_layers, n_blocks, n_kv_heads, KV_BLOCK, 2, head_dim],
        };
        let value_len = head_dim
            .checked_next_multiple_of(LANES)
            .ok_or_else(too_large)?;
        let len = [n_layers, n_blocks, n_kv_heads, KV_BLOCK]
            .into_iter()
            .try_fold(
                head_dim.checked_add(value_len).ok_or_else(too_large)?,
                usize::checked_mul,
            )
            .ok_or_else(too_large)?;
        let what = "KV cache";
        let numbers = match kv_type {
            KvType::F32 => Numbers::F32(Memory::zeroed(what, len)?),
            KvType::F16 => Numbers::F16(Memory::zeroed(what, len)?),
            KvType::I8 => Numbers::I8(Int8Blocks::new(what, shape)?),
        };
        Ok(KvBlocks {
            shape,
            numbers,
            scratch: Mutex::new(Scratch::new(shape, threads)?),
        })
    }

    /// The size it was made for.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        match &self.numbers {
            Numbers::F32(numbers) => size_of_val(&numbers[..]),
            Numbers::F16(numbers) => size_of_val(&numbers[..]),
            Numbers::I8(blocks) => blocks.bytes(),
        }
    }

    /// Gives the memory of blocks back to the system until they are written again, where it is whole pages (`places.rs`).
    /// What they held is lost.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn forget(&mut self, blocks: Range<u32>) {
        let places = self.layout().places;
        match &mut self.numbers {
            Numbers::F32(numbers) => forget(numbers, &places.of_blocks(blocks)),
            Numbers::F16(numbers) => forget(numbers, &places.of_blocks(blocks)),
            Numbers::I8(int8) => int8.forget(blocks),
        }
    }

    /// The stored numbers.
    pub(super) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Where heads lie.
    pub(super) fn layout(&self) -> HeadLayout {
        let KvShape {
            n_layers,
            n_blocks,
            n_kv_heads,
            head_dim,
            ..
        } = self.shape;
        let value_len = head_dim.next_multiple_of(LANES);
        HeadLayout {
            places: Places {
                n_layers,
                n_blocks,
                lens: [head_dim, value_len].map(|len| n_kv_heads * KV_BLOCK * len),
            },
            n_kv_heads,
            head_dim,
        }
    }

    /// What attention needs beside keys and values.
    pub(super) fn scratch(&self) -> MutexGuard<'_, Scratch> {
        // What an op that panicked left is as good as any: it is written before it is read.
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores keys and values `[n, n_kv_heads * head_dim]` at the positions of the batch.
    ///
    /// # Panics
    /// If a layer, position or block is outside of the cache.
    pub(super) fn write(
        &mut self,
        kernel: Kernel,
        pool: &Pool,
        layer: usize,
        k: &[f32],
        v: &[f32],
        batch: &BatchView<'_>,
    ) {
        assert!(
            layer < self.shape.n_layers,
            "layer {layer} of {}",
            self.shape.n_layers
        );
        let (layout, n_kv_heads) = (self.layout(), self.shape.n_kv_heads);
        let write = Write {
            layout,
            layer,
            k,
            v,
            batch,
        };
        match &mut self.numbers {
            Numbers::F32(numbers) => write.all(pool, numbers, n_kv_heads),
            Numbers::F16(numbers) => write.all(pool, numbers, n_kv_heads),
            Numbers::I8(blocks) => {
                let to = blocks.writer();
                write.over_heads(pool, n_kv_heads, |head| {
                    kernel.run(WriteHead {
                        write: &write,
                        to: &to,
                        head,
                    });
                });
            }
        }
    }
}

/// Gives the memory of these ranges back.
fn forget<T: Plain>(numbers: &mut Memory<T>, ranges: &[Range<usize>]) {
    for range in ranges {
        numbers.forget(range.clone());
    }
}

/// One call of [`KvBlocks::write`].
struct Write<'a> {
    layout: HeadLayout,
    layer: usize,
    k: &'a [f32],
    v: &'a [f32],
    batch: &'a BatchView<'a>,
}

impl Write<'_> {
    /// Calls `work` for every KV head.
    fn over_heads(&self, pool: &Pool, n_kv_heads: usize, work: impl Fn(usize) + Sync) {
        let grain = if self.k.len() < PARALLEL_FROM {
            n_kv_heads
        } else {
            1
        };
        pool.for_ranges(n_kv_heads, grain, |heads, _| heads.for_each(&work));
    }

    /// The physical block of a row and its place there.
    #[inline(always)]
    fn place(&self, row: usize) -> (u32, usize) {
        let position = self.batch.positions[row] as usize;
        let block = self.batch.blocks_of(row)[position / KV_BLOCK];
        let n_blocks = self.layout.places.n_blocks;
        assert!(
            (block as usize) < n_blocks,
            "KV block {block} of {n_blocks}"
        );
        (block, position % KV_BLOCK)
    }

    /// One head's key and value of a row.
    #[inline(always)]
    fn key_and_value(&self, row: usize, head: usize) -> (&[f32], &[f32]) {
        let HeadLayout {
            head_dim,
            n_kv_heads,
            ..
        } = self.layout;
        let from = (row * n_kv_heads + head) * head_dim;
        (&self.k[from..][..head_dim], &self.v[from..][..head_dim])
    }

    fn all<T: Stored>(&self, pool: &Pool, numbers: &mut [T], n_kv_heads: usize) {
        let numbers = Disjoint::new(numbers);
        self.over_heads(pool, n_kv_heads, |head| self.head(&numbers, head));
    }

    fn head<T: Stored>(&self, numbers: &Disjoint<'_, T>, head: usize) {
        for row in 0..self.batch.len() {
            let (block, slot) = self.place(row);
            let [keys, values] = self.layout.head(self.layer, block, head);
            // SAFETY: a head is given to one thread, no other head's numbers lie in these ranges, and they are apart.
            let (keys, values) = unsafe {
                (
                    numbers.range(keys.start, keys.len()),
                    numbers.range(values.start, values.len()),
                )
            };
            let (k, v) = self.key_and_value(row, head);
            for (key, &k) in keys.chunks_exact_mut(KV_BLOCK).zip(k) {
                key[slot] = T::from_f32(k);
            }
            let value = &mut values[slot * self.layout.value_len()..];
            for (value, &v) in value.iter_mut().zip(v) {
                *value = T::from_f32(v);
            }
        }
    }
}
