//! Dense matrices with f32 activations: the embedding table and the head, in whatever type the file stores them.
//!
//! The bytes stay where they are, usually in the mapped file. A ternary table is treated like any other: the reference
//! multiplies the head with unquantised activations.

pub(crate) mod codec;
mod embed;
mod matmul;

use bitnet_quantization::TensorType;
use bytes::Bytes;

use crate::backend::MatrixData;
use crate::error::KernelError;

pub use embed::{embed, widen};
pub use matmul::{dot_rows, matmul};

/// A checked [`MatrixData`].
#[derive(Debug, Clone)]
pub struct Matrix {
    ty: TensorType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    scale: f32, // of an I2_S tensor, which has one; else 1
    bytes: Bytes,
}

impl Matrix {
    /// Checks that the bytes are `[rows, cols]` of the type.
    ///
    /// # Errors
    /// [`KernelError::MatrixShape`] naming what does not fit.
    pub fn new(data: MatrixData) -> Result<Matrix, KernelError> {
        let MatrixData {
            ty,
            rows,
            cols,
            bytes,
        } = data;
        let refuse = |why, expected, found| {
            Err(KernelError::MatrixShape {
                ty,
                rows,
                cols,
                why,
                expected,
                found,
            })
        };
        // A row of I2_S is its own only if it is whole groups of 128 codes.
        let multiple = if ty == TensorType::I2S {
            128
        } else {
            ty.block_len()
        };
        if cols == 0 || !cols.is_multiple_of(multiple) {
            return refuse(
                "the columns are not a multiple of the block length",
                multiple,
                cols,
            );
        }
        let expected = (rows as u64)
            .checked_mul(cols as u64)
            .and_then(|n| ty.storage_bytes(n));
        let Some(expected) = expected.and_then(|bytes| usize::try_from(bytes).ok()) else {
            return Err(KernelError::TooLarge {
                what: "matrix",
                dims: vec![rows, cols],
            });
        };
        if bytes.len() != expected {
            return refuse(
                "the byte count does not match the shape",
                expected,
                bytes.len(),
            );
        }
        let row_bytes = cols / ty.block_len() * ty.block_bytes();
        let scale = match ty {
            TensorType::I2S => bytes[rows * row_bytes..]
                .first_chunk()
                .map_or(1.0, |b| f32::from_le_bytes(*b)),
            _ => 1.0,
        };
        Ok(Matrix {
            ty,
            rows,
            cols,
            row_bytes,
            scale,
            bytes,
        })
    }

    /// `n` rows from `first` on, where they lie.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn part(&self, first: usize, n: usize) -> Matrix {
        let bytes = first * self.row_bytes..(first + n) * self.row_bytes;
        Matrix {
            rows: n,
            bytes: self.bytes.slice(bytes),
            ..self.clone()
        }
    }

    /// Output features (vocabulary entries).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Storage type.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// Bytes of all rows: what a product reads.
    pub fn bytes(&self) -> usize {
        self.rows * self.row_bytes
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The scale of an I2_S tensor, which has one; else 1.
    #[inline(always)]
    pub(crate) fn scale(&self) -> f32 {
        self.scale
    }

    /// The stored bytes of one row.
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }
}

/// Evaluates `$body` with `$codec` bound to the codec of the matrix's type.
macro_rules! with_codec {
    ($matrix:expr, $codec:ident => $body:expr) => {{
        use bitnet_quantization::TensorType;
        use $crate::cpu::dense::codec as c;
        match $matrix.ty() {
            TensorType::F32 => {
                let $codec = c::F32;
                $body
            }
            TensorType::F16 => {
                let $codec = c::F16;
                $body
            }
            TensorType::BF16 => {
                let $codec = c::BF16;
                $body
            }
            TensorType::Q4_0 => {
                let $codec = c::Q4_0;
                $body
            }
            TensorType::Q4_1 => {
                let $codec = c::Q4_1;
                $body
            }
            TensorType::Q5_0 => {
                let $codec = c::Q5_0;
                $body
            }
            TensorType::Q8_0 => {
                let $codec = c::Q8_0;
                $body
            }
            TensorType::Q4K => {
                let $codec = c::Q4K;
                $body
            }
            TensorType::Q5K => {
                let $codec = c::Q5K;
                $body
            }
            TensorType::Q6K => {
                let $codec = c::Q6K;
                $body
            }
            TensorType::I2S => {
                let $codec = c::I2s {
                    scale: $matrix.scale(),
                };
                $body
            }
            TensorType::Tq1_0 => {
                let $codec = c::Tq1_0;
                $body
            }
            TensorType::Tq2_0 => {
                let $codec = c::Tq2_0;
                $body
            }
            TensorType::Q2_0 => {
                let $codec = c::Q2_0;
                $body
            }
            TensorType::Pq2_0 => {
                let $codec = c::Pq2_0;
                $body
            }
            TensorType::Ptq1_0 => {
                let $codec = c::Ptq1_0;
                $body
            }
        }
    }};
}
pub(crate) use with_codec;
