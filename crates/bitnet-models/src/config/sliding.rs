//! Layers that look back a part of the context only.
//!
//! Attention is computed over the whole context here, which is the same as long as the context is no longer than the
//! window: so the context of such a model ends there.

use super::rope::RopeConfig;
use super::{ConfigError, ConfigField, RawConfig, limits};

/// Base of the rotary frequencies of Gemma3's layers that look back a window, where a file gives none.
pub(crate) const GEMMA_LOCAL_ROPE_BASE: f64 = 10_000.0;
/// Every so many of Gemma3's layers sees everything, where a file does not say.
pub(crate) const GEMMA_SLIDING_PATTERN: u64 = 6;

/// What a file says about layers that look back a part of the context only.
#[derive(Debug, Clone, PartialEq)]
pub struct RawSliding {
    /// Positions that such a layer sees, its own included.
    pub window: u64,
    /// Base of their rotary frequencies.
    pub rope_base: f64,
    /// Which layers see everything.
    pub full_layers: FullLayers,
}

/// Which layers see the whole context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FullLayers {
    /// The last one of every so many.
    LastOfEvery(u64),
    /// One flag for each layer.
    Listed(Vec<bool>),
}

/// Layers that look back a part of the context only.
#[derive(Debug, Clone, PartialEq)]
pub struct SlidingConfig {
    /// Positions that such a layer sees, its own included: at least the model's `context_length`.
    pub window: usize,
    /// Their rotary position encoding.
    pub rope: RopeConfig,
    /// Which layers see everything, `[n_layers]`.
    pub full_layers: Vec<bool>,
}

impl SlidingConfig {
    /// Checks what a file said.
    pub(super) fn new(
        sliding: &RawSliding,
        raw: &RawConfig,
        n_layers: usize,
        head_dim: usize,
    ) -> Result<SlidingConfig, ConfigError> {
        let field = ConfigField::SlidingWindow;
        let full_layers = match &sliding.full_layers {
            FullLayers::Listed(layers) if layers.len() == n_layers => layers.clone(),
            FullLayers::Listed(layers) => {
                let found = format!("given for {} layers", layers.len());
                return Err(field.refuse(found, format!("one kind for each of {n_layers} layers")));
            }
            &FullLayers::LastOfEvery(period) => {
                let period = limits::size(field, period, limits::MAX_LAYERS)?;
                (1..=n_layers).map(|layer| layer % period == 0).collect()
            }
        };
        Ok(SlidingConfig {
            window: limits::size(field, sliding.window, limits::MAX_CONTEXT)?,
            rope: RopeConfig::plain(sliding.rope_base, raw, head_dim)?,
            full_layers,
        })
    }
}
