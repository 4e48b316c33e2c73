#![forbid(unsafe_code)]
//! Run ternary (BitNet b1.58) language models: many requests, one batch, tokens.
//!
//! ```
//! use bitnet_inference::{Engine, GenerateOptions, LoadOptions};
//!
//! # std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))?;
//! let model = "crates/bitnet-cli/assets/stories-5m.I2_S.gguf";
//! let engine = Engine::load(model, &LoadOptions::default())?;
//! let options = GenerateOptions {
//!     max_tokens: Some(40),
//!     seed: Some(42),
//!     ..GenerateOptions::default()
//! };
//! let mut story = engine.generate("Once upon a time", &options)?;
//! for token in story.by_ref() {
//!     print!("{}", token?.text);
//! }
//! println!("\n{:?}", story.finish_reason());
//! # assert!(story.finish_reason().is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The promise of this crate: the same model, prompt, options and seed give the same bytes, alone or in a batch,
//! whatever the chunking of the prompt and however many threads run.
//!
//! # Layout
//!
//! What callers see: [`engine`] (load, in four ways), [`generation`] (tokens, text, batches), [`request`] (prompt and
//! options), [`valid_request`] (checked ones, for whoever drives the engine from a loop of its own) on their [`terms`],
//! [`logprobs`], [`embedding`], [`score`] (perplexity), [`evaluate`] (logits, hidden states, traces), [`metrics`],
//! [`engine_load`], [`error`].
//!
//! The way of a token: [`step`] is one turn (schedule, run, draw, emit); [`scheduler`], [`block_manager`]
//! and [`prefix_cache`] choose which tokens of which [`sequence`] run, [`speculative`] guesses further ones; [`runner`]
//! is the seam to the model, and `runner_work` counts over all that an engine had; [`sampler`] draws through the filters
//! of [`logits`]; [`stop`] cuts the text. [`loader`] puts the parts together, from the weights that [`packed_cache`]
//! keeps where it can. [`mod@reference`] is the plain way to a model's numbers.
//!
//! Deliberately absent: threads, channels, an async runtime, environment variables.

pub mod block_manager;
pub mod embedding;
pub mod engine;
pub mod engine_load;
pub mod error;
pub mod evaluate;
pub mod generation;
pub mod loader;
pub mod logits;
pub mod logprobs;
pub mod metrics;
mod open;
pub mod packed_cache;
pub mod prefix_cache;
mod private_copy;
pub mod reference;
pub mod request;
pub mod runner;
mod runner_work;
pub mod sampler;
pub mod scheduler;
pub mod score;
pub mod sequence;
mod shared_tokenizers;
pub mod speculative;
pub mod step;
pub mod stop;
pub mod terms;
pub mod valid_request;

pub use embedding::Embedding;
pub use engine::{Engine, EngineInfo, LayoutSpeeds};
pub use engine_load::EngineLoad;
pub use error::Error;
pub use evaluate::Trace;
pub use generation::{BatchGeneration, BatchItem, Generation, TextStream};
pub use loader::{
    HeadMode, KvPool, LoadOptions, PackedWeights, SERVING_PREFILL_BESIDE, WeightsPlace, check_room,
    checkpoint_tokenizer, open_tokenizer,
};
pub use logprobs::TokenLogprobs;
pub use metrics::Timings;
pub use packed_cache::{CachePurpose, LEAST_CACHED_BYTES, LEAST_SERVED_BYTES, PackedCache};
pub use reference::{REFERENCE_KERNEL, Reference};
pub use request::{DETERMINISTIC_SEED, FinishReason, GenerateOptions, Prompt, Token};
pub use runner::{Runner, RunnerShape};
pub use score::{Score, ScoreOptions, ScoreProgress};
pub use sequence::RequestId;
pub use step::{Drawn, Event};
pub use terms::{TenantId, Terms};
pub use valid_request::ValidRequest;

// The types of lower crates that appear in the signatures above.
pub use bitnet_kernels::{
    CpuFeatures, HeadWork, KV_BLOCK, KvType, Traffic, available_kernels, cpu_features,
    give_back_free_memory,
};
pub use bitnet_models::mmap::Access;
pub use bitnet_models::{
    Batch, Checkpoint, CheckpointOptions, Dialects, EmbeddingConfig, FileStamp, I2sDialect,
    LoadProgress, LogitRows, ModelConfig, ModelError, ModelFiles, Observer, Operation,
    PackedArrays, Place, Pooling, Profile,
};
pub use bitnet_tokenizers::{Message, Repair, Tokenizer, TokenizerOptions};

/// The examples of the repository's README, compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct ReadmeExamples;
