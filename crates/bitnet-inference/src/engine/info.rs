//! What a loaded engine is made of, in figures.

use std::time::Duration;

use bitnet_kernels::LayoutProbe;

use crate::loader::{PackedWeights, WeightsPlace};

/// What the engine runs on and with.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct EngineInfo {
    /// What it ran on when it was loaded: the CPU takes over from any other that fails
    /// ([`EngineLoad::device_failures`](crate::EngineLoad::device_failures)).
    pub device: &'static str,
    /// Name of the kernel, `{arch}-{format}-{isa}`.
    pub kernel: String,
    /// The race of the two layouts of weights, where there was a choice.
    pub layouts: Option<LayoutSpeeds>,
    /// Worker threads.
    pub threads: usize,
    /// Positions of a context.
    pub context: usize,
    /// How keys and values are stored: the name of a [`KvType`](bitnet_kernels::KvType).
    pub kv_type: &'static str,
    /// Positions that the cache has room for, of all generations together.
    pub kv_positions: usize,
    /// Memory set aside for keys and values (the system hands it out as it fills).
    pub kv_cache_bytes: usize,
    /// Bytes of the ternary matrices of all layers, in the layout that they run in; 0 of a model whose layers are
    /// loaded later ([`Engine::load_lazy`](crate::Engine::load_lazy)), and `bytes_per_token` is then without them.
    pub layer_bytes: usize,
    /// Bytes of second copies of some of them, which leave out zeros in passes of one row.
    pub layer_copy_bytes: usize,
    /// Bytes of the embedding; 0 where it is the head too.
    pub embedding_bytes: usize,
    /// Bytes of the matrix that turns hidden states into logits.
    pub head_bytes: usize,
    /// Bytes of the head's small copy, 0 without one.
    pub head_copy_bytes: usize,
    /// Weight bytes that one decoded token reads: layers and head. Where candidates are searched (any draw that does
    /// not need all logits) the head counts with the part of its small copy that every search reads; rows that are
    /// looked at singly come on top, see [`Engine::head_work`](crate::Engine::head_work); where channels are left out
    /// it is less, see [`Engine::traffic`](crate::Engine::traffic).
    pub bytes_per_token: usize,
    /// Bytes of keys and values that each position before it adds to that.
    pub kv_position_bytes: usize,
    /// Where the packed weights came from.
    pub packed_weights: PackedWeights,
    /// Where they are.
    pub weights_in: WeightsPlace,
    /// How long loading took.
    pub load: Duration,
    /// What the user should know about this machine, such as a processor without fast kernels.
    pub warnings: Vec<String>,
}

impl EngineInfo {
    /// Bytes of all weights in memory.
    pub fn weight_bytes(&self) -> usize {
        self.layer_bytes
            + self.layer_copy_bytes
            + self.embedding_bytes
            + self.head_bytes
            + self.head_copy_bytes
    }
}

/// How fast this machine multiplies weights with one token from memory, in 10^9 weights a second.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct LayoutSpeeds {
    /// Packed in 2 bits: kernels named `i2s`.
    pub i2s: f64,
    /// Packed in 1.6 bits: kernels named `t5`.
    pub t5: f64,
    /// How many times faster 1.6 bits are, measured in pairs of turns: what decides.
    pub gain: f64,
}

impl From<LayoutProbe> for LayoutSpeeds {
    fn from(LayoutProbe { i2s, t5, gain }: LayoutProbe) -> LayoutSpeeds {
        LayoutSpeeds { i2s, t5, gain }
    }
}
