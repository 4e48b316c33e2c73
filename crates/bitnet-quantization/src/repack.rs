//! One ternary type into another, exactly: every trit and every scale comes out as it went in, or nothing does.
//!
//! Types differ in what they can hold. I2_S has one f32 scale for the tensor; the block types have an f16 for each
//! block, so a scale must be an f16 number, and weights that share a block must share their scale. A weight is
//! `trit * scale`: a block without a non-zero trit has no weight that its scale could change, and a scale of zero makes
//! its trits zeros.
//!
//! A tensor is written in pieces of whole rows. Each piece is a small tensor of its own, so it is decoded again by the
//! reader of its type and compared before it is handed out.

use crate::block_ternary::{BlockTernaryRows, encode_row};
use crate::error::QuantError;
use crate::floats::{f16_bytes, f16_to_f32};
use crate::i2s::{I2sDialect, I2sRows, encode_i2s};
use crate::qtype::{I2S_TRAILER_BYTES, TensorType};
use crate::ternary::{ScaleLayout, Shape, TernaryRows};

/// Weights of a piece: a hundredth of a second of work, and little memory beside a row of any model.
const PIECE_WEIGHTS: usize = 1 << 18;
/// I2_S groups this many weights over the flattened tensor; a piece must be whole groups.
const I2S_GROUP: usize = 128;

/// Writes the rows of a ternary tensor as another type, a piece at a time.
///
/// ```
/// use bitnet_quantization::{I2sDialect, I2sRows, Repacker, TensorType, encode_i2s};
/// # fn main() -> Result<(), bitnet_quantization::QuantError> {
/// let mut file = Vec::new();
/// encode_i2s(I2sDialect::Block128, 2, 256, &[1; 512], 0.5, &mut file)?;
/// let source = I2sRows::new(I2sDialect::Block128, 2, 256, &file)?;
/// let mut repacker = Repacker::new(&source, TensorType::Tq2_0)?;
/// let mut bytes = Vec::new();
/// while repacker.next_piece(&mut bytes)? {}
/// assert_eq!(bytes.len(), 2 * 66);
/// # Ok(())
/// # }
/// ```
pub struct Repacker<'a> {
    source: &'a dyn TernaryRows,
    ty: TensorType,
    next_row: usize,
    piece_rows: usize,
    source_scales: Vec<f32>, // [scales per source row]
    trits: Vec<i8>,          // [piece_rows, cols]
    scales: Vec<f32>,        // [piece_rows, cols / group_len()]
    read_back: Vec<i8>,      // [cols]
    read_scales: Vec<f32>,   // [cols / group_len()]
}

impl<'a> Repacker<'a> {
    /// Prepares to write `source` as `ty`. [`Repacker::check`] tells whether it will succeed.
    ///
    /// # Errors
    /// A type that is not written, and a shape that it cannot hold.
    pub fn new(source: &'a dyn TernaryRows, ty: TensorType) -> Result<Self, QuantError> {
        let (rows, cols) = (source.rows(), source.cols());
        let piece_unit = match ty {
            TensorType::I2S => {
                let shape = Shape::new(ty.name(), rows, cols, 1)?;
                if !shape.elements().is_multiple_of(I2S_GROUP) {
                    let why = "I2_S needs an element count that is a multiple of 128";
                    return Err(QuantError::Shape {
                        format: ty.name(),
                        rows,
                        cols,
                        why,
                    });
                }
                // The least rows that are whole groups.
                I2S_GROUP >> cols.trailing_zeros().min(I2S_GROUP.trailing_zeros())
            }
            _ if ty.is_block_ternary() => {
                Shape::new(ty.name(), rows, cols, ty.block_len())?;
                1
            }
            _ => {
                let why = "I2_S, TQ1_0, TQ2_0, Q2_0, PQ2_0 and PTQ1_0 are the ternary types that are written";
                return Err(QuantError::NotPossible {
                    format: ty.name(),
                    operation: "written trit by trit",
                    why,
                });
            }
        };
        let piece_rows = (PIECE_WEIGHTS / cols).max(1).next_multiple_of(piece_unit);
        let piece_rows = piece_rows.min(rows);
        let groups = match ty {
            TensorType::I2S => 1,
            _ => cols / ty.block_len(),
        };
        Ok(Repacker {
            source,
            ty,
            next_row: 0,
            piece_rows,
            source_scales: vec![0.0; source.scale().scales_per_row(cols)],
            trits: vec![0; piece_rows * cols],
            scales: vec![0.0; piece_rows * groups],
            read_back: vec![0; cols],
            read_scales: vec![0.0; groups],
        })
    }

    /// Reads everything once and writes nothing.
    ///
    /// # Errors
    /// [`QuantError::ScaleLost`] for a scale that the type cannot hold, and what reading the source gives.
    pub fn check(&mut self) -> Result<(), QuantError> {
        for row in 0..self.source.rows() {
            self.take_row(row, 0)?;
        }
        Ok(())
    }

    /// Appends the bytes of the next piece to `out`; `false` when there was none left.
    ///
    /// # Errors
    /// As [`Repacker::check`], and [`QuantError::NotReadBack`].
    pub fn next_piece(&mut self, out: &mut Vec<u8>) -> Result<bool, QuantError> {
        let (rows, cols) = (self.source.rows(), self.source.cols());
        if self.next_row == rows {
            return Ok(false);
        }
        let n_rows = self.piece_rows.min(rows - self.next_row);
        for i in 0..n_rows {
            self.take_row(self.next_row + i, i)?;
        }
        let start = out.len();
        if self.ty == TensorType::I2S {
            let scale = self.scales[0]; // the same for every row
            let trits = &self.trits[..n_rows * cols];
            encode_i2s(I2sDialect::Block128, n_rows, cols, trits, scale, out)?;
            let piece = I2sRows::new(I2sDialect::Block128, n_rows, cols, &out[start..])?;
            self.compare(&piece, n_rows)?;
            if self.next_row + n_rows < rows {
                // The scale belongs behind the last piece only.
                out.truncate(out.len() - I2S_TRAILER_BYTES);
            }
        } else {
            let groups = self.group_count();
            for i in 0..n_rows {
                let scales = &self.scales[i * groups..][..groups];
                // take_row has made sure that each is an f16 number.
                let scales = scales
                    .iter()
                    .map(|&scale| f16_bytes(scale).unwrap_or_default());
                encode_row(self.ty, &self.trits[i * cols..][..cols], scales, out);
            }
            let piece = BlockTernaryRows::new(self.ty, n_rows, cols, &out[start..])?;
            self.compare(&piece, n_rows)?;
        }
        self.next_row += n_rows;
        Ok(true)
    }

    /// Reads row `row` to place `i` of the piece: its trits and one scale for every block of the new type.
    fn take_row(&mut self, row: usize, i: usize) -> Result<(), QuantError> {
        let cols = self.source.cols();
        let groups = self.group_count();
        let trits = &mut self.trits[i * cols..][..cols];
        self.source.read_row(row, trits, &mut self.source_scales)?;
        let scales = &mut self.scales[i * groups..][..groups];
        let (format, ty) = (self.ty.name(), self.ty);
        let lost = |col, scale, why| {
            Err(QuantError::ScaleLost {
                format,
                row,
                col,
                scale,
                why,
            })
        };
        match self.source.scale() {
            ScaleLayout::PerTensor(scale) => {
                if ty != TensorType::I2S && !is_f16(scale) {
                    return lost(0, scale, NO_F16);
                }
                scales.fill(scale);
            }
            ScaleLayout::PerBlock { .. } if ty == TensorType::I2S => {
                let scale = self.source_scales[0];
                return lost(0, scale, "the weights have several scales, I2_S has one");
            }
            ScaleLayout::PerBlock { block_len } => {
                let source_blocks = trits.chunks_mut(block_len).zip(&self.source_scales);
                for (block, _) in source_blocks.filter(|(_, scale)| **scale == 0.0) {
                    block.fill(0);
                }
                let len = ty.block_len();
                for (group, (scale, trits)) in scales.iter_mut().zip(trits.chunks(len)).enumerate()
                {
                    let first = group * len;
                    match common_scale(trits, first, block_len, &self.source_scales) {
                        Ok(common) if is_f16(common) => *scale = common,
                        Ok(common) => return lost(first, common, NO_F16),
                        Err((col, other)) => {
                            return lost(col, other, "another scale is in the same block");
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Holds what was written against what went in.
    fn compare(&mut self, piece: &dyn TernaryRows, n_rows: usize) -> Result<(), QuantError> {
        let cols = self.source.cols();
        let groups = self.group_count();
        let group_len = cols / groups;
        let written_scales = piece.scale().scales_per_row(cols);
        for i in 0..n_rows {
            piece.read_row(
                i,
                &mut self.read_back,
                &mut self.read_scales[..written_scales],
            )?;
            let trits = &self.trits[i * cols..][..cols];
            let scales = &self.scales[i * groups..][..groups];
            let groups = trits
                .chunks_exact(group_len)
                .zip(self.read_back.chunks_exact(group_len))
                .zip(scales);
            for (group, ((trits, read_back), scale)) in groups.enumerate() {
                let written = match piece.scale() {
                    ScaleLayout::PerTensor(scale) => scale,
                    ScaleLayout::PerBlock { block_len } => {
                        self.read_scales[group * group_len / block_len]
                    }
                };
                // Trits under a scale of zero are read as zeros.
                let zero = *scale == 0.0;
                let same_trits = trits == read_back || (zero && read_back.iter().all(|&t| t == 0));
                let same_scale = written.to_bits() == scale.to_bits() || is_zero(trits) || zero;
                if !same_trits || !same_scale {
                    return Err(QuantError::NotReadBack {
                        format: self.ty.name(),
                        row: self.next_row + i,
                        col: group * group_len,
                    });
                }
            }
        }
        Ok(())
    }

    /// Scales of a row in the new type.
    fn group_count(&self) -> usize {
        self.read_scales.len()
    }
}

const NO_F16: &str = "it is no f16 number, which is what the type's blocks have";

/// Whether rounding to f16 changes nothing.
fn is_f16(scale: f32) -> bool {
    f16_bytes(scale)
        .is_some_and(|bytes| f16_to_f32(u16::from_le_bytes(bytes)).to_bits() == scale.to_bits())
}

fn is_zero(trits: &[i8]) -> bool {
    trits.iter().all(|&trit| trit == 0)
}

/// The one scale of all non-zero trits of a block that starts at column `first`; without any, the first one's. The
/// error is the column and the scale that does not agree.
fn common_scale(
    trits: &[i8],
    first: usize,
    source_len: usize,
    source_scales: &[f32],
) -> Result<f32, (usize, f32)> {
    let mut common: Option<f32> = None;
    let mut at = 0;
    while at < trits.len() {
        let col = first + at;
        let end = (at + source_len - col % source_len).min(trits.len());
        let scale = source_scales[col / source_len];
        if !is_zero(&trits[at..end]) {
            match common {
                Some(common) if common.to_bits() != scale.to_bits() => return Err((col, scale)),
                _ => common = Some(scale),
            }
        }
        at = end;
    }
    Ok(common.unwrap_or(source_scales[first / source_len]))
}

impl std::fmt::Debug for Repacker<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, cols) = (self.source.rows(), self.source.cols());
        write!(
            f,
            "Repacker({rows}x{cols} to {}, row {})",
            self.ty, self.next_row
        )
    }
}

#[cfg(test)]
mod tests;
