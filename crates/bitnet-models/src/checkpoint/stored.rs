//! One tensor found in a checkpoint, and how it becomes rows of trits.

use bitnet_quantization::{
    AbsmeanRows, BlockTernaryRows, DenseTernaryRows, ForeignType, HfPackedRows, I2sDialect,
    I2sRows, MlxRows, MlxTensor, QuantError, Recognition, ScaleLayout, TensorType, TernaryRows,
    foreign, recognise,
};
use bytes::Bytes;

use crate::error::ModelError;

/// A tensor with its place, its shape as `[rows, cols]` and its bytes.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    pub file: &'a str,
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    /// Dimensions in the file: 1 for a vector.
    pub n_dims: usize,
    pub storage: Storage<'a>,
    /// The whole file, of which the storage's bytes are a part.
    pub file_bytes: &'a Bytes,
}

/// How a tensor's values are stored.
#[derive(Debug, Clone)]
pub(super) enum Storage<'a> {
    /// A type of its own.
    Typed(TensorType, &'a [u8]),
    /// Master weights, quantised by their absolute mean.
    Masters(TensorType, &'a [u8]),
    /// transformers' packing, four bands of rows in a byte; the scale multiplies.
    HfPacked(&'a [u8], f32),
    /// MLX's 2-bit codes with scales and biases.
    Mlx(MlxTensor<'a>),
    /// A format that is only imported; the scale is that of a tensor of its own, where there is one.
    Foreign(ForeignType, &'a [u8], Option<f32>),
    /// Something that is not read, described.
    Unreadable(String),
}

impl<'a> Stored<'a> {
    /// The tensor as rows of trits.
    pub fn ternary(&self, dialect: I2sDialect) -> Result<Box<dyn TernaryRows + 'a>, ModelError> {
        let (rows, cols) = (self.rows, self.cols);
        let damaged = |source| self.damaged(source);
        match self.storage {
            Storage::HfPacked(bytes, scale) => Ok(Box::new(
                HfPackedRows::new(rows, cols, bytes, scale).map_err(damaged)?,
            )),
            Storage::Foreign(ty, bytes, scale) => {
                foreign::open(ty, (rows, cols), bytes, scale, None).map_err(damaged)
            }
            Storage::Mlx(tensor) => {
                Ok(Box::new(MlxRows::new(tensor, rows, cols).map_err(damaged)?))
            }
            Storage::Masters(ty, bytes) => Ok(Box::new(
                AbsmeanRows::new(ty, rows, cols, bytes).map_err(damaged)?,
            )),
            Storage::Typed(TensorType::I2S, bytes) => Ok(Box::new(
                I2sRows::new(dialect, rows, cols, bytes).map_err(damaged)?,
            )),
            Storage::Typed(ty, bytes) if ty.is_ternary() => Ok(Box::new(
                BlockTernaryRows::new(ty, rows, cols, bytes).map_err(damaged)?,
            )),
            Storage::Typed(ty, bytes) if ty.is_float() => Ok(Box::new(self.recognised(ty, bytes)?)),
            Storage::Typed(ty, _) => Err(ModelError::NotTernary {
                file: self.file.into(),
                tensor: self.name.clone(),
                found: format!("{ty}, a type for ordinary weights"),
            }),
            Storage::Unreadable(_) => {
                Err(self.wrong_type("a ternary type (I2_S, TQ1_0, TQ2_0, Q2_0)"))
            }
        }
    }

    /// Its bytes in the file; none for what is not read.
    pub fn bytes(&self) -> &'a [u8] {
        match self.storage {
            Storage::Typed(_, bytes)
            | Storage::Masters(_, bytes)
            | Storage::HfPacked(bytes, _)
            | Storage::Foreign(_, bytes, _) => bytes,
            Storage::Mlx(tensor) => tensor.codes,
            Storage::Unreadable(_) => &[],
        }
    }

    /// Floats whose values are {-s, 0, +s}.
    fn recognised(
        &self,
        ty: TensorType,
        bytes: &'a [u8],
    ) -> Result<DenseTernaryRows<'a>, ModelError> {
        match recognise(ty, self.rows, self.cols, bytes).map_err(|source| self.damaged(source))? {
            Recognition::Ternary(rows) => Ok(rows),
            Recognition::Dense {
                magnitude, other, ..
            } => Err(ModelError::NotTernary {
                file: self.file.into(),
                tensor: self.name.clone(),
                found: format!(
                    "{ty} weights of several magnitudes ({magnitude} and {other} among the first)"
                ),
            }),
        }
    }

    /// Applies an output multiplier, and refuses a scale that cannot be meant.
    pub fn with_multiplier(
        &self,
        rows: Box<dyn TernaryRows + 'a>,
        multiplier: Option<f32>,
    ) -> Result<Box<dyn TernaryRows + 'a>, ModelError> {
        let rows = match multiplier {
            None | Some(1.0) => rows,
            Some(factor) => Box::new(MultipliedRows { rows, factor }),
        };
        match rows.scale() {
            ScaleLayout::PerTensor(scale) if !scale.is_finite() => Err(self.bad_scale(scale)),
            // A scale of zero is right for a tensor of zeros only.
            ScaleLayout::PerTensor(0.0) if self.has_trits(&*rows)? => Err(self.bad_scale(0.0)),
            _ => Ok(rows),
        }
    }

    fn has_trits(&self, rows: &dyn TernaryRows) -> Result<bool, ModelError> {
        let mut trits = vec![0; rows.cols()];
        for row in 0..rows.rows() {
            rows.read_row(row, &mut trits, &mut [])
                .map_err(|source| self.damaged(source))?;
            if trits.iter().any(|&trit| trit != 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The error for bytes that cannot be decoded.
    pub fn damaged(&self, source: QuantError) -> ModelError {
        match source {
            QuantError::TensorScale { scale, .. } => self.bad_scale(scale),
            source => ModelError::TensorData {
                file: self.file.into(),
                tensor: self.name.clone(),
                source,
            },
        }
    }

    /// The error for a type that this place cannot have.
    pub fn wrong_type(&self, expected: &str) -> ModelError {
        let found = match &self.storage {
            Storage::Typed(ty, _) | Storage::Masters(ty, _) => ty.to_string(),
            Storage::HfPacked(..) => "packed trits".into(),
            Storage::Mlx(_) => "MLX 2-bit".into(),
            Storage::Foreign(ty, ..) => ty.to_string(),
            Storage::Unreadable(what) => what.clone(),
        };
        ModelError::TensorType {
            file: self.file.into(),
            tensor: self.name.clone(),
            expected: expected.into(),
            found,
        }
    }

    fn bad_scale(&self, found: f32) -> ModelError {
        ModelError::Scale {
            file: self.file.into(),
            tensor: self.name.clone(),
            found,
        }
    }
}

/// Rows whose scales are multiplied by a factor: llama.cpp's optional `blk.N.attn_q.scale` and the like.
struct MultipliedRows<'a> {
    rows: Box<dyn TernaryRows + 'a>,
    factor: f32,
}

impl TernaryRows for MultipliedRows<'_> {
    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn cols(&self) -> usize {
        self.rows.cols()
    }

    fn scale(&self) -> ScaleLayout {
        match self.rows.scale() {
            ScaleLayout::PerTensor(scale) => ScaleLayout::PerTensor(scale * self.factor),
            blocks => blocks,
        }
    }

    fn read_row(&self, row: usize, trits: &mut [i8], scales: &mut [f32]) -> Result<(), QuantError> {
        self.rows.read_row(row, trits, scales)?;
        scales.iter_mut().for_each(|scale| *scale *= self.factor);
        Ok(())
    }
}
