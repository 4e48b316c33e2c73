//! A Hugging Face directory as the source of a GGUF file.
//!
//! Tensors are found by role, as the forward pass finds them, so every layout that it runs can be converted. Ternary
//! weights keep their trits and their scale, whatever it was stored as; query and key rows are put into the order of
//! the architecture; norms become F32, which llama.cpp wants; embedding and head stay as they are unless a type is
//! asked for.

use bitnet_kernels::RopeStyle;
use bitnet_quantization::{ScaleLayout, TensorType, TernaryRows};
use bitnet_tokenizers::{GgufVocabulary, SentencePieceFiles};

use super::dense::DenseRows;
use super::form::Form;
use super::gguf::check_types;
use super::masters::MasterRows;
use super::metadata::Header;
use super::model_card::{MAX_CARD_BYTES, ModelCard};
use super::report::{Change, ExportRefusal, TensorReport};
use super::unit_scale::RescaledRows;
use super::{Content, Export, ExportError, Item, Targets, go_on};
use crate::checkpoint::weight::{Lying, Weight};
use crate::checkpoint::{Checkpoint, TokenizerSource};
use crate::gguf::limits::DEFAULT_ALIGNMENT;
use crate::gguf::model;
use crate::mmap::{self, FileBytes};
use crate::row_order::ReorderedRows;
use crate::tensor_role::TensorRole;
use crate::weights::rotates;

/// A scale above this is hardly a mean of weights; its inverse may be meant.
const SUSPICIOUS_SCALE: f32 = 5.0;

impl<'a> Export<'a> {
    /// Plans to write an open Hugging Face directory as a GGUF file. Every ternary tensor is read; `advance` is told
    /// the bytes read since its last call and returns whether to go on.
    ///
    /// # Errors
    /// [`ExportError::Stopped`] when `advance` says so, [`ExportError::Refused`] with every tensor that cannot be
    /// written as asked, [`ExportError::Request`] for a source or types that cannot be written,
    /// [`ExportError::Tokenizer`] for a tokenizer that GGUF has no words for, [`ExportError::Model`] for damaged files.
    pub fn of_directory(
        checkpoint: &'a Checkpoint,
        targets: &Targets,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Self, ExportError> {
        let request = |what: &str, expected: &str| {
            Err(ExportError::Request {
                what: what.into(),
                expected: expected.into(),
            })
        };
        let Some(directory) = checkpoint.directory() else {
            return request("a GGUF file as the source", "a Hugging Face directory");
        };
        let config = checkpoint.config();
        super::expressible(config, true)?;
        let has = |role| match role {
            TensorRole::Head => !config.tied_head,
            _ => true,
        };
        check_types(targets, has)?;
        if config.family.gguf_rope == RopeStyle::Norm && config.rope.n_rot != config.head_dim {
            return request(
                "heads that rotate in part",
                "an architecture that keeps them in halves",
            );
        }
        let (vocabulary, mut notes) = vocabulary(checkpoint)?;
        let card = match directory.join("README.md") {
            readme if readme.is_file() => {
                let bytes = FileBytes::open(&readme)?;
                ModelCard::parse(&bytes[..bytes.len().min(MAX_CARD_BYTES)])
            }
            _ => ModelCard::default(),
        };
        let header = Header {
            config,
            generation: checkpoint.generation_defaults(),
            vocabulary: &vocabulary,
            card: &card,
            ternary: targets.ternary,
        };
        let mut plan = Plan {
            checkpoint,
            targets,
            tensors: Vec::new(),
            refusals: Vec::new(),
        };
        for role in TensorRole::required(config) {
            let lying = checkpoint.lying(role)?;
            let bytes = lying.bytes;
            plan.add(role, lying)?;
            mmap::release(bytes);
            go_on(advance, bytes.len() as u64)?;
        }
        if let Some(factors) = &config.rope.freq_factors {
            // The context is as long as the first set of LongRoPE's divisors reaches, so it is the second set too.
            if config.family.own_multipliers {
                for name in model::LONGROPE_FACTORS {
                    plan.add_factors(name, factors);
                }
            } else {
                plan.add_factors(&TensorRole::RopeFactors.gguf_name(), factors);
            }
        }
        if !plan.refusals.is_empty() {
            return Err(ExportError::Refused(plan.refusals));
        }
        notes.extend(checkpoint.findings().iter().map(|f| f.message.clone()));
        let metadata = header.metadata();
        let mut export = Self::new(DEFAULT_ALIGNMENT, metadata, plan.tensors)?;
        export.notes = notes;
        Ok(export)
    }
}

/// The tokenizer section of the file, with a token for every row of the embedding.
fn vocabulary(checkpoint: &Checkpoint) -> Result<(GgufVocabulary, Vec<String>), ExportError> {
    let generation = checkpoint.generation_defaults();
    let (mut vocabulary, losses) = match checkpoint.tokenizer_source()? {
        TokenizerSource::Hf {
            tokenizer_json,
            tokenizer_config,
            special_tokens_map,
        } => {
            let converted = GgufVocabulary::from_hf(
                &tokenizer_json,
                tokenizer_config.as_deref(),
                special_tokens_map.as_deref(),
                &generation.eos,
                generation.bos,
            )?;
            (converted.vocabulary, converted.losses)
        }
        TokenizerSource::SentencePiece {
            model,
            tokenizer_config,
            special_tokens_map,
            added_tokens,
        } => {
            let vocabulary = GgufVocabulary::from_sentencepiece(&SentencePieceFiles {
                model: &model,
                tokenizer_config: tokenizer_config.as_deref(),
                special_tokens_map: special_tokens_map.as_deref(),
                added_tokens: added_tokens.as_deref(),
            })?;
            (vocabulary, Vec::new())
        }
        TokenizerSource::Gguf(_) | TokenizerSource::Missing => {
            return Err(ExportError::Request {
                what: "a directory without a tokenizer".into(),
                expected: "tokenizer.json or tokenizer.model beside config.json".into(),
            });
        }
    };
    // A template in a file of its own comes before that of tokenizer_config.json.
    if let Some(template) = checkpoint.chat_template()? {
        vocabulary.chat_template = Some(template);
    }
    let (rows, tokens) = (checkpoint.config().vocab_size, vocabulary.tokens.len());
    if tokens > rows {
        return Err(ExportError::Request {
            what: format!("a tokenizer of {tokens} tokens for an embedding of {rows} rows"),
            expected: "a row for every token".into(),
        });
    }
    vocabulary.pad_to(rows);
    Ok((vocabulary, losses))
}

/// The tensors of the new file, so far.
struct Plan<'a, 't> {
    checkpoint: &'a Checkpoint,
    targets: &'t Targets,
    tensors: Vec<(Item<'a>, Vec<u64>)>,
    refusals: Vec<ExportRefusal>,
}

impl<'a> Plan<'a, '_> {
    fn add(&mut self, role: TensorRole, lying: Lying<'a>) -> Result<(), ExportError> {
        match role {
            TensorRole::Projection(..) => self.add_projection(role, lying),
            TensorRole::Embedding => self.add_dense(role, lying, self.targets.embedding),
            TensorRole::Head => self.add_dense(role, lying, self.targets.head),
            TensorRole::Norm(..) | TensorRole::FinalNorm | TensorRole::RopeFactors => {
                self.add_dense(role, lying, Some(TensorType::F32))
            }
        }
    }

    /// An embedding, a head or a norm as `to`, or as it is.
    fn add_dense(
        &mut self,
        role: TensorRole,
        lying: Lying<'a>,
        to: Option<TensorType>,
    ) -> Result<(), ExportError> {
        let Some(from) = lying.ty else {
            return self.add_codes(role, lying, to);
        };
        let to = to.unwrap_or(from);
        if !lying.cols.is_multiple_of(to.block_len()) {
            self.refuse(
                &lying,
                format!("rows of {} values cannot become {to}", lying.cols),
            );
            return Ok(());
        }
        if to == from {
            self.push(
                role,
                &lying,
                Form::Type(to),
                Change::Copied,
                None,
                Content::Copy,
            );
            return Ok(());
        }
        let rows = DenseRows::new(from, to, lying.cols, lying.bytes);
        let change = if rows.is_exact() {
            Change::Repacked
        } else {
            Change::Converted
        };
        match rows.check() {
            Ok(()) => {
                let content = Content::Dense(rows);
                self.push(role, &lying, Form::Type(to), change, None, content);
            }
            Err(error) => self.refuse(&lying, error.to_string()),
        }
        Ok(())
    }

    /// An embedding or a head of MLX's codes, in the type that holds the same numbers.
    fn add_codes(
        &mut self,
        role: TensorRole,
        lying: Lying<'a>,
        to: Option<TensorType>,
    ) -> Result<(), ExportError> {
        if !matches!(role, TensorRole::Embedding | TensorRole::Head) {
            self.refuse(&lying, format!("a {role} is stored as floats"));
            return Ok(());
        }
        let matrix = self.checkpoint.matrix(role)?;
        if to.is_some_and(|to| to != matrix.ty) {
            let why = format!(
                "its codes become {}, which holds the same numbers: leave out the type here, and give it to `bitnet quantize`",
                matrix.ty
            );
            self.refuse(&lying, why);
            return Ok(());
        }
        let (form, content) = (Form::Type(matrix.ty), Content::Made(matrix.bytes.into()));
        self.push(role, &lying, form, Change::Repacked, None, content);
        Ok(())
    }

    fn add_projection(&mut self, role: TensorRole, lying: Lying<'a>) -> Result<(), ExportError> {
        let targets = self.targets;
        let form = targets.ternary.form(lying.rows, lying.cols, targets.tiles);
        let to = match form {
            Ok(to) => to,
            Err(error) => {
                self.refuse(&lying, error.to_string());
                return Ok(());
            }
        };
        let masters = |ty| MasterRows::new(ty, (lying.rows, lying.cols), lying.bytes);
        let (rows, mut note, masters) = match self.checkpoint.weight(role)? {
            Weight::Ternary { rows, note } => (rows, note, None),
            Weight::Dense(_, [a, b]) if !self.targets.ternarize => {
                let why = format!(
                    "its weights are not ternary ({a} and {b} are among their magnitudes) and config.json does not say \
                     that they are a BitNet model's master weights"
                );
                self.refuse(&lying, why);
                return Ok(());
            }
            Weight::Masters(ty) | Weight::Dense(ty, _) => match masters(ty) {
                Ok(rows) => (
                    Box::new(rows.trits()) as Box<dyn TernaryRows + 'a>,
                    None,
                    Some(rows),
                ),
                Err(error) => {
                    self.refuse(&lying, error.to_string());
                    return Ok(());
                }
            },
        };
        let config = self.checkpoint.config();
        let rows = match config.family.gguf_rope {
            RopeStyle::Norm if rotates(role) => {
                Box::new(ReorderedRows::new(rows, config.head_dim, RopeStyle::Norm)) as _
            }
            _ => rows,
        };
        let (rows, scale) = match fitting(rows, to, masters.is_none()) {
            Ok(fitting) => fitting,
            Err(why) => {
                self.refuse(&lying, why);
                return Ok(());
            }
        };
        let whole = scale.or(match rows.scale() {
            ScaleLayout::PerTensor(scale) => Some(scale),
            ScaleLayout::PerBlock { .. } => None,
        });
        if let Some(scale) = whole.filter(|scale| scale.abs() > SUSPICIOUS_SCALE) {
            note = Some(format!(
                "its scale is {scale}: if the text makes no sense, config.json may have the direction of scales wrong"
            ));
        }
        let change = match masters {
            None => Change::Repacked,
            Some(_) => Change::Ternarised,
        };
        let content = Content::Ternary { rows, masters };
        self.push(role, &lying, to, change, note, content);
        if let Some(scale) = scale {
            self.push_scale(role, scale);
        }
        Ok(())
    }

    fn push(
        &mut self,
        role: TensorRole,
        lying: &Lying<'a>,
        to: Form,
        change: Change,
        note: Option<String>,
        content: Content<'a>,
    ) {
        let mut dims = vec![lying.cols as u64];
        if is_matrix(role) {
            dims.push(lying.rows as u64);
        }
        let report = TensorReport {
            name: role.gguf_name(),
            from: lying.type_name.clone(),
            to: to.to_string(),
            change,
            bytes_before: lying.bytes.len() as u64,
            bytes_after: 0, // known when it is declared
            error: None,
            note,
        };
        let item = Item {
            report,
            bytes: lying.bytes,
            to,
            content,
        };
        self.tensors.push((item, dims));
    }

    /// The scale of the projection before it.
    fn push_scale(&mut self, role: TensorRole, scale: f32) {
        let name = role.gguf_name();
        let stem = name.strip_suffix(".weight").unwrap_or(&name);
        let item = Item::made(format!("{stem}.scale"), &[scale]);
        self.tensors.push((item, vec![1]));
    }

    fn add_factors(&mut self, name: &str, factors: &[f32]) {
        let item = Item::made(name.to_owned(), factors);
        self.tensors.push((item, vec![factors.len() as u64]));
    }

    fn refuse(&mut self, lying: &Lying<'_>, why: String) {
        self.refusals.push(ExportRefusal {
            name: lying.name.clone(),
            from: lying.type_name.clone(),
            why,
        });
    }
}

fn is_matrix(role: TensorRole) -> bool {
    matches!(
        role,
        TensorRole::Embedding | TensorRole::Head | TensorRole::Projection(..)
    )
}

/// `rows` as `to` can hold them: with the scale taken out, where it is one that the type's blocks have no number for.
/// `read` says whether the trits may be anything but trits.
pub(super) fn fitting<'a>(
    rows: Box<dyn TernaryRows + 'a>,
    to: Form,
    read: bool,
) -> Result<(Box<dyn TernaryRows + 'a>, Option<f32>), String> {
    let text = |error: bitnet_quantization::QuantError| error.to_string();
    let in_blocks = matches!(to, Form::Type(ty) if ty.is_block_ternary());
    let (rows, scale) = match rows.scale() {
        ScaleLayout::PerTensor(scale) if in_blocks && !holds(scale) => {
            let unit: Box<dyn TernaryRows + 'a> = Box::new(RescaledRows::new(rows, 1.0));
            (unit, Some(scale))
        }
        _ => (rows, None),
    };
    let checked = match read {
        true => to.check(&*rows),
        false => to.check_shape(&*rows),
    };
    checked.map_err(text)?;
    Ok((rows, scale))
}

/// Whether a block's f16 holds the scale.
fn holds(scale: f32) -> bool {
    let rounded = half::f16::from_f32(scale);
    rounded.to_f32().to_bits() == scale.to_bits()
}
