//! What a tensor is to somebody who writes it again: its bytes, its type, and for a projection its trits or its floats.

use std::path::Path;

use bitnet_quantization::{Recognition, TensorType, TernaryRows, recognise};

use super::stored::Storage;
use super::{Checkpoint, Source};
use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::tensor_role::TensorRole;

/// A tensor as it lies in a file.
#[derive(Debug, Clone)]
pub(crate) struct Lying<'a> {
    /// Its name in the file.
    pub name: String,
    /// The name of its type.
    pub type_name: String,
    /// Its type, where it is one of the engine's.
    pub ty: Option<TensorType>,
    pub rows: usize,
    pub cols: usize,
    pub bytes: &'a [u8],
}

/// A projection to be written.
pub(crate) enum Weight<'a> {
    /// Trits, whatever they are stored as.
    Ternary {
        rows: Box<dyn TernaryRows + 'a>,
        /// Something that became of them.
        note: Option<String>,
    },
    /// The master weights of a BitNet model.
    Masters(TensorType),
    /// The weights of an ordinary model, with two of their magnitudes.
    Dense(TensorType, [f32; 2]),
}

impl Checkpoint {
    /// Bytes of all weight files together.
    pub fn total_bytes(&self) -> u64 {
        match &self.source {
            Source::Gguf(source) => source.gguf.total_bytes(),
            Source::Hf(source) => source.weights.total_bytes(),
        }
    }

    /// The GGUF file; `None` for a directory.
    pub(crate) fn gguf(&self) -> Option<&Gguf> {
        match &self.source {
            Source::Gguf(source) => Some(&source.gguf),
            Source::Hf(_) => None,
        }
    }

    /// The model's directory; `None` for a GGUF file.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.source {
            Source::Gguf(_) => None,
            Source::Hf(source) => Some(&source.path),
        }
    }

    /// A tensor as it lies in its file.
    pub(crate) fn lying(&self, role: TensorRole) -> Result<Lying<'_>, ModelError> {
        let stored = self.locate(role)?;
        let (ty, type_name) = match &stored.storage {
            Storage::Typed(ty, _) | Storage::Masters(ty, _) => (Some(*ty), ty.to_string()),
            Storage::HfPacked(..) => (None, "packed uint8".into()),
            Storage::Mlx(_) => (None, "MLX 2-bit".into()),
            Storage::Foreign(ty, ..) => (None, ty.to_string()),
            Storage::Unreadable(what) => (None, what.clone()),
        };
        Ok(Lying {
            ty,
            type_name,
            rows: stored.rows,
            cols: stored.cols,
            bytes: stored.bytes(),
            name: stored.name,
        })
    }

    /// A projection, for writing it again.
    pub(crate) fn weight(&self, role: TensorRole) -> Result<Weight<'_>, ModelError> {
        let stored = self.locate(role)?;
        match stored.storage {
            Storage::Masters(ty, _) => Ok(Weight::Masters(ty)),
            Storage::Typed(ty, bytes) if ty.is_float() => {
                let recognised = recognise(ty, stored.rows, stored.cols, bytes);
                match recognised.map_err(|source| stored.damaged(source))? {
                    Recognition::Ternary(rows) => Ok(Weight::Ternary {
                        note: neighbour_note(rows.neighbour()),
                        rows: Box::new(rows),
                    }),
                    Recognition::Dense { magnitude, other } => {
                        Ok(Weight::Dense(ty, [magnitude, other]))
                    }
                }
            }
            _ => Ok(Weight::Ternary {
                rows: self.ternary(role)?,
                note: None,
            }),
        }
    }
}

/// What is said of floats whose magnitudes are two neighbours.
pub(crate) fn neighbour_note(neighbour: Option<f32>) -> Option<String> {
    neighbour.map(|neighbour| {
        format!("{neighbour} in some places, the last bit beside the scale, becomes the scale")
    })
}
