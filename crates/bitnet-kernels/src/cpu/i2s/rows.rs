//! The row layout: every row of a ternary matrix contiguous, so that single rows can be left out.
//!
//! ```text
//! row    = 64-byte vectors over 256 columns each, one after the other
//! vector = lane i (4 bytes): what tile i of the strip layout holds for the row, columns 16i..16i+16 of the vector's 256:
//!          byte 4i + j, bits 2c..2c+2 = code(column 16i + 4c + j)
//! ```
//!
//! A row times one vector of activations is `and`, multiply, add over its vectors with activations in the same order
//! ([`RowQuads`]), and one sum over lanes. Sums over lanes make it slower than tiles where most rows are needed: it is a
//! second copy beside them.

use std::io;

use bitnet_quantization::TernaryRows;

use super::{TILE, Tile, for_rows_of, word_of};
use crate::cpu::memory::{Arena, Disjoint};
use crate::cpu::packed::Packed;
use crate::cpu::threads::Pool;
use crate::error::KernelError;
use crate::packed::{PackReader, PackWriter};

/// Columns of one vector.
pub const VECTOR_COLS: usize = 256;

/// The activations of 256 columns for the crumbs 0..4 of a vector: lane i of crumb c is the quad of columns
/// `16i + 4c..16i + 4c + 4`.
pub type RowQuads = [[i8; 64]; 4];

/// A ternary weight in row layout, with one scale.
#[derive(Debug)]
pub struct RowTernary {
    rows: usize,
    cols: usize,
    scale: f32,
    vectors: Packed<Tile>, // [rows rounded up to strips, vectors_per_row]
}

impl RowTernary {
    /// The same weight in row layout.
    ///
    /// # Errors
    /// Those of [`TernaryRows::read_row`], for the first bad row; [`KernelError::OutOfMemory`].
    pub fn pack(
        weights: &dyn TernaryRows,
        scale: f32,
        pool: &Pool,
        arena: &mut Arena,
    ) -> Result<RowTernary, KernelError> {
        let (rows, cols) = (weights.rows(), weights.cols());
        let (n_strips, n_vectors) = (rows.div_ceil(TILE), cols.div_ceil(VECTOR_COLS));
        let mut vectors = arena.zeroed::<Tile>("ternary weights", n_strips * TILE * n_vectors)?;
        let out = Disjoint::new(&mut vectors);
        let padded = n_vectors * VECTOR_COLS;
        for_rows_of(weights, pool, n_strips, padded, 0, |strip, rows| {
            // SAFETY: each strip is given to one thread, and its rows belong to no other strip.
            let out = unsafe { out.range(strip * TILE * n_vectors, TILE * n_vectors) };
            for (lane, vectors) in out.chunks_exact_mut(n_vectors).enumerate() {
                rows.read(strip * TILE + lane)?;
                let words = vectors.as_flattened_mut().as_chunks_mut::<4>().0;
                for (word, codes) in words.iter_mut().zip(rows.codes.as_chunks::<TILE>().0) {
                    *word = word_of(codes);
                }
            }
            Ok(())
        })?;
        Ok(RowTernary {
            rows,
            cols,
            scale,
            vectors: vectors.into(),
        })
    }

    /// Writes the rows as one array.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, writer: &mut dyn PackWriter) -> io::Result<()> {
        self.vectors.write(writer)
    }

    /// Reads what [`write`](RowTernary::write) wrote of a weight `[rows, cols]` with this scale.
    ///
    /// # Errors
    /// [`KernelError::PackedArray`] for the array of another weight.
    pub fn read(
        [rows, cols]: [usize; 2],
        scale: f32,
        reader: &mut dyn PackReader,
    ) -> Result<RowTernary, KernelError> {
        let n_vectors = rows.next_multiple_of(TILE) * cols.div_ceil(VECTOR_COLS);
        Ok(RowTernary {
            rows,
            cols,
            scale,
            vectors: Packed::read("rows", n_vectors, reader)?,
        })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The one scale.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Vectors of a row.
    pub fn n_vectors(&self) -> usize {
        self.cols.div_ceil(VECTOR_COLS)
    }

    /// All rows, `[rows rounded up to 16, n_vectors]`.
    pub fn vectors(&self) -> &[Tile] {
        &self.vectors
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.n_vectors() * size_of::<Tile>()
    }

    /// Bytes of all rows and the scale.
    pub fn bytes(&self) -> usize {
        self.rows * self.row_bytes() + size_of::<f32>()
    }
}

/// Puts one token row's quads (columns `4k..4k + 4` each) in the order of the row layout: `out` `[n_vectors]`.
pub fn row_quads(quads: &[[i8; 4]], out: &mut [RowQuads]) {
    for (vector, quads) in out.iter_mut().zip(quads.chunks(VECTOR_COLS / 4)) {
        for (crumb, lanes) in vector.iter_mut().enumerate() {
            for (i, lane) in lanes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *lane = quads.get(4 * i + crumb).copied().unwrap_or([0; 4]);
            }
        }
    }
}
