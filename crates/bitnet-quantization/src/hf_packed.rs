//! The packed weights of Hugging Face checkpoints (`quant_method: bitnet`): uint8 `[ceil(rows / 4), cols]`.
//!
//! ```text
//! byte [p, k]:  bits 1:0      3:2      5:4       7:6         b = ceil(rows / 4)
//!               row p      b + p    2b + p    3b + p         code = trit + 1
//! ```
//!
//! Rows a quarter of the matrix apart share a byte. The scale is a tensor of its own, and what it means depends on
//! the checkpoint's configuration: `autobitlinear` multiplies by it, `bitlinear` divides. The caller knows and hands
//! over a scale that multiplies.
//! Source: transformers, `integrations/bitnet.py`.

use crate::error::QuantError;
use crate::ternary::{ScaleLayout, Shape, StoredRows, finite_tensor_scale};

const FORMAT: &str = "packed uint8";

/// The trits of a packed Hugging Face weight.
#[derive(Debug, Clone, Copy)]
pub struct HfPackedRows<'a> {
    shape: Shape,
    bytes: &'a [u8], // [ceil(rows / 4), cols]
    scale: f32,
}

impl<'a> HfPackedRows<'a> {
    /// Takes the bytes of a whole tensor and the shape `[rows, cols]` that it unpacks to. `rows` is the number of
    /// output features that the model's configuration says: the packed shape tells it only up to 3.
    ///
    /// # Errors
    /// An impossible shape, another byte count than `ceil(rows / 4) * cols`, a scale that is NaN or infinite. Codes
    /// are checked when their row is read.
    pub fn new(rows: usize, cols: usize, bytes: &'a [u8], scale: f32) -> Result<Self, QuantError> {
        let shape = Shape::new(FORMAT, rows, cols, 1)?;
        shape.check_bytes(FORMAT, rows.div_ceil(4) * cols, bytes.len())?;
        Ok(HfPackedRows {
            shape,
            bytes,
            scale: finite_tensor_scale(FORMAT, scale)?,
        })
    }
}

impl StoredRows for HfPackedRows<'_> {
    fn header(&self) -> (Shape, ScaleLayout) {
        (self.shape, ScaleLayout::PerTensor(self.scale))
    }

    fn decode_row(
        &self,
        row: usize,
        trits: &mut [i8],
        _scales: &mut [f32],
    ) -> Result<(), QuantError> {
        let band = self.shape.rows.div_ceil(4);
        let shift = 2 * (row / band);
        let bytes = &self.bytes[row % band * self.shape.cols..][..self.shape.cols];
        let mut bad = 0;
        for (trit, &byte) in trits.iter_mut().zip(bytes) {
            let code = (byte >> shift) & 3;
            bad |= code & (code >> 1);
            *trit = code as i8 - 1;
        }
        if bad != 0 {
            let col = trits.iter().position(|&trit| trit == 2).unwrap_or_default();
            return Err(QuantError::InvalidCode {
                format: FORMAT,
                row,
                col,
                code: 3,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ternary::TernaryRows;

    /// Packs as the formula says, in its own words: row by row into bands.
    fn pack(rows: usize, cols: usize, trits: &[i8]) -> Vec<u8> {
        let band = rows.div_ceil(4);
        let mut bytes = vec![0; band * cols];
        for row in 0..rows {
            for col in 0..cols {
                bytes[row % band * cols + col] |=
                    ((trits[row * cols + col] + 1) as u8) << (2 * (row / band));
            }
        }
        bytes
    }

    #[test]
    fn rows_unpack_at_odd_shapes() {
        for (rows, cols) in [
            (1, 1),
            (2, 3),
            (3, 17),
            (4, 16),
            (5, 7),
            (6, 1),
            (7, 64),
            (8, 33),
            (192, 704),
        ] {
            let trits: Vec<i8> = (0..rows * cols)
                .map(|i| (i * 7 % 11 % 3) as i8 - 1)
                .collect();
            let bytes = pack(rows, cols, &trits);
            let packed = HfPackedRows::new(rows, cols, &bytes, 0.5).unwrap();
            assert_eq!(packed.scale(), ScaleLayout::PerTensor(0.5));
            let mut row_trits = vec![9; cols];
            for row in 0..rows {
                packed.read_row(row, &mut row_trits, &mut []).unwrap();
                assert_eq!(
                    row_trits,
                    trits[row * cols..][..cols],
                    "[{rows}, {cols}] row {row}"
                );
            }
        }
    }

    #[test]
    fn code_three_is_refused_with_its_row_and_column() {
        let mut bytes = pack(8, 5, &[0; 40]);
        bytes[5 + 2] |= 3 << 4; // band 2, p = 1
        let packed = HfPackedRows::new(8, 5, &bytes, 1.0).unwrap();
        for row in 0..8 {
            let result = packed.read_row(row, &mut [0; 5], &mut []);
            let expected = QuantError::InvalidCode {
                format: FORMAT,
                row: 5,
                col: 2,
                code: 3,
            };
            assert_eq!(result, if row == 5 { Err(expected) } else { Ok(()) });
        }
    }

    #[test]
    fn wrong_sizes_and_scales_are_refused() {
        for len in [0, 9, 11] {
            let error = HfPackedRows::new(8, 5, &vec![0; len], 1.0).unwrap_err();
            assert!(matches!(error, QuantError::ByteLength { expected: 10, .. }));
        }
        for (rows, cols) in [(0, 5), (8, 0), (usize::MAX, 5), (1, usize::MAX)] {
            assert!(matches!(
                HfPackedRows::new(rows, cols, &[], 1.0),
                Err(QuantError::Shape { .. })
            ));
        }
        for scale in [f32::NAN, f32::INFINITY] {
            assert!(matches!(
                HfPackedRows::new(8, 5, &[0; 10], scale),
                Err(QuantError::TensorScale { .. })
            ));
        }
    }
}
