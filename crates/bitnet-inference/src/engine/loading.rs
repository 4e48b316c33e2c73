//! Ways to load a model beside [`Engine::load`], each for a promise that the others do not make.
//!
//! | way | reads | memory of the process | a file that changes underneath |
//! |---|---|---|---|
//! | [`Engine::load`] | the file, mapped, all of it | packed weights; pages of embedding and head | gives wrong numbers, and cut short it ends the process, unless it is read into memory |
//! | [`Engine::load_mmap`] | a copy of its own and packed weights of its own, both mapped | next to none: clean pages, shared by processes | concerns nobody |
//! | [`Engine::load_streaming`] | a stream, once, from front to back | packed weights, embedding, head, and one layer while it loads | there is none |
//! | [`Engine::load_lazy`] | the header, embedding and head; each layer when a pass comes to it | what was read so far, packed | is an error of the next layer that is read |
//!
//! The same model gives the same bytes whichever way it was loaded.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_models::Checkpoint;

use super::Engine;
use crate::error::Error;
use crate::loader::{KvPool, LoadOptions, Origin, WeightsPlace};
use crate::metrics::SystemClock;
use crate::packed_cache::{CachePurpose, PackedCache};

impl Engine {
    /// Loads a model whose weights are used from mapped files in `folder` and take no memory of the process: packed weights,
    /// and a copy of the model's files, both made by the first start and kept. Processes that map them share their pages,
    /// the system drops pages that nobody reads, and the model's own files may be changed, cut short or removed while it
    /// runs. What `options` say of a packed cache does not count.
    ///
    /// [`Engine::load`] with a [`PackedCache`] of a server falls back to memory where the folder cannot be used; this does
    /// not.
    ///
    /// # Errors
    /// As [`Engine::load`], and [`Error::NotMapped`] where the folder cannot be used. Options whose weights are packed for one
    /// run alone (a kernel by name, `dense`, a head other than [`HeadMode::Auto`](crate::HeadMode::Auto)) are refused.
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

    /// Loads a GGUF file that comes in a stream, such as the body of a download or standard input, reading it once and to
    /// the end of its last tensor at most; `name` stands for it in messages.
    ///
    /// Each matrix is packed when it has come, and what it took is given back. So where a file has its layers in order, as
    /// every converter writes them, memory never holds more than the packed weights, embedding, head and one layer as it was
    /// stored; a file in another order costs as much as lies between.
    ///
    /// # Errors
    /// As [`Engine::load`], and a stream that ends too early or fails. A split is refused, and a file whose last tensor is
    /// the only one of a type number of several meanings, unless `options` name its format.
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

    /// Loads header, tokenizer, embedding and head of a `.gguf` file (the first of a split), and each layer when a forward
    /// pass first comes to it. So it returns at once, and the first token takes as long as loading would have.
    ///
    /// Layers are read into memory, packed, and kept; nothing is mapped. If somebody writes the file or cuts it short before
    /// its last layer was read, the pass that comes to the next one ends with an error, and so does every later one. A file
    /// that is replaced by another, as `mv` does, stays what it was. What is wrong with a layer is found by the first pass
    /// too. The faster of the two layouts of weights is not looked for, which changes speed alone.
    ///
    /// # Errors
    /// As [`Engine::load`], of everything but the layers. A directory, and a cache whose size depends on what the weights
    /// take ([`KvPool::Within`]), are refused.
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
}
