//! The JSON of `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, as far as it is read.

use serde::Deserialize;
use serde_json::Value;

use super::lists::{Merges, Vocab};
use crate::error::{TokenizerError, shorten};

/// `tokenizer.json`.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerFile {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedTokenFile>,
    pub(super) normalizer: Option<NormalizerFile>,
    pub(super) pre_tokenizer: Option<PreTokenizerFile>,
    pub(super) post_processor: Option<PostProcessorFile>,
    pub(super) decoder: Option<DecoderFile>,
    pub(super) model: ModelFile,
}

/// One entry of `added_tokens`.
#[derive(Debug, Deserialize)]
pub(super) struct AddedTokenFile {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) single_word: bool,
}

/// `model` of type `BPE`.
#[derive(Debug, Deserialize)]
pub(super) struct ModelFile {
    pub(super) vocab: Vocab,
    #[serde(default)]
    pub(super) merges: Merges,
    pub(super) unk_token: Option<String>,
    pub(super) dropout: Option<f32>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) fuse_unk: bool,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
}

/// Stands for the type of a component that is not read; [`name_component`] puts the name in its place.
pub(super) const OTHER: &str = "another type";

#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
pub(super) enum NormalizerFile {
    Sequence {
        normalizers: Vec<NormalizerFile>,
    },
    #[serde(rename = "NFC")]
    Nfc,
    #[serde(rename = "NFD")]
    Nfd,
    #[serde(rename = "NFKC")]
    Nfkc,
    #[serde(rename = "NFKD")]
    Nfkd,
    Lowercase,
    Prepend {
        prepend: String,
    },
    Replace {
        pattern: PatternFile,
        content: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
pub(super) enum PreTokenizerFile {
    Sequence {
        pretokenizers: Vec<PreTokenizerFile>,
    },
    ByteLevel {
        #[serde(default = "yes")]
        add_prefix_space: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    Split {
        pattern: PatternFile,
        behavior: BehaviorFile,
        #[serde(default)]
        invert: bool,
    },
    Digits {
        #[serde(default)]
        individual_digits: bool,
    },
    Punctuation {
        #[serde(default)]
        behavior: BehaviorFile,
    },
    Metaspace(MetaspaceFile),
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
pub(super) struct MetaspaceFile {
    pub(super) replacement: char,
    pub(super) prepend_scheme: Option<PrependFile>,
    /// The older spelling of `prepend_scheme`.
    pub(super) add_prefix_space: Option<bool>,
    pub(super) split: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PrependFile {
    Always,
    First,
    Never,
}

#[derive(Debug, Deserialize)]
pub(super) enum PatternFile {
    String(String),
    Regex(String),
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) enum BehaviorFile {
    #[default]
    Isolated,
    Removed,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
pub(super) enum PostProcessorFile {
    Sequence {
        processors: Vec<PostProcessorFile>,
    },
    ByteLevel,
    TemplateProcessing {
        single: Vec<TemplatePieceFile>,
        #[serde(default)]
        special_tokens: std::collections::HashMap<String, TemplateTokenFile>,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
pub(super) enum TemplatePieceFile {
    SpecialToken { id: String },
    Sequence { id: String },
}

#[derive(Debug, Deserialize)]
pub(super) struct TemplateTokenFile {
    pub(super) ids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
pub(super) enum DecoderFile {
    Sequence {
        decoders: Vec<DecoderFile>,
    },
    ByteLevel,
    ByteFallback,
    Fuse,
    Replace {
        pattern: PatternFile,
        content: String,
    },
    Strip {
        content: String,
        start: usize,
        stop: usize,
    },
    Metaspace(MetaspaceFile),
    #[serde(other)]
    Other,
}

/// What `tokenizer_config.json` and `special_tokens_map.json` have in common.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ConfigFile {
    bos_token: Option<TokenFile>,
    eos_token: Option<TokenFile>,
    unk_token: Option<TokenFile>,
    pad_token: Option<TokenFile>,
    pub(crate) add_bos_token: Option<bool>,
    pub(crate) add_eos_token: Option<bool>,
    chat_template: Option<ChatTemplateFile>,
}

/// A special token, by its text or as an object.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TokenFile {
    Text(String),
    Object { content: String },
}

/// A template, or several by name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ChatTemplateFile {
    One(String),
    Many(Vec<NamedTemplateFile>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplateFile {
    name: String,
    template: String,
}

impl TokenizerFile {
    /// # Errors
    /// Malformed JSON, or a model that is not BPE.
    pub(super) fn parse(json: &[u8]) -> Result<Self, TokenizerError> {
        let parsed: Result<Self, _> = serde_json::from_slice(json);
        if let Some(found) = model_type(json).filter(|found| found != "BPE") {
            return Err(TokenizerError::UnsupportedModel {
                found: shorten(&found),
                supported: "BPE",
            });
        }
        let file = parsed.map_err(|error| json_error("tokenizer.json", &error))?;
        let model = &file.model;
        for (place, found) in [
            (
                "model.continuing_subword_prefix",
                model.continuing_subword_prefix.as_deref(),
            ),
            (
                "model.end_of_word_suffix",
                model.end_of_word_suffix.as_deref(),
            ),
        ] {
            if let Some(found) = found.filter(|found| !found.is_empty()) {
                return Err(TokenizerError::Unsupported {
                    place,
                    found: shorten(found),
                });
            }
        }
        // Dropout makes encoding random; it is meant for training.
        if let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0) {
            return Err(TokenizerError::Unsupported {
                place: "model.dropout",
                found: dropout.to_string(),
            });
        }
        Ok(file)
    }
}

/// The type of the model, if the file says it: asked separately, because other types' vocabularies have other shapes.
fn model_type(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Outer {
        model: Inner,
    }
    #[derive(Deserialize)]
    struct Inner {
        r#type: Option<String>,
    }
    serde_json::from_slice::<Outer>(json).ok()?.model.r#type
}

/// Names the component that an error calls [`OTHER`]. Asked only after a failure: the reader does not keep the names.
pub(super) fn name_component(json: &[u8], error: TokenizerError) -> TokenizerError {
    fn types(component: &Value, out: &mut Vec<String>) {
        match component {
            Value::Object(fields) => {
                out.extend(fields.get("type").and_then(Value::as_str).map(shorten));
                fields.values().for_each(|inner| types(inner, out));
            }
            Value::Array(list) => list.iter().for_each(|inner| types(inner, out)),
            _ => {}
        }
    }
    match error {
        TokenizerError::Unsupported { place, found } if found == OTHER => {
            let mut names = Vec::new();
            if let Ok(json) = serde_json::from_slice::<Value>(json) {
                types(&json[place], &mut names);
            }
            names.truncate(16);
            TokenizerError::Unsupported {
                place,
                found: names.join(" > "),
            }
        }
        other => other,
    }
}

impl ConfigFile {
    /// # Errors
    /// Malformed JSON. A missing file is an empty one.
    pub(crate) fn parse(json: Option<&[u8]>, name: &'static str) -> Result<Self, TokenizerError> {
        match json {
            None => Ok(Self::default()),
            Some(json) => serde_json::from_slice(json).map_err(|error| json_error(name, &error)),
        }
    }

    pub(crate) fn bos_token(&self) -> Option<&String> {
        self.bos_token.as_ref().map(TokenFile::text)
    }

    pub(crate) fn eos_token(&self) -> Option<&String> {
        self.eos_token.as_ref().map(TokenFile::text)
    }

    pub(crate) fn unk_token(&self) -> Option<&String> {
        self.unk_token.as_ref().map(TokenFile::text)
    }

    pub(crate) fn pad_token(&self) -> Option<&String> {
        self.pad_token.as_ref().map(TokenFile::text)
    }

    /// The template: the only one, the one named `default`, or the first.
    pub(crate) fn chat_template(&self) -> Option<String> {
        match self.chat_template.as_ref()? {
            ChatTemplateFile::One(source) => Some(source.clone()),
            ChatTemplateFile::Many(named) => {
                let default = named.iter().find(|entry| entry.name == "default");
                Some(default.or_else(|| named.first())?.template.clone())
            }
        }
    }
}

impl TokenFile {
    fn text(&self) -> &String {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

fn yes() -> bool {
    true
}

fn json_error(file: &'static str, error: &serde_json::Error) -> TokenizerError {
    TokenizerError::Json {
        file,
        message: error.to_string(),
    }
}
