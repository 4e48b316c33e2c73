//! Which model files are held to which golden data.

use crate::reference::Golden;
use bitnet_kernels::RopeStyle;
use bitnet_models::{Checkpoint, CheckpointOptions, ModelConfig, Projection};
use std::path::{Path, PathBuf};

/// A model file and the golden data that it must reproduce.
pub struct Case {
    /// The file or directory, below `tests/data`.
    pub path: &'static str,
    /// The golden data, below `tests/data`, without extension.
    pub golden: &'static str,
    /// How exactly the file holds the checkpoint's numbers.
    pub scales: Scales,
}

/// How exactly a file holds a checkpoint's weight scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scales {
    /// Every bit.
    Exact,
    /// Every bit, a scale for each block of a row: what comes out of the blocks is a sum of floats, not one integer.
    ExactPerBlock,
    /// The inverse of a `bitlinear` scale rounded to F16: a relative error of up to 4.1e-4 in every ternary matrix.
    RoundedInverse,
}

const fn exact(path: &'static str, golden: &'static str) -> Case {
    Case {
        path,
        golden,
        scales: Scales::Exact,
    }
}

const fn per_block(path: &'static str, golden: &'static str) -> Case {
    Case {
        path,
        golden,
        scales: Scales::ExactPerBlock,
    }
}

/// Eight Hugging Face directories and eleven GGUF files.
pub const CASES: &[Case] = &[
    exact("reference/tiny-bitnet", "reference/golden/tiny-bitnet"),
    exact(
        "reference/tiny-bitnet-bf16",
        "reference/golden/tiny-bitnet-bf16",
    ),
    exact(
        "reference/tiny-bitnet-odd",
        "reference/golden/tiny-bitnet-odd",
    ),
    exact(
        "reference/tiny-bitnet-silu",
        "reference/golden/tiny-bitnet-silu",
    ),
    exact(
        "reference/tiny-falcon3-158",
        "reference/golden/tiny-falcon3-158",
    ),
    exact(
        "reference/gguf/tiny-bitnet.bitnet-b1.58.I2_S.gguf",
        "reference/golden/tiny-bitnet",
    ),
    exact(
        "reference/gguf/tiny-bitnet.bitnet-b1.58.F16.gguf",
        "reference/golden/tiny-bitnet",
    ),
    exact(
        "reference/gguf/tiny-bitnet-silu.bitnet.F32.gguf",
        "reference/golden/tiny-bitnet-silu",
    ),
    exact(
        "reference/gguf/tiny-bitnet-silu.bitnet.F16.gguf",
        "reference/golden/tiny-bitnet-silu",
    ),
    exact(
        "reference/gguf/tiny-bitnet-silu.bitnet.TQ1_0.gguf",
        "reference/golden/tiny-bitnet-silu",
    ),
    exact(
        "reference/gguf/tiny-bitnet-silu.bitnet.TQ2_0.gguf",
        "reference/golden/tiny-bitnet-silu",
    ),
    Case {
        path: "reference/gguf/tiny-falcon3-158.llama.F16.gguf",
        golden: "reference/golden/tiny-falcon3-158",
        scales: Scales::RoundedInverse,
    },
    per_block("qwen3-tiny/qwen3-tiny.qwen3.Q2_0.gguf", "qwen3-tiny/golden"),
    per_block(
        "qwen3-tiny/qwen3-tiny.qwen3.TQ2_0.gguf",
        "qwen3-tiny/golden",
    ),
    per_block("qwen3-tiny/unpacked", "qwen3-tiny/golden"),
    per_block("qwen3-tiny/mlx", "qwen3-tiny/golden"),
    exact("llama-rope-tiny", "llama-rope-tiny/golden"),
    exact(
        "llama-rope-tiny/llama-rope-tiny.llama.I2_S.gguf",
        "llama-rope-tiny/golden",
    ),
    exact(
        "llama-rope-tiny/llama-rope-tiny.llama.F16.gguf",
        "llama-rope-tiny/golden",
    ),
];

/// Stretched rotary frequencies, with golden logits past the original context and nothing else.
pub const STRETCHED: &[Case] = &[
    exact("llama-yarn-tiny", "llama-yarn-tiny/yarn"),
    exact(
        "llama-yarn-tiny/llama-yarn-tiny.llama.I2_S.gguf",
        "llama-yarn-tiny/yarn",
    ),
    exact(
        "llama-yarn-tiny/llama-linear-tiny.llama.I2_S.gguf",
        "llama-yarn-tiny/linear",
    ),
];

/// Families whose files hold dense numbers, with golden logits of two texts and nothing else.
pub const DENSE: &[Case] = &[
    exact("onebit-large-tiny", "onebit-large-tiny/golden"),
    exact("onebit-3b-tiny", "onebit-3b-tiny/golden"),
    per_block("trilm-tiny", "trilm-tiny/golden"),
    per_block("minicpm-tiny", "minicpm-tiny/golden"),
];

impl Case {
    /// The model file, opened.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::open(&data(self.path), &CheckpointOptions::default())
            .unwrap_or_else(|error| panic!("{}: {error}", self.path))
    }

    /// The golden data, read.
    pub fn golden(&self) -> Golden {
        Golden::read(&data(self.golden))
    }

    /// Golden outputs of a projection, `[n, rows]`, in the row order of this file. It differs from Hugging Face's for
    /// the queries and keys of GGUF files of arch `llama`: their converter permutes each head's rows into
    /// neighbouring pairs, `new[2i + l] = old[l * head_dim / 2 + i]`.
    pub fn in_file_order<T: Copy>(
        &self,
        golden: &[T],
        projection: Projection,
        config: &ModelConfig,
    ) -> Vec<T> {
        let rotated = matches!(projection, Projection::Query | Projection::Key);
        if !rotated || config.rope.style == RopeStyle::Neox {
            return golden.to_vec();
        }
        let half = config.head_dim / 2;
        let heads = golden.chunks_exact(config.head_dim);
        heads
            .flat_map(|head| (0..config.head_dim).map(|new| head[new % 2 * half + new / 2]))
            .collect()
    }
}

/// A path below `tests/data`.
pub fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}
