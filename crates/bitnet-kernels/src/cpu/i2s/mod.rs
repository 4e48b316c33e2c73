//! Ternary weights in run layout, and the layout of 2 bits: codes in tiles of 16 rows by 16 columns.
//!
//! ```text
//! strip = 16 rows; its tiles lie one after the other along the columns: a strip is one linear stream
//! tile  = 64 bytes; byte 4r + j, bits 2c..2c+2 = code(row r, column 4c + j) = trit + 1      r < 16, j < 4, c < 4
//!
//!          byte 0        byte 1        byte 2        byte 3      | byte 4 ...
//! bits 0   row 0 col 0   row 0 col 1   row 0 col 2   row 0 col 3 | row 1 col 0 ...
//! bits 2         col 4         col 5         col 6         col 7
//! bits 4         col 8         col 9         col 10        col 11
//! bits 6         col 12        col 13        col 14        col 15
//! ```
//!
//! One 32-bit lane is one row, so a dot-product instruction multiplies 16 rows by four broadcast activations, sums
//! stay in their lanes to the end, and block scales multiply 16 rows at once. AVX2 takes halves of a tile (8 rows),
//! NEON quarters. Codes are unsigned: sum of trit * q = sum of code * q - sum of q. Missing rows have code 1 and are
//! not stored; missing columns meet activations of 0.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx2_sparse;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "x86_64")]
pub mod avx512_sparse;
pub mod columns;
pub mod fetch;
#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(target_arch = "aarch64")]
pub mod neon_sparse;
pub mod rows;
pub mod scalar;
pub mod scalar_sparse;

use std::io;
use std::sync::{Mutex, PoisonError};

use bitnet_quantization::{ScaleLayout, TernaryRows};

use super::layout::Layout;
use super::memory::{Arena, Disjoint};
use super::packed::Packed;
use super::t5;
use super::threads::Pool;
use crate::error::KernelError;
use crate::packed::{PackReader, PackWriter};

/// Rows of a strip and columns of a tile of this layout.
pub const TILE: usize = 16;

/// A cache line of codes: 16 by 16 of two bits, or 16 by 20 of five to a byte.
pub type Tile = [u8; 64];

/// The code of trit 0.
const ZERO_TRIT: u8 = 1;

/// Columns up to which no kernel's 32-bit sum can overflow. The widest intermediate is AVX-512's for one token row,
/// which sums 64 * code * q over a quarter of the columns: 64 * 2 * 128 * cols / 4 = 2^12 * cols <= 2^30.
pub const MAX_COLS: usize = 1 << 18;

/// A ternary weight in run layout.
#[derive(Debug)]
pub struct PackedTernary {
    rows: usize,
    cols: usize,
    layout: Layout,
    tiles: Packed<Tile>, // [n_strips, tiles_per_strip]
    scales: Scales,
}

/// The scales of a packed weight.
#[derive(Debug)]
pub enum Scales {
    /// One for the tensor.
    PerTensor(f32),
    /// One for each block of a row.
    PerBlock {
        /// Weights along a row that share a scale; a multiple of 16.
        block_len: usize,
        /// `[n_strips, blocks_per_row]` of 16 rows' scales.
        scales: Packed<[f32; TILE]>,
    },
}

impl PackedTernary {
    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What the tiles mean.
    #[inline(always)]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The scales.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// Weights per scale along a row, `None` when there is one scale for the tensor.
    pub fn block_len(&self) -> Option<usize> {
        match self.scales {
            Scales::PerTensor(_) => None,
            Scales::PerBlock { block_len, .. } => Some(block_len),
        }
    }

    /// Bytes of codes and scales: what a kernel reads for one token.
    pub fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::PerTensor(_) => 4,
            Scales::PerBlock { scales, .. } => size_of_val(&scales[..]),
        };
        size_of_val(&self.tiles[..]) + scales
    }

    /// Strips of 16 rows.
    pub fn n_strips(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// The tiles of one strip: `[cols / 16]` or `[cols / 20]`, rounded up.
    #[inline(always)]
    pub fn strip(&self, strip: usize) -> &[Tile] {
        let tiles = self.cols.div_ceil(self.layout.tile_cols());
        &self.tiles[strip * tiles..][..tiles]
    }

    /// Decodes and repacks `weights`, on all threads of the pool, into memory of `arena`. A weight with a scale per
    /// block takes 2 bits whatever the layout: its blocks are no whole tiles of five codes a byte.
    ///
    /// # Errors
    /// Those of [`TernaryRows::read_row`], for the first bad row; shapes that cannot be packed; no memory.
    pub fn pack(
        weights: &dyn TernaryRows,
        layout: Layout,
        pool: &Pool,
        arena: &mut Arena,
    ) -> Result<PackedTernary, KernelError> {
        let (rows, cols) = (weights.rows(), weights.cols());
        let refuse = |why| Err(KernelError::TernaryShape { rows, cols, why });
        if cols > MAX_COLS {
            return refuse(TOO_WIDE);
        }
        let layout = match weights.scale() {
            ScaleLayout::PerTensor(_) => layout,
            ScaleLayout::PerBlock { .. } => Layout::I2s,
        };
        let (n_strips, n_tiles) = (rows.div_ceil(TILE), cols.div_ceil(layout.tile_cols()));
        let Some(total) = n_strips.checked_mul(n_tiles) else {
            return Err(KernelError::TooLarge {
                what: "ternary weight",
                dims: vec![rows, cols],
            });
        };
        let mut tiles = arena.zeroed::<Tile>("ternary weights", total)?;
        let n_blocks = match weights.scale() {
            ScaleLayout::PerTensor(_) => 0,
            ScaleLayout::PerBlock { block_len } => {
                if !divides_into_blocks(cols, block_len) {
                    return refuse(BAD_BLOCKS);
                }
                cols / block_len
            }
        };
        let mut scales =
            arena.zeroed::<[f32; TILE]>("ternary weight scales", n_strips * n_blocks)?;
        let tiles_out = Disjoint::new(&mut tiles);
        let scales_out = Disjoint::new(&mut scales);
        let padded = n_tiles * layout.tile_cols();
        for_rows_of(weights, pool, n_strips, padded, n_blocks, |strip, rows| {
            // SAFETY: each strip is given to one thread, and its tiles and scales belong to no other strip.
            let (tiles, scales) = unsafe {
                (
                    tiles_out.range(strip * n_tiles, n_tiles),
                    scales_out.range(strip * n_blocks, n_blocks),
                )
            };
            for lane in 0..TILE {
                rows.read(strip * TILE + lane)?;
                pack_row(layout, lane, &rows.codes, tiles);
                for (block, scale) in scales.iter_mut().zip(&rows.scales) {
                    block[lane] = *scale;
                }
            }
            Ok(())
        })?;
        Ok(PackedTernary {
            rows,
            cols,
            layout,
            tiles: tiles.into(),
            scales: match weights.scale() {
                ScaleLayout::PerTensor(scale) => Scales::PerTensor(scale),
                ScaleLayout::PerBlock { block_len } => Scales::PerBlock {
                    block_len,
                    scales: scales.into(),
                },
            },
        })
    }

    /// Writes the arrays: tiles, and scales of blocks.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, writer: &mut dyn PackWriter) -> io::Result<()> {
        self.tiles.write(writer)?;
        match &self.scales {
            Scales::PerTensor(_) => Ok(()),
            Scales::PerBlock { scales, .. } => scales.write(writer),
        }
    }

    /// Reads what [`write`](PackedTernary::write) wrote of a weight `[rows, cols]` with this scale.
    ///
    /// # Errors
    /// [`KernelError::PackedArray`] for arrays of another weight, shapes that cannot be packed.
    pub fn read(
        [rows, cols]: [usize; 2],
        layout: Layout,
        scale: ScaleLayout,
        reader: &mut dyn PackReader,
    ) -> Result<PackedTernary, KernelError> {
        let refuse = |why| Err(KernelError::TernaryShape { rows, cols, why });
        if cols > MAX_COLS {
            return refuse(TOO_WIDE);
        }
        let n_strips = rows.div_ceil(TILE);
        let n_tiles = n_strips.checked_mul(cols.div_ceil(layout.tile_cols()));
        let tiles = Packed::read("tiles", n_tiles.unwrap_or(usize::MAX), reader)?;
        let scales = match scale {
            ScaleLayout::PerTensor(scale) => Scales::PerTensor(scale),
            ScaleLayout::PerBlock { block_len } => {
                if !divides_into_blocks(cols, block_len) || layout != Layout::I2s {
                    return refuse(BAD_BLOCKS);
                }
                let n_scales = n_strips * (cols / block_len);
                let scales = Packed::read("scales of blocks", n_scales, reader)?;
                Scales::PerBlock { block_len, scales }
            }
        };
        Ok(PackedTernary {
            rows,
            cols,
            layout,
            tiles,
            scales,
        })
    }
}

/// Why a weight of more than [`MAX_COLS`] columns cannot be packed.
const TOO_WIDE: &str = "more than 262144 columns overflow the integer dot product";

/// Why a weight cannot be packed whose blocks are no whole tiles or whose rows are no whole blocks.
const BAD_BLOCKS: &str = "the block length is no multiple of 16 that divides the columns";

/// Whether rows of `cols` weights are whole blocks of whole tiles.
fn divides_into_blocks(cols: usize, block_len: usize) -> bool {
    block_len > 0 && block_len.is_multiple_of(TILE) && cols.is_multiple_of(block_len)
}

/// Calls `work(item, rows)` for items `0..n`, on all threads, each with a reader of rows of its own, whose codes are padded
/// to `padded` columns.
///
/// # Errors
/// The first failing item's.
fn for_rows_of(
    weights: &dyn TernaryRows,
    pool: &Pool,
    n: usize,
    padded: usize,
    n_scales: usize,
    work: impl Fn(usize, &mut CodeReader<'_>) -> Result<(), KernelError> + Sync,
) -> Result<(), KernelError> {
    let first_error = Mutex::new(None::<(usize, KernelError)>);
    pool.for_ranges(n, pool.grain(n, 1), |items, _| {
        let mut rows = CodeReader {
            weights,
            trits: vec![0; weights.cols()],
            codes: vec![ZERO_TRIT; padded],
            scales: vec![0.0; n_scales],
        };
        for item in items {
            if let Err(error) = work(item, &mut rows) {
                let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                if first.as_ref().is_none_or(|(first, _)| item < *first) {
                    *first = Some((item, error));
                }
                return;
            }
        }
    });
    let first_error = first_error.into_inner();
    match first_error.unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Reads rows of a weight as codes.
struct CodeReader<'a> {
    weights: &'a dyn TernaryRows,
    trits: Vec<i8>,   // [cols]
    codes: Vec<u8>,   // [padded], those of trit 0 beyond the columns
    scales: Vec<f32>, // [n_scales]
}

impl CodeReader<'_> {
    /// Reads a row into `codes` and `scales`; a row behind the last has codes of trit 0 and leaves the scales.
    fn read(&mut self, row: usize) -> Result<(), KernelError> {
        if row >= self.weights.rows() {
            self.codes.fill(ZERO_TRIT);
            return Ok(());
        }
        self.weights
            .read_row(row, &mut self.trits, &mut self.scales)?;
        let mut largest = 0;
        for (code, trit) in self.codes.iter_mut().zip(&self.trits) {
            *code = trit.wrapping_add(1) as u8;
            largest = largest.max(*code);
        }
        if largest > 2 {
            // The overflow proofs of the kernels rest on codes of at most 2.
            let col = self.codes.iter().position(|&code| code > 2).unwrap_or(0);
            return Err(KernelError::NotATrit {
                row,
                col,
                value: self.trits[col],
            });
        }
        Ok(())
    }
}

/// What a tile of two bits holds for one of its rows: bits `8j + 2c..` are the code of column `4c + j`.
fn word_of(codes: &[u8; TILE]) -> [u8; 4] {
    // Four codes of a crumb side by side: shifting the word shifts all four, and two bits never meet.
    let quads = codes.as_chunks::<4>().0;
    let word = |crumb: usize| u32::from_le_bytes(quads[crumb]) << (2 * crumb);
    (word(0) | word(1) | word(2) | word(3)).to_le_bytes()
}

/// Packs the codes of one row into its lane of each tile.
fn pack_row(layout: Layout, lane: usize, codes: &[u8], tiles: &mut [Tile]) {
    if layout == Layout::T5 {
        return t5::pack_row(lane, codes, tiles);
    }
    for (tile, codes) in tiles.iter_mut().zip(codes.as_chunks::<TILE>().0) {
        tile[4 * lane..][..4].copy_from_slice(&word_of(codes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_quantization::{I2sDialect, I2sRows, encode_i2s};

    #[test]
    fn tiles_hold_codes_where_the_drawing_says() {
        let (rows, cols) = (20, 128);
        let trit = |row: usize, col: usize| ((row * 5 + col * 7 + col / 16) % 3) as i8 - 1;
        let trits: Vec<i8> = (0..rows * cols).map(|i| trit(i / cols, i % cols)).collect();
        let mut bytes = Vec::new();
        encode_i2s(I2sDialect::Block128, rows, cols, &trits, 2.5, &mut bytes).unwrap();
        let weights = I2sRows::new(I2sDialect::Block128, rows, cols, &bytes).unwrap();
        let pool = Pool::new(2).unwrap();
        let packed =
            PackedTernary::pack(&weights, Layout::I2s, &pool, &mut Arena::default()).unwrap();
        assert_eq!((packed.n_strips(), packed.block_len()), (2, None));
        assert!(matches!(packed.scales(), Scales::PerTensor(2.5)));
        for strip in 0..2 {
            for (t, tile) in packed.strip(strip).iter().enumerate() {
                for (byte, codes) in tile.iter().enumerate() {
                    for crumb in 0..4 {
                        let (row, col) = (strip * TILE + byte / 4, t * TILE + 4 * crumb + byte % 4);
                        let expected = if row < rows { trit(row, col) + 1 } else { 1 };
                        let code = (codes >> (2 * crumb)) & 3;
                        assert_eq!(code as i8, expected, "row {row}, column {col}");
                    }
                }
            }
        }
    }
}
