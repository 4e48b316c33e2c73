//! A GGUF file as a checkpoint.

use std::io::Read;
use std::path::Path;

use bitnet_quantization::{TensorType, TypeId, dequantize};
use bytes::Bytes;

use super::stored::{Storage, Stored};
use super::{CheckpointOptions, Description, TensorSummary, TokenizerSource, size};
use crate::config::ModelConfig;
use crate::error::{ModelError, quoted};
use crate::gguf::{Gguf, describe, model};
use crate::tensor_role::TensorRole;

#[derive(Debug)]
pub(super) struct GgufSource {
    pub gguf: Gguf,
}

impl GgufSource {
    pub fn open(path: &Path, options: &CheckpointOptions) -> Result<Self, ModelError> {
        Ok(Self {
            gguf: Gguf::open_with(path, options.access, options.dialects)?,
        })
    }

    pub fn from_bytes(
        name: &str,
        bytes: Bytes,
        options: &CheckpointOptions,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            gguf: Gguf::from_bytes_with(name, bytes, options.dialects)?,
        })
    }

    pub fn open_lazily(path: &Path, options: &CheckpointOptions) -> Result<Self, ModelError> {
        Ok(Self {
            gguf: Gguf::open_lazily(path, options.dialects)?,
        })
    }

    pub fn from_stream(
        name: &str,
        stream: Box<dyn Read + Send>,
        options: &CheckpointOptions,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            gguf: Gguf::from_stream(name, stream, options.dialects)?,
        })
    }

    /// A tensor's name, its rows and columns and how many dimensions it has, of which nothing else is read.
    pub fn shape(
        &self,
        role: TensorRole,
        (rows, cols): (usize, usize),
    ) -> Result<(String, [usize; 2], usize), ModelError> {
        let name = role.gguf_name();
        let Some(tensor) = self.gguf.tensor(&name) else {
            return Err(ModelError::MissingTensor {
                file: self.gguf.file().into(),
                tensor: name,
                expected: format!("the {role}, [{rows}, {cols}]"),
            });
        };
        let file = self.gguf.file_of(tensor);
        let (rows, cols) = tensor.shape();
        let shape = [size(file, &name, rows)?, size(file, &name, cols)?];
        Ok((name, shape, tensor.dims().len()))
    }

    pub fn config(&self) -> Result<ModelConfig, ModelError> {
        let raw = model::raw_config(&self.gguf)?;
        // raw_config has read the architecture as a string.
        let architecture = self
            .gguf
            .metadata()
            .str(model::ARCHITECTURE)?
            .unwrap_or_default();
        ModelConfig::new(raw).map_err(|error| {
            ModelError::from_config(
                self.gguf.file(),
                error,
                |field| model::key(architecture, field),
                model::ARCHITECTURE,
            )
        })
    }

    pub fn locate(
        &self,
        role: TensorRole,
        rows: usize,
        cols: usize,
    ) -> Result<Stored<'_>, ModelError> {
        let (name, [found_rows, found_cols], n_dims) = self.shape(role, (rows, cols))?;
        let Some(tensor) = self.gguf.tensor(&name) else {
            unreachable!("its shape was found")
        };
        let file = self.gguf.file_of(tensor);
        let storage = match tensor.type_id() {
            TypeId::Supported(ty) => Storage::Typed(ty, self.gguf.slice(tensor)?),
            TypeId::Foreign(ty) => {
                let scale = self.number(&scale_name(&name))?;
                Storage::Foreign(ty, self.gguf.slice(tensor)?, scale)
            }
            other => Storage::Unreadable(other.to_string()),
        };
        Ok(Stored {
            file,
            rows: found_rows,
            cols: found_cols,
            n_dims,
            storage,
            file_bytes: self.gguf.file_bytes(tensor),
            name,
        })
    }

    /// llama.cpp's optional output multiplier of a projection: `blk.N.attn_q.scale`, one F32.
    pub fn multiplier(&self, role: TensorRole) -> Result<Option<f32>, ModelError> {
        let Some(name) = multiplier_name(role) else {
            return Ok(None);
        };
        let Some(value) = self.number(&name)? else {
            return Ok(None);
        };
        if !value.is_finite() || value == 0.0 {
            return Err(ModelError::Scale {
                file: self.gguf.file().into(),
                tensor: name,
                found: value,
            });
        }
        Ok(Some(value))
    }

    /// The one number of an F32 tensor.
    fn number(&self, name: &str) -> Result<Option<f32>, ModelError> {
        number(&self.gguf, name)
    }

    pub fn chat_template(&self) -> Result<Option<String>, ModelError> {
        Ok(self
            .gguf
            .metadata()
            .str(model::CHAT_TEMPLATE)?
            .map(str::to_owned))
    }

    pub fn tokenizer(&self) -> Result<TokenizerSource, ModelError> {
        Ok(match model::vocabulary(&self.gguf)? {
            Some(vocabulary) => TokenizerSource::Gguf(Box::new(vocabulary)),
            None => TokenizerSource::Missing,
        })
    }
}

/// The one number of an F32 tensor, if there is such a tensor.
pub(crate) fn number(gguf: &Gguf, name: &str) -> Result<Option<f32>, ModelError> {
    let Some(tensor) = gguf.tensor(name) else {
        return Ok(None);
    };
    let file = || gguf.file_of(tensor).to_owned();
    if tensor.tensor_type() != Some(TensorType::F32) {
        let found = tensor.type_id().to_string();
        return Err(ModelError::TensorType {
            file: file(),
            tensor: name.into(),
            expected: "F32".into(),
            found,
        });
    }
    if tensor.n_elements() != 1 {
        let found = format!("{:?}", tensor.dims());
        return Err(ModelError::TensorShape {
            file: file(),
            tensor: name.into(),
            expected: "[1]".into(),
            found,
        });
    }
    let mut value = [0.0];
    dequantize(TensorType::F32, gguf.slice(tensor)?, &mut value)?;
    Ok(Some(value[0]))
}

/// Where bitnet.cpp's converter puts the scale of a TL1 or TL2 tensor.
pub(crate) fn scale_name(tensor: &str) -> String {
    format!("{tensor}_scale")
}

/// The name of the optional output multiplier of a projection.
pub(super) fn multiplier_name(role: TensorRole) -> Option<String> {
    match role {
        TensorRole::Projection(..) => role
            .gguf_name()
            .strip_suffix(".weight")
            .map(|stem| format!("{stem}.scale")),
        _ => None,
    }
}

impl Description {
    /// The listing of a GGUF file, which need not be a model that runs.
    pub fn of_gguf(gguf: &Gguf) -> Self {
        Self {
            container: format!("GGUF v{}", gguf.version()),
            n_files: gguf.n_files(),
            total_bytes: gguf.total_bytes(),
            metadata: gguf
                .metadata()
                .iter()
                .map(|(key, value)| (quoted(key), value.value_type().name(), describe(value)))
                .collect(),
            tensors: gguf
                .tensors()
                .iter()
                .map(|tensor| TensorSummary {
                    name: quoted(tensor.name()),
                    dims: tensor.dims().to_vec(),
                    type_name: match tensor.tensor_type() {
                        Some(ty) => ty.name().to_owned(),
                        None => tensor.type_id().to_string(),
                    },
                    bytes: tensor.bytes(),
                    offset: tensor.offset(),
                    shard: tensor.shard(),
                })
                .collect(),
        }
    }
}
