//! A GGUF file as a Hugging Face directory in transformers' packed layout.
//!
//! Trits go four to a byte as transformers packs them (`integrations/bitnet.py`), each piece unpacked again and
//! compared; scales stay what they are: a llama or qwen3 model whose every scale is the inverse of a bf16 number is
//! stored as `bitlinear` stores it, every other one with scales that multiply, in bf16 where that is exact and in f32
//! where not. Embedding, head and norms keep their values: float types as they are, block types as the f32 numbers that
//! they stand for.

mod documents;
mod packer;
mod plan;

use std::io::Write;

use bitnet_quantization::{TensorType, TernaryRows};

use self::documents::documents;
use self::packer::Packer;
use self::plan::{Plan, float_bytes, stored, values};
use super::report::TensorReport;
use super::{ExportError, PIECE_BYTES, go_on};
use crate::checkpoint::Checkpoint;
use crate::error::quoted;
use crate::mmap;
use crate::safetensors::{DeclaredTensor, StoredType, file_head};
use crate::tensor_role::TensorRole;

/// A GGUF model that can be written as a directory.
pub struct DirectoryExport<'a> {
    items: Vec<Item<'a>>,
    documents: Vec<(&'static str, String)>,
    notes: Vec<String>,
    file_bytes: u64,
}

struct Item<'a> {
    declared: DeclaredTensor,
    report: TensorReport,
    /// The source's bytes, given back to the system afterwards.
    bytes: &'a [u8],
    content: Content<'a>,
}

enum Content<'a> {
    Packed(Box<dyn TernaryRows + 'a>),
    /// Values of the source's type as the declared one, which holds them.
    Values(TensorType, &'a [u8]),
    Made(Vec<u8>),
}

impl<'a> DirectoryExport<'a> {
    /// Plans to write an open GGUF file as a directory. Every ternary tensor is read; `advance` is told the bytes read
    /// since its last call and returns whether to go on.
    ///
    /// # Errors
    /// [`ExportError::Stopped`] when `advance` says so, [`ExportError::Refused`] with every tensor that the layout
    /// cannot hold, [`ExportError::Request`] for a directory as the source and settings that `config.json` has no words
    /// for, [`ExportError::Tokenizer`] for such a tokenizer, [`ExportError::Model`] for a damaged file.
    pub fn of_gguf(
        checkpoint: &'a Checkpoint,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Self, ExportError> {
        if checkpoint.directory().is_some() {
            return Err(ExportError::Request {
                what: "a directory as the source".into(),
                expected: "a GGUF file".into(),
            });
        }
        let config = checkpoint.config();
        super::expressible(config, false)?;
        if config.input_norm_eps.is_some() || config.embedding.is_some() {
            return Err(ExportError::Request {
                what: "an embedding model".into(),
                expected: "a model that generates".into(),
            });
        }
        if config.rope.freq_factors.is_some() {
            return Err(ExportError::Request {
                what: "rope.scaling, which the new config.json would not say,".into(),
                expected: "a model without stretched rotations".into(),
            });
        }
        if checkpoint.has(TensorRole::RopeFactors) {
            return Err(ExportError::Request {
                what: "rope_freqs.weight, whose rule the file does not tell,".into(),
                expected: "a model without stretched rotations".into(),
            });
        }
        if config.rope.n_rot != config.head_dim {
            return Err(ExportError::Request {
                what: "heads that rotate in part".into(),
                expected: "heads that rotate as a whole".into(),
            });
        }
        let mut plan = Plan {
            checkpoint,
            items: Vec::new(),
            scales: Vec::new(),
            refusals: Vec::new(),
        };
        for role in TensorRole::required(config) {
            let bytes = checkpoint.lying(role)?.bytes;
            plan.add(role)?;
            mmap::release(bytes);
            go_on(advance, bytes.len() as u64)?;
        }
        if !plan.refusals.is_empty() {
            return Err(ExportError::Refused(plan.refusals));
        }
        let divides = plan.finish_scales(config.family.sub_norms);
        let mut items = plan.items;
        items.sort_by(|a, b| a.declared.name.cmp(&b.declared.name));
        let (documents, notes) = documents(checkpoint, &items, divides)?;
        let head = file_head(items.iter().map(|item| &item.declared));
        let data: u64 = items.iter().map(|item| item.declared.bytes()).sum();
        Ok(Self {
            items,
            documents,
            notes,
            file_bytes: head.len() as u64 + data,
        })
    }

    /// The small files, by name.
    pub fn documents(&self) -> &[(&'static str, String)] {
        &self.documents
    }

    /// Bytes of `model.safetensors`.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// What the directory cannot say, in sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What becomes of every tensor, in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorReport> {
        self.items.iter().map(|item| &item.report)
    }

    /// Writes `model.safetensors` and returns the output, flushed. `advance` is told the bytes written since its last
    /// call and returns whether to go on.
    ///
    /// # Errors
    /// [`ExportError::Write`] when the output fails, [`ExportError::Tensor`] when a tensor does not read back as it was
    /// written, [`ExportError::Stopped`] when `advance` says so. The output is then incomplete.
    pub fn write<W: Write>(
        self,
        mut out: W,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> Result<W, ExportError> {
        let io = |error| ExportError::Write(crate::gguf::WriteError::Io(error));
        let head = file_head(self.items.iter().map(|item| &item.declared));
        out.write_all(&head).map_err(io)?;
        for item in &self.items {
            let damaged = |source| ExportError::Tensor {
                tensor: quoted(&item.declared.name),
                source,
            };
            let mut hand_over = |piece: &[u8]| {
                out.write_all(piece).map_err(io)?;
                go_on(advance, piece.len() as u64)
            };
            match &item.content {
                Content::Made(bytes) => hand_over(bytes)?,
                Content::Packed(rows) => {
                    let mut packer = Packer::new(&**rows);
                    while packer.next_piece().map_err(damaged)? {
                        hand_over(&packer.bytes)?;
                    }
                }
                Content::Values(ty, bytes)
                    if ty.is_float() && item.declared.stored_type == stored(*ty) =>
                {
                    bytes.chunks(PIECE_BYTES).try_for_each(&mut hand_over)?;
                }
                Content::Values(ty, bytes) => {
                    let piece_bytes = PIECE_BYTES / ty.block_bytes() * ty.block_bytes();
                    let narrow = item.declared.stored_type == StoredType::BF16;
                    for piece in bytes.chunks(piece_bytes) {
                        let values = values(*ty, piece).map_err(damaged)?;
                        hand_over(&float_bytes(&values, narrow))?;
                    }
                }
            }
            mmap::release(item.bytes);
        }
        out.flush().map_err(io)?;
        Ok(out)
    }
}

impl std::fmt::Debug for DirectoryExport<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tensors, bytes) = (self.items.len(), self.file_bytes);
        write!(f, "DirectoryExport({tensors} tensors, {bytes} bytes)")
    }
}
