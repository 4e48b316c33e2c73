//! What fits: positions of a context and blocks of the cache, by what the options say and the model needs.
//!
//! Asked twice when a model is loaded: before its weights are read, as if they took nothing, so that what can never be
//! is refused in milliseconds, and when it is known what they take.

use bitnet_kernels::KV_BLOCK;
use bitnet_models::{Checkpoint, ModelConfig, kv_block_bytes};

use super::{DEFAULT_CONTEXT, KvPool, LoadOptions};
use crate::block_manager::BlockManager;
use crate::error::{Error, option};

/// Refuses sizes that the model of `checkpoint` cannot be loaded with, however little its weights take: what
/// [`Engine::load`](crate::Engine::load) tells before it reads them.
///
/// # Errors
/// [`Error::InvalidOption`], and [`Error::NotEnoughMemory`] where the cache is sized by memory ([`KvPool::Within`]).
pub fn check_room(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<(), Error> {
    context_and_blocks(options, checkpoint.config(), 0).map(drop)
}

/// Positions of a context and blocks of the cache, which holds at least one context, for a model whose weights take
/// `weight_bytes`.
pub(super) fn context_and_blocks(
    options: &LoadOptions,
    config: &ModelConfig,
    weight_bytes: usize,
) -> Result<(usize, usize), Error> {
    let longest = config.context_length;
    let context = match options.context {
        None if matches!(options.kv_pool, KvPool::Within(_)) => longest,
        None => longest.min(DEFAULT_CONTEXT),
        Some(context) if (1..=longest).contains(&context) => context,
        Some(context) => {
            return Err(Error::InvalidOption {
                option: option::CONTEXT.into(),
                value: context.to_string(),
                expected: format!("1 to {longest}, the positions this model was made for"),
            });
        }
    };
    let of_contexts = options
        .max_sequences
        .checked_mul(BlockManager::blocks_for(context))
        .filter(|&blocks| u32::try_from(blocks).is_ok());
    let block_bytes = kv_block_bytes(config, options.kv_type);
    let n_blocks = match options.kv_pool {
        KvPool::Contexts => of_contexts.ok_or_else(|| Error::InvalidOption {
            option: option::MAX_SEQUENCES.into(),
            value: options.max_sequences.to_string(),
            expected: format!("a number of sequences whose contexts of {context} fit in memory"),
        })?,
        KvPool::Blocks(blocks) => blocks,
        KvPool::Bytes(bytes) => bytes / block_bytes,
        KvPool::Within(memory) => {
            let most = of_contexts.unwrap_or(u32::MAX as usize);
            most.min(memory.saturating_sub(weight_bytes) / block_bytes)
        }
    };
    // More than a context for every sequence is of use to the prefix cache alone.
    let n_blocks = match of_contexts {
        Some(useful) if !options.prefix_cache => n_blocks.min(useful),
        _ => n_blocks,
    };
    // An asked-for context is a promise; the default one shrinks to what there is.
    let least = BlockManager::blocks_for(options.context.unwrap_or(1));
    if let KvPool::Within(memory) = options.kv_pool
        && n_blocks < least
    {
        return Err(Error::NotEnoughMemory {
            memory,
            weights: weight_bytes,
            context: least * KV_BLOCK,
            cache: least * block_bytes,
        });
    }
    if n_blocks < least || u32::try_from(n_blocks).is_err() {
        return Err(Error::InvalidOption {
            option: option::KV_CACHE.into(),
            value: format!("{n_blocks} blocks"),
            expected: format!(
                "at least {least} blocks of {KV_BLOCK} positions, at most {}",
                u32::MAX
            ),
        });
    }
    Ok((context.min(n_blocks.saturating_mul(KV_BLOCK)), n_blocks))
}
