//! A model's shape, checked once.
//!
//! A file's reader fills [`RawConfig`] with what it found; [`ModelConfig::new`] turns that into a [`ModelConfig`]
//! or says which field is impossible. Everything after that (buffer sizes, tensor shapes, kernel loops) relies on
//! it: sizes are non-zero, heads divide, the rotary part fits its head, no product of sizes overflows. The hostile
//! values are those that files had: head_count 0, heads that don't divide, an odd or too large rotary dimension,
//! epsilon 0 or NaN, thousands of layers.

mod embedding;
mod limits;
mod rope;
mod sliding;

pub use embedding::{EmbeddingConfig, Pooling};
pub use rope::{LongRope, RopeConfig, RopeScaling, Yarn};
pub use sliding::{FullLayers, RawSliding, SlidingConfig};
pub(crate) use sliding::{GEMMA_LOCAL_ROPE_BASE, GEMMA_SLIDING_PATTERN};

use crate::family::{FAMILIES, Family};
use crate::tensor_role::NormPlace;
use bitnet_kernels::RopeStyle;
use std::fmt;

/// What a file says about its model, before any of it is believed. Absent fields are `None`.
#[derive(Debug, Clone)]
pub struct RawConfig {
    /// The description that the file's architecture names.
    pub family: &'static Family,
    /// The model's own name, or the file's where it gives none.
    pub name: String,
    /// Length of the hidden state.
    pub hidden_size: u64,
    /// Length of the feed-forward part's inner state.
    pub intermediate_size: u64,
    /// Number of layers.
    pub n_layers: u64,
    /// Number of query heads.
    pub n_heads: u64,
    /// Number of key and value heads; as many as query heads when absent.
    pub n_kv_heads: Option<u64>,
    /// Length of a query and key head; `hidden_size / n_heads` when absent.
    pub head_dim: Option<u64>,
    /// Length of a value head; must be that of a key head.
    pub value_head_dim: Option<u64>,
    /// Number of rows of the embedding.
    pub vocab_size: u64,
    /// Number of positions the model was trained for.
    pub context_length: u64,
    /// What RMS norms add to the mean square.
    pub rms_norm_eps: f64,
    /// The same of norms inside the linear layers, where those have some.
    pub input_norm_eps: Option<f64>,
    /// Base of the rotary frequencies; 10000 when absent, as in llama.cpp and transformers.
    pub rope_base: Option<f64>,
    /// How many dimensions of a head rotate; all of them when absent.
    pub rope_dim: Option<u64>,
    /// In which order the file keeps them.
    pub rope_style: RopeStyle,
    /// How the frequencies are stretched for long contexts.
    pub rope_scaling: RopeScaling,
    /// Layers that look back a part of the context only.
    pub sliding: Option<RawSliding>,
    /// What a family with multipliers of its own multiplies with.
    pub multipliers: Option<RawMultipliers>,
    /// Whether the embedding is also the head: the file has no head of its own.
    pub tied_head: bool,
    /// How hidden states become the vector of a text, where the file says so.
    pub embedding: Option<EmbeddingConfig>,
}

/// The factors of a family that has some of its own, as its files give them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RawMultipliers {
    /// What embedded tokens are multiplied with.
    pub embedding: f64,
    /// What each part of a layer adds is multiplied with.
    pub residual: f64,
    /// What logits are divided by.
    pub logit_divisor: f64,
}

/// A model's shape. Only [`ModelConfig::new`] makes one, so whoever holds one may rely on its numbers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The description of the model's family.
    pub family: &'static Family,
    /// The model's own name.
    pub name: String,
    /// Length of the hidden state.
    pub hidden_size: usize,
    /// Length of the feed-forward part's inner state.
    pub intermediate_size: usize,
    /// Number of layers, 1 to 512.
    pub n_layers: usize,
    /// Number of query heads, a multiple of `n_kv_heads`.
    pub n_heads: usize,
    /// Number of key and value heads.
    pub n_kv_heads: usize,
    /// Length of every head; `n_heads * head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Number of positions the model was trained for, and no more than any of its layers sees.
    pub context_length: usize,
    /// What RMS norms add to the mean square; positive.
    pub rms_norm_eps: f32,
    /// The same of norms inside the linear layers; `None` where those have none.
    pub input_norm_eps: Option<f32>,
    /// What embedded tokens are multiplied with.
    pub embedding_scale: Option<f32>,
    /// What each part of a layer adds to the hidden state is multiplied with.
    pub residual_scale: Option<f32>,
    /// What the head's input is multiplied with, behind the last norm.
    pub head_scale: Option<f32>,
    /// The rotary position encoding.
    pub rope: RopeConfig,
    /// Layers that look back a part of the context only.
    pub sliding: Option<SlidingConfig>,
    /// Whether the embedding is also the head.
    pub tied_head: bool,
    /// How hidden states become the vector of a text; `None` for a model that generates.
    pub embedding: Option<EmbeddingConfig>,
}

impl ModelConfig {
    /// Checks what a file said.
    ///
    /// # Errors
    /// [`ConfigError::Field`] naming the first impossible field; [`ConfigError::RopeScaling`] for a stretch of the
    /// rotary frequencies that the engine does not compute.
    pub fn new(raw: RawConfig) -> Result<ModelConfig, ConfigError> {
        use ConfigField as Field;
        let hidden_size = limits::size(Field::HiddenSize, raw.hidden_size, limits::MAX_WIDTH)?;
        let intermediate_size = limits::size(
            Field::IntermediateSize,
            raw.intermediate_size,
            limits::MAX_WIDTH,
        )?;
        let n_layers = limits::size(Field::LayerCount, raw.n_layers, limits::MAX_LAYERS)?;
        let n_heads = limits::size(Field::HeadCount, raw.n_heads, limits::MAX_HEADS)?;
        let n_kv_heads = limits::size(
            Field::KvHeadCount,
            raw.n_kv_heads.unwrap_or(raw.n_heads),
            limits::MAX_HEADS,
        )?;
        if n_heads % n_kv_heads != 0 {
            return Err(Field::KvHeadCount.refuse(
                n_kv_heads,
                format!("a divisor of the {n_heads} query heads"),
            ));
        }
        let head_dim = match raw.head_dim {
            Some(head_dim) => limits::size(Field::HeadDim, head_dim, limits::MAX_HEAD_DIM)?,
            None if hidden_size % n_heads == 0 => limits::size(
                Field::HeadDim,
                (hidden_size / n_heads) as u64,
                limits::MAX_HEAD_DIM,
            )?,
            None => {
                let expected =
                    format!("a divisor of the hidden size {hidden_size}, as no head size is given");
                return Err(Field::HeadCount.refuse(n_heads, expected));
            }
        };
        if let Some(value_head_dim) = raw.value_head_dim.filter(|&dim| dim != head_dim as u64) {
            return Err(Field::ValueHeadDim
                .refuse(value_head_dim, format!("the key heads' size {head_dim}")));
        }
        let vocab_size = limits::size(Field::VocabSize, raw.vocab_size, limits::MAX_VOCAB)?;
        let context_length = limits::size(
            Field::ContextLength,
            raw.context_length,
            limits::MAX_CONTEXT,
        )?;
        let rms_norm_eps = limits::positive(Field::RmsNormEps, raw.rms_norm_eps)?;
        let input_norm_eps = match raw.input_norm_eps {
            Some(eps) => Some(limits::positive(Field::RmsNormEps, eps)?),
            None => None,
        };
        let rope = RopeConfig::new(&raw, head_dim)?;
        let sliding = match &raw.sliding {
            Some(sliding) => Some(SlidingConfig::new(sliding, &raw, n_layers, head_dim)?),
            None => None,
        };
        let context_length = match &sliding {
            Some(sliding) => context_length.min(sliding.window),
            None => context_length,
        };

        // Without a second set of frequencies that is the same, longer texts turn otherwise from their first position
        // on.
        let context_length = match &raw.rope_scaling {
            RopeScaling::LongRope(long) if !long.same_beyond => {
                context_length.min(long.original_context_length as usize)
            }
            _ => context_length,
        };
        let scales = match &raw.multipliers {
            Some(raw) => [
                Some(limits::positive(Field::EmbeddingScale, raw.embedding)?),
                Some(limits::positive(Field::ResidualScale, raw.residual)?),
                Some(1.0 / limits::positive(Field::LogitScale, raw.logit_divisor)?),
            ],
            None => {
                let root = (raw.family.scaled_embedding).then(|| (hidden_size as f32).sqrt());
                [root, None, None]
            }
        };
        let [embedding_scale, residual_scale, head_scale] = scales;

        let query_size = limits::product(
            Field::HeadCount,
            n_heads,
            head_dim,
            limits::MAX_WIDTH as usize,
        )?;
        limits::product(
            Field::HeadCount,
            query_size,
            hidden_size,
            isize::MAX as usize,
        )?;
        limits::product(
            Field::IntermediateSize,
            intermediate_size,
            hidden_size,
            isize::MAX as usize,
        )?;
        limits::product(
            Field::VocabSize,
            vocab_size,
            hidden_size,
            isize::MAX as usize,
        )?;
        Ok(ModelConfig {
            family: raw.family,
            name: raw.name,
            hidden_size,
            intermediate_size,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size,
            context_length,
            rms_norm_eps,
            input_norm_eps,
            embedding_scale,
            residual_scale,
            head_scale,
            rope,
            sliding,
            tied_head: raw.tied_head,
            embedding: raw.embedding,
        })
    }

    /// What the norm at `place` adds to the mean square.
    pub fn norm_eps(&self, place: NormPlace) -> f32 {
        match (place, self.input_norm_eps) {
            (NormPlace::Input(_), Some(eps)) => eps,
            _ => self.rms_norm_eps,
        }
    }

    /// Length of a token's queries: `n_heads * head_dim`.
    pub fn query_size(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Length of a token's keys, and of its values: `n_kv_heads * head_dim`.
    pub fn kv_size(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Number of ternary weights that every token passes through.
    pub fn n_ternary_weights(&self) -> usize {
        let attention = self.hidden_size * (2 * self.query_size() + 2 * self.kv_size());
        self.n_layers * (attention + 3 * self.hidden_size * self.intermediate_size)
    }
}

/// A field of the configuration, under its name in both kinds of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigField {
    /// Length of the hidden state.
    HiddenSize,
    /// Length of the feed-forward part's inner state.
    IntermediateSize,
    /// Number of layers.
    LayerCount,
    /// Number of query heads.
    HeadCount,
    /// Number of key and value heads.
    KvHeadCount,
    /// Length of a query and key head.
    HeadDim,
    /// Length of a value head.
    ValueHeadDim,
    /// Number of token ids.
    VocabSize,
    /// Number of positions.
    ContextLength,
    /// What RMS norms add to the mean square.
    RmsNormEps,
    /// Base of the rotary frequencies.
    RopeBase,
    /// How many dimensions of a head rotate.
    RopeDim,
    /// Parameters of the stretched rotary frequencies.
    RopeScaling,
    /// Positions that some layers look back, or which layers those are.
    SlidingWindow,
    /// What embedded tokens are multiplied with.
    EmbeddingScale,
    /// What each part of a layer adds is multiplied with.
    ResidualScale,
    /// What logits are divided by.
    LogitScale,
}

impl ConfigField {
    /// The key in GGUF metadata, after `general.architecture` and a dot.
    pub fn gguf_key(self) -> &'static str {
        match self {
            ConfigField::HiddenSize => "embedding_length",
            ConfigField::IntermediateSize => "feed_forward_length",
            ConfigField::LayerCount => "block_count",
            ConfigField::HeadCount => "attention.head_count",
            ConfigField::KvHeadCount => "attention.head_count_kv",
            ConfigField::HeadDim => "attention.key_length",
            ConfigField::ValueHeadDim => "attention.value_length",
            ConfigField::VocabSize => "vocab_size",
            ConfigField::ContextLength => "context_length",
            ConfigField::RmsNormEps => "attention.layer_norm_rms_epsilon",
            ConfigField::RopeBase => "rope.freq_base",
            ConfigField::RopeDim => "rope.dimension_count",
            ConfigField::RopeScaling => "rope.scaling",
            ConfigField::SlidingWindow => "attention.sliding_window",
            ConfigField::EmbeddingScale => "embedding_scale",
            ConfigField::ResidualScale => "residual_scale",
            ConfigField::LogitScale => "logit_scale",
        }
    }

    /// The key in a Hugging Face `config.json`.
    pub fn hf_key(self) -> &'static str {
        match self {
            ConfigField::HiddenSize => "hidden_size",
            ConfigField::IntermediateSize => "intermediate_size",
            ConfigField::LayerCount => "num_hidden_layers",
            ConfigField::HeadCount => "num_attention_heads",
            ConfigField::KvHeadCount => "num_key_value_heads",
            ConfigField::HeadDim | ConfigField::ValueHeadDim => "head_dim",
            ConfigField::VocabSize => "vocab_size",
            ConfigField::ContextLength => "max_position_embeddings",
            ConfigField::RmsNormEps => "rms_norm_eps",
            ConfigField::RopeBase => "rope_theta",
            ConfigField::RopeDim => "partial_rotary_factor",
            ConfigField::RopeScaling => "rope_scaling",
            ConfigField::SlidingWindow => "sliding_window",
            ConfigField::EmbeddingScale => "scale_emb",
            ConfigField::ResidualScale => "scale_depth",
            ConfigField::LogitScale => "dim_model_base",
        }
    }

    /// The error that this field has the value `found`.
    pub(crate) fn refuse(
        self,
        found: impl fmt::Display,
        expected: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Field {
            field: self,
            found: found.to_string(),
            expected: expected.into(),
        }
    }
}

impl fmt::Display for ConfigField {
    /// Both names where they differ: `attention.head_count (num_attention_heads)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.gguf_key(), self.hf_key()) {
            (gguf, hf) if gguf == hf => f.write_str(gguf),
            (gguf, hf) => write!(f, "{gguf} ({hf})"),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No family has this architecture.
    #[error("architecture `{found}` is not supported; supported are {supported}")]
    Architecture {
        /// What the file names.
        found: String,
        /// What it could name, comma-separated.
        supported: String,
    },
    /// The architecture is known, but not with this activation.
    #[error(
        "{architecture} with hidden_act `{found}` is not supported; expected {}",
        activations_of(architecture)
    )]
    Activation {
        /// The class in `config.json`.
        architecture: String,
        /// Its `hidden_act`.
        found: String,
    },
    /// A field has a value that no model has.
    #[error("{field} is {found}, expected {expected}")]
    Field {
        /// Which field.
        field: ConfigField,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// The rotary frequencies are stretched in a way that the engine does not compute.
    #[error(
        "rope scaling of type `{found}` is not supported; supported are none, default, linear, llama3, longrope and yarn"
    )]
    RopeScaling {
        /// The type that the file names.
        found: String,
    },
}

/// The `hidden_act` values that go with a Hugging Face class, for an error message.
fn activations_of(architecture: &str) -> String {
    let families = FAMILIES
        .iter()
        .filter(|family| family.hf_architectures.contains(&architecture));
    families
        .map(|family| family.hf_activation())
        .collect::<Vec<_>>()
        .join(" or ")
}

#[cfg(test)]
mod tests;
