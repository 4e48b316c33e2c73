//! A ternary weight as the CPU keeps it: tiles, and where zeros are to be expected a layout that can leave weights out.

use std::io;

use bitnet_quantization::{ScaleLayout, TernaryRows};
use bytes::Bytes;

use super::i2s::columns::{BLOCK_ROWS, ColumnTernary};
use super::i2s::rows::{RowTernary, VECTOR_COLS};
use super::i2s::{PackedTernary, Scales};
use super::layout::Layout;
use super::memory::Arena;
use super::packed::Packed;
use super::threads::Pool;
use crate::backend::TernaryUse;
use crate::error::KernelError;
use crate::packed::{PackReader, PackWriter};

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

    /// Writes the weight: a descriptor, the tiles, the second copy.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, writer: &mut dyn PackWriter) -> io::Result<()> {
        let tiles = self.tiles();
        let (block_len, scale) = match *tiles.scales() {
            Scales::PerTensor(scale) => (0, scale),
            Scales::PerBlock { block_len, .. } => (block_len as u64, 0.0),
        };
        let descriptor = Descriptor {
            copy: match self {
                Ternary::Tiles(_) => NO_COPY,
                Ternary::Rows { .. } => ROWS,
                Ternary::Columns { .. } => COLUMNS,
            },
            layout: tiles.layout(),
            block_len,
            scale,
        };
        writer.array(Bytes::copy_from_slice(&descriptor.to_bytes()))?;
        tiles.write(writer)?;
        match self {
            Ternary::Tiles(_) => Ok(()),
            Ternary::Rows { rows, .. } => rows.write(writer),
            Ternary::Columns { columns, .. } => columns.write(writer),
        }
    }

    /// Reads what [`write`](Ternary::write) wrote of a weight `[rows, cols]`; tiles must have this layout, unless they have
    /// scales of blocks.
    ///
    /// # Errors
    /// [`KernelError::PackedArray`] for another weight or layout, shapes that cannot be packed.
    pub fn read(
        shape: [usize; 2],
        layout: Layout,
        reader: &mut dyn PackReader,
    ) -> Result<Ternary, KernelError> {
        let descriptor = Descriptor::read(reader)?;
        let scale = descriptor.scale_layout(layout)?;
        let tiles = PackedTernary::read(shape, descriptor.layout, scale, reader)?;
        Ok(match (descriptor.copy, scale) {
            (ROWS, ScaleLayout::PerTensor(scale)) => Ternary::Rows {
                tiles,
                rows: RowTernary::read(shape, scale, reader)?,
            },
            (COLUMNS, ScaleLayout::PerTensor(scale)) => Ternary::Columns {
                tiles,
                columns: ColumnTernary::read(shape, reader)?,
                scale,
            },
            (NO_COPY, _) => Ternary::Tiles(tiles),
            (copy, _) => return Err(bad_descriptor(format!("copy {copy}"))),
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

/// What a kept weight is, before its arrays: 16 bytes.
///
/// ```text
/// byte 0 copy (0 none, 1 rows, 2 columns)   1 layout (0 i2s, 1 t5)   2..4 zero   4..12 block length (0: one scale)   12..16 scale
/// ```
struct Descriptor {
    copy: u8,
    layout: Layout,
    block_len: u64,
    scale: f32,
}

/// Values of a descriptor's first byte.
const NO_COPY: u8 = 0;
const ROWS: u8 = 1;
const COLUMNS: u8 = 2;

impl Descriptor {
    fn to_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0] = self.copy;
        bytes[1] = match self.layout {
            Layout::I2s => 0,
            Layout::T5 => 1,
        };
        bytes[4..12].copy_from_slice(&self.block_len.to_le_bytes());
        bytes[12..].copy_from_slice(&self.scale.to_le_bytes());
        bytes
    }

    fn read(reader: &mut dyn PackReader) -> Result<Descriptor, KernelError> {
        let array = Packed::<[u8; 16]>::read("descriptor", 1, reader)?;
        let [copy, layout, _, _, rest @ ..] = array[0];
        let (block_len, scale) = rest.split_at(8);
        let word = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0, |n, byte| n << 8 | u64::from(*byte))
        };
        Ok(Descriptor {
            copy,
            layout: match layout {
                0 => Layout::I2s,
                1 => Layout::T5,
                other => return Err(bad_descriptor(format!("layout {other}"))),
            },
            block_len: word(block_len),
            scale: f32::from_bits(word(scale) as u32),
        })
    }

    /// The scale, if the tiles are what a kernel of `layout` multiplies.
    fn scale_layout(&self, layout: Layout) -> Result<ScaleLayout, KernelError> {
        if self.block_len > 0 {
            let block_len = usize::try_from(self.block_len).unwrap_or(usize::MAX);
            return Ok(ScaleLayout::PerBlock { block_len });
        }
        if self.layout != layout {
            return Err(bad_descriptor(format!(
                "{} for a kernel of {}",
                self.layout.name(),
                layout.name()
            )));
        }
        Ok(ScaleLayout::PerTensor(self.scale))
    }
}

fn bad_descriptor(found: String) -> KernelError {
    KernelError::PackedArray {
        what: "descriptor",
        expected: "a weight in a layout of this kernel".into(),
        found,
    }
}
