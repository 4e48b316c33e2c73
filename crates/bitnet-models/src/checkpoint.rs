//! A model's files as the forward pass sees them: tensors by role, whatever they are stored in.
//!
//! A GGUF file and a Hugging Face directory answer the same questions here: the checked configuration, a ternary
//! matrix, a dense matrix, a vector, the tokenizer's sources. Nothing is copied that does not have to be; a tensor
//! that is asked for is held against the shape that the configuration gives.

pub(crate) mod gguf;
mod hf;
mod hf_names;
mod probe;
mod sentence_transformers;
mod stored;
mod tokenizer;
pub(crate) mod weight;

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bitnet_kernels::{KernelError, MatrixData};
use bitnet_quantization::{Dialects, ScaleLayout, TensorType, TernaryRows, dequantize};
use bytes::Bytes;

use crate::config::ModelConfig;
use crate::error::{ModelError, Place};
use crate::finding::Finding;
use crate::generation::GenerationDefaults;
use crate::mmap::{self, Access};
use crate::tensor_role::{NormPlace, Projection, TensorRole};

use self::gguf::GgufSource;
use self::hf::HfSource;
use self::stored::{Storage, Stored};

pub use self::tokenizer::TokenizerSource;

/// How to open a checkpoint. Plain data; the default is right for every published model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// The layout of I2_S tensors, and what type numbers mean that several projects use, where the file does not tell,
    /// or tells wrongly; the default is right for every published file.
    pub dialects: Dialects,
    /// Map the files or read them into memory.
    pub access: Access,
    /// Take the weights of a directory without safetensors from PyTorch's pickles: their tensors alone are read,
    /// nothing in them is run. Off by default, and always for servers.
    pub allow_pickle: bool,
}

/// An open model.
#[derive(Debug)]
pub struct Checkpoint {
    source: Source,
    config: ModelConfig,
    generation: GenerationDefaults,
    options: CheckpointOptions,
    findings: Vec<Finding>,
    released: Mutex<HashSet<TensorRole>>, // of files in memory: they are zeros by now
}

#[derive(Debug)]
enum Source {
    Gguf(GgufSource),
    Hf(HfSource),
}

/// One tensor of a checkpoint, for listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSummary {
    /// Its name in the file.
    pub name: String,
    /// Its dimensions in the file's order: contiguous first in GGUF, last in safetensors.
    pub dims: Vec<u64>,
    /// The name of its type in the file.
    pub type_name: String,
    /// Bytes of its data, where known.
    pub bytes: Option<u64>,
    /// Where its data start in its file.
    pub offset: u64,
    /// Which file it is in, from 0.
    pub shard: usize,
}

/// What a checkpoint is, for listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// "GGUF v3", "safetensors" or "PyTorch pickle".
    pub container: String,
    /// How many files.
    pub n_files: usize,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Keys and values of the header, in file order: (name, type, value in a few words).
    pub metadata: Vec<(String, &'static str, String)>,
    /// Every tensor, in file order.
    pub tensors: Vec<TensorSummary>,
}

impl Checkpoint {
    /// Opens a `.gguf` file (for a split: its first file) or a Hugging Face model directory.
    ///
    /// # Errors
    /// Every way in which the files can be missing, something else, damaged, hostile, or a model that this engine
    /// does not run.
    pub fn open(path: &Path, options: &CheckpointOptions) -> Result<Self, ModelError> {
        Self::open_unchecked(path, options)?.verified()
    }

    /// Opens the files without looking for their tensors, for a check that reports all that is wrong.
    pub(crate) fn open_unchecked(
        path: &Path,
        options: &CheckpointOptions,
    ) -> Result<Self, ModelError> {
        let (source, config, generation) = if path.is_dir() {
            let (source, raw, generation) = HfSource::open(path, options)?;
            let config = source.config(raw)?;
            (Source::Hf(source), config, generation)
        } else {
            let source = GgufSource::open(path, options)?;
            let config = source.config()?;
            let generation = GenerationDefaults::of_gguf(source.gguf.metadata())?;
            (Source::Gguf(source), config, generation)
        };
        Ok(Self::new(source, config, generation, *options))
    }

    /// Opens a GGUF file whose bytes are in memory, such as one that is part of the program; `name` stands for it in
    /// messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_gguf_bytes(
        name: &str,
        bytes: Bytes,
        options: &CheckpointOptions,
    ) -> Result<Self, ModelError> {
        Self::of_gguf(GgufSource::from_bytes(name, bytes, options)?, options)
    }

    /// Reads the headers of a `.gguf` file, and each tensor when it is asked for, into memory: nothing is mapped. A
    /// file that is written or cut short after that is an error of the next tensor.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; a directory is none.
    pub fn open_lazily(path: &Path, options: &CheckpointOptions) -> Result<Self, ModelError> {
        Self::of_gguf(GgufSource::open_lazily(path, options)?, options)
    }

    /// Reads the header of a GGUF file that comes in a stream, and on in it as tensors are asked for; what comes by
    /// before is kept until it is [released](Checkpoint::release). `name` stands for the file in messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; a split cannot be read this way.
    pub fn from_gguf_stream(
        name: &str,
        stream: Box<dyn Read + Send>,
        options: &CheckpointOptions,
    ) -> Result<Self, ModelError> {
        Self::of_gguf(GgufSource::from_stream(name, stream, options)?, options)
    }

    fn of_gguf(source: GgufSource, options: &CheckpointOptions) -> Result<Self, ModelError> {
        let config = source.config()?;
        let generation = GenerationDefaults::of_gguf(source.gguf.metadata())?;
        Self::new(Source::Gguf(source), config, generation, *options).verified()
    }

    fn new(
        source: Source,
        config: ModelConfig,
        generation: GenerationDefaults,
        options: CheckpointOptions,
    ) -> Self {
        let findings = Vec::new();
        Self {
            source,
            config,
            generation,
            options,
            findings,
            released: Mutex::default(),
        }
    }

    /// Makes sure that every tensor is there in its shape, and that none is left over that matters.
    fn verified(mut self) -> Result<Self, ModelError> {
        for role in TensorRole::required(&self.config) {
            match &self.source {
                Source::Gguf(source) if source.gguf.reads_later() => {
                    let (name, shape, n_dims) = source.shape(role, role.shape(&self.config))?;
                    self.check_shape(role, source.gguf.file(), &name, shape, n_dims)?;
                }
                _ => drop(self.locate(role)?),
            }
        }
        self.findings = self.judge_unused()?;
        self.findings.extend(self.judge_tokenizer());
        self.findings.extend(self.judge_window());
        self.findings.extend(self.judge_long_divisors());
        self.findings.extend(self.judge_dialects());
        self.findings.extend(self.judge_sparse()?);
        Ok(self)
    }

    /// The model's shape, checked.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The model's own sampling settings.
    pub fn generation_defaults(&self) -> &GenerationDefaults {
        &self.generation
    }

    /// What is noteworthy about the files, from a look at their headers.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether the files hold the tensor.
    pub fn has(&self, role: TensorRole) -> bool {
        match &self.source {
            Source::Gguf(source) => source.gguf.tensor(&role.gguf_name()).is_some(),
            Source::Hf(source) => source
                .names
                .of(role)
                .is_some_and(|name| source.weights.tensor(&name).is_some()),
        }
    }

    /// The name of the (first) file, or of the directory, for messages.
    pub fn file(&self) -> &str {
        match &self.source {
            Source::Gguf(source) => source.gguf.file(),
            Source::Hf(source) => &source.dir,
        }
    }

    /// The name that the files give to a tensor.
    pub fn tensor_name(&self, role: TensorRole) -> String {
        match &self.source {
            Source::Gguf(_) => role.gguf_name(),
            Source::Hf(source) => source.names.of(role).unwrap_or_else(|| role.to_string()),
        }
    }

    /// A projection as rows of trits, `[out_features, in_features]`, whose scale multiplies.
    ///
    /// Ordinary floating-point weights are taken when their values are ternary after all ({-s, 0, +s}), or when the
    /// configuration says that they are master weights to be quantised.
    ///
    /// # Errors
    /// [`ModelError`] naming the tensor when it is missing, has another shape, is of a type that is not read, is not
    /// ternary, has an impossible scale, or was [released](Checkpoint::release) from memory.
    pub fn ternary(&self, role: TensorRole) -> Result<Box<dyn TernaryRows + '_>, ModelError> {
        let stored = self.locate(role)?;
        if self.released().contains(&role) {
            return Err(ModelError::Io {
                file: stored.file.into(),
                action: "read a tensor again",
                source: io::Error::other("its memory was given back after the first time"),
            });
        }
        let rows = stored.ternary(self.options.dialects.i2s())?;
        let multiplier = match &self.source {
            Source::Gguf(source) => source.multiplier(role)?,
            Source::Hf(_) => None,
        };
        stored.with_multiplier(rows, multiplier)
    }

    /// Gives the file's pages of a tensor back to the system: whoever has repacked it reads it no more. Of files that
    /// were read into memory it is gone, and [`Checkpoint::ternary`] refuses it from then on.
    pub fn release(&self, role: TensorRole) {
        if let Ok(stored) = self.locate(role) {
            if self.is_in_memory() {
                self.released().insert(role);
            }
            mmap::release(stored.bytes());
        }
    }

    /// Whether pages that are given back are lost.
    fn is_in_memory(&self) -> bool {
        match &self.source {
            Source::Gguf(source) if source.gguf.reads_later() => true,
            _ => self.options.access == Access::ReadIntoMemory,
        }
    }

    fn released(&self) -> std::sync::MutexGuard<'_, HashSet<TensorRole>> {
        self.released.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the ternary matrices have one scale each and not one for every block, as far as the first one tells:
    /// those of a checkpoint are of one type.
    ///
    /// # Errors
    /// As [`Checkpoint::ternary`].
    pub fn has_one_scale_a_tensor(&self) -> Result<bool, ModelError> {
        let key = self.ternary(TensorRole::Projection(0, Projection::Key))?;
        Ok(matches!(key.scale(), ScaleLayout::PerTensor(_)))
    }

    /// A matrix as it is stored: the embedding or the head, `[vocab_size, hidden_size]`. MLX's 2-bit codes come in a
    /// type that holds the same numbers.
    ///
    /// # Errors
    /// [`ModelError`] naming the tensor when it is missing, has another shape or is of a type that cannot be used.
    pub fn matrix(&self, role: TensorRole) -> Result<MatrixData, ModelError> {
        let stored = self.locate(role)?;
        if let Storage::Mlx(tensor) = stored.storage {
            let (rows, cols) = (stored.rows, stored.cols);
            let matrix = tensor.to_matrix(rows, cols);
            let (ty, bytes) = matrix.map_err(|source| stored.damaged(source))?;
            return Ok(MatrixData {
                ty,
                rows,
                cols,
                bytes: bytes.into(),
            });
        }
        let Storage::Typed(ty, bytes) = stored.storage else {
            return Err(stored.wrong_type("a type of embeddings and heads (F16, Q6_K, ...)"));
        };
        if ty == TensorType::I2S {
            return Err(stored.wrong_type("a type of embeddings and heads (F16, Q6_K, ...)"));
        }
        Ok(MatrixData {
            ty,
            rows: stored.rows,
            cols: stored.cols,
            bytes: stored.file_bytes.slice_ref(bytes),
        })
    }

    /// A vector, such as a norm's weights, as f32.
    ///
    /// # Errors
    /// [`ModelError`] naming the tensor when it is missing, has another length, is not stored as floats, or holds a
    /// value that is not finite (for rotary factors: not above zero).
    pub fn vector(&self, role: TensorRole) -> Result<Vec<f32>, ModelError> {
        let stored = self.locate(role)?;
        let Storage::Typed(ty, bytes) = stored.storage else {
            return Err(stored.wrong_type("F32, F16 or BF16"));
        };
        if !ty.is_float() {
            return Err(stored.wrong_type("F32, F16 or BF16"));
        }
        let mut values = vec![0.0; stored.cols];
        dequantize(ty, bytes, &mut values).map_err(|source| stored.damaged(source))?;
        if self.is_less_one(role) {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        let (valid, expected): (fn(&f32) -> bool, _) = match role {
            TensorRole::RopeFactors => (|v| v.is_finite() && *v > 0.0, "a finite number above 0"),
            _ => (|v| v.is_finite(), "a finite number"),
        };
        match values.iter().position(|value| !valid(value)) {
            None => Ok(values),
            Some(index) => Err(ModelError::VectorValue {
                file: stored.file.into(),
                tensor: stored.name,
                index,
                expected,
                found: values[index],
            }),
        }
    }

    /// Whether the weights of this norm are stored less 1.
    fn is_less_one(&self, role: TensorRole) -> bool {
        let own_norm = match role {
            TensorRole::Norm(_, place) => !matches!(place, NormPlace::Input(_)),
            role => role == TensorRole::FinalNorm,
        };
        own_norm && matches!(self.source, Source::Hf(_)) && self.config.family.hf_norms_less_one
    }

    /// Gives an error of the kernels the name of the tensor that they were handed.
    pub fn upload_error(&self, role: TensorRole, error: KernelError) -> ModelError {
        match (error, self.locate(role)) {
            (KernelError::Weights(source), Ok(stored)) => stored.damaged(source),
            (error, _) => ModelError::Kernel(error),
        }
    }

    /// The chat template that the files carry, unrepaired.
    ///
    /// # Errors
    /// [`ModelError`] for a template that is not a string or a file that cannot be read.
    pub fn chat_template(&self) -> Result<Option<String>, ModelError> {
        match &self.source {
            Source::Gguf(source) => source.chat_template(),
            Source::Hf(source) => source.chat_template(),
        }
    }

    /// What a tokenizer can be made from.
    ///
    /// # Errors
    /// [`ModelError`] for vocabulary fields of the wrong type and files that cannot be read.
    pub fn tokenizer_source(&self) -> Result<TokenizerSource, ModelError> {
        match &self.source {
            Source::Gguf(source) => source.tokenizer(),
            Source::Hf(source) => source.tokenizer(),
        }
    }

    /// Everything a listing shows.
    pub fn describe(&self) -> Description {
        match &self.source {
            Source::Gguf(source) => Description::of_gguf(&source.gguf),
            Source::Hf(source) => source.describe(),
        }
    }

    /// Finds a tensor and holds its shape against the configuration.
    fn locate(&self, role: TensorRole) -> Result<Stored<'_>, ModelError> {
        let (rows, cols) = role.shape(&self.config);
        let stored = match &self.source {
            Source::Gguf(source) => source.locate(role, rows, cols)?,
            Source::Hf(source) => source.locate(role, rows, cols)?,
        };
        let shape = [stored.rows, stored.cols];
        self.check_shape(role, stored.file, &stored.name, shape, stored.n_dims)?;
        Ok(stored)
    }

    /// Holds the shape that a tensor has in its file against the configuration.
    fn check_shape(
        &self,
        role: TensorRole,
        file: &str,
        name: &str,
        [found_rows, found_cols]: [usize; 2],
        n_dims: usize,
    ) -> Result<(), ModelError> {
        let (rows, cols) = role.shape(&self.config);
        let fits = (found_rows, found_cols) == (rows, cols);
        // A vector must be one: a [n, 1] matrix has as many values, but nobody meant it as a norm.
        if fits && (rows > 1 || n_dims == 1) {
            return Ok(());
        }
        Err(ModelError::TensorShape {
            file: file.into(),
            expected: if rows == 1 {
                format!("[{cols}]")
            } else {
                format!("[{rows}, {cols}]")
            },
            found: if n_dims == 1 {
                format!("[{found_cols}]")
            } else {
                format!("[{found_rows}, {found_cols}]")
            },
            tensor: name.into(),
        })
    }
}

/// Converts a file's dimension to this machine's size; beyond it the model cannot be here.
fn size(file: &str, tensor: &str, dim: u64) -> Result<usize, ModelError> {
    usize::try_from(dim).map_err(|_| ModelError::Limit {
        file: file.into(),
        place: Place::Tensor(tensor.into()),
        offset: None,
        limit: usize::MAX as u64,
        unit: "values",
        found: dim,
    })
}
