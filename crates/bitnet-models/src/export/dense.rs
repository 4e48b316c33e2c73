//! Embeddings and heads in another type: decoded and encoded a few rows at a time, with the error that this makes.

use bitnet_quantization::{QuantError, TensorType, dequantize, quantize};

use super::report::ValueError;

/// A dense matrix being converted, from its first row to its last.
pub(super) struct DenseRows<'a> {
    ty: TensorType,
    /// Values in a row.
    cols: usize,
    rest: &'a [u8],
    row_bytes: usize,
    max: f32,
    squared_error: f64,
    squared: f64,
}

impl<'a> DenseRows<'a> {
    /// Takes the bytes of a whole tensor with rows of `cols` values; the caller has made sure that they are whole rows.
    pub fn new(ty: TensorType, cols: usize, bytes: &'a [u8]) -> Self {
        Self {
            ty,
            cols,
            rest: bytes,
            row_bytes: cols / ty.block_len() * ty.block_bytes(),
            max: 0.0,
            squared_error: 0.0,
            squared: 0.0,
        }
    }

    /// Appends the next rows as `to`, about `piece_bytes` of the source; `false` when none was left.
    pub fn next_piece(
        &mut self,
        to: TensorType,
        piece_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<bool, QuantError> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        let n = (piece_bytes / self.row_bytes).max(1) * self.row_bytes;
        let (piece, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        let mut values = vec![0.0; piece.len() / self.row_bytes * self.cols];
        dequantize(self.ty, piece, &mut values)?;
        let start = out.len();
        quantize(to, &values, out)?;
        let mut back = vec![0.0; values.len()];
        dequantize(to, &out[start..], &mut back)?;
        for (value, back) in values.iter().zip(back) {
            let error = (value - back).abs();
            self.max = self.max.max(error);
            self.squared_error += f64::from(error) * f64::from(error);
            self.squared += f64::from(*value) * f64::from(*value);
        }
        Ok(true)
    }

    /// The error of everything converted so far.
    pub fn error(&self) -> ValueError {
        let relative = if self.squared > 0.0 {
            (self.squared_error / self.squared).sqrt()
        } else {
            0.0
        };
        ValueError {
            max: self.max,
            relative,
        }
    }
}
