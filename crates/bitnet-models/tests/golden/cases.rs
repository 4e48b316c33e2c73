//! Which model files are held to which golden data.

use crate::reference::Golden;
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

/// Five Hugging Face directories and seven GGUF files.
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

    /// Which row of the Hugging Face matrix is row `row` of this file's. They differ in GGUF files of arch `llama`,
    /// whose converter permutes each query and key head into neighbouring pairs.
    pub fn hf_row(&self, config: &ModelConfig, projection: Projection, row: usize) -> usize {
        let permuted = config.family.name == "llama" && self.path.ends_with(".gguf");
        if !permuted || !matches!(projection, Projection::Query | Projection::Key) {
            return row;
        }
        let (head, dim) = (row / config.head_dim, row % config.head_dim);
        head * config.head_dim + (dim % 2) * (config.head_dim / 2) + dim / 2
    }
}

/// A path below `tests/data`.
pub fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}
