//! A ternary weight as the CPU keeps it: tiles, and where zeros are to be expected a layout that can leave weights out.

use bitnet_quantization::TernaryRows;

use super::i2s::columns::{BLOCK_ROWS, ColumnTernary};
use super::i2s::rows::{RowTernary, VECTOR_COLS};
use super::i2s::{PackedTernary, Scales};
use super::layout::Layout;
use super::memory::Arena;
use super::threads::Pool;
use crate::backend::TernaryUse;
use crate::error::KernelError;

/// A ternary weight in the layouts that its use asks for.
#[derive(Debug)]
pub enum Ternary {
    /// Tiles: every weight is read.
    Tiles(PackedTernary),
    /// Rows, the only copy: single rows can be left out, and strips of tiles are put together for batches.
    Rows(RowTernary),
    /// Tiles, and a second copy for one token row whose zeros leave out columns.
    Columns {
        /// For batches and for inputs with few zeros.
        tiles: PackedTernary,
        /// For inputs with many.
        columns: ColumnTernary,
        /// The one scale.
        scale: f32,
    },
}

impl Ternary {
    /// Packs `weights` into memory of `arena`, tiles in `layout`. Only weights with one scale get a layout for zeros, and only shapes that
    /// do not grow by more than a third when they are padded to its vectors.
    ///
    /// # Errors
    /// Those of [`PackedTernary::pack`].
    pub fn pack(
        weights: &dyn TernaryRows,
        usage: TernaryUse,
        layout: Layout,
        pool: &Pool,
        arena: &mut Arena,
    ) -> Result<Ternary, KernelError> {
        let fits = |n: usize, unit: usize| 3 * n.next_multiple_of(unit) <= 4 * n;
        let two_bits = |arena: &mut _| PackedTernary::pack(weights, Layout::I2s, pool, arena);
        if usage == TernaryUse::GatedUp && fits(weights.cols(), VECTOR_COLS) {
            // The tiles are on the way only: their memory goes with this arena.
            let tiles = two_bits(&mut Arena::default())?;
            if let &Scales::PerTensor(scale) = tiles.scales() {
                return RowTernary::of_tiles(&tiles, scale, pool, arena).map(Ternary::Rows);
            }
        }
        let tiles = PackedTernary::pack(weights, layout, pool, arena)?;
        match *tiles.scales() {
            Scales::PerTensor(scale)
                if usage == TernaryUse::SparseInput && fits(weights.rows(), BLOCK_ROWS) =>
            {
                let columns = match layout {
                    Layout::I2s => ColumnTernary::of_tiles(&tiles, pool, arena)?,
                    Layout::T5 => {
                        let tiles = two_bits(&mut Arena::default())?;
                        ColumnTernary::of_tiles(&tiles, pool, arena)?
                    }
                };
                Ok(Ternary::Columns {
                    columns,
                    tiles,
                    scale,
                })
            }
            _ => Ok(Ternary::Tiles(tiles)),
        }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        match self {
            Ternary::Tiles(tiles) | Ternary::Columns { tiles, .. } => tiles.rows(),
            Ternary::Rows(rows) => rows.rows(),
        }
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        match self {
            Ternary::Tiles(tiles) | Ternary::Columns { tiles, .. } => tiles.cols(),
            Ternary::Rows(rows) => rows.cols(),
        }
    }

    /// Weights per scale along a row, `None` when there is one scale for the tensor.
    pub fn block_len(&self) -> Option<usize> {
        match self {
            Ternary::Tiles(tiles) => tiles.block_len(),
            Ternary::Rows(_) | Ternary::Columns { .. } => None,
        }
    }

    /// Bytes of codes and scales: what a kernel reads for one token when nothing is left out.
    pub fn bytes(&self) -> usize {
        match self {
            Ternary::Tiles(tiles) | Ternary::Columns { tiles, .. } => tiles.bytes(),
            Ternary::Rows(rows) => rows.bytes(),
        }
    }

    /// The tiles, if they are kept.
    pub fn tiles(&self) -> Option<&PackedTernary> {
        match self {
            Ternary::Tiles(tiles) | Ternary::Columns { tiles, .. } => Some(tiles),
            Ternary::Rows(_) => None,
        }
    }
}
