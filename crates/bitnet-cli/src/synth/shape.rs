//! The shapes that `synth` knows and how large the tensors of such a model are.
//!
//! Sources: the published config.json of each model; `125m` is ours, the size that a test can afford.

use std::fmt;

use bitnet_models::{NormPlace, Projection};
use clap::ValueEnum;

/// The architecture a model is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// Sub-norms, squared ReLU (Microsoft's 2B-4T).
    #[value(name = "bitnet-b1.58")]
    BitnetB158,
    /// Sub-norms, SiLU (upstream llama.cpp's name).
    #[value(name = "bitnet")]
    Bitnet,
    /// No sub-norms, SiLU (Falcon-E, Falcon3, Llama3).
    #[value(name = "llama")]
    Llama,
    /// Norms on Q and K, SiLU (Ternary-Bonsai).
    #[value(name = "qwen3")]
    Qwen3,
}

impl Arch {
    /// `general.architecture`.
    pub fn name(self) -> &'static str {
        match self {
            Arch::BitnetB158 => "bitnet-b1.58",
            Arch::Bitnet => "bitnet",
            Arch::Llama => "llama",
            Arch::Qwen3 => "qwen3",
        }
    }

    /// Whether RMSNorms stand before the output and down projections.
    pub fn sub_norms(self) -> bool {
        matches!(self, Arch::BitnetB158 | Arch::Bitnet)
    }

    /// Whether the heads of Q and K are normed.
    pub fn qk_norms(self) -> bool {
        self == Arch::Qwen3
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A real model's shape by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ShapeName {
    /// BitNet-b1.58-2B-4T
    #[value(name = "2b-4t")]
    B2b4t,
    /// Falcon-E-1B
    #[value(name = "falcon-e-1b")]
    FalconE1b,
    /// Ternary-Bonsai-1.7B
    #[value(name = "bonsai-1.7b")]
    Bonsai17b,
    /// A small one, for tests
    #[value(name = "125m")]
    M125,
}

/// Everything that decides a model's tensors and metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// `synth-` and the shape's name.
    pub name: String,
    /// Architecture written.
    pub arch: Arch,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward network.
    pub intermediate_size: usize,
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens.
    pub vocab_size: usize,
    /// Positions.
    pub context_length: usize,
    /// Base of the rotary angles.
    pub rope_base: f32,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Whether the embedding is the head too.
    pub tied: bool,
}

impl ShapeName {
    /// The shape as published.
    pub fn shape(self) -> Shape {
        let name = self
            .to_possible_value()
            .map(|v| v.get_name().to_string())
            .unwrap_or_default();
        match self {
            ShapeName::B2b4t => Shape {
                name: format!("synth-{name}"),
                arch: Arch::BitnetB158,
                hidden_size: 2560,
                intermediate_size: 6912,
                n_layers: 30,
                n_heads: 20,
                n_kv_heads: 5,
                head_dim: 128,
                vocab_size: 128_256,
                context_length: 4096,
                rope_base: 500_000.0,
                rms_norm_eps: 1e-5,
                tied: true,
            },
            ShapeName::FalconE1b => Shape {
                name: format!("synth-{name}"),
                arch: Arch::Llama,
                hidden_size: 2048,
                intermediate_size: 9216,
                n_layers: 24,
                n_heads: 16,
                n_kv_heads: 2,
                head_dim: 128,
                vocab_size: 32_768,
                context_length: 32_768,
                rope_base: 1e6,
                rms_norm_eps: 1e-5,
                tied: false,
            },
            ShapeName::Bonsai17b => Shape {
                name: format!("synth-{name}"),
                arch: Arch::Qwen3,
                hidden_size: 2048,
                intermediate_size: 6144,
                n_layers: 28,
                n_heads: 16,
                n_kv_heads: 8,
                head_dim: 128,
                vocab_size: 151_936,
                context_length: 32_768,
                rope_base: 1e6,
                rms_norm_eps: 1e-6,
                tied: true,
            },
            ShapeName::M125 => Shape {
                name: format!("synth-{name}"),
                arch: Arch::BitnetB158,
                hidden_size: 768,
                intermediate_size: 2048,
                n_layers: 12,
                n_heads: 12,
                n_kv_heads: 4,
                head_dim: 64,
                vocab_size: 50_304,
                context_length: 2048,
                rope_base: 10_000.0,
                rms_norm_eps: 1e-5,
                tied: true,
            },
        }
    }
}

impl Shape {
    /// `[rows, cols]` of a projection.
    pub fn projection(&self, p: Projection) -> (usize, usize) {
        let (q, kv) = (
            self.n_heads * self.head_dim,
            self.n_kv_heads * self.head_dim,
        );
        match p {
            Projection::Query => (q, self.hidden_size),
            Projection::Key | Projection::Value => (kv, self.hidden_size),
            Projection::Output => (self.hidden_size, q),
            Projection::Gate | Projection::Up => (self.intermediate_size, self.hidden_size),
            Projection::Down => (self.hidden_size, self.intermediate_size),
        }
    }

    /// The norms of every layer with their lengths.
    pub fn layer_norms(&self) -> Vec<(NormPlace, usize)> {
        let length = |place| match place {
            NormPlace::Attention | NormPlace::FeedForward => Some(self.hidden_size),
            NormPlace::AttentionSub => self
                .arch
                .sub_norms()
                .then_some(self.n_heads * self.head_dim),
            NormPlace::FeedForwardSub => self.arch.sub_norms().then_some(self.intermediate_size),
            NormPlace::QueryHead | NormPlace::KeyHead => {
                self.arch.qk_norms().then_some(self.head_dim)
            }
            NormPlace::AttentionPost | NormPlace::FeedForwardPost | NormPlace::Input(_) => None,
        };
        NormPlace::ALL
            .into_iter()
            .filter_map(|place| Some((place, length(place)?)))
            .collect()
    }

    /// Ternary weights of all layers.
    pub fn n_ternary(&self) -> u64 {
        let layer: usize = Projection::ALL
            .iter()
            .map(|p| self.projection(*p))
            .map(|(r, c)| r * c)
            .sum();
        (layer * self.n_layers) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_published_number_of_weights() {
        assert_eq!(ShapeName::B2b4t.shape().n_ternary(), 2_084_044_800);
        for name in ShapeName::value_variants() {
            let shape = name.shape();
            assert_eq!(shape.n_heads % shape.n_kv_heads, 0);
            for p in Projection::ALL {
                assert_eq!(
                    shape.projection(p).1 % 256,
                    0,
                    "{}: every block format fits",
                    shape.name
                );
            }
        }
    }
}
