//! GGUF, the container of llama.cpp and bitnet.cpp: versions 2 and 3, little-endian, whole or split.
//!
//! # Layout
//! - `reader`: [`Gguf`], an open model whose tensors are slices of the mapped file
//! - `metadata`, `value`: the key-value section, lazily decoded
//! - `tensor`: the checked tensor directory; `size_test`: what numbers mean that several projects use
//! - `later`: tensors that are read when they are asked for
//! - `split`: models in several files
//! - `writer`: [`GgufWriter`], streaming
//! - `model`: the keys that describe a model and its vocabulary
//! - `file_type`: the number that sums up a file's types
//! - `limits`: what a file may declare
//! - `cursor`: bounds-checked reading

mod cursor;
mod file_type;
mod later;
pub mod limits;
mod metadata;
pub(crate) mod model;
mod reader;
mod size_test;
mod split;
mod tensor;
mod value;
pub(crate) mod writer;

pub use file_type::{FILE_TYPE, file_type};
pub use metadata::{Metadata, describe};
pub use reader::{Gguf, MAGIC};
pub use split::{SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, shard_name};
pub use tensor::TensorInfo;
pub use value::{Array, Elements, Text, Value, ValueType};
pub use writer::{GgufWriter, TensorWriter, WriteError};
