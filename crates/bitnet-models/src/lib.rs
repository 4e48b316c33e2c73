//! Ternary model files in, logits out.
//!
//! The lower half of the crate reads files: a GGUF file or a Hugging Face directory becomes a [`Checkpoint`], which
//! answers for tensors by their role. The upper half runs them: one forward pass over a flat batch, for every family.
//!
//! Model files come from strangers. Every length, count and offset is checked before it is used, nothing is allocated
//! from a declared size before its bytes are known to exist, and whatever is wrong ends in a [`ModelError`] that names
//! the file, the field or tensor, the offset, what was expected and what was found.
//!
//! # Layout
//! - [`error`], [`file_kind`], [`mod@finding`]: what can be wrong, as errors and as a check's findings
//! - [`mmap`]: files as bytes (the only `unsafe` of the crate)
//! - [`gguf`], [`safetensors`], [`pickle`]: the containers, and [`tensor_files`]: a directory's weights in the latter
//!   two; [`packed_file`]: packed weights, kept for the next start
//! - `json`, `hf_config`, [`generation`]: the JSON files of a model directory
//! - [`family`], [`config`], [`tensor_role`]: what a model is made of
//! - [`checkpoint`]: tensors by role, whatever holds them; [`mod@check`]: everything that is wrong with a file
//! - [`export`]: models written, with other types of tensors
//! - [`batch`], [`kv_cache`], [`activations`], [`head`], [`observer`]: what goes into a forward pass and what comes
//!   out; [`profile`]: where its time goes
//! - [`bitnet`]: the forward pass, of `attention` and `feed_forward`, over `weights`
#![deny(unsafe_code)]

pub mod error;
pub mod file_kind;
pub mod finding;
mod json;

#[allow(unsafe_code)] // mapping files; see its SAFETY notes
pub mod mmap;
pub mod model_files;

pub mod gguf;
pub mod own_files;
pub mod packed_file;
pub mod pickle;
pub mod safetensors;
pub mod tensor_files;

pub mod config;
pub mod family;
pub mod tensor_role;

pub mod check;
pub mod checkpoint;
pub mod generation;
mod hf_config;
mod row_order;

pub mod export;

pub mod activations;
pub mod batch;
pub mod head;
pub mod kv_cache;
pub mod observer;
pub mod profile;

mod attention;
pub mod bitnet;
mod feed_forward;
mod pass;
pub mod streamed;
mod weights;

pub use activations::Activations;
pub use batch::{Batch, BatchError, LogitRows};
pub use bitnet::Model;
pub use check::check;
pub use checkpoint::{Checkpoint, CheckpointOptions, TokenizerSource};
pub use config::{
    ConfigError, ConfigField, EmbeddingConfig, FullLayers, ModelConfig, Pooling, RawConfig,
    RawSliding, RopeConfig, RopeScaling, SlidingConfig, Yarn,
};
pub use error::{ErrorClass, ModelError, Place};
pub use export::{Export, ExportError, Targets};
pub use family::Family;
pub use finding::{Finding, Severity};
pub use generation::GenerationDefaults;
pub use head::{HeadOutput, RowLogits};
pub use kv_cache::{KvCache, kv_block_bytes};
pub use model_files::{FileStamp, ModelFiles, model_files};
pub use observer::{Observer, Operation, Site, Work};
pub use packed_file::{PackError, PackedArrays, PackedFile, PackedFileError, PackedFileWriter};
pub use profile::Profile;
pub use streamed::streamed_logits;
pub use tensor_role::{NormPlace, Projection, TensorRole};
pub use weights::{LoadProgress, WeightBytes};

// Of a lower crate, in the signatures above.
pub use bitnet_quantization::{Dialects, I2sDialect};
