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
    /// Tiles, and a second copy for one token row whose closed gates leave out rows.
    Rows {
        /// For batches and for inputs that leave most gates open.
        tiles: PackedTernary,
        /// For inputs that leave few open.
        rows: RowTernary,
    },
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
        let tiles = PackedTernary::pack(weights, layout, pool, arena)?;
        let &Scales::PerTensor(scale) = tiles.scales() else {
            return Ok(Ternary::Tiles(tiles));
        };
        if usage == TernaryUse::GatedUp && fits(weights.cols(), VECTOR_COLS) {
            let rows = RowTernary::pack(weights, scale, pool, arena)?;
            return Ok(Ternary::Rows { tiles, rows });
        }
        if usage != TernaryUse::SparseInput || !fits(weights.rows(), BLOCK_ROWS) {
            return Ok(Ternary::Tiles(tiles));
        }
        let columns = ColumnTernary::pack(weights, pool, arena)?;
        Ok(Ternary::Columns {
            columns,
            tiles,
            scale,
        })
    }

    /// The tiles, which every weight has.
    pub fn tiles(&self) -> &PackedTernary {
        match self {
            Ternary::Tiles(tiles)
            | Ternary::Rows { tiles, .. }
            | Ternary::Columns { tiles, .. } => tiles,
        }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.tiles().rows()
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.tiles().cols()
    }

    /// Weights per scale along a row, `None` when there is one scale for the tensor.
    pub fn block_len(&self) -> Option<usize> {
        self.tiles().block_len()
    }

    /// Bytes of codes and scales: what a kernel reads for one token when nothing is left out.
    pub fn bytes(&self) -> usize {
        self.tiles().bytes()
    }

    /// Bytes of the second copy, 0 without one.
    pub fn copy_bytes(&self) -> usize {
        match self {
            Ternary::Tiles(_) => 0,
            Ternary::Rows { rows, .. } => rows.bytes(),
            Ternary::Columns { columns, .. } => columns.bytes(),
        }
    }
}
