//! A model's shape and vocabulary as a GGUF file's metadata gives them.

use bitnet_quantization::TensorType;
use bitnet_tokenizers::GgufVocabulary;

use super::limits::MAX_VOCAB;
use super::metadata::Metadata;
use super::reader::Gguf;
use super::value::{Array, Value, ValueType};
use crate::config::{
    ConfigField, EmbeddingConfig, FullLayers, GEMMA_LOCAL_ROPE_BASE, GEMMA_SLIDING_PATTERN,
    LongRope, Pooling, RawConfig, RawMultipliers, RawSliding, RopeScaling, Yarn,
};
use crate::error::{ModelError, Place, quoted};
use crate::family::Family;
use crate::tensor_role::{NormPlace, Projection, TensorRole};

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
    let context_length = required(ConfigField::ContextLength)?;
    let input_norm = TensorRole::Norm(0, NormPlace::Input(Projection::Query));
    let has_input_norms = gguf.tensor(&input_norm.gguf_name()).is_some();
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
        context_length,
        rms_norm_eps: eps.into(),
        input_norm_eps: has_input_norms.then_some(eps.into()),
        rope_base: number(ConfigField::RopeBase)?.map(f64::from),
        rope_dim: optional(ConfigField::RopeDim)?,
        rope_style: family.gguf_rope,
        rope_scaling: match longrope(gguf, architecture, context_length)? {
            Some(long) => RopeScaling::LongRope(long),
            None => rope_scaling(metadata, architecture, context_length)?,
        },
        sliding: match family.post_norms {
            true => gemma_sliding(metadata, architecture)?,
            false => None,
        },
        multipliers: match family.own_multipliers {
            true => Some(multipliers(gguf, architecture)?),
            false => None,
        },
        tied_head: gguf.tensor(&TensorRole::Head.gguf_name()).is_none(),
        embedding: embedding(gguf, architecture)?,
    })
}

/// MiniCPM's multipliers. Files from before these keys have other numbers built into llama.cpp; they are refused.
fn multipliers(gguf: &Gguf, architecture: &str) -> Result<RawMultipliers, ModelError> {
    let metadata = gguf.metadata();
    let number = |field: ConfigField| {
        let key = key(architecture, field);
        let found = metadata.f32(&key)?;
        found
            .map(f64::from)
            .ok_or_else(|| metadata.missing(&key, "a number"))
    };
    Ok(RawMultipliers {
        embedding: number(ConfigField::EmbeddingScale)?,
        residual: number(ConfigField::ResidualScale)?,
        logit_divisor: number(ConfigField::LogitScale)?,
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

/// Tensors with the divisors of LongRoPE's frequencies, for texts within the original context and for longer ones.
pub(crate) const LONGROPE_FACTORS: [&str; 2] =
    ["rope_factors_short.weight", "rope_factors_long.weight"];

/// LongRoPE's numbers, which are tensors here; cosines and sines are multiplied with 1 where no key says otherwise, as
/// in llama.cpp.
fn longrope(
    gguf: &Gguf,
    architecture: &str,
    context_length: u64,
) -> Result<Option<LongRope>, ModelError> {
    let [short, long] = LONGROPE_FACTORS;
    if gguf.tensor(short).is_none() && gguf.tensor(long).is_none() {
        return Ok(None);
    }
    let factors = |name: &str| -> Result<Vec<f64>, ModelError> {
        let Some(tensor) = gguf.tensor(name) else {
            return Err(ModelError::MissingTensor {
                file: gguf.file().into(),
                tensor: name.into(),
                expected: "the divisors of LongRoPE, beside their counterpart".into(),
            });
        };
        if tensor.tensor_type() != Some(TensorType::F32) {
            return Err(ModelError::TensorType {
                file: gguf.file_of(tensor).into(),
                tensor: name.into(),
                expected: "F32".into(),
                found: tensor.type_id().to_string(),
            });
        }
        let values = gguf.slice(tensor)?.as_chunks().0.iter();
        Ok(values
            .map(|bytes| f32::from_le_bytes(*bytes).into())
            .collect())
    };
    let (short, long) = (factors(short)?, factors(long)?);
    let metadata = gguf.metadata();
    let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
    let original = metadata.uniform_u64(&key("original_context_length"))?;
    Ok(Some(LongRope {
        same_beyond: short == long,
        factors: short,
        original_context_length: original.unwrap_or(context_length),
        attention_factor: metadata.f32(&key("attn_factor"))?.unwrap_or(1.0).into(),
    }))
}

fn rope_scaling(
    metadata: &Metadata,
    architecture: &str,
    context_length: u64,
) -> Result<RopeScaling, ModelError> {
    let linear = metadata.f32(&format!("{architecture}.rope.scale_linear"))?; // the key of early converters
    let factor = metadata
        .f32(&format!("{architecture}.rope.scaling.factor"))?
        .or(linear)
        .map(f64::from);
    let kind = metadata.str(&format!("{architecture}.rope.scaling.type"))?;
    Ok(match (kind, factor) {
        (Some("yarn"), _) => {
            RopeScaling::Yarn(yarn(metadata, architecture, factor, context_length)?)
        }
        (Some("linear"), None) => RopeScaling::None,
        (Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
        (None, Some(factor)) if linear.is_some() => RopeScaling::Linear { factor },
        (Some(kind), _) => RopeScaling::Named {
            kind: quoted(kind),
            factor,
        },
        (None, _) => RopeScaling::None,
    })
}

/// YaRN's numbers with llama.cpp's defaults. Its attention factors multiply the usual one.
fn yarn(
    metadata: &Metadata,
    architecture: &str,
    factor: Option<f64>,
    context_length: u64,
) -> Result<Yarn, ModelError> {
    let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
    let number = |name: &str| -> Result<Option<f64>, ModelError> {
        Ok(metadata.f32(&key(name))?.map(f64::from))
    };
    // The share of YaRN in the stretch, and a sharpening that the family's models do not have.
    for (name, neutral) in [("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)] {
        if let (Some(found), Some(value)) = (number(name)?, metadata.get(&key(name)))
            && found != neutral
            && found >= 0.0
        // below, llama.cpp takes its default
        {
            return Err(metadata.wrong(&key(name), &format!("{neutral}, or no such key"), value));
        }
    }
    let factor = factor.ok_or_else(|| metadata.missing(&key("factor"), "a number"))?;
    let original = metadata.uniform_u64(&key("original_context_length"))?;
    let sharper = match number("attn_factor")? {
        Some(sharper) => Some(sharper),
        None => number("yarn_attn_factor")?,
    };
    let usual = Yarn::default();
    Ok(Yarn {
        factor,
        original_context_length: original.unwrap_or(context_length) as f64,
        beta_fast: number("yarn_beta_fast")?.unwrap_or(usual.beta_fast),
        beta_slow: number("yarn_beta_slow")?.unwrap_or(usual.beta_slow),
        attention_factor: sharper.map(|sharper| sharper * Yarn::usual_attention_factor(factor)),
        truncate: usual.truncate,
    })
}

/// Gemma3's layers that look back a window only. Microsoft's converter writes no window: its files mean that every
/// layer sees everything.
fn gemma_sliding(
    metadata: &Metadata,
    architecture: &str,
) -> Result<Option<RawSliding>, ModelError> {
    let window_key = key(architecture, ConfigField::SlidingWindow);
    let Some(window) = metadata.uniform_u64(&window_key)? else {
        return Ok(None);
    };
    let period = metadata.uniform_u64(&format!("{window_key}_pattern"))?;
    let rope_base = metadata.f32(&format!("{architecture}.rope.freq_base_swa"))?;
    Ok(Some(RawSliding {
        window,
        rope_base: rope_base.map_or(GEMMA_LOCAL_ROPE_BASE, f64::from),
        full_layers: FullLayers::LastOfEvery(period.unwrap_or(GEMMA_SLIDING_PATTERN)),
    }))
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
