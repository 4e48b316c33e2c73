//! Writing models: every ternary weight exactly as it was, in another type.
//!
//! An [`Export`] is made in two steps. Planning reads every tensor, decides what becomes of it and refuses, with the
//! reason for each, whatever the new type cannot hold; nothing is written yet, and the size of the file is known.
//! Writing then streams: one piece of one tensor is in memory at a time, and each ternary piece is decoded again and
//! compared before it goes out.

mod dense;
mod directory;
mod form;
mod gguf;
mod hf;
mod masters;
mod metadata;
mod model_card;
mod report;
pub mod split;
mod unit_scale;

use std::io::Write;

use bitnet_quantization::{
    I2sDialect, QuantError, Repacker, TensorType, TernaryRows, TilePreset, encode_tiles,
};
use bitnet_tokenizers::TokenizerError;

use crate::config::ModelConfig;
use crate::error::{ModelError, quoted};
use crate::gguf::{GgufWriter, Value, WriteError};
use crate::mmap;

use self::dense::DenseRows;
use self::form::Form;
use self::masters::MasterRows;

pub use self::directory::DirectoryExport;
pub use self::form::TernaryTarget;
pub use self::gguf::{DENSE_TYPES, TERNARY_TYPES, TILE_TYPES};
pub use self::model_card::ModelCard;
pub use self::report::{Change, ExportRefusal, TensorReport, ValueError};

/// What the tensors of a model are to become.
#[derive(Debug, Clone, Copy)]
pub struct Targets {
    /// What every ternary matrix becomes.
    pub ternary: TernaryTarget,
    /// Type of the embedding; `None` leaves it as it is.
    pub embedding: Option<TensorType>,
    /// Type of the head; `None` leaves it as it is.
    pub head: Option<TensorType>,
    /// Layout of I2_S tensors in the source; what is written has the 128 layout of every published file.
    pub i2s_dialect: I2sDialect,
    /// Tile sizes of TL1 and TL2 tensors in the source and in what is written; `None` takes those of the builds that
    /// have the shape, where they agree.
    pub tiles: Option<TilePreset>,
    /// Make trits of projections that are dense, although nothing says that they are a BitNet model's master weights.
    pub ternarize: bool,
}

/// Why a model is not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The source cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Tensors that the chosen types cannot hold; never empty.
    #[error("{} of the model's tensors cannot be written as asked; {}", .0.len(), .0[0])]
    Refused(Vec<ExportRefusal>),
    /// The tokenizer cannot be expressed in the new container, or is damaged.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Something that cannot be asked of this model.
    #[error("{what}: expected {expected}")]
    Request {
        /// What was asked for.
        what: String,
        /// What can be.
        expected: String,
    },
    /// A tensor's data went wrong while they were being written.
    #[error("tensor {tensor}: {source}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong with it.
        source: QuantError,
    },
    /// What was written is not what was read.
    #[error("{what} is not what was read when it is read back")]
    Differs {
        /// The key or tensor.
        what: String,
    },
    /// The caller asked to stop.
    #[error("stopped before the end")]
    Stopped,
}

/// Refuses a model that needs what neither a GGUF header nor a `config.json` of ours says.
fn expressible(config: &ModelConfig, to_gguf: bool) -> Result<(), ExportError> {
    let refuse = |what: &str| {
        Err(ExportError::Request {
            what: what.into(),
            expected: "a model without them: use this one as it is".into(),
        })
    };
    let own_words = config.family.own_multipliers;
    if own_words && !to_gguf {
        return refuse("multipliers and rotations of MiniCPM");
    }
    if config.rope.attention_factor != 1.0 && !own_words {
        return refuse("rotations that are stretched by YaRN's or LongRoPE's rule");
    }
    if config.sliding.is_some() {
        return refuse("layers that look back a part of the context");
    }
    Ok(())
}

/// A model that can be written as asked.
pub struct Export<'a> {
    header: GgufWriter,
    items: Vec<Item<'a>>,
    file_bytes: u64,
    notes: Vec<String>,
}

/// One tensor of the new file.
struct Item<'a> {
    report: TensorReport,
    /// The source's bytes, given back to the system afterwards.
    bytes: &'a [u8],
    to: Form,
    content: Content<'a>,
}

enum Content<'a> {
    /// The source's bytes.
    Copy,
    /// Bytes that no source has.
    Made(Vec<u8>),
    Ternary {
        rows: Box<dyn TernaryRows + 'a>,
        /// What the trits were made of, where that was dense.
        masters: Option<MasterRows<'a>>,
    },
    Dense(DenseRows<'a>),
}

impl Item<'_> {
    /// A vector of F32 that the source does not have as a tensor.
    fn made(name: String, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        Self {
            report: TensorReport {
                name,
                from: TensorType::F32.to_string(),
                to: TensorType::F32.to_string(),
                change: Change::Repacked,
                bytes_before: 0,
                bytes_after: 0,
                error: None,
                note: None,
            },
            bytes: &[],
            to: Form::Type(TensorType::F32),
            content: Content::Made(bytes),
        }
    }
}

/// Bytes handed to the output at once.
const PIECE_BYTES: usize = 1 << 20;

impl<'a> Export<'a> {
    /// Collects the items and makes sure that each can be written.
    fn new(
        alignment: u32,
        metadata: Vec<(String, Value)>,
        tensors: Vec<(Item<'a>, Vec<u64>)>,
    ) -> Result<Self, ExportError> {
        let mut header = GgufWriter::new();
        if alignment != crate::gguf::limits::DEFAULT_ALIGNMENT {
            header.alignment(alignment)?;
        }
        for (key, value) in metadata {
            header.metadata(&key, value)?;
        }
        let mut items = Vec::with_capacity(tensors.len());
        for (mut item, dims) in tensors {
            item.report.bytes_after = item.to.declare(&mut header, &item.report.name, &dims)?;
            items.push(item);
        }
        Ok(Self {
            file_bytes: header.file_bytes()?,
            header,
            items,
            notes: Vec::new(),
        })
    }

    /// Bytes of the file that [`Export::write`] makes.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// What the new file cannot say, and other things worth knowing, in sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What becomes of every tensor, in file order; errors of converted values are known after writing only.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorReport> {
        self.items.iter().map(|item| &item.report)
    }

    /// Writes the file and returns the output, flushed, and what became of every tensor. `advance` is told the bytes
    /// written since its last call and returns whether to go on.
    ///
    /// # Errors
    /// [`ExportError::Write`] when the output fails, [`ExportError::Tensor`] when a tensor does not read back as it was
    /// written, [`ExportError::Stopped`] when `advance` says so. The output is then incomplete.
    pub fn write<W: Write>(
        self,
        out: W,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(W, Vec<TensorReport>), ExportError> {
        let mut writer = self.header.start(out)?;
        let mut buffer = Vec::new();
        let mut reports = Vec::with_capacity(self.items.len());
        for item in self.items {
            let Item {
                mut report,
                bytes,
                to,
                content,
            } = item;
            let damaged = |source| ExportError::Tensor {
                tensor: quoted(&report.name),
                source,
            };
            let mut hand_over = |piece: &[u8]| {
                writer.write(piece)?;
                go_on(advance, piece.len() as u64)
            };
            match content {
                Content::Copy => bytes.chunks(PIECE_BYTES).try_for_each(&mut hand_over)?,
                Content::Made(bytes) => hand_over(&bytes)?,
                Content::Ternary { rows, masters } => {
                    match to {
                        Form::Type(to) => {
                            let mut repacker = Repacker::new(&*rows, to).map_err(damaged)?;
                            while repacker.next_piece(&mut buffer).map_err(damaged)? {
                                hand_over(&buffer)?;
                                buffer.clear();
                            }
                        }
                        Form::Tiles(ty, tiles) => {
                            encode_tiles(ty, tiles, &*rows, &mut buffer).map_err(damaged)?;
                            buffer.chunks(PIECE_BYTES).try_for_each(&mut hand_over)?;
                            buffer.clear();
                        }
                    }
                    if let Some(masters) = masters {
                        report.error = Some(masters.error().map_err(damaged)?);
                    }
                }
                Content::Dense(mut rows) => {
                    while rows.next_piece(&mut buffer).map_err(damaged)? {
                        hand_over(&buffer)?;
                        buffer.clear();
                    }
                    if !rows.is_exact() {
                        report.error = Some(rows.error());
                    }
                }
            }
            mmap::release(bytes);
            reports.push(report);
        }
        Ok((writer.finish()?, reports))
    }
}

/// Tells `advance` of bytes that are done, and ends the work where it says so.
fn go_on(advance: &mut dyn FnMut(u64) -> bool, n_bytes: u64) -> Result<(), ExportError> {
    if advance(n_bytes) {
        Ok(())
    } else {
        Err(ExportError::Stopped)
    }
}

impl std::fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tensors, bytes) = (self.items.len(), self.file_bytes);
        write!(f, "Export({tensors} tensors, {bytes} bytes)")
    }
}
