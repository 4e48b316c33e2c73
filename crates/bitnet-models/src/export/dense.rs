//! Embeddings, heads and norms in another type: decoded and encoded a few rows at a time, with the error that this
//! makes.

use bitnet_quantization::{QuantError, TensorType, dequantize, quantize};

use super::PIECE_BYTES;
use super::report::ValueError;

/// A dense matrix being converted, from its first row to its last.
pub(super) struct DenseRows<'a> {
    ty: TensorType,
    to: TensorType,
    /// Values in a row.
    cols: usize,
    rest: &'a [u8],
    row_bytes: usize,
    /// Values converted so far.
    done: usize,
    max: f32,
    squared_error: f64,
    squared: f64,
}

impl<'a> DenseRows<'a> {
    /// Takes the bytes of a whole tensor with rows of `cols` values; the caller has made sure that they are whole rows.
    pub fn new(ty: TensorType, to: TensorType, cols: usize, bytes: &'a [u8]) -> Self {
        Self {
            ty,
            to,
            cols,
            rest: bytes,
            row_bytes: cols / ty.block_len() * ty.block_bytes(),
            done: 0,
            max: 0.0,
            squared_error: 0.0,
            squared: 0.0,
        }
    }

    /// Whether every value of the old type is one of the new.
    pub fn is_exact(&self) -> bool {
        self.to == TensorType::F32 || self.to == self.ty
    }

    /// Converts everything and keeps nothing.
    ///
    /// # Errors
    /// As [`DenseRows::next_piece`].
    pub fn check(&self) -> Result<(), QuantError> {
        let mut all = Self { ..*self };
        let mut out = Vec::new();
        while all.next_piece(&mut out)? {
            out.clear();
        }
        Ok(())
    }

    /// Appends the next rows, about [`PIECE_BYTES`] of the source; `false` when none was left.
    ///
    /// # Errors
    /// A value that is not finite or too large for the type, with its index in the whole tensor.
    pub fn next_piece(&mut self, out: &mut Vec<u8>) -> Result<bool, QuantError> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        let n = (PIECE_BYTES / self.row_bytes).max(1) * self.row_bytes;
        let (piece, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        let mut values = vec![0.0; piece.len() / self.row_bytes * self.cols];
        dequantize(self.ty, piece, &mut values)?;
        let start = out.len();
        quantize(self.to, &values, out).map_err(|error| self.placed(error))?;
        let mut back = vec![0.0; values.len()];
        dequantize(self.to, &out[start..], &mut back)?;
        for (value, back) in values.iter().zip(back) {
            let error = (value - back).abs();
            self.max = self.max.max(error);
            self.squared_error += f64::from(error) * f64::from(error);
            self.squared += f64::from(*value) * f64::from(*value);
        }
        self.done += values.len();
        Ok(true)
    }

    /// The error of everything converted so far.
    pub fn error(&self) -> ValueError {
        ValueError::new(self.max, self.squared_error, self.squared)
    }

    /// An error of the piece that begins at `done` as one of the tensor.
    fn placed(&self, error: QuantError) -> QuantError {
        match error {
            QuantError::Unwritable {
                format,
                index,
                value,
            } => QuantError::Unwritable {
                format,
                index: index + self.done,
                value,
            },
            other => other,
        }
    }
}
