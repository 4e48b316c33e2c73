//! What a ternary weight is: the storage formats of BitNet b1.58 models, decoded and encoded exactly.
//!
//! This crate is safe, portable and written to be read; it is the meaning that fast kernels are held to. It knows
//! bytes and numbers, not files: whoever opens a file hands over the bytes of one tensor with its type and shape.
//!
//! A ternary matrix, whatever it is stored as, is read through [`TernaryRows`]: rows of trits with scales that
//! multiply. Everything else (embeddings, heads, norms) goes through [`dequantize`].
//!
//! # Layout
//! - [`qtype`], [`type_id`]: the types, their GGUF numbers and sizes, and what other numbers mean; [`dialects`]: what
//!   people say of that.
//! - [`ternary`]: the trait; behind it [`i2s`] (Microsoft), [`block_ternary`] over [`tq`] and [`q2_0`] (llama.cpp),
//!   [`hf_packed`] (transformers), [`mlx`] (Apple's), [`dense_ternary`] (floats that are trits), [`absmean`] (master
//!   weights).
//! - [`foreign`]: formats of single projects; all but TL1 and TL2 are read only.
//! - [`repack`]: one ternary type into another, exactly.
//! - [`blocks`]: block types for embeddings and heads; [`floats`]: 16-bit floats.
//! - [`activation`], [`bitlinear`]: the arithmetic of a ternary linear layer.
//! - [`error`]: the one error type.
//!
//! ```
//! use bitnet_quantization::{TensorType, dequantize, quantize};
//! # fn main() -> Result<(), bitnet_quantization::QuantError> {
//! let mut bytes = Vec::new();
//! quantize(TensorType::Tq2_0, &[0.5; 256], &mut bytes)?;
//! let mut values = [0.0; 256];
//! dequantize(TensorType::Tq2_0, &bytes, &mut values)?;
//! assert_eq!(values, [0.5; 256]);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod dialects;
pub mod qtype;
pub mod type_id;

pub mod ternary;

mod crumbs;

pub mod i2s;
pub mod q2_0;
pub mod tq;

pub mod absmean;
pub mod block_ternary;
pub mod dense_ternary;
pub mod foreign;
pub mod hf_packed;
pub mod mlx;

pub mod repack;

pub mod blocks;
pub mod floats;

pub mod activation;
pub mod bitlinear;

pub mod error;

pub use absmean::AbsmeanRows;
pub use block_ternary::BlockTernaryRows;
pub use blocks::{dequantize, quantize};
pub use dense_ternary::{DenseTernaryRows, Recognition, recognise};
pub use dialects::Dialects;
pub use error::QuantError;
pub use foreign::tiles::{TilePreset, TileRows, Tiles, check_tiles, encode_tiles, tile_bytes};
pub use foreign::{ForeignRows, ForeignType};
pub use hf_packed::HfPackedRows;
pub use i2s::{I2sDialect, I2sEncoder, I2sRows, encode_i2s};
pub use mlx::{MlxRows, MlxTensor};
pub use qtype::TensorType;
pub use repack::Repacker;
pub use ternary::{ScaleLayout, TernaryRows};
pub use type_id::{TypeId, type_from_ggml_id};
