//! A Hugging Face model directory as a checkpoint.

use std::path::{Path, PathBuf};

use bitnet_quantization::{MlxTensor, TensorType, dequantize};

use super::hf_names::HfNames;
use super::sentence_transformers;
use super::stored::{Storage, Stored};
use super::{CheckpointOptions, Description, TensorSummary, TokenizerSource, size};
use crate::config::{EmbeddingConfig, ModelConfig, Pooling, RawConfig};
use crate::error::{ModelError, file_name, quoted};
use crate::generation::GenerationDefaults;
use crate::hf_config::{CONFIG, HfConfig, Quantization, ScaleDirection, in_file};
use crate::json::JsonFile;
use crate::mmap::Access;
use crate::safetensors::StoredType;
use crate::tensor_files::{StoredTensor, TensorFiles};
use crate::tensor_role::TensorRole;

#[derive(Debug)]
pub(super) struct HfSource {
    pub dir: String,
    pub path: PathBuf,
    pub weights: TensorFiles,
    pub quantization: Quantization,
    pub names: HfNames,
    config: JsonFile,
    access: Access,
}

impl HfSource {
    pub fn open(
        path: &Path,
        options: &CheckpointOptions,
    ) -> Result<(Self, RawConfig, GenerationDefaults), ModelError> {
        let dir = file_name(path);
        let config_path = path.join(CONFIG);
        if !config_path.exists() {
            return Err(ModelError::IncompleteDirectory {
                file: dir,
                missing: CONFIG,
            });
        }
        let config = JsonFile::read(&config_path)?;
        let HfConfig {
            mut raw,
            mut quantization,
        } = HfConfig::read(&config, path)?;
        let generation = GenerationDefaults::read(path, config.root())?;
        let weights = TensorFiles::open_dir(path, options.access, options.allow_pickle)?;
        let mut names = HfNames::find(&weights, raw.family);
        if let Some(eps) = quantization.input_norm_eps {
            names.expect_input_norm("rms_norm");
            raw.input_norm_eps = Some(eps);
        }
        raw.embedding = sentence_transformers::read(path)?;
        if names.input_norm() == Some("norm") {
            // Microsoft's embedding models, whose files leave out that their weights are masters to be quantised, and,
            // without sentence-transformers' files, how hidden states are pooled.
            raw.input_norm_eps = Some(raw.rms_norm_eps);
            quantization.online |= !quantization.declared;
            raw.embedding = raw.embedding.or(Some(EmbeddingConfig {
                pooling: Pooling::Last,
                normalize: true,
            }));
        }
        Ok((
            Self {
                dir,
                path: path.to_owned(),
                weights,
                quantization,
                names,
                config,
                access: options.access,
            },
            raw,
            generation,
        ))
    }

    pub fn config(&self, raw: RawConfig) -> Result<ModelConfig, ModelError> {
        ModelConfig::new(raw).map_err(|error| in_file(self.config.root(), error))
    }

    /// From which length on the model's own code looks at chosen parts of a text alone (MiniCPM4's `sparse_config`):
    /// `None` never, 0 where the file does not say.
    pub fn sparse_from(&self) -> Result<Option<u64>, ModelError> {
        let sparse = self.config.root().section("sparse_config")?;
        sparse
            .map(|sparse| Ok(sparse.u64("dense_len")?.unwrap_or(0)))
            .transpose()
    }

    pub fn access(&self) -> Access {
        self.access
    }

    pub fn locate(
        &self,
        role: TensorRole,
        rows: usize,
        cols: usize,
    ) -> Result<Stored<'_>, ModelError> {
        let name = self.names.of(role).unwrap_or_else(|| role.to_string());
        let Some(tensor) = self.weights.tensor(&name) else {
            return Err(ModelError::MissingTensor {
                file: self.weights.file().into(),
                tensor: name,
                expected: format!("the {role}, [{rows}, {cols}]"),
            });
        };
        let file = self.weights.file_of(tensor);
        let bytes = self.weights.slice(tensor);
        let (mut found_rows, mut found_cols) = match *tensor.shape() {
            [] => (1, 1),
            [len] => (1, len),
            // The dimensions' product was checked against the tensor's bytes.
            [ref rows @ .., cols] => (rows.iter().product(), cols),
        };
        let is_projection = matches!(role, TensorRole::Projection(..));
        let is_matrix = is_projection || matches!(role, TensorRole::Embedding | TensorRole::Head);
        let storage = match (tensor.tensor_type(), tensor.stored_type()) {
            (Some(ty), _)
                if is_projection
                    && self.quantization.online
                    && !self.quantization.is_left_dense(&name) =>
            {
                Storage::Masters(ty, bytes)
            }
            (Some(ty), _) => Storage::Typed(ty, bytes),
            (None, StoredType::U8) if is_projection => {
                // Four bands of rows share a byte: the stored matrix has a quarter of the rows, rounded up.
                if found_rows == rows.div_ceil(4) as u64 {
                    found_rows = rows as u64;
                }
                Storage::HfPacked(bytes, self.packed_scale(&name)?)
            }
            (None, StoredType::U32) if is_matrix => {
                // Sixteen codes share a number.
                if found_cols.checked_mul(16) == Some(cols as u64) {
                    found_cols = cols as u64;
                }
                Storage::Mlx(self.mlx(&name, bytes, [rows, cols])?)
            }
            (None, other) => Storage::Unreadable(other.to_string()),
        };
        Ok(Stored {
            file,
            rows: size(file, &name, found_rows)?,
            cols: size(file, &name, found_cols)?,
            n_dims: tensor.shape().len(),
            storage,
            file_bytes: self.weights.file_bytes(tensor),
            name,
        })
    }

    /// MLX's 2-bit codes with the scales and biases beside them.
    fn mlx<'a>(
        &'a self,
        weight: &str,
        codes: &'a [u8],
        [rows, cols]: [usize; 2],
    ) -> Result<MlxTensor<'a>, ModelError> {
        let [scales, biases] = mlx_names(weight).map(|name| {
            let expected = format!("the scales of MLX's 2-bit codes, [{rows}, groups]");
            let missing = |tensor: &str| ModelError::MissingTensor {
                file: self.weights.file().into(),
                tensor: tensor.into(),
                expected,
            };
            let tensor = self.weights.tensor(&name).ok_or_else(|| missing(&name))?;
            match (tensor.tensor_type(), tensor.shape()) {
                (Some(ty), &[found_rows, groups]) if found_rows == rows as u64 && groups > 0 => {
                    Ok((ty, groups, self.weights.slice(tensor)))
                }
                (Some(_), shape) => Err(ModelError::TensorShape {
                    file: self.weights.file_of(tensor).into(),
                    tensor: name,
                    expected: format!("[{rows}, groups]"),
                    found: format!("{shape:?}"),
                }),
                (None, _) => Err(ModelError::TensorType {
                    file: self.weights.file_of(tensor).into(),
                    tensor: name,
                    expected: "F16, BF16 or F32".into(),
                    found: tensor.stored_type().to_string(),
                }),
            }
        });
        let ((ty, groups, scales), (bias_type, _, biases)) = (scales?, biases?);
        if ty != bias_type {
            let [_, name] = mlx_names(weight);
            return Err(ModelError::TensorType {
                file: self.weights.file().into(),
                tensor: name,
                expected: format!("{ty}, as the scales"),
                found: bias_type.to_string(),
            });
        }
        // Of what does not divide, the reader of the weight says why it cannot be.
        let group_len = cols / usize::try_from(groups).unwrap_or(usize::MAX);
        Ok(MlxTensor {
            codes,
            scales,
            biases,
            ty,
            group_len,
        })
    }

    /// The multiplier of a packed projection, from its `weight_scale`.
    fn packed_scale(&self, weight: &str) -> Result<f32, ModelError> {
        let name = format!("{weight}_scale");
        let Some(tensor) = self.weights.tensor(&name) else {
            return Err(ModelError::MissingTensor {
                file: self.weights.file().into(),
                tensor: name,
                expected: "the scale of packed trits, [1]".into(),
            });
        };
        let stored = self.scalar(tensor, &name)?;
        let scale = match self.quantization.scale {
            ScaleDirection::Multiplies => stored,
            ScaleDirection::Divides => 1.0 / stored,
        };
        if stored.is_finite() && scale.is_finite() {
            return Ok(scale);
        }
        Err(ModelError::Scale {
            file: self.weights.file_of(tensor).into(),
            tensor: name,
            found: stored,
        })
    }

    fn scalar(&self, tensor: &StoredTensor, name: &str) -> Result<f32, ModelError> {
        let file = || self.weights.file_of(tensor).to_owned();
        let Some(ty) = tensor.tensor_type() else {
            return Err(ModelError::TensorType {
                file: file(),
                tensor: name.into(),
                expected: "BF16, F16 or F32".into(),
                found: tensor.stored_type().to_string(),
            });
        };
        if tensor.bytes() != TensorType::storage_bytes(ty, 1).unwrap_or_default() {
            let found = format!("{:?}", tensor.shape());
            return Err(ModelError::TensorShape {
                file: file(),
                tensor: name.into(),
                expected: "[1]".into(),
                found,
            });
        }
        let mut value = [0.0];
        dequantize(ty, self.weights.slice(tensor), &mut value)?;
        Ok(value[0])
    }

    pub fn chat_template(&self) -> Result<Option<String>, ModelError> {
        super::tokenizer::hf_chat_template(&self.path)
    }

    pub fn tokenizer(&self) -> Result<TokenizerSource, ModelError> {
        super::tokenizer::hf_tokenizer(&self.path, self.access())
    }

    pub fn describe(&self) -> Description {
        Description {
            container: self.weights.container().name().into(),
            n_files: self.weights.n_files(),
            total_bytes: self.weights.total_bytes(),
            metadata: self
                .config
                .entries()
                .map(|(key, kind, value)| (quoted(key), kind, value))
                .collect(),
            tensors: self
                .weights
                .tensors()
                .iter()
                .map(|tensor| TensorSummary {
                    name: quoted(tensor.name()),
                    dims: tensor.shape().to_vec(),
                    type_name: tensor.stored_type().to_string(),
                    bytes: Some(tensor.bytes()),
                    offset: tensor.offset(),
                    shard: tensor.shard(),
                })
                .collect(),
        }
    }
}

/// Where MLX keeps the scales and the biases of a weight.
pub(super) fn mlx_names(weight: &str) -> [String; 2] {
    let stem = weight.strip_suffix(".weight").unwrap_or(weight);
    [format!("{stem}.scales"), format!("{stem}.biases")]
}
