//! Ways to load a model, each for a promise that the others do not make, and what they have in common.
//!
//! | way | reads | memory of the process | a file that changes underneath |
//! |---|---|---|---|
//! | [`Engine::load`] | the file, mapped, all of it | packed weights; pages of embedding and head | gives wrong numbers, and cut short it ends the process, unless it is read into memory |
//! | [`Engine::load_mmap`] | a copy of its own and packed weights of its own, both mapped | next to none: clean pages, shared by processes | concerns nobody |
//! | [`Engine::load_streaming`] | a stream, once, from front to back | packed weights, embedding, head, and one layer while it loads | there is none |
//! | [`Engine::load_lazy`] | the header, embedding and head; each layer when a pass comes to it | what was read so far, packed | is an error of the next layer that is read |
//!
//! The same model gives the same bytes whichever way it was loaded.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bitnet_kernels::KV_BLOCK;
use bitnet_models::{Checkpoint, LoadProgress};
use bytes::Bytes;

use super::{Engine, EngineInfo, LayoutSpeeds, Shared};
use crate::error::Error;
use crate::loader::{self, KvPool, LoadOptions, Loaded, Origin, WeightsPlace};
use crate::metrics::{Clock, SystemClock};
use crate::open::{Opened, open_checkpoint};
use crate::packed_cache::{CachePurpose, PackedCache};
use crate::runner::Runner;
use crate::step::Step;

impl Engine {
    /// Loads a `.gguf` file (the first of a split) or a Hugging Face directory.
    ///
    /// # Errors
    /// Whatever is wrong with the file, the tokenizer or the options.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Engine, Error> {
        Engine::load_with_progress(path, options, &mut |_| {})
    }

    /// [`Engine::load`], telling `progress` how far it is.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_with_progress(
        path: impl AsRef<Path>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Engine, Error> {
        let clock = SystemClock::start();
        let Opened {
            checkpoint,
            entry,
            warning,
        } = open_checkpoint(path.as_ref(), options)?;
        let mut engine = Engine::build(
            &Origin::AtOnce(&checkpoint, entry.as_ref()),
            options,
            clock,
            progress,
            |r| r,
        )?;
        engine.info.warnings.extend(warning);
        Ok(engine)
    }

    /// [`Engine::load`] with a runner of the caller's: `replace` is given the model's own. For measuring what lies
    /// around the forward pass, and for tests of what happens when one fails.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_with_runner(
        path: impl AsRef<Path>,
        options: &LoadOptions,
        replace: impl FnOnce(Box<dyn Runner>) -> Box<dyn Runner>,
    ) -> Result<Engine, Error> {
        let clock = SystemClock::start();
        let checkpoint = Checkpoint::open(path.as_ref(), &options.checkpoint)?;
        let origin = Origin::AtOnce(&checkpoint, None);
        Engine::build(&origin, options, clock, &mut |_| {}, replace)
    }

    /// Loads a GGUF file that is already in memory; `name` stands for it in messages. Tensors that need no repacking
    /// are used where they lie.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn from_bytes(name: &str, bytes: Bytes, options: &LoadOptions) -> Result<Engine, Error> {
        Engine::from_bytes_with_progress(name, bytes, options, &mut |_| {})
    }

    /// [`Engine::from_bytes`], telling `progress` how far it is.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn from_bytes_with_progress(
        name: &str,
        bytes: Bytes,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Engine, Error> {
        let clock = SystemClock::start();
        let checkpoint = Checkpoint::from_gguf_bytes(name, bytes, &options.checkpoint)?;
        let origin = Origin::AtOnce(&checkpoint, None);
        Engine::build(&origin, options, clock, progress, |runner| runner)
    }

    /// Loads a model whose weights are used from mapped files in `folder` and take no memory of the process: packed
    /// weights, and a copy of the model's files, both made by the first start and kept. Processes that map them share
    /// their pages, the system drops pages that nobody reads, and the model's own files may be changed, cut short or
    /// removed while it runs. What `options` say of a packed cache does not count.
    ///
    /// [`Engine::load`] with a [`PackedCache`] of a server falls back to memory where the folder cannot be used; this
    /// does not.
    ///
    /// # Errors
    /// As [`Engine::load`], and [`Error::NotMapped`] where the folder cannot be used. Options whose weights are packed
    /// for one run alone (a kernel by name, `dense`, a head other than [`HeadMode::Auto`](crate::HeadMode::Auto)) are
    /// refused.
    pub fn load_mmap(
        path: impl AsRef<Path>,
        folder: impl Into<PathBuf>,
        options: &LoadOptions,
    ) -> Result<Engine, Error> {
        if !options.packs_as_chosen() {
            return Err(Error::InvalidOption {
                option: "the kernel, `dense` or the head of mapped weights".into(),
                value: "another than the engine chooses".into(),
                expected: "what the engine chooses: only that is kept in files".into(),
            });
        }
        let options = LoadOptions {
            packed_cache: Some(PackedCache {
                folder: folder.into(),
                purpose: CachePurpose::Serving,
                least_bytes: 0,
            }),
            ..options.clone()
        };
        let engine = Engine::load(path, &options)?;
        match engine.info.weights_in {
            WeightsPlace::Cache => Ok(engine),
            WeightsPlace::Memory => Err(Error::NotMapped {
                reason: engine.info.warnings.join("; "),
            }),
        }
    }

    /// Loads a GGUF file that comes in a stream, such as the body of a download or standard input, reading it once and
    /// to the end of its last tensor at most; `name` stands for it in messages.
    ///
    /// Each matrix is packed when it has come, and what it took is given back. So where a file has its layers in order,
    /// as every converter writes them, memory never holds more than the packed weights, embedding, head and one layer
    /// as it was stored; a file in another order costs as much as lies between.
    ///
    /// # Errors
    /// As [`Engine::load`], and a stream that ends too early or fails. A split is refused, and a file whose last tensor
    /// is the only one of a type number of several meanings, unless `options` name its format.
    pub fn load_streaming(
        name: &str,
        stream: impl Read + Send + 'static,
        options: &LoadOptions,
    ) -> Result<Engine, Error> {
        let clock = SystemClock::start();
        let stream = Box::new(stream);
        let checkpoint = Checkpoint::from_gguf_stream(name, stream, &options.checkpoint)?;
        let origin = Origin::AtOnce(&checkpoint, None);
        Engine::build(&origin, options, clock, &mut |_| {}, |runner| runner)
    }

    /// Loads header, tokenizer, embedding and head of a `.gguf` file (the first of a split), and each layer when a
    /// forward pass first comes to it. So it returns at once, and the first token takes as long as loading would have.
    ///
    /// Layers are read into memory, packed, and kept; nothing is mapped. If somebody writes the file or cuts it short
    /// before its last layer was read, the pass that comes to the next one ends with an error, and so does every later
    /// one. A file that is replaced by another, as `mv` does, stays what it was. What is wrong with a layer is found by
    /// the first pass too. The faster of the two layouts of weights is not looked for, which changes speed alone.
    ///
    /// # Errors
    /// As [`Engine::load`], of everything but the layers. A directory, and a cache whose size depends on what the
    /// weights take ([`KvPool::Within`]), are refused.
    pub fn load_lazy(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Engine, Error> {
        let clock = SystemClock::start();
        let path = path.as_ref();
        let refuse = |option: &str, value: String, expected: &str| {
            Err(Error::InvalidOption {
                option: option.into(),
                value,
                expected: expected.into(),
            })
        };
        if path.is_dir() {
            let expected = "a .gguf file: `bitnet convert` makes one of a directory";
            return refuse(
                "a model to load layer by layer",
                path.display().to_string(),
                expected,
            );
        }
        if let KvPool::Within(memory) = options.kv_pool {
            let expected = "contexts, blocks or bytes: what the layers take is not known yet";
            return refuse(
                "the KV cache",
                format!("what is left of {memory} bytes"),
                expected,
            );
        }
        let checkpoint = Checkpoint::open_lazily(path, &options.checkpoint)?;
        let origin = Origin::Lazily(Arc::new(checkpoint));
        Engine::build(&origin, options, clock, &mut |_| {}, |runner| runner)
    }

    /// Puts the engine together from what the loader has made of `origin`; `replace` may put another runner in the
    /// place of the model's own.
    fn build(
        origin: &Origin<'_>,
        options: &LoadOptions,
        clock: SystemClock,
        progress: &mut dyn FnMut(LoadProgress),
        replace: impl FnOnce(Box<dyn Runner>) -> Box<dyn Runner>,
    ) -> Result<Engine, Error> {
        let loaded = loader::load(origin, options, progress)?;
        let end_of_generation = end_of_generation(&loaded);
        let runner = replace(loaded.runner);
        let info = EngineInfo {
            device: runner.device(),
            kernel: loaded.kernel,
            layouts: loaded.layouts.map(LayoutSpeeds::from),
            threads: loaded.threads,
            context: loaded.context,
            kv_type: options.kv_type.name(),
            kv_positions: loaded.n_kv_blocks * KV_BLOCK,
            kv_cache_bytes: loaded.kv_cache_bytes,
            layer_bytes: loaded.weight_bytes.layers,
            layer_copy_bytes: loaded.weight_bytes.layer_copies,
            embedding_bytes: loaded.weight_bytes.embedding,
            head_bytes: loaded.weight_bytes.head,
            head_copy_bytes: loaded.weight_bytes.head_copy,
            bytes_per_token: loaded.weight_bytes.per_token(),
            packed_weights: loaded.packed_weights,
            weights_in: loaded.weights_in,
            kv_position_bytes: loaded.kv_position_bytes,
            load: clock.now(),
            warnings: loaded.warnings,
        };
        tracing::info!(
            model = loaded.config.name,
            kernel = info.kernel,
            i2s_gweights_s = info.layouts.map(|speeds| speeds.i2s),
            t5_gweights_s = info.layouts.map(|speeds| speeds.t5),
            t5_gain = info.layouts.map(|speeds| speeds.gain),
            threads = info.threads,
            "model loaded"
        );
        Ok(Engine {
            tokenizer: loaded.tokenizer,
            chat_template: loaded.chat_template,
            config: loaded.config,
            generation_defaults: loaded.generation_defaults,
            findings: loaded.findings,
            end_of_generation,
            info,
            clock,
            unwritten: Mutex::new(loaded.unwritten),
            shared: Mutex::new(Shared {
                step: Step::new(runner, loaded.limits, options.prefix_cache),
                last_id: 0,
                mailboxes: HashMap::new(),
                unclaimed: Vec::new(),
                events: Vec::new(),
            }),
        })
    }
}

/// The tokenizer's end tokens and those that the model's `generation_config` names.
fn end_of_generation(loaded: &Loaded) -> Arc<[u32]> {
    let mut ids = loaded.generation_defaults.eos.clone();
    if let Some(tokenizer) = &loaded.tokenizer {
        ids.extend_from_slice(tokenizer.end_of_generation());
    }
    ids.sort_unstable();
    ids.dedup();
    ids.into()
}
