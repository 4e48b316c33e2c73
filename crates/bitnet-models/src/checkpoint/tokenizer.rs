//! Where a checkpoint keeps its tokenizer and its chat template.

use std::fmt;
use std::path::Path;

use bitnet_quantization::Dialects;
use bitnet_tokenizers::GgufVocabulary;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{ModelError, Place, file_name};
use crate::gguf::{Gguf, MAGIC, model};
use crate::mmap::{Access, FileBytes};

/// What a tokenizer can be made from.
#[derive(Debug, Clone)]
pub enum TokenizerSource {
    /// The tokenizer section of a GGUF file.
    Gguf(Box<GgufVocabulary>),
    /// The files of a Hugging Face directory, as bytes.
    Hf {
        /// `tokenizer.json`.
        tokenizer_json: Bytes,
        /// `tokenizer_config.json`.
        tokenizer_config: Option<Bytes>,
        /// `special_tokens_map.json`.
        special_tokens_map: Option<Bytes>,
    },
    /// SentencePiece's own file of a directory that has no `tokenizer.json`, as bytes, and what stands beside it.
    SentencePiece {
        /// `tokenizer.model`.
        model: Bytes,
        /// `tokenizer_config.json`.
        tokenizer_config: Option<Bytes>,
        /// `special_tokens_map.json`.
        special_tokens_map: Option<Bytes>,
        /// `added_tokens.json`.
        added_tokens: Option<Bytes>,
    },
    /// The checkpoint has none that is read.
    Missing,
}

impl TokenizerSource {
    /// Opens a tokenizer by itself: a `tokenizer.json` or a `tokenizer.model` (with the `tokenizer_config.json` and
    /// `special_tokens_map.json` beside it), a directory that holds one, or the vocabulary of a GGUF file; its files
    /// come into memory as `access` says.
    ///
    /// # Errors
    /// [`ModelError`] for files that cannot be read and vocabulary fields of the wrong type.
    pub fn open(path: &Path, access: Access) -> Result<Self, ModelError> {
        if path.is_dir() {
            return hf_tokenizer(path, access);
        }
        let bytes = FileBytes::load(path, access)?;
        if bytes.starts_with(&MAGIC) {
            let vocabulary =
                model::vocabulary(&Gguf::open_with(path, access, Dialects::default())?)?;
            return Ok(vocabulary.map_or(Self::Missing, |v| Self::Gguf(Box::new(v))));
        }
        let dir = path.parent().unwrap_or(Path::new(""));
        if path
            .extension()
            .is_some_and(|extension| extension == "model")
        {
            return Self::beside_model(bytes, dir, access);
        }
        Self::beside(bytes, dir, access)
    }

    /// A `tokenizer.model` with the files of `dir` that say more about it.
    fn beside_model(model: Bytes, dir: &Path, access: Access) -> Result<Self, ModelError> {
        Ok(Self::SentencePiece {
            model,
            tokenizer_config: optional(&dir.join(TOKENIZER_CONFIG), access)?,
            special_tokens_map: optional(&dir.join(SPECIAL_TOKENS), access)?,
            added_tokens: optional(&dir.join(ADDED_TOKENS), access)?,
        })
    }

    /// A `tokenizer.json` with the files of `dir` that say more about it.
    fn beside(tokenizer_json: Bytes, dir: &Path, access: Access) -> Result<Self, ModelError> {
        Ok(Self::Hf {
            tokenizer_json,
            tokenizer_config: optional(&dir.join(TOKENIZER_CONFIG), access)?,
            special_tokens_map: optional(&dir.join(SPECIAL_TOKENS), access)?,
        })
    }
}

/// A file's bytes, if the file is there.
fn optional(path: &Path, access: Access) -> Result<Option<Bytes>, ModelError> {
    path.exists()
        .then(|| FileBytes::load(path, access))
        .transpose()
}

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_MODEL: &str = "tokenizer.model";
/// The files of a directory that a tokenizer can be made from.
pub(super) const TOKENIZERS: [&str; 2] = [TOKENIZER, TOKENIZER_MODEL];
const ADDED_TOKENS: &str = "added_tokens.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// Where newer exports keep the chat template.
const TEMPLATE: &str = "chat_template.jinja";

/// Bytes of the largest template file that is read: published ones have some 20 KB, and templates are compiled up to
/// 256 KiB.
const MAX_TEMPLATE: u64 = 1 << 20;

/// The tokenizer files of a model directory.
pub(super) fn hf_tokenizer(dir: &Path, access: Access) -> Result<TokenizerSource, ModelError> {
    if let Some(tokenizer_json) = optional(&dir.join(TOKENIZER), access)? {
        return TokenizerSource::beside(tokenizer_json, dir, access);
    }
    match optional(&dir.join(TOKENIZER_MODEL), access)? {
        Some(model) => TokenizerSource::beside_model(model, dir, access),
        None => Ok(TokenizerSource::Missing),
    }
}

/// The chat template of a model directory: its own file, else the field of `tokenizer_config.json`.
pub(super) fn hf_chat_template(dir: &Path) -> Result<Option<String>, ModelError> {
    let path = dir.join(TEMPLATE);
    if path.exists() {
        let bytes = FileBytes::open(&path)?;
        let (file, len) = (file_name(&path), bytes.len() as u64);
        if len > MAX_TEMPLATE {
            let place = Place::Part("file size");
            return Err(ModelError::Limit {
                file,
                place,
                offset: None,
                limit: MAX_TEMPLATE,
                unit: "bytes",
                found: len,
            });
        }
        return match std::str::from_utf8(&bytes) {
            Ok(template) => Ok(Some(template.to_owned())),
            Err(error) => Err(ModelError::Malformed {
                file,
                place: Place::Part("chat template"),
                offset: Some(error.valid_up_to() as u64),
                expected: "UTF-8".into(),
                found: "other bytes".into(),
            }),
        };
    }
    let path = dir.join(TOKENIZER_CONFIG);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = FileBytes::open(&path)?;
    match serde_json::from_slice::<TokenizerConfig>(&bytes) {
        Ok(config) => Ok(config.chat_template.0),
        Err(error) => Err(ModelError::Malformed {
            file: file_name(&path),
            place: Place::Field("chat_template".into()),
            offset: None,
            expected: "a string, or a list of named templates".into(),
            found: error.to_string(),
        }),
    }
}

/// The one field that is wanted of `tokenizer_config.json`; the rest is skipped without being stored.
#[derive(Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    chat_template: Template,
}

/// A template, or the one named "default" of a list.
#[derive(Default)]
struct Template(Option<String>);

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TemplateVisitor)
    }
}

struct TemplateVisitor;

impl<'de> Visitor<'de> for TemplateVisitor {
    type Value = Template;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a template or a list of named templates")
    }

    fn visit_unit<E>(self) -> Result<Template, E> {
        Ok(Template(None))
    }

    fn visit_str<E>(self, text: &str) -> Result<Template, E> {
        Ok(Template(Some(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Template, A::Error> {
        #[derive(Deserialize)]
        struct Named {
            name: String,
            template: String,
        }
        let mut default = None;
        while let Some(Named { name, template }) = seq.next_element()? {
            if name == "default" {
                default = Some(template);
            }
        }
        Ok(Template(default))
    }

    /// Some exports keep an empty object; nothing in it is a template.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Template, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Template(None))
    }
}
