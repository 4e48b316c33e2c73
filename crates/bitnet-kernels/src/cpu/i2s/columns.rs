//! The column layout: every column of a ternary matrix contiguous, so that single columns can be left out.
//!
//! ```text
//! column = 64-byte vectors over 256 rows each, one after the other
//! vector = byte 16k + 4v + i, bits 2c..2c+2 = code(row 16 (4v + c) + 4k + i)     k, v, c, i < 4
//! ```
//!
//! Four vectors of any four columns, interleaved bytewise, are four registers whose 32-bit lanes each hold one row
//! position of the four columns: a dot-product instruction multiplies them by the four activations. With the bytes as
//! drawn, register v and crumb c are then rows `16 (4v + c)..` in order. Threads split the columns and each has sums of
//! its own for all rows; they are added in the end, exactly, for they are integers.

use super::{PackedTernary, TILE, Tile};
use crate::cpu::memory::{Arena, Disjoint, Memory};
use crate::cpu::threads::Pool;
use crate::error::KernelError;

/// Rows of one vector.
pub const BLOCK_ROWS: usize = 256;

/// Columns that a kernel sums in registers before it adds to memory. AVX2 sums in 16 bits: a pair of columns gives at
/// most 2 * 2 * 128 = 512, the 16 pairs 8192. AVX-512's widest sum is 64 * 2 * 128 * 32 = 2^19.
pub const CHUNK: usize = 32;

/// A ternary weight in column layout, without its scale.
#[derive(Debug)]
pub struct ColumnTernary {
    n_blocks: usize,
    vectors: Memory<Tile>, // [cols rounded up to tiles, n_blocks]
}

impl ColumnTernary {
    /// The same weight in column layout.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn of_tiles(
        tiles: &PackedTernary,
        pool: &Pool,
        arena: &mut Arena,
    ) -> Result<ColumnTernary, KernelError> {
        let n_blocks = tiles.rows().div_ceil(BLOCK_ROWS);
        let n_tiles = tiles.cols().div_ceil(TILE);
        let mut vectors = arena.zeroed::<Tile>("ternary weights", n_tiles * TILE * n_blocks)?;
        let out = Disjoint::new(&mut vectors);
        pool.for_ranges(n_tiles, pool.grain(n_tiles, 1), |range, _| {
            for t in range {
                // SAFETY: each tile column is given to one thread, and its 16 columns belong to no other.
                let columns = unsafe { out.range(t * TILE * n_blocks, TILE * n_blocks) };
                for strip in 0..tiles.n_strips() {
                    transpose(&tiles.strip(strip)[t], strip, n_blocks, columns);
                }
            }
        });
        Ok(ColumnTernary { n_blocks, vectors })
    }

    /// Vectors of a column.
    pub fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// All columns, `[cols rounded up to 16, n_blocks]`.
    pub fn vectors(&self) -> &[Tile] {
        &self.vectors
    }

    /// Bytes of all columns.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.vectors[..])
    }

    /// Bytes of one column.
    pub fn column_bytes(&self) -> usize {
        self.n_blocks * size_of::<Tile>()
    }
}

/// Adds the 16 rows of a tile to its 16 columns `[16, n_blocks]`.
fn transpose(tile: &Tile, strip: usize, n_blocks: usize, columns: &mut [Tile]) {
    let (block, m) = (strip / TILE, strip % TILE);
    let (v, crumb) = (m / 4, m % 4);
    for (col, column) in columns.chunks_exact_mut(n_blocks).enumerate() {
        let (byte, shift) = (col % 4, 2 * (col / 4));
        for row in 0..TILE {
            let code = (tile[4 * row + byte] >> shift) & 3;
            column[block][16 * (row / 4) + 4 * v + row % 4] |= code << (2 * crumb);
        }
    }
}
