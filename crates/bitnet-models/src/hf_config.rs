//! A Hugging Face `config.json`: the model's shape, and how its linear layers are quantised.
//!
//! The trap is the direction of `weight_scale`: `bitlinear` (also meant when `linear_class` is absent) stores
//! `1/mean|W|` and divides by it, `autobitlinear` stores `mean|W|` and multiplies. Source: `transformers`,
//! `integrations/bitnet.py` and `quantizers/quantizer_bitnet.py`; `config.json` of the models named in `formats.md`.

use std::path::Path;

use bitnet_kernels::RopeStyle;

use crate::config::{
    ConfigField, FullLayers, GEMMA_LOCAL_ROPE_BASE, GEMMA_SLIDING_PATTERN, LongRope, RawConfig,
    RawMultipliers, RawSliding, RopeScaling, Yarn,
};
use crate::error::{ModelError, quoted};
use crate::family::{Family, ONE_BIT_LLM};
use crate::json::{Json, JsonFile};

/// File name inside a model directory.
pub(crate) const CONFIG: &str = "config.json";

/// What `config.json` says.
#[derive(Debug, Clone)]
pub(crate) struct HfConfig {
    pub raw: RawConfig,
    pub quantization: Quantization,
}

/// How the projections are stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quantization {
    /// What a stored `weight_scale` means.
    pub scale: ScaleDirection,
    /// Whether floating-point projections are master weights, to be quantised by their absolute mean.
    pub online: bool,
    /// Names of modules that are ordinary linear layers.
    pub not_converted: Vec<String>,
    /// What norms inside the linear layers add to the mean square, where `use_rms_norm` says that there are some.
    pub input_norm_eps: Option<f64>,
    /// Whether the file has such a section at all.
    pub declared: bool,
}

/// What a stored `weight_scale` does to the product of trits and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleDirection {
    /// It is `mean|W|`.
    Multiplies,
    /// It is `1/mean|W|`.
    Divides,
}

impl HfConfig {
    /// Reads what a family and its shape need; nothing is checked against limits yet.
    pub fn read(file: &JsonFile, dir: &Path) -> Result<Self, ModelError> {
        let json = file.root();
        let architecture = architecture(json)?;
        let hidden_act = json.str("hidden_act")?.or(json.str("hidden_activation")?);
        let hidden_act = hidden_act.unwrap_or(match architecture {
            "BitNetForCausalLM" => "relu2", // the defaults of the configuration classes
            "Gemma3ForCausalLM" | "Gemma3TextModel" => "gelu_pytorch_tanh",
            _ => "silu",
        });
        let family = Family::from_hf(architecture, &quoted(hidden_act))
            .map_err(|error| in_file(json, error))?;
        refuse_extras(json)?;
        let mut quantization = Quantization::read(json)?;
        if architecture == ONE_BIT_LLM && !quantization.declared {
            one_bit_llm_bits(json)?;
            quantization.online = true;
        }
        if family.post_norms {
            refuse_gemma_extras(json)?;
        }
        let required = |field: ConfigField| {
            json.required(field.hf_key(), "an integer", json.u64(field.hf_key())?)
        };
        let optional = |field: ConfigField| json.u64(field.hf_key());
        let head_dim = optional(ConfigField::HeadDim)?;
        let (hidden_size, n_heads) = (
            required(ConfigField::HiddenSize)?,
            required(ConfigField::HeadCount)?,
        );
        let eps = ConfigField::RmsNormEps.hf_key();
        let context_length = required(ConfigField::ContextLength)?;
        let gemma = family.post_norms;
        let of_layers = json.section("rope_parameters")?;
        let (rope, local) = match of_layers {
            // A set of parameters for each kind of layer.
            Some(kinds) if gemma && kinds.get("full_attention").is_some() => (
                kinds.section("full_attention")?,
                kinds.section("sliding_attention")?,
            ),
            _ => (of_layers, None),
        };
        let raw = RawConfig {
            family,
            name: name(json, dir)?,
            hidden_size,
            intermediate_size: required(ConfigField::IntermediateSize)?,
            n_layers: required(ConfigField::LayerCount)?,
            n_heads,
            n_kv_heads: optional(ConfigField::KvHeadCount)?,
            head_dim,
            value_head_dim: None,
            vocab_size: required(ConfigField::VocabSize)?,
            context_length,
            rms_norm_eps: json.required(eps, "a number", json.f64(eps)?)?,
            input_norm_eps: None, // the tensors tell
            rope_base: match rope {
                Some(rope) => rope.f64("rope_theta")?.or(json.f64("rope_theta")?),
                None => json.f64("rope_theta")?,
            }
            .or(gemma.then_some(GEMMA_ROPE_BASE)),
            rope_dim: rotated(
                json,
                rope,
                head_dim.or_else(|| hidden_size.checked_div(n_heads)),
            )?,
            rope_style: RopeStyle::Neox,
            rope_scaling: rope_scaling(
                rope.or(json.section("rope_scaling")?),
                json,
                context_length,
            )?,
            sliding: match gemma {
                true => gemma_sliding(json, local)?,
                false => None,
            },
            multipliers: match family.own_multipliers {
                true => Some(multipliers(json)?),
                false => None,
            },
            tied_head: json.bool("tie_word_embeddings")?.unwrap_or(gemma),
            embedding: None,
        };
        Ok(Self { raw, quantization })
    }
}

impl Quantization {
    fn read(json: Json<'_>) -> Result<Self, ModelError> {
        // Exports from before quantization_config mark themselves otherwise; they are bitlinear.
        let Some(section) = json.section("quantization_config")? else {
            return Ok(Self {
                scale: ScaleDirection::Divides,
                online: false,
                not_converted: Vec::new(),
                input_norm_eps: None,
                declared: false,
            });
        };
        if section
            .str("quant_method")?
            .is_some_and(|method| method != "bitnet")
        {
            return Err(section.wrong("quant_method", "\"bitnet\""));
        }
        let input_norm_eps = match section.bool("use_rms_norm")? {
            Some(true) => Some(section.f64("rms_norm_eps")?.unwrap_or(1e-6)), // transformers' default
            _ => None,
        };
        let auto = match section.str("linear_class")? {
            None | Some("bitlinear") => false,
            Some("autobitlinear") => true,
            Some(_) => {
                return Err(section.wrong("linear_class", "\"bitlinear\" or \"autobitlinear\""));
            }
        };
        let online = match section.str("quantization_mode")? {
            None | Some("offline") => false,
            Some("online") => true,
            Some(_) => return Err(section.wrong("quantization_mode", "\"online\" or \"offline\"")),
        };
        let not_converted = section
            .strings("modules_to_not_convert")?
            .unwrap_or_default();
        Ok(Self {
            scale: if auto {
                ScaleDirection::Multiplies
            } else {
                ScaleDirection::Divides
            },
            online: auto && online,
            not_converted: not_converted.into_iter().map(str::to_owned).collect(),
            input_norm_eps,
            declared: true,
        })
    }

    /// Whether the tensor `name` (`model.layers.0.mlp.up_proj.weight`) belongs to an ordinary linear layer: a listed
    /// module is its whole path or a run of whole segments of it.
    pub fn is_left_dense(&self, name: &str) -> bool {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        self.not_converted.iter().any(|listed| {
            let listed = listed.trim_matches('.');
            !listed.is_empty() && format!(".{module}.").contains(&format!(".{listed}."))
        })
    }
}

/// The first class of `architectures`.
fn architecture(json: Json<'_>) -> Result<&str, ModelError> {
    let named = json.strings("architectures")?;
    let first = named.and_then(|names| names.first().copied());
    json.required("architectures", "a list with the model's class", first)
}

fn name(json: Json<'_>, dir: &Path) -> Result<String, ModelError> {
    if let Some(name) = json.str("_name_or_path")?.filter(|name| !name.is_empty()) {
        return Ok(quoted(name));
    }
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    Ok(dir
        .file_name()
        .map_or_else(|| "model".into(), |name| quoted(&name.to_string_lossy())))
}

/// Settings that change the arithmetic in ways that no family here computes.
fn refuse_extras(json: Json<'_>) -> Result<(), ModelError> {
    for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
        if json.bool(key)? == Some(true) {
            return Err(json.wrong(key, "false"));
        }
    }
    Ok(())
}

/// 1bitLLM's training code takes other widths too.
fn one_bit_llm_bits(json: Json<'_>) -> Result<(), ModelError> {
    for (key, bits, expected) in [
        ("weight_bits", 1, "1, which stands for trits"),
        ("input_bits", 8, "8"),
    ] {
        if json.u64(key)?.is_some_and(|found| found != bits) {
            return Err(json.wrong(key, expected));
        }
    }
    Ok(())
}

/// MiniCPM's multipliers (openbmb's `modeling_minicpm.py`): `scale_emb` as it is, `scale_depth` over the root of the
/// number of layers, and logits divided by how often `dim_model_base` goes into the hidden size.
fn multipliers(json: Json<'_>) -> Result<RawMultipliers, ModelError> {
    let number = |field: ConfigField| {
        let key = field.hf_key();
        json.required(key, "a number", json.f64(key)?)
    };
    let (hidden, layers) = (
        number(ConfigField::HiddenSize)?,
        number(ConfigField::LayerCount)?,
    );
    Ok(RawMultipliers {
        embedding: number(ConfigField::EmbeddingScale)?,
        residual: number(ConfigField::ResidualScale)? / layers.sqrt(),
        logit_divisor: hidden / number(ConfigField::LogitScale)?,
    })
}

/// How many dimensions of a head rotate, when not all do.
fn rotated(
    json: Json<'_>,
    rope: Option<Json<'_>>,
    head_dim: Option<u64>,
) -> Result<Option<u64>, ModelError> {
    let key = ConfigField::RopeDim.hf_key();
    let factor = match rope {
        Some(rope) => rope.f64(key)?.or(json.f64(key)?),
        None => json.f64(key)?,
    };
    match (factor, head_dim) {
        (Some(factor), Some(head_dim)) if factor > 0.0 && factor <= 1.0 => {
            Ok(Some((head_dim as f64 * factor) as u64))
        }
        (Some(_), _) => Err(json.wrong(key, "a number above 0 and at most 1")),
        (None, _) => Ok(None),
    }
}

/// `rope_parameters` (transformers 5) or `rope_scaling` (before); its type is under `rope_type` or `type`.
fn rope_scaling(
    rope: Option<Json<'_>>,
    config: Json<'_>,
    context_length: u64,
) -> Result<RopeScaling, ModelError> {
    let Some(rope) = rope else {
        return Ok(RopeScaling::None);
    };
    let kind = match rope.str("rope_type")? {
        Some(kind) => kind,
        None => rope.str("type")?.unwrap_or("default"),
    };
    let number = |key| rope.required(key, "a number", rope.f64(key)?);
    match kind {
        "llama3" => {}
        "linear" => {
            return Ok(RopeScaling::Linear {
                factor: number("factor")?,
            });
        }
        "yarn" => return yarn(rope, config, context_length).map(RopeScaling::Yarn),
        "longrope" => return longrope(rope, config, context_length).map(RopeScaling::LongRope),
        _ => {
            return Ok(RopeScaling::Named {
                kind: quoted(kind),
                factor: rope.f64("factor")?,
            });
        }
    }
    Ok(RopeScaling::Llama3 {
        factor: number("factor")?,
        low_freq_factor: number("low_freq_factor")?,
        high_freq_factor: number("high_freq_factor")?,
        original_context_length: number("original_max_position_embeddings")?,
    })
}

/// YaRN's numbers with transformers' defaults.
fn yarn(rope: Json<'_>, config: Json<'_>, context_length: u64) -> Result<Yarn, ModelError> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let original = match rope.f64(ORIGINAL)? {
        Some(original) => original,
        None => config.f64(ORIGINAL)?.unwrap_or(context_length as f64),
    };
    let factor = rope
        .f64("factor")?
        .unwrap_or(context_length as f64 / original);
    let (mscale, all_dim) = (rope.f64("mscale")?, rope.f64("mscale_all_dim")?);
    let attention_factor = match (rope.f64("attention_factor")?, mscale, all_dim) {
        (Some(given), ..) => Some(given),
        (None, Some(mscale), Some(all_dim)) if mscale != 0.0 && all_dim != 0.0 => {
            let sharpened =
                |mscale: f64| mscale * (Yarn::usual_attention_factor(factor) - 1.0) + 1.0;
            Some(sharpened(mscale) / sharpened(all_dim))
        }
        _ => None,
    };
    let usual = Yarn::default();
    Ok(Yarn {
        factor,
        original_context_length: original,
        beta_fast: rope.f64("beta_fast")?.unwrap_or(usual.beta_fast),
        beta_slow: rope.f64("beta_slow")?.unwrap_or(usual.beta_slow),
        attention_factor,
        truncate: rope.bool("truncate")?.unwrap_or(usual.truncate),
    })
}

/// LongRoPE's numbers with transformers' defaults.
fn longrope(rope: Json<'_>, config: Json<'_>, context_length: u64) -> Result<LongRope, ModelError> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let original = match rope.u64(ORIGINAL)? {
        Some(original) => original,
        None => config.u64(ORIGINAL)?.unwrap_or(context_length),
    };
    let numbers = |key| rope.required(key, "a list of numbers", rope.numbers(key)?);
    let (short, long) = (numbers("short_factor")?, numbers("long_factor")?);
    let usual = match rope.f64("factor")? {
        Some(factor) => LongRope::usual_attention_factor(original as f64, original as f64 * factor),
        None => LongRope::usual_attention_factor(original as f64, context_length as f64),
    };
    Ok(LongRope {
        same_beyond: short == long,
        factors: short,
        original_context_length: original,
        attention_factor: rope.f64("attention_factor")?.unwrap_or(usual),
    })
}

/// Base of the rotary frequencies of Gemma3's layers that see everything, where the file gives none.
const GEMMA_ROPE_BASE: f64 = 1_000_000.0;

/// Settings of Gemma3 that change the arithmetic in ways that are not computed.
fn refuse_gemma_extras(json: Json<'_>) -> Result<(), ModelError> {
    for key in ["final_logit_softcapping", "attn_logit_softcapping"] {
        if json.get(key).is_some() {
            return Err(json.wrong(key, "null"));
        }
    }
    if json.bool("use_bidirectional_attention")? == Some(true) {
        return Err(json.wrong("use_bidirectional_attention", "false"));
    }
    let head_dim = json.f64(ConfigField::HeadDim.hf_key())?;
    let scalar = json.f64("query_pre_attn_scalar")?.unwrap_or(256.0); // the configuration class's default
    if head_dim != Some(scalar) {
        return Err(json.wrong("query_pre_attn_scalar", "the same number as head_dim"));
    }
    Ok(())
}

/// Gemma3's layers that look back a window only.
fn gemma_sliding(
    json: Json<'_>,
    local: Option<Json<'_>>,
) -> Result<Option<RawSliding>, ModelError> {
    const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];
    let Some(window) = json.u64(ConfigField::SlidingWindow.hf_key())? else {
        return Ok(None);
    };
    let full_layers = match json.strings("layer_types")? {
        Some(kinds) if kinds.iter().all(|kind| KINDS.contains(kind)) => {
            FullLayers::Listed(kinds.iter().map(|&kind| kind == KINDS[0]).collect())
        }
        Some(_) => {
            return Err(json.wrong(
                "layer_types",
                "a list of full_attention and sliding_attention",
            ));
        }
        None => {
            let period = json.u64("sliding_window_pattern")?;
            FullLayers::LastOfEvery(period.unwrap_or(GEMMA_SLIDING_PATTERN))
        }
    };
    let rope_base = match local {
        Some(local) => local.f64("rope_theta")?,
        None => json.f64("rope_local_base_freq")?,
    };
    Ok(Some(RawSliding {
        window,
        rope_base: rope_base.unwrap_or(GEMMA_LOCAL_ROPE_BASE),
        full_layers,
    }))
}

/// A configuration error with the file and its own name of the field.
pub(crate) fn in_file(json: Json<'_>, error: crate::config::ConfigError) -> ModelError {
    ModelError::from_config(
        json.file(),
        error,
        |field| field.hf_key().into(),
        "architectures",
    )
}

#[cfg(test)]
mod tests;
