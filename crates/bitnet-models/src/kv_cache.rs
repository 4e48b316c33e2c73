//! The keys and values of every position seen, in blocks of 16 positions that sequences own.
//!
//! Who owns which block is the caller's bookkeeping (a batch brings block tables along); this is only the room.
//! f32 is the default because it keeps the reference's numbers exactly; f16 halves memory and traffic, i8 quarters
//! them, on request.

use crate::config::ModelConfig;
use bitnet_kernels::{Backend, KV_BLOCK, KernelError, KvShape, KvType};

/// Room for the keys and values of `n_blocks * 16` positions.
pub struct KvCache<B: Backend> {
    /// Keys and values: `[n_layers, n_blocks, 16, n_kv_heads, head_dim]` each; the order is the backend's.
    pub(crate) storage: B::KvCache,
    n_blocks: usize,
    kv_type: KvType,
}

impl<B: Backend> KvCache<B> {
    /// Allocates the room, once for the engine's life.
    pub(crate) fn new(
        backend: &B,
        config: &ModelConfig,
        n_blocks: usize,
        kv_type: KvType,
    ) -> Result<KvCache<B>, KernelError> {
        let shape = KvShape {
            n_layers: config.n_layers,
            n_blocks,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            kv_type,
        };
        Ok(KvCache {
            storage: backend.new_kv_cache(shape)?,
            n_blocks,
            kv_type,
        })
    }

    /// Number of physical blocks; block tables name them from 0.
    pub fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// How a number is stored.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }
}

/// Bytes that one block of 16 positions takes over all layers, keys and values together.
pub fn kv_block_bytes(config: &ModelConfig, kv_type: KvType) -> usize {
    config.n_layers * KV_BLOCK * kv_type.position_bytes(config.n_kv_heads, config.head_dim)
}
