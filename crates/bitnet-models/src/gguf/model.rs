//! A model's shape and vocabulary as a GGUF file's metadata gives them.

use bitnet_tokenizers::GgufVocabulary;

use super::limits::MAX_VOCAB;
use super::metadata::Metadata;
use super::reader::Gguf;
use super::value::{Array, Value, ValueType};
use crate::config::{ConfigField, EmbeddingConfig, Pooling, RawConfig, RopeScaling};
use crate::error::{ModelError, Place, quoted};
use crate::family::Family;
use crate::tensor_role::TensorRole;

/// Key that names the architecture, which is the prefix of the architecture's own keys.
pub(crate) const ARCHITECTURE: &str = "general.architecture";
/// Key of the list of tokens.
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
/// Key of the chat template.
pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// The metadata key of a configuration field.
pub(crate) fn key(architecture: &str, field: ConfigField) -> String {
    format!("{architecture}.{}", field.gguf_key())
}

/// Reads what a family and its shape need; nothing is checked against limits yet.
pub(crate) fn raw_config(gguf: &Gguf) -> Result<RawConfig, ModelError> {
    let metadata = gguf.metadata();
    let architecture = metadata
        .str(ARCHITECTURE)?
        .ok_or_else(|| metadata.missing(ARCHITECTURE, "a string"))?;
    let in_file = |error| {
        ModelError::from_config(
            gguf.file(),
            error,
            |field| key(architecture, field),
            ARCHITECTURE,
        )
    };
    let family = Family::from_gguf(architecture).map_err(in_file)?;
    let optional = |field: ConfigField| metadata.uniform_u64(&key(architecture, field));
    let required = |field: ConfigField| {
        optional(field)?.ok_or_else(|| metadata.missing(&key(architecture, field), "an integer"))
    };
    let number = |field: ConfigField| metadata.f32(&key(architecture, field));
    let eps = number(ConfigField::RmsNormEps)?
        .ok_or_else(|| metadata.missing(&key(architecture, ConfigField::RmsNormEps), "a number"))?;
    Ok(RawConfig {
        family,
        name: metadata
            .str("general.name")?
            .map_or_else(|| gguf.file().to_owned(), quoted),
        hidden_size: required(ConfigField::HiddenSize)?,
        intermediate_size: required(ConfigField::IntermediateSize)?,
        n_layers: required(ConfigField::LayerCount)?,
        n_heads: required(ConfigField::HeadCount)?,
        n_kv_heads: optional(ConfigField::KvHeadCount)?,
        head_dim: optional(ConfigField::HeadDim)?,
        value_head_dim: optional(ConfigField::ValueHeadDim)?,
        vocab_size: vocab_size(gguf, optional(ConfigField::VocabSize)?)?,
        context_length: required(ConfigField::ContextLength)?,
        rms_norm_eps: eps.into(),
        rope_base: number(ConfigField::RopeBase)?.map(f64::from),
        rope_dim: optional(ConfigField::RopeDim)?,
        rope_style: family.gguf_rope,
        rope_scaling: rope_scaling(metadata, architecture)?,
        tied_head: gguf.tensor(&TensorRole::Head.gguf_name()).is_none(),
        embedding: embedding(gguf, architecture)?,
    })
}

/// `pooling_type`, which only files of embedding models have; their vectors have length 1, as llama.cpp gives them.
fn embedding(gguf: &Gguf, architecture: &str) -> Result<Option<EmbeddingConfig>, ModelError> {
    let metadata = gguf.metadata();
    let key = format!("{architecture}.pooling_type");
    let Some(number) = metadata.uniform_u64(&key)? else {
        return Ok(None);
    };
    let pooling = Pooling::from_gguf(number).map_err(|number| ModelError::Field {
        file: gguf.file().into(),
        field: key,
        expected: "0 (none), 1 (mean), 2 (first token) or 3 (last token)".into(),
        found: number.to_string(),
    })?;
    Ok(pooling.map(|pooling| EmbeddingConfig {
        pooling,
        normalize: true,
    }))
}

/// The key, else the rows of the embedding: upstream files of several architectures lack the key.
fn vocab_size(gguf: &Gguf, declared: Option<u64>) -> Result<u64, ModelError> {
    let name = TensorRole::Embedding.gguf_name();
    match (declared, gguf.tensor(&name)) {
        (Some(declared), _) => Ok(declared),
        (None, Some(embedding)) => Ok(embedding.shape().0),
        (None, None) => Err(ModelError::MissingTensor {
            file: gguf.file().into(),
            tensor: name,
            expected: "the token embedding".into(),
        }),
    }
}

fn rope_scaling(metadata: &Metadata, architecture: &str) -> Result<RopeScaling, ModelError> {
    let linear = metadata.f32(&format!("{architecture}.rope.scale_linear"))?; // the key of early converters
    let factor = metadata
        .f32(&format!("{architecture}.rope.scaling.factor"))?
        .or(linear)
        .map(f64::from);
    let kind = metadata.str(&format!("{architecture}.rope.scaling.type"))?;
    Ok(match (kind, linear) {
        (Some(kind), _) => RopeScaling::Named {
            kind: quoted(kind),
            factor,
        },
        (None, Some(_)) => RopeScaling::Named {
            kind: "linear".into(),
            factor,
        },
        (None, None) => RopeScaling::None,
    })
}

/// The tokenizer section as plain data; `None` when the file has no list of tokens.
pub(crate) fn vocabulary(gguf: &Gguf) -> Result<Option<GgufVocabulary>, ModelError> {
    let metadata = gguf.metadata();
    let Some(tokens) = metadata.array(TOKENS, ValueType::String)? else {
        return Ok(None);
    };
    let text = |key: &str| metadata.str(key).map(|text| text.map(str::to_owned));
    let id = |name: &str| metadata.u32(&format!("tokenizer.ggml.{name}_token_id"));
    let flag = |name: &str| metadata.bool(&format!("tokenizer.ggml.{name}"));
    Ok(Some(GgufVocabulary {
        model: text("tokenizer.ggml.model")?
            .ok_or_else(|| metadata.missing("tokenizer.ggml.model", "a string such as \"gpt2\""))?,
        pre: text("tokenizer.ggml.pre")?,
        architecture: text(ARCHITECTURE)?.unwrap_or_default(),
        tokens: strings(gguf, TOKENS, tokens)?,
        scores: numbers(gguf, "tokenizer.ggml.scores", ValueType::F32, |v| {
            v.as_f32()
        })?,
        token_types: numbers(gguf, "tokenizer.ggml.token_type", ValueType::I32, |v| {
            v.as_integer().and_then(|v| i32::try_from(v).ok())
        })?,
        merges: match metadata.array("tokenizer.ggml.merges", ValueType::String)? {
            Some(merges) => strings(gguf, "tokenizer.ggml.merges", merges)?,
            None => Vec::new(),
        },
        bos: id("bos")?,
        eos: id("eos")?,
        eot: id("eot")?,
        eom: id("eom")?,
        unknown: id("unknown")?,
        padding: id("padding")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
        chat_template: text(CHAT_TEMPLATE)?,
    }))
}

fn strings(gguf: &Gguf, key: &str, array: &Array) -> Result<Vec<String>, ModelError> {
    check_len(gguf, key, array)?;
    let mut strings = Vec::with_capacity(array.len()); // each takes at least 8 bytes of the file
    for (index, value) in array.iter().enumerate() {
        match value.as_str() {
            Some(text) => strings.push(text.to_owned()),
            None => {
                return Err(ModelError::Field {
                    file: gguf.file().into(),
                    field: format!("{key}[{index}]"),
                    expected: "UTF-8".into(),
                    found: super::describe(&value),
                });
            }
        }
    }
    Ok(strings)
}

fn numbers<T>(
    gguf: &Gguf,
    key: &str,
    element: ValueType,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<T>, ModelError> {
    let Some(array) = gguf.metadata().array(key, element)? else {
        return Ok(Vec::new());
    };
    check_len(gguf, key, array)?;
    Ok(array.iter().filter_map(|value| read(&value)).collect())
}

fn check_len(gguf: &Gguf, key: &str, array: &Array) -> Result<(), ModelError> {
    let found = array.len() as u64;
    if found <= MAX_VOCAB {
        return Ok(());
    }
    let place = Place::Field(key.into());
    Err(ModelError::Limit {
        file: gguf.file().into(),
        place,
        offset: None,
        limit: MAX_VOCAB,
        unit: "entries",
        found,
    })
}
