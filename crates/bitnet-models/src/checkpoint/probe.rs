//! What the headers of a checkpoint give away about it: tensors that nothing reads, a tokenizer that needs repair.

use std::collections::BTreeSet;

use super::gguf::{multiplier_name, scale_name};
use super::hf::mlx_names;
use super::tokenizer::TOKENIZERS;
use super::{Checkpoint, Source};
use crate::config::ConfigField;
use crate::error::{ModelError, quoted};
use crate::finding::{Finding, Severity};
use crate::gguf::{Value, ValueType, describe, model};
use crate::tensor_role::TensorRole;

/// Tensors that other tools write and no forward pass needs.
const HARMLESS: [&str; 2] = ["rotary_emb.inv_freq", "rope_freqs.weight"];

impl Checkpoint {
    /// Tensors that no role and no scale accounts for: a finding when they are merely left over, an error when leaving
    /// them out would change the text.
    pub(crate) fn judge_unused(&self) -> Result<Vec<Finding>, ModelError> {
        let mut known = BTreeSet::new();
        let roles = TensorRole::required(&self.config).into_iter();
        for role in roles.chain([TensorRole::RopeFactors, TensorRole::Head]) {
            match &self.source {
                Source::Gguf(_) => {
                    let name = role.gguf_name();
                    known.extend([Some(scale_name(&name)), multiplier_name(role), Some(name)]);
                }
                Source::Hf(source) => {
                    let name = source.names.of(role);
                    let scale = name.as_ref().map(|name| format!("{name}_scale"));
                    known.extend(name.iter().flat_map(|name| mlx_names(name)).map(Some));
                    known.extend([name, scale]);
                }
            }
        }
        known.extend(model::LONGROPE_FACTORS.map(|name| Some(name.to_owned())));
        let unused = |name: &str| {
            !known.contains(&Some(name.to_owned())) && !HARMLESS.iter().any(|h| name.ends_with(h))
        };
        let mut left_over: Vec<(&str, &str)> = match &self.source {
            Source::Gguf(source) => {
                let tensors = source
                    .gguf
                    .tensors()
                    .iter()
                    .filter(|tensor| unused(tensor.name()));
                tensors
                    .map(|tensor| (source.gguf.file_of(tensor), tensor.name()))
                    .collect()
            }
            Source::Hf(source) => {
                let tensors = source
                    .weights
                    .tensors()
                    .iter()
                    .filter(|tensor| unused(tensor.name()));
                tensors
                    .map(|tensor| (source.weights.file_of(tensor), tensor.name()))
                    .collect()
            }
        };
        // A bias or another norm is part of the arithmetic; without it the model only seems to work.
        if let Some((file, name)) = left_over
            .iter()
            .find(|(_, name)| name.ends_with(".bias") || name.contains("norm"))
        {
            return Err(ModelError::ForeignTensor {
                file: (*file).into(),
                tensor: quoted(name),
                family: self.config.family.name,
            });
        }
        let total = left_over.len();
        left_over.truncate(1);
        Ok(left_over
            .iter()
            .map(|(_, name)| {
                Finding::new(
                    Severity::Warning,
                    "unused-tensors",
                    format!("tensor {}", quoted(name)),
                    format!(
                        "{total} tensors, the first of them {}, are not read by a {} model",
                        quoted(name),
                        self.config.family.name
                    ),
                    "check that the file is the model that it says it is; the tensors are ignored",
                )
            })
            .collect())
    }

    /// A context that ends early because some layers would look back a part of it only.
    pub(crate) fn judge_window(&self) -> Option<Finding> {
        let sliding = self.config.sliding.as_ref()?;
        let window = sliding.window;
        (self.config.context_length == window).then(|| {
            Finding::new(
                Severity::Note,
                "sliding-window",
                ConfigField::SlidingWindow.to_string(),
                format!("some layers look back {window} positions, so that is the longest context that is computed"),
                "keep texts within it; longer ones are refused",
            )
        })
    }

    /// A context that ends early because longer texts would have other divisors of the rotary frequencies.
    pub(crate) fn judge_long_divisors(&self) -> Option<Finding> {
        let made_for = self.config.rope.uncomputed_context?;
        let context = self.config.context_length;
        Some(Finding::new(
            Severity::Note,
            "longrope-divisors",
            ConfigField::RopeScaling.to_string(),
            format!(
                "the model was made for {made_for} positions, but texts of more than {context} have other divisors of \
                 the rotary frequencies from their first position on, which are not computed: the context is {context}"
            ),
            "keep texts within it; longer ones are refused",
        ))
    }

    /// Attention to parts of long texts, which is computed as attention to all of it.
    pub(crate) fn judge_sparse(&self) -> Result<Option<Finding>, ModelError> {
        let Source::Hf(source) = &self.source else {
            return Ok(None);
        };
        let Some(from) = source.sparse_from()? else {
            return Ok(None);
        };
        let context = self.config.context_length;
        let (severity, message) = match from > context as u64 {
            true => (
                Severity::Note,
                format!(
                    "sparse attention begins at {from} positions, which the context of {context} never has"
                ),
            ),
            false => (
                Severity::Warning,
                format!(
                    "from {from} positions on the model's own code attends to chosen blocks of a text; here every text is \
                     attended to as a whole, so that longer ones get other numbers"
                ),
            ),
        };
        let remedy = "keep texts within that length for the numbers of the model's own code";
        let place = "field sparse_config";
        let finding = Finding::new(severity, "sparse-attention", place, message, remedy);
        Ok(Some(finding))
    }

    /// Type numbers that `--dialect` gives another meaning than the sizes of their tensors.
    pub(crate) fn judge_dialects(&self) -> Vec<Finding> {
        let Source::Gguf(source) = &self.source else {
            return Vec::new();
        };
        let mut told = BTreeSet::new();
        let tensors = source.gguf.tensors().iter();
        tensors
            .filter_map(|tensor| {
                let by_size = tensor.overruled()?;
                let number = tensor.type_number();
                told.insert(number).then(|| {
                    Finding::new(
                        Severity::Warning,
                        "dialect-overrules",
                        format!("type number {number}"),
                        format!(
                            "its tensors have the size of {by_size} and are read as {}, as --dialect says",
                            tensor.type_id()
                        ),
                        "leave out --dialect, unless the model is known to be in that format",
                    )
                })
            })
            .collect()
    }

    /// Problems of the tokenizer that can be seen without building one.
    pub(crate) fn judge_tokenizer(&self) -> Vec<Finding> {
        let source = match &self.source {
            Source::Gguf(source) => source,
            Source::Hf(source)
                if TOKENIZERS
                    .iter()
                    .any(|name| source.path.join(name).exists()) =>
            {
                return Vec::new();
            }
            Source::Hf(source) => {
                return vec![Finding::new(
                    Severity::Warning,
                    "tokenizer-missing",
                    source.dir.clone(),
                    format!(
                        "no {}: text can be neither read nor written",
                        TOKENIZERS.join(" and no ")
                    ),
                    "add the file, or name a tokenizer with --tokenizer",
                )];
            }
        };
        let metadata = source.gguf.metadata();
        let mut findings = Vec::new();
        let mut warn = |severity, code, field: &str, message: String, remedy: &str| {
            findings.push(Finding::new(
                severity,
                code,
                format!("field {field}"),
                message,
                remedy,
            ));
        };
        let tokens = match metadata.array(model::TOKENS, ValueType::String) {
            Ok(Some(tokens)) => tokens.len(),
            Ok(None) => {
                let message = "no vocabulary: text can be neither read nor written".to_owned();
                warn(
                    Severity::Warning,
                    "tokenizer-missing",
                    model::TOKENS,
                    message,
                    "name a tokenizer with --tokenizer",
                );
                return findings;
            }
            Err(error) => {
                findings.push(Finding::from_error(&error));
                return findings;
            }
        };
        if tokens != self.config.vocab_size {
            let message = format!(
                "{tokens} tokens, but the embedding has {} rows",
                self.config.vocab_size
            );
            warn(
                Severity::Warning,
                "vocabulary-size",
                model::TOKENS,
                message,
                "the rows without a token are never chosen as text",
            );
        }
        let is_bpe = metadata
            .get("tokenizer.ggml.model")
            .and_then(|v| v.as_str())
            == Some("gpt2");
        let pre = metadata.get("tokenizer.ggml.pre").and_then(|v| v.as_str());
        if is_bpe && matches!(pre, None | Some("default")) {
            let message = "the rule for splitting text into words is not named; it is guessed from architecture and vocabulary".into();
            warn(
                Severity::Warning,
                "tokenizer-pre-missing",
                "tokenizer.ggml.pre",
                message,
                "use the model's tokenizer.json with --tokenizer to be sure",
            );
        }
        match metadata.get(model::CHAT_TEMPLATE) {
            None => warn(
                Severity::Note,
                "chat-template-missing",
                model::CHAT_TEMPLATE,
                "no chat template: only plain completion is possible".into(),
                "name one with --template to chat",
            ),
            // The template that MS's converter writes into every file, whatever the model.
            Some(value)
                if value
                    .as_str()
                    .is_some_and(|text| text.contains("BITNETAssistant")) =>
            {
                warn(
                    Severity::Warning,
                    "chat-template-placeholder",
                    model::CHAT_TEMPLATE,
                    "the converter's placeholder, not the model's template".into(),
                    "the template of the model family is used instead; name another with --template",
                )
            }
            Some(_) => {}
        }
        for field in ["tokenizer.ggml.token_type", "tokenizer.ggml.scores"] {
            if let Some(Value::Array(array)) = metadata.get(field)
                && array.len() != tokens
            {
                let message = format!(
                    "expected one entry per token ({tokens}), found {}",
                    array.len()
                );
                warn(
                    Severity::Error,
                    "vocabulary-length",
                    field,
                    message,
                    "convert the model again",
                );
            }
        }
        const EOS: &str = "tokenizer.ggml.eos_token_id";
        match metadata.u32(EOS) {
            Ok(Some(eos)) if (eos as usize) < tokens => {}
            Ok(None) => warn(
                Severity::Warning,
                "eos-missing",
                EOS,
                "no end-of-text token: generation may not stop by itself".into(),
                "limit it with --max-tokens or --stop",
            ),
            _ => {
                let found = metadata.get(EOS).map(describe).unwrap_or_default();
                let message = format!("expected a token id below {tokens}, found {found}");
                warn(
                    Severity::Error,
                    "eos-out-of-range",
                    EOS,
                    message,
                    "convert the model again",
                );
            }
        }
        findings
    }
}
