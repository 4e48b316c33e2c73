//! What a tensor is written as: a type, or tiles of one of the formats that a build of bitnet.cpp reads.

use std::fmt;

use bitnet_quantization::foreign::tile_sizes;
use bitnet_quantization::{
    ForeignType, QuantError, Repacker, TensorType, TernaryRows, TilePreset, Tiles, check_tiles,
    tile_bytes,
};

use crate::gguf::{GgufWriter, WriteError, file_type};

/// What ternary matrices become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TernaryTarget {
    /// I2_S, TQ1_0, TQ2_0, Q2_0, PQ2_0 or PTQ1_0.
    Rows(TensorType),
    /// TL1 or TL2.
    Tiles(ForeignType),
}

impl From<TensorType> for TernaryTarget {
    fn from(ty: TensorType) -> Self {
        Self::Rows(ty)
    }
}

impl fmt::Display for TernaryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(ty) => ty.fmt(f),
            Self::Tiles(ty) => ty.fmt(f),
        }
    }
}

impl TernaryTarget {
    /// The number of `general.file_type`; those of TL1 and TL2 are Microsoft's.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::Rows(ty) => file_type(ty),
            Self::Tiles(ForeignType::Tl1) => 38,
            Self::Tiles(_) => 39,
        }
    }

    /// The form of a matrix `[rows, cols]`.
    pub(super) fn form(
        self,
        rows: usize,
        cols: usize,
        preset: Option<TilePreset>,
    ) -> Result<Form, QuantError> {
        match self {
            Self::Rows(ty) => Ok(Form::Type(ty)),
            Self::Tiles(ty) => Ok(Form::Tiles(ty, tile_sizes(ty, rows, cols, preset)?)),
        }
    }
}

/// What one tensor is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Type(TensorType),
    Tiles(ForeignType, Tiles),
}

impl Form {
    /// Makes sure that a ternary matrix can be written so, reading it once.
    pub fn check(self, rows: &dyn TernaryRows) -> Result<(), QuantError> {
        match self {
            Self::Type(ty) => Repacker::new(rows, ty)?.check(),
            Self::Tiles(ty, tiles) => check_tiles(ty, tiles, rows),
        }
    }

    /// The same without reading: whether the form has such a shape.
    pub fn check_shape(self, rows: &dyn TernaryRows) -> Result<(), QuantError> {
        match self {
            Self::Type(ty) => Repacker::new(rows, ty).map(drop),
            Self::Tiles(ty, tiles) => tile_bytes(ty, tiles, rows.rows(), rows.cols()).map(drop),
        }
    }

    /// Declares the tensor and returns its bytes.
    pub fn declare(
        self,
        header: &mut GgufWriter,
        name: &str,
        dims: &[u64],
    ) -> Result<u64, WriteError> {
        match (self, dims) {
            (Self::Type(ty), _) => header.tensor(name, ty, dims),
            (Self::Tiles(ty, tiles), &[cols, rows]) => {
                let size = |dim: u64| usize::try_from(dim).unwrap_or(usize::MAX);
                let bytes = tile_bytes(ty, tiles, size(rows), size(cols));
                let bytes = bytes.map_err(|error| WriteError::Invalid {
                    what: name.into(),
                    expected: "a shape that the tiles cover".into(),
                    found: error.to_string(),
                })?;
                header.raw_tensor(name, ty.ggml_id(), dims, bytes as u64)?;
                Ok(bytes as u64)
            }
            (Self::Tiles(ty, _), dims) => Err(WriteError::Invalid {
                what: name.into(),
                expected: format!("two dimensions for {ty}"),
                found: format!("{dims:?}"),
            }),
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(ty) => ty.fmt(f),
            Self::Tiles(ty, _) => ty.fmt(f),
        }
    }
}
