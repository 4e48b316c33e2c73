//! A model's weights as the backend keeps them, loaded layer by layer.
//!
//! The backend repacks each ternary matrix into its own layout and the file's pages of it are given back, so beside the
//! finished weights only the matrix at hand is in memory. Embedding and head keep the file's bytes.

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{ModelError, file_name};
use crate::packed_file::{PackError, PackedFile, PackedFileError, PackedFileWriter};
use crate::row_order::ReorderedRows;
use crate::tensor_role::{NormPlace, Projection, TensorRole};
use bitnet_kernels::{Activation, Backend, PackWriter, RopeStyle, TernaryUse};
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// All weights of a model.
pub(crate) struct Weights<B: Backend> {
    /// `[vocab_size, hidden_size]`.
    pub embedding: B::Matrix,
    /// One for each layer, in order.
    layers: Layers<B>,
    /// `[hidden_size]`.
    pub final_norm: B::Buffer,
    /// `[vocab_size, hidden_size]`; `None` when the embedding is the head.
    head: Option<B::Matrix>,
    /// What finds the rows of the head that can matter; `None` where all are always multiplied.
    pub head_copy: Option<B::HeadCopy>,
}

/// The weights of all layers.
enum Layers<B: Backend> {
    Loaded(Vec<LayerWeights<B>>),
    /// Each is loaded when a pass comes to it for the first time.
    Lazy {
        checkpoint: Arc<Checkpoint>,
        layers: Vec<OnceLock<LayerWeights<B>>>,
    },
}

impl<B: Backend> Layers<B> {
    /// Those that are in memory.
    fn loaded(&self) -> impl Iterator<Item = &LayerWeights<B>> {
        let (all, lazy) = match self {
            Self::Loaded(layers) => (&layers[..], &[][..]),
            Self::Lazy { layers, .. } => (&[][..], &layers[..]),
        };
        all.iter().chain(lazy.iter().filter_map(OnceLock::get))
    }
}

/// The weights of one layer.
pub(crate) struct LayerWeights<B: Backend> {
    pub attention: AttentionWeights<B>,
    pub feed_forward: FeedForwardWeights<B>,
}

/// The weights of a layer's attention part. Ternary shapes are `[out_features, in_features]`.
pub(crate) struct AttentionWeights<B: Backend> {
    /// `[hidden_size]`.
    pub norm: B::Buffer,
    /// `[n_heads * head_dim, hidden_size]`.
    pub query: B::Ternary,
    /// `[n_kv_heads * head_dim, hidden_size]`.
    pub key: B::Ternary,
    /// `[n_kv_heads * head_dim, hidden_size]`.
    pub value: B::Ternary,
    /// Qwen3 only.
    pub head_norms: Option<HeadNorms<B>>,
    /// `[n_heads * head_dim]`; BitNet only.
    pub sub_norm: Option<B::Buffer>,
    /// `[hidden_size]`; Gemma only.
    pub post_norm: Option<B::Buffer>,
    /// Of query, key, value and output projection, `[in_features]` each; only where linear layers have norms.
    pub input_norms: Option<[B::Buffer; 4]>,
    /// `[hidden_size, n_heads * head_dim]`.
    pub output: B::Ternary,
}

/// The norms of query and key heads, `[head_dim]` each.
pub(crate) struct HeadNorms<B: Backend> {
    pub query: B::Buffer,
    pub key: B::Buffer,
}

/// The weights of a layer's feed-forward part. Ternary shapes are `[out_features, in_features]`.
pub(crate) struct FeedForwardWeights<B: Backend> {
    /// `[hidden_size]`.
    pub norm: B::Buffer,
    /// `[intermediate_size, hidden_size]`.
    pub gate: B::Ternary,
    /// `[intermediate_size, hidden_size]`.
    pub up: B::Ternary,
    /// `[intermediate_size]`; BitNet only.
    pub sub_norm: Option<B::Buffer>,
    /// `[hidden_size]`; Gemma only.
    pub post_norm: Option<B::Buffer>,
    /// Of gate, up and down projection, `[in_features]` each; only where linear layers have norms.
    pub input_norms: Option<[B::Buffer; 3]>,
    /// `[hidden_size, intermediate_size]`.
    pub down: B::Ternary,
}

/// What the weights take in memory, as the backend keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightBytes {
    /// The ternary matrices of all layers that are in memory.
    pub layers: usize,
    /// Second copies of some of them, which a pass of one row reads instead where that leaves out zeros.
    pub layer_copies: usize,
    /// The embedding; 0 where it is the head too.
    pub embedding: usize,
    /// The matrix that turns hidden states into logits, which may be the embedding too.
    pub head: usize,
    /// The head's small copy; 0 without one.
    pub head_copy: usize,
    /// What a search for candidates reads of it before it looks at single rows.
    pub head_scan: usize,
}

impl WeightBytes {
    /// All of them; what norms take is less than a thousandth of that.
    pub fn total(&self) -> usize {
        self.layers + self.layer_copies + self.embedding + self.head + self.head_copy
    }

    /// What one decoded token reads at least: layers, and of the head what a search reads where it can be searched.
    pub fn per_token(&self) -> usize {
        let head = if self.head_copy > 0 {
            self.head_scan
        } else {
            self.head
        };
        self.layers + head
    }
}

/// How far loading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Layers in memory.
    pub layers_done: usize,
    /// Layers of the model.
    pub n_layers: usize,
}

impl<B: Backend> Weights<B> {
    /// Loads everything, telling `progress` before the first layer and after each. Ternary weights come from `packed`
    /// where that is given, in the order in which [`write`](Weights::write) wrote them.
    pub fn load(
        backend: &B,
        checkpoint: &Checkpoint,
        packed: Option<&mut PackedFile>,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Weights<B>, ModelError> {
        let config = checkpoint.config();
        let loader = Loader {
            packed: RefCell::new(packed),
            ..Loader::new(backend, checkpoint)
        };
        // The layers first: out of a stream they come behind an embedding, which is wanted anyway, and before a head.
        let mut layers = Vec::with_capacity(config.n_layers);
        progress(LoadProgress {
            layers_done: 0,
            n_layers: config.n_layers,
        });
        for layer in 0..config.n_layers {
            layers.push(loader.layer(layer)?);
            progress(LoadProgress {
                layers_done: layer + 1,
                n_layers: config.n_layers,
            });
        }
        Weights::around(&loader, Layers::Loaded(layers))
    }

    /// Loads everything but the layers, which are loaded when a pass first comes to them.
    pub fn load_lazily(backend: &B, checkpoint: Arc<Checkpoint>) -> Result<Weights<B>, ModelError> {
        let loader = Loader::new(backend, &checkpoint);
        let n_layers = checkpoint.config().n_layers;
        let layers = Layers::Lazy {
            checkpoint: Arc::clone(&checkpoint),
            layers: (0..n_layers).map(|_| OnceLock::new()).collect(),
        };
        Weights::around(&loader, layers)
    }

    fn around(loader: &Loader<'_, '_, B>, layers: Layers<B>) -> Result<Weights<B>, ModelError> {
        let head = match loader.checkpoint.config().tied_head {
            true => None,
            false => Some(loader.matrix(TensorRole::Head)?),
        };
        Ok(Weights {
            embedding: loader.matrix(TensorRole::Embedding)?,
            layers,
            final_norm: loader.vector(TensorRole::FinalNorm)?,
            head,
            head_copy: None,
        })
    }

    /// The weights of a layer, loaded now if no pass has come to it before.
    ///
    /// # Errors
    /// What loading says, of weights that are loaded when they are wanted.
    pub fn layer(&self, backend: &B, layer: usize) -> Result<&LayerWeights<B>, ModelError> {
        match &self.layers {
            Layers::Loaded(layers) => Ok(&layers[layer]),
            Layers::Lazy { checkpoint, layers } => {
                if let Some(weights) = layers[layer].get() {
                    return Ok(weights);
                }
                // A layer that fails has to be whole for the next pass, which then fails with the same words.
                let loader = Loader::new(backend, checkpoint).keeping_pages(true);
                let weights = loader.layer(layer)?;
                for projection in Projection::ALL {
                    checkpoint.release(TensorRole::Projection(layer, projection));
                }
                Ok(layers[layer].get_or_init(|| weights))
            }
        }
    }

    /// Writes the packed weights: of each layer the seven ternary ones, then the head's small copy, if there is one.
    pub fn write(&self, backend: &B, writer: &mut dyn PackWriter) -> io::Result<()> {
        for weight in self.layers.loaded().flat_map(LayerWeights::matrices) {
            backend.write_ternary(weight, writer)?;
        }
        match &self.head_copy {
            Some(copy) => backend.write_head_copy(copy, writer),
            None => Ok(()),
        }
    }

    /// What turns hidden states into logits, `[vocab_size, hidden_size]`.
    pub fn head(&self) -> &B::Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// What they take in memory.
    pub fn bytes(&self, backend: &B) -> WeightBytes {
        let of_layers = |bytes: fn(&B, &B::Ternary) -> usize| {
            let matrices = self.layers.loaded().flat_map(LayerWeights::matrices);
            matrices.map(|weight| bytes(backend, weight)).sum()
        };
        let of_copy = |bytes: fn(&B, &B::HeadCopy) -> usize| {
            self.head_copy
                .as_ref()
                .map_or(0, |copy| bytes(backend, copy))
        };
        WeightBytes {
            layers: of_layers(B::ternary_bytes),
            layer_copies: of_layers(B::ternary_copy_bytes),
            embedding: match self.head {
                Some(_) => backend.matrix_bytes(&self.embedding),
                None => 0,
            },
            head: backend.matrix_bytes(self.head()),
            head_copy: of_copy(B::head_copy_bytes),
            head_scan: of_copy(B::head_scan_bytes),
        }
    }
}

impl<B: Backend> LayerWeights<B> {
    /// Its seven ternary matrices, in the order in which they are loaded.
    fn matrices(&self) -> [&B::Ternary; 7] {
        let (a, f) = (&self.attention, &self.feed_forward);
        [
            &a.query, &a.key, &a.value, &a.output, &f.gate, &f.up, &f.down,
        ]
    }
}

/// Packs the weights of a checkpoint into `writer`, in the order of [`Weights::write`], with a layer in memory at a
/// time.
pub(crate) fn pack_weights<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    least_head_rows: usize,
    path: &Path,
    writer: &mut PackedFileWriter,
) -> Result<(), PackError> {
    let file_error = |source| PackedFileError::Io {
        file: file_name(path),
        action: "write",
        source,
    };
    let loader = Loader::new(backend, checkpoint);
    for layer in 0..checkpoint.config().n_layers {
        for weight in loader.layer(layer)?.matrices() {
            backend.write_ternary(weight, writer).map_err(file_error)?;
        }
    }
    let head = match checkpoint.config().tied_head {
        true => TensorRole::Embedding,
        false => TensorRole::Head,
    };
    let head = loader.matrix(head)?;
    let copied = backend.write_new_head_copy(&head, least_head_rows, writer);
    if copied.map_err(file_error)? {
        writer.has_head_copy();
    }
    Ok(())
}

/// Whether a file's query and key rows are in pairs and are put into halves as they are loaded, so that a model gives
/// the same bytes whichever of the two orders its file has: sums over a head then run in one order.
pub(crate) fn rows_to_halves(config: &ModelConfig) -> bool {
    config.rope.style == RopeStyle::Norm && config.rope.n_rot == config.head_dim
}

/// Whether the rows of a projection are dimensions that rotate.
pub(crate) fn rotates(role: TensorRole) -> bool {
    matches!(
        role,
        TensorRole::Projection(_, Projection::Query | Projection::Key)
    )
}

/// Takes tensors from a checkpoint to a backend.
pub(crate) struct Loader<'a, 'p, B: Backend> {
    backend: &'a B,
    checkpoint: &'a Checkpoint,
    packed: RefCell<Option<&'p mut PackedFile>>,
    keep_pages: bool, // of tensors that were uploaded: they will be wanted again
}

impl<'a, B: Backend> Loader<'a, '_, B> {
    /// One that packs what it takes.
    pub fn new(backend: &'a B, checkpoint: &'a Checkpoint) -> Self {
        Loader {
            backend,
            checkpoint,
            packed: RefCell::new(None),
            keep_pages: false,
        }
    }

    /// The same, for whoever loads the same tensors again.
    #[must_use]
    pub fn keeping_pages(self, keep_pages: bool) -> Self {
        Loader { keep_pages, ..self }
    }

    /// Loads one layer.
    pub fn layer(&self, layer: usize) -> Result<LayerWeights<B>, ModelError> {
        let config = self.checkpoint.config();
        let family = config.family;
        let norm = |place| self.vector(TensorRole::Norm(layer, place));
        let norm_if = |present: bool, place| present.then(|| norm(place)).transpose();
        let projection = |projection| self.ternary(TensorRole::Projection(layer, projection));
        let head_norms = || -> Result<HeadNorms<B>, ModelError> {
            Ok(HeadNorms {
                query: norm(NormPlace::QueryHead)?,
                key: norm(NormPlace::KeyHead)?,
            })
        };
        let input_norms = config.input_norm_eps.is_some();
        let input_norm = |projection| norm(NormPlace::Input(projection));
        Ok(LayerWeights {
            attention: AttentionWeights {
                norm: norm(NormPlace::Attention)?,
                query: projection(Projection::Query)?,
                key: projection(Projection::Key)?,
                value: projection(Projection::Value)?,
                head_norms: family.qk_norms.then(head_norms).transpose()?,
                sub_norm: norm_if(family.sub_norms, NormPlace::AttentionSub)?,
                post_norm: norm_if(family.post_norms, NormPlace::AttentionPost)?,
                input_norms: match input_norms {
                    true => Some([
                        input_norm(Projection::Query)?,
                        input_norm(Projection::Key)?,
                        input_norm(Projection::Value)?,
                        input_norm(Projection::Output)?,
                    ]),
                    false => None,
                },
                output: projection(Projection::Output)?,
            },
            feed_forward: FeedForwardWeights {
                norm: norm(NormPlace::FeedForward)?,
                gate: projection(Projection::Gate)?,
                up: projection(Projection::Up)?,
                sub_norm: norm_if(family.sub_norms, NormPlace::FeedForwardSub)?,
                post_norm: norm_if(family.post_norms, NormPlace::FeedForwardPost)?,
                input_norms: match input_norms {
                    true => Some([
                        input_norm(Projection::Gate)?,
                        input_norm(Projection::Up)?,
                        input_norm(Projection::Down)?,
                    ]),
                    false => None,
                },
                down: projection(Projection::Down)?,
            },
        })
    }

    fn ternary(&self, role: TensorRole) -> Result<B::Ternary, ModelError> {
        if let Some(packed) = &mut *self.packed.borrow_mut() {
            let (rows, cols) = role.shape(self.checkpoint.config());
            return Ok(self.backend.read_ternary([rows, cols], *packed)?);
        }
        let mut rows = self.checkpoint.ternary(role)?;
        if rotates(role) && rows_to_halves(self.checkpoint.config()) {
            let head_dim = self.checkpoint.config().head_dim;
            rows = Box::new(ReorderedRows::new(rows, head_dim, RopeStyle::Neox));
        }
        let usage = self.usage(role);
        let uploaded = self.backend.upload_ternary(&*rows, usage);
        if !self.keep_pages {
            self.checkpoint.release(role);
        }
        uploaded.map_err(|error| self.checkpoint.upload_error(role, error))
    }

    /// ReLU^2 leaves exact zeros: in its output, which scales the rows of `up`, and so in the input of `down`.
    fn usage(&self, role: TensorRole) -> TernaryUse {
        let zeros = self.checkpoint.config().family.activation == Activation::Relu2;
        match role {
            TensorRole::Projection(_, Projection::Up) if zeros => TernaryUse::GatedUp,
            TensorRole::Projection(_, Projection::Down) if zeros => TernaryUse::SparseInput,
            _ => TernaryUse::Dense,
        }
    }

    /// Loads the embedding or the head.
    pub fn matrix(&self, role: TensorRole) -> Result<B::Matrix, ModelError> {
        let uploaded = self.backend.upload_matrix(self.checkpoint.matrix(role)?);
        uploaded.map_err(|error| self.checkpoint.upload_error(role, error))
    }

    /// Loads a vector.
    pub fn vector(&self, role: TensorRole) -> Result<B::Buffer, ModelError> {
        let values = self.checkpoint.vector(role)?;
        let mut buffer = self.backend.buffer(values.len())?;
        self.backend.write(&mut buffer, 0, &values);
        Ok(buffer)
    }
}
