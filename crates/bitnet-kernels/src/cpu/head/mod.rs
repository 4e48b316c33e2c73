//! A small copy of the head that finds the few rows which can matter, so that only those are multiplied exactly.
//!
//! The full head is the largest stream of decoding, yet drawing a token needs a handful of its products. The copy holds
//! every weight in five bits and two more for rows that are looked at again. A scan of the five bits gives each row an
//! estimate of its logit and a bound that holds without exception; rows whose bound reaches the least logit that can
//! matter are multiplied exactly as the full head does. `docs/exact-head.md` derives the bound.
//!
//! ```text
//! w  = s_b * (code - 15.5) + e        code in 0..=31, one scale s_b for 128 columns of a row
//! e  = s_b * (2 crumb - 3) / 8 + e2        crumb in 0..=3
//!
//! block = 16 rows by 128 columns, 4 groups of 32 columns; a group is 5 lines of 64 bytes, bytes 4r..4r+4 of each row r's
//! line 1 + m   byte 4r + j: low nibble  = low four bits of code(row r, column 8m + j of the group)
//!                           high nibble = top four bits of code(row r, column 8m + 4 + j)
//! line 0       byte 4r + j, bits FIFTH_BITS[m]: the bits that these two codes lack
//! crumbs       of one row and 128 columns, 32 bytes: byte i, bits 2p..2p+2 = crumb(column 32p + i)
//! ```
//!
//! As in [`i2s`](super::i2s) a 32-bit lane is a row and a strip of 16 rows is one linear stream, read in the order in
//! which it lies. The fifth bits lie so that one shift of their line brings both of a byte to where they are needed: the
//! low code at the bottom of a byte, the high one at its top, eight times as large, which a sum of its own undoes.
//!
//! # Layout
//! - [`pack`]: making the copy. [`hidden`]: hidden states as int8, with what that costs the bound.
//! - [`scan`], [`refine`]: estimates and bounds. [`candidates`]: who survives.
//! - `scalar`, `avx2`, `avx512`, `neon`: the two integer products of each instruction set.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod candidates;
pub mod hidden;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod pack;
pub mod refine;
pub mod scalar;
pub mod scan;

use super::isa::LANES;
use std::io;

use super::packed::Packed;
use crate::error::KernelError;
use crate::packed::{PackReader, PackWriter};

/// Columns that share a scale. Shorter blocks have smaller scales (a tighter bound) but more of them: 128 columns cost
/// an eighth of a bit a weight.
pub const BLOCK: usize = 128;

/// Quads of columns in a block.
pub const QUADS: usize = BLOCK / 4;

/// Five-bit codes of 16 rows by 32 columns: a line of fifth bits, then four of nibbles.
pub type CodeGroup = [[u8; 64]; 5];

/// Where the fifth bits of the codes in the low and in the high nibbles of each line of a [`CodeGroup`] are: shifted by
/// 0, -2, 2, and 3 either way, they come to bits 4 and 3.
pub const FIFTH_BITS: [[u32; 2]; 4] = [[4, 3], [6, 5], [2, 1], [7, 0]];

/// Five-bit codes of 16 rows by [`BLOCK`] columns.
pub type CodeBlock = [CodeGroup; 4];

/// Two-bit residues of one row's block.
pub type Crumbs = [u8; BLOCK / 4];

/// The code, between two whole ones, that stands for zero; also the largest distance from it.
pub const ZERO_CODE: f32 = 15.5;

/// The largest length of a row or a hidden state for which nothing can overflow: products stay below 1e34. Rows beyond
/// it, and those that are not finite, are always multiplied exactly; hidden states beyond it use the full head.
pub const LARGEST_NORM: f64 = 1e17;

/// Blocks whose largest weight is below this are stored as zeros; what that loses is part of [`FLOOR`].
pub const LEAST_WEIGHT: f32 = 1e-30;

/// Error of a block that has no relation to its scale: squares that underflow (below 2^-75 each) and weights below
/// [`LEAST_WEIGHT`].
pub const FLOOR: f64 = 1e-20;

/// Unit roundoff of f32.
pub const ROUNDOFF: f64 = 1.0 / (1u64 << 24) as f64;

/// A row has one constant for both errors of the scan, `max(|e|, |w^| / CODE_SHARE)`, so that one product bounds them:
/// the length of the codes counts with the error of the hidden state, which is small. Weights that are roughly normal have
/// `|w^| = 19 |e|`.
pub const CODE_SHARE: f64 = 20.0;

/// The same for the refined rows, whose error is a quarter.
pub const REFINED_SHARE: f64 = 80.0;

/// The longest that the crumbs of a block can be, in units of the scale: 3/8 in each of 128 columns, rounded up.
pub const LONGEST_CRUMBS: f64 = 4.243;

/// The same again for the crumbs, which meet less of a hidden state: a refined row's constant is `max(|e2_b|, |w^_b| /
/// REFINED_SHARE, |crumbs_b| / CRUMB_SHARE) / s_b`. With 8 the last is rarely the largest.
pub const CRUMB_SHARE: f64 = 8.0;

/// Blocks whose figures are taken at once when a row is refined: scales of a row are padded to as many.
pub const BLOCKS_AT_ONCE: usize = LANES;

/// The small copy of a head.
#[derive(Debug)]
pub struct HeadCopy {
    rows: usize,
    cols: usize,
    n_blocks: usize,                // of a row
    codes: Packed<CodeBlock>,       // [n_strips, n_blocks]
    scales: Packed<[u8; 32]>,       // [n_strips, n_blocks] of 16 rows' bf16
    bounds: Packed<[[f32; 16]; 2]>, // [n_strips]: constants of 16 rows: by blocks, of the whole row
    crumbs: Packed<Crumbs>,         // [rows, n_blocks]
    row_scales: Packed<[u8; 32]>, // [rows, n_scales]: the scales again, row by row, 16 blocks each
    row_bounds: Packed<[f32; 2]>, // [rows]: the constants after refining
    wild: Packed<u32>,            // rows that are always multiplied exactly, ascending
}

impl HeadCopy {
    /// Writes its seven arrays.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, writer: &mut dyn PackWriter) -> io::Result<()> {
        self.codes.write(writer)?;
        self.scales.write(writer)?;
        self.bounds.write(writer)?;
        self.crumbs.write(writer)?;
        self.row_scales.write(writer)?;
        self.row_bounds.write(writer)?;
        self.wild.write(writer)
    }

    /// Reads what [`write`](HeadCopy::write) wrote of the copy of a head `[rows, cols]`.
    ///
    /// # Errors
    /// [`KernelError::PackedArray`] for the arrays of another head.
    pub fn read(
        [rows, cols]: [usize; 2],
        reader: &mut dyn PackReader,
    ) -> Result<HeadCopy, KernelError> {
        let (n_strips, n_blocks) = (rows.div_ceil(LANES), cols.div_ceil(BLOCK));
        let n_scales = rows * n_blocks.div_ceil(BLOCKS_AT_ONCE);
        let copy = HeadCopy {
            rows,
            cols,
            n_blocks,
            codes: Packed::read("codes of the head", n_strips * n_blocks, reader)?,
            scales: Packed::read("scales of the head", n_strips * n_blocks, reader)?,
            bounds: Packed::read("bounds of the head", n_strips, reader)?,
            crumbs: Packed::read("crumbs of the head", rows * n_blocks, reader)?,
            row_scales: Packed::read("row scales of the head", n_scales, reader)?,
            row_bounds: Packed::read("row bounds of the head", rows, reader)?,
            wild: Packed::read_any("wild rows of the head", reader)?,
        };
        // They are indices of rows.
        let ascend = copy.wild.is_sorted_by(|a, b| a < b);
        if ascend && copy.wild.last().is_none_or(|&row| (row as usize) < rows) {
            return Ok(copy);
        }
        Err(KernelError::PackedArray {
            what: "wild rows of the head",
            expected: format!("rows below {rows}, ascending"),
            found: "others".into(),
        })
    }

    /// Rows, as in the full head.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, as in the full head.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Strips of 16 rows.
    pub fn n_strips(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Blocks of a row.
    pub fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// Rows that are always multiplied exactly, ascending.
    pub fn wild(&self) -> &[u32] {
        &self.wild
    }

    /// Bytes that one scan reads.
    pub fn scan_bytes(&self) -> usize {
        size_of_val(&self.codes[..]) + size_of_val(&self.scales[..]) + size_of_val(&self.bounds[..])
    }

    /// Groups of 16 blocks in a row.
    fn n_scales(&self) -> usize {
        self.n_blocks.div_ceil(BLOCKS_AT_ONCE)
    }

    /// Bytes that are read of one row when it is looked at again.
    pub fn refine_bytes(&self) -> usize {
        self.n_blocks * size_of::<Crumbs>() + self.n_scales() * 32 + size_of::<[f32; 2]>()
    }

    /// Bytes of the whole copy.
    pub fn bytes(&self) -> usize {
        self.scan_bytes() + self.rows * self.refine_bytes()
    }
}
