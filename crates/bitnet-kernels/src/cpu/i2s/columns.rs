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

use std::io;

use bitnet_quantization::TernaryRows;

use super::{TILE, Tile, for_rows_of, pack_row};
use crate::cpu::layout::Layout;
use crate::cpu::memory::{Arena, Disjoint};
use crate::cpu::packed::Packed;
use crate::cpu::threads::Pool;
use crate::error::KernelError;
use crate::packed::{PackReader, PackWriter};

/// Rows of one vector.
pub const BLOCK_ROWS: usize = 256;

/// Columns that a kernel sums in registers before it adds to memory. AVX2 sums in 16 bits, half of the codes four times
/// too large: a pair of columns gives -2048..=2032, so 16 pairs are the most. AVX-512's widest sum is
/// 64 * 2 * 128 * 32 = 2^19.
pub const CHUNK: usize = 32;

/// A ternary weight in column layout, without its scale.
#[derive(Debug)]
pub struct ColumnTernary {
    n_blocks: usize,
    vectors: Packed<Tile>, // [cols rounded up to tiles, n_blocks]
}

impl ColumnTernary {
    /// The same weight in column layout.
    ///
    /// # Errors
    /// Those of [`TernaryRows::read_row`], for the first bad row; [`KernelError::OutOfMemory`].
    pub fn pack(
        weights: &dyn TernaryRows,
        pool: &Pool,
        arena: &mut Arena,
    ) -> Result<ColumnTernary, KernelError> {
        let (n_blocks, n_tiles) = (
            weights.rows().div_ceil(BLOCK_ROWS),
            weights.cols().div_ceil(TILE),
        );
        let mut vectors = arena.zeroed::<Tile>("ternary weights", n_tiles * TILE * n_blocks)?;
        let out = Disjoint::new(&mut vectors);
        for_rows_of(weights, pool, n_blocks, n_tiles * TILE, 0, |block, rows| {
            // Rows 16m..16m + 16 of the block at a time, as tiles of two bits.
            let mut strip = vec![[0; 64]; n_tiles];
            for m in 0..TILE {
                for lane in 0..TILE {
                    rows.read(block * BLOCK_ROWS + m * TILE + lane)?;
                    pack_row(Layout::I2s, lane, &rows.codes, &mut strip);
                }
                for (t, tile) in strip.iter().enumerate() {
                    for (col, codes) in columns_of(tile).into_iter().enumerate() {
                        let at = (t * TILE + col) * n_blocks + block;
                        // SAFETY: each block is given to one thread, and this is its vector of one column.
                        add(codes, m, unsafe { &mut out.range(at, 1)[0] });
                    }
                }
            }
            Ok(())
        })?;
        Ok(ColumnTernary {
            n_blocks,
            vectors: vectors.into(),
        })
    }

    /// Writes the columns as one array.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, writer: &mut dyn PackWriter) -> io::Result<()> {
        self.vectors.write(writer)
    }

    /// Reads what [`write`](ColumnTernary::write) wrote of a weight `[rows, cols]`.
    ///
    /// # Errors
    /// [`KernelError::PackedArray`] for the array of another weight.
    pub fn read(
        [rows, cols]: [usize; 2],
        reader: &mut dyn PackReader,
    ) -> Result<ColumnTernary, KernelError> {
        let n_blocks = rows.div_ceil(BLOCK_ROWS);
        let n_vectors = cols.next_multiple_of(TILE) * n_blocks;
        Ok(ColumnTernary {
            n_blocks,
            vectors: Packed::read("columns", n_vectors, reader)?,
        })
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

/// The 16 columns of a tile: byte r of each is the code of row r.
fn columns_of(tile: &Tile) -> [u128; TILE] {
    let mut bytes = [[0; TILE]; 4];
    for (row, word) in tile.as_chunks::<4>().0.iter().enumerate() {
        for (bytes, byte) in bytes.iter_mut().zip(word) {
            bytes[row] = *byte;
        }
    }
    const CRUMB: u128 = u128::MAX / 0xff * 3;
    std::array::from_fn(|col| (u128::from_le_bytes(bytes[col % 4]) >> (2 * (col / 4))) & CRUMB)
}

/// Puts the codes of rows `16m..16m + 16` of a block into their places of a column's vector.
fn add(codes: u128, m: usize, vector: &mut Tile) {
    let (v, crumb) = (m / 4, m % 4);
    let words = (codes << (2 * crumb)).to_le_bytes();
    let places = vector.as_chunks_mut::<4>().0.iter_mut().skip(v).step_by(4);
    for (place, word) in places.zip(words.as_chunks::<4>().0) {
        *place = (u32::from_ne_bytes(*place) | u32::from_ne_bytes(*word)).to_ne_bytes();
    }
}
