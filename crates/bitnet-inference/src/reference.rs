//! What a model's files say by plain arithmetic, to hold the fast way against: scalar kernels, every weight, every
//! logit, numbers kept in f32.
//!
//! Its weights are packed anew from the files, a layer at a time, so it shares nothing with the model that it judges
//! and takes next to no memory.

use std::path::Path;
use std::sync::Arc;

use bitnet_kernels::{CpuBackend, CpuOptions};
use bitnet_models::{Checkpoint, ModelConfig, streamed_logits};
use bitnet_tokenizers::Tokenizer;
use bytes::Bytes;

use crate::engine::encode;
use crate::error::Error;
use crate::loader::{LoadOptions, load_tokenizer};
use crate::open::open_checkpoint;

/// The kernel that is written for reading: no vector instructions, one weight after the other.
pub const REFERENCE_KERNEL: &str = "scalar-i2s";

/// A model's files, opened to be run the plain way.
pub struct Reference {
    checkpoint: Checkpoint,
    tokenizer: Option<Arc<Tokenizer>>,
    threads: Option<usize>,
}

impl Reference {
    /// Opens the model at `path`, from the cache where `options` have one.
    ///
    /// # Errors
    /// Whatever is wrong with the files or the tokenizer.
    pub fn open(path: &Path, options: &LoadOptions) -> Result<Reference, Error> {
        Reference::new(open_checkpoint(path, options)?.checkpoint, options)
    }

    /// Opens a GGUF file that is in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// As [`Reference::open`].
    pub fn from_bytes(name: &str, bytes: Bytes, options: &LoadOptions) -> Result<Reference, Error> {
        let checkpoint = Checkpoint::from_gguf_bytes(name, bytes, &options.checkpoint)?;
        Reference::new(checkpoint, options)
    }

    fn new(checkpoint: Checkpoint, options: &LoadOptions) -> Result<Reference, Error> {
        Ok(Reference {
            tokenizer: load_tokenizer(&checkpoint, options)?,
            checkpoint,
            threads: options.threads,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    /// Its tokenizer: an engine that is loaded from the same files shares it for as long as it is held.
    pub fn into_tokenizer(self) -> Option<Arc<Tokenizer>> {
        self.tokenizer
    }

    /// The ids of a text; `None` without a tokenizer, or for a text that it does not take.
    pub fn encode(&self, text: &str) -> Option<Vec<u32>> {
        encode(self.tokenizer.as_deref()?, text, false, usize::MAX).ok()
    }

    /// The logits after the last token of each of `prompts`, `[prompts.len()][vocab_size]`; `None` as soon as `wanted`,
    /// which is asked before each layer, says no.
    ///
    /// # Errors
    /// Weights that cannot be read, prompts that cannot be run.
    pub fn logits(
        &self,
        prompts: &[Vec<u32>],
        wanted: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<Vec<f32>>>, Error> {
        let backend = CpuBackend::new(CpuOptions {
            threads: self.threads,
            kernel: Some(REFERENCE_KERNEL.into()),
            dense: true,
        })?;
        Ok(streamed_logits(
            &backend,
            &self.checkpoint,
            prompts,
            wanted,
        )?)
    }
}
