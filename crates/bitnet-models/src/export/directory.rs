//! A GGUF file as a Hugging Face directory in transformers' packed layout.
//!
//! Trits go four to a byte as transformers packs them (`integrations/bitnet.py`), each piece unpacked again and compared; scales stay
//! what they are: a llama or qwen3 model whose every scale is the inverse of a bf16 number is stored as `bitlinear` stores
//! it, every other one with scales that multiply, in bf16 where that is exact and in f32 where not. Embedding, head and norms keep
//! their values: float types as they are, block types as the f32 numbers that they stand for.

use std::io::Write;

use bitnet_kernels::RopeStyle;
use bitnet_quantization::{
    HfPackedRows, QuantError, ScaleLayout, TensorType, TernaryRows, dequantize,
};
use bitnet_tokenizers::HfTokenizerFiles;
use serde_json::{Map, Value, json};

use super::model_card::ModelCard;
use super::report::{Change, ExportRefusal, TensorReport};
use super::{ExportError, PIECE_BYTES};
use crate::checkpoint::{Checkpoint, TokenizerSource};
use crate::config::ModelConfig;
use crate::error::quoted;
use crate::mmap;
use crate::row_order::ReorderedRows;
use crate::safetensors::{DeclaredTensor, StoredType, file_head};
use crate::tensor_role::TensorRole;
use crate::weights::{rotates, rows_to_halves};

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
    /// Plans to write an open GGUF file as a directory. Every ternary tensor is read; `advance` is told the bytes read since
    /// its last call and returns whether to go on.
    ///
    /// # Errors
    /// [`ExportError::Stopped`] when `advance` says so, [`ExportError::Refused`] with every tensor that the layout cannot
    /// hold, [`ExportError::Request`] for a directory as the source and settings that `config.json` has no words for,
    /// [`ExportError::Tokenizer`] for such a tokenizer, [`ExportError::Model`] for a damaged file.
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
            if !advance(bytes.len() as u64) {
                return Err(ExportError::Stopped);
            }
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

    /// Writes `model.safetensors` and returns the output, flushed. `advance` is told the bytes written since its last call
    /// and returns whether to go on.
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
                if advance(piece.len() as u64) {
                    Ok(())
                } else {
                    Err(ExportError::Stopped)
                }
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

/// Packs trits as transformers does, some byte rows at a time.
struct Packer<'a> {
    rows: &'a dyn TernaryRows,
    /// Byte rows, each of four rows a band apart.
    band: usize,
    next: usize,
    bytes: Vec<u8>,
    trits: Vec<i8>,
    read_back: Vec<i8>,
}

impl<'a> Packer<'a> {
    fn new(rows: &'a dyn TernaryRows) -> Self {
        Self {
            rows,
            band: rows.rows().div_ceil(4),
            next: 0,
            bytes: Vec::new(),
            trits: Vec::new(),
            read_back: vec![0; rows.cols()],
        }
    }

    /// Puts the next byte rows into `bytes`, read back and compared; `false` when there was none left.
    fn next_piece(&mut self) -> Result<bool, QuantError> {
        let cols = self.rows.cols();
        let n = (PIECE_BYTES / cols).max(1).min(self.band - self.next);
        if n == 0 {
            return Ok(false);
        }
        self.bytes.clear();
        self.bytes.resize(n * cols, 0);
        self.trits.resize(4 * n * cols, 0);
        for (row, trits) in self.trits.chunks_exact_mut(cols).enumerate() {
            let (crumb, i) = (row / n, row % n);
            let source = crumb * self.band + self.next + i;
            if source >= self.rows.rows() {
                // No row: code 0, which transformers leaves there too.
                trits.fill(-1);
                continue;
            }
            self.rows.read_row(source, trits, &mut [])?;
            for (byte, trit) in self.bytes[i * cols..][..cols].iter_mut().zip(trits) {
                *byte |= ((*trit + 1) as u8 & 3) << (2 * crumb);
            }
        }
        let piece = HfPackedRows::new(4 * n, cols, &self.bytes, 1.0)?;
        for (row, trits) in self.trits.chunks_exact(cols).enumerate() {
            piece.read_row(row, &mut self.read_back, &mut [])?;
            if trits != self.read_back {
                return Err(QuantError::NotReadBack {
                    format: "packed uint8",
                    row: self.next + row % n + row / n * self.band,
                    col: 0,
                });
            }
        }
        self.next += n;
        Ok(true)
    }
}

struct Plan<'a> {
    checkpoint: &'a Checkpoint,
    items: Vec<Item<'a>>,
    /// Names of scales and what multiplies.
    scales: Vec<(String, f32)>,
    refusals: Vec<ExportRefusal>,
}

impl<'a> Plan<'a> {
    fn add(&mut self, role: TensorRole) -> Result<(), ExportError> {
        let lying = self.checkpoint.lying(role)?;
        let name = role.hf_name().unwrap_or_else(|| role.to_string());
        let mut refuse = |why: String| {
            self.refusals.push(ExportRefusal {
                name: lying.name.clone(),
                from: lying.type_name.clone(),
                why,
            });
            Ok(())
        };
        let (stored_type, shape, content, change) = if let TensorRole::Projection(..) = role {
            let config = self.checkpoint.config();
            let mut rows = match self.checkpoint.ternary(role) {
                Ok(rows) => rows,
                Err(error) => return refuse(error.to_string()),
            };
            let ScaleLayout::PerTensor(scale) = rows.scale() else {
                return refuse("its weights have several scales, a packed tensor has one".into());
            };
            if rotates(role) && rows_to_halves(config) {
                rows = Box::new(ReorderedRows::new(rows, config.head_dim, RopeStyle::Neox));
            }
            let mut trits = vec![0; rows.cols()];
            for row in 0..rows.rows() {
                if let Err(error) = rows.read_row(row, &mut trits, &mut []) {
                    return refuse(error.to_string());
                }
            }
            self.scales.push((format!("{name}_scale"), scale));
            let shape = vec![rows.rows().div_ceil(4), rows.cols()];
            (
                StoredType::U8,
                shape,
                Content::Packed(rows),
                Change::Repacked,
            )
        } else {
            let Some(ty) = lying.ty.filter(|ty| *ty != TensorType::I2S) else {
                return refuse(format!("a {role} is stored as floats"));
            };
            let stored_type = if ty == TensorType::F32 && is_bf16(lying.bytes) {
                StoredType::BF16
            } else {
                stored(ty)
            };
            let matrix = matches!(role, TensorRole::Embedding | TensorRole::Head);
            let shape = if matrix {
                vec![lying.rows, lying.cols]
            } else {
                vec![lying.cols]
            };
            let change = if stored_type == stored(ty) && ty.is_float() {
                Change::Copied
            } else {
                Change::Repacked
            };
            (stored_type, shape, Content::Values(ty, lying.bytes), change)
        };
        let declared = DeclaredTensor {
            name,
            stored_type,
            shape,
        };
        let report = TensorReport {
            name: declared.name.clone(),
            from: lying.type_name.clone(),
            to: stored_type.to_string(),
            change,
            bytes_before: lying.bytes.len() as u64,
            bytes_after: declared.bytes(),
            error: None,
            note: None,
        };
        self.items.push(Item {
            declared,
            report,
            bytes: lying.bytes,
            content,
        });
        Ok(())
    }

    /// Adds the scales, and tells whether they are stored as what divides.
    fn finish_scales(&mut self, sub_norms: bool) -> bool {
        let inverse = |scale: f32| {
            let stored = half::bf16::from_f32(1.0 / scale);
            (1.0 / stored.to_f32() == scale).then_some(stored)
        };
        let divides = !sub_norms
            && self
                .scales
                .iter()
                .all(|(_, scale)| inverse(*scale).is_some());
        for (name, scale) in std::mem::take(&mut self.scales) {
            let direct = half::bf16::from_f32(scale);
            let narrow = match inverse(scale) {
                Some(stored) if divides => Some(stored),
                _ => (direct.to_f32() == scale).then_some(direct),
            };
            let (stored_type, bytes) = match narrow {
                Some(value) => (StoredType::BF16, value.to_le_bytes().to_vec()),
                None => (StoredType::F32, scale.to_le_bytes().to_vec()),
            };
            let declared = DeclaredTensor {
                name,
                stored_type,
                shape: vec![1],
            };
            let report = TensorReport {
                name: declared.name.clone(),
                from: TensorType::F32.to_string(),
                to: stored_type.to_string(),
                change: Change::Repacked,
                bytes_before: 0,
                bytes_after: bytes.len() as u64,
                error: None,
                note: None,
            };
            self.items.push(Item {
                declared,
                report,
                bytes: &[],
                content: Content::Made(bytes),
            });
        }
        divides
    }
}

/// How a dense type is stored: block types as what they stand for.
fn stored(ty: TensorType) -> StoredType {
    match ty {
        TensorType::F16 => StoredType::F16,
        TensorType::BF16 => StoredType::BF16,
        _ => StoredType::F32,
    }
}

/// Whether every f32 is a bf16 number.
fn is_bf16(bytes: &[u8]) -> bool {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .all(|b| b[0] == 0 && b[1] == 0)
}

fn values(ty: TensorType, bytes: &[u8]) -> Result<Vec<f32>, QuantError> {
    let mut values = vec![0.0; bytes.len() / ty.block_bytes() * ty.block_len()];
    dequantize(ty, bytes, &mut values)?;
    Ok(values)
}

fn float_bytes(values: &[f32], narrow: bool) -> Vec<u8> {
    if narrow {
        let upper = values.iter().map(|value| (value.to_bits() >> 16) as u16);
        return upper.flat_map(u16::to_le_bytes).collect();
    }
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Files by name.
type Documents = Vec<(&'static str, String)>;

/// The JSON files and the model card.
fn documents(
    checkpoint: &Checkpoint,
    items: &[Item<'_>],
    divides: bool,
) -> Result<(Documents, Vec<String>), ExportError> {
    let mut notes = Vec::new();
    if let Some(embedding) = checkpoint.config().embedding {
        let pooling = embedding.pooling.name();
        notes.push(format!(
            "config.json has no word for the pooling, which is {pooling}"
        ));
    }
    let vocabulary = match checkpoint.tokenizer_source()? {
        TokenizerSource::Gguf(vocabulary) => Some(vocabulary),
        _ => None,
    };
    let (bos, eos) = vocabulary.as_ref().map_or((None, None), |v| (v.bos, v.eos));
    let mut ends: Vec<u32> = Vec::new();
    if let Some(vocabulary) = &vocabulary {
        let declared = [vocabulary.eos, vocabulary.eot, vocabulary.eom];
        for id in declared.into_iter().flatten() {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
    }
    let wide = |item: &&Item<'_>| item.declared.stored_type == StoredType::F32;
    let half = |item: &&Item<'_>| item.declared.stored_type == StoredType::F16;
    let dtype = if items.iter().any(|item| wide(&item)) {
        "float32"
    } else if items.iter().any(|item| half(&item)) {
        "float16"
    } else {
        "bfloat16"
    };
    let config = config(checkpoint.config(), (bos, eos), dtype, divides);
    let mut documents = vec![("config.json", pretty(&config))];
    let defaults = checkpoint.generation_defaults();
    let mut generation = Map::new();
    let one_or_many = match ends.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    };
    for (key, value) in [
        ("bos_token_id", json!(bos)),
        ("eos_token_id", one_or_many),
        ("do_sample", json!(defaults.do_sample)),
        (
            "temperature",
            number(defaults.temperature.filter(|t| *t > 0.0)),
        ),
        ("top_p", number(defaults.top_p)),
        ("top_k", json!(defaults.top_k)),
        ("min_p", number(defaults.min_p)),
        ("repetition_penalty", number(defaults.repetition_penalty)),
    ] {
        if !value.is_null() {
            generation.insert(key.into(), value);
        }
    }
    documents.push(("generation_config.json", pretty(&Value::Object(generation))));
    match vocabulary {
        Some(vocabulary) => {
            let HfTokenizerFiles {
                tokenizer_json,
                tokenizer_config,
            } = vocabulary.to_hf()?;
            documents.push(("tokenizer.json", tokenizer_json));
            documents.push(("tokenizer_config.json", tokenizer_config));
        }
        None => notes.push("the file has no tokenizer, so the directory has none".into()),
    }
    let card = checkpoint.gguf().map(ModelCard::of_gguf);
    if let Some(readme) = card.and_then(|card| card.readme(&checkpoint.config().name)) {
        documents.push(("README.md", readme));
    }
    Ok((documents, notes))
}

/// A number that was an f32 with the digits that it was written with.
fn number(value: Option<f32>) -> Value {
    value.map_or(Value::Null, |value| {
        value
            .to_string()
            .parse::<f64>()
            .map_or(Value::Null, |v| json!(v))
    })
}

fn config(
    config: &ModelConfig,
    (bos, eos): (Option<u32>, Option<u32>),
    dtype: &str,
    divides: bool,
) -> Value {
    // The first is the one that generates.
    let architecture = config.family.hf_architectures.first();
    let architecture = architecture.copied().unwrap_or_default();
    let model_type = match architecture {
        "BitNetForCausalLM" => "bitnet",
        "Qwen3ForCausalLM" => "qwen3",
        _ => "llama",
    };
    let linear_class = if divides {
        "bitlinear"
    } else {
        "autobitlinear"
    };
    json!({
        "architectures": [architecture],
        "model_type": model_type,
        "_name_or_path": config.name,
        "hidden_act": config.family.hf_activation(),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rope_theta": number(Some(config.rope.base)),
        "rms_norm_eps": number(Some(config.rms_norm_eps)),
        "tie_word_embeddings": config.tied_head,
        "attention_bias": false,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "torch_dtype": dtype,
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": linear_class,
            "quantization_mode": "offline",
            "modules_to_not_convert": if config.tied_head { Value::Null } else { json!(["lm_head"]) },
        },
    })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

impl std::fmt::Debug for DirectoryExport<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tensors, bytes) = (self.items.len(), self.file_bytes);
        write!(f, "DirectoryExport({tensors} tensors, {bytes} bytes)")
    }
}
