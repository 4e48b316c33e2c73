//! A Hugging Face `config.json`: the model's shape, and how its linear layers are quantised.
//!
//! The trap is the direction of `weight_scale`: `bitlinear` (also meant when `linear_class` is absent) stores
//! `1/mean|W|` and divides by it, `autobitlinear` stores `mean|W|` and multiplies. Source: `transformers`,
//! `integrations/bitnet.py` and `quantizers/quantizer_bitnet.py`; `config.json` of the models named in `formats.md`.

use std::path::Path;

use bitnet_kernels::RopeStyle;

use crate::config::{ConfigField, RawConfig, RopeScaling};
use crate::error::{ModelError, quoted};
use crate::family::Family;
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quantization {
    /// What a stored `weight_scale` means.
    pub scale: ScaleDirection,
    /// Whether floating-point projections are master weights, to be quantised by their absolute mean.
    pub online: bool,
    /// Names of modules that are ordinary linear layers.
    pub not_converted: Vec<String>,
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
        let hidden_act = json.str("hidden_act")?.unwrap_or(match architecture {
            "BitNetForCausalLM" => "relu2", // the defaults of the configuration classes
            _ => "silu",
        });
        let family = Family::from_hf(architecture, &quoted(hidden_act))
            .map_err(|error| in_file(json, error))?;
        refuse_extras(json)?;
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
        let rope = json.section("rope_parameters")?;
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
            context_length: required(ConfigField::ContextLength)?,
            rms_norm_eps: json.required(eps, "a number", json.f64(eps)?)?,
            rope_base: match rope {
                Some(rope) => rope.f64("rope_theta")?.or(json.f64("rope_theta")?),
                None => json.f64("rope_theta")?,
            },
            rope_dim: rotated(
                json,
                rope,
                head_dim.or_else(|| hidden_size.checked_div(n_heads)),
            )?,
            rope_style: RopeStyle::Neox,
            rope_scaling: rope_scaling(rope.or(json.section("rope_scaling")?))?,
            tied_head: json.bool("tie_word_embeddings")?.unwrap_or(false),
            embedding: None,
        };
        Ok(Self {
            raw,
            quantization: Quantization::read(json)?,
        })
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
            });
        };
        if section
            .str("quant_method")?
            .is_some_and(|method| method != "bitnet")
        {
            return Err(section.wrong("quant_method", "\"bitnet\""));
        }
        if section.bool("use_rms_norm")? == Some(true) {
            return Err(section.wrong(
                "use_rms_norm",
                "false (norms inside the linear layers are not supported)",
            ));
        }
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
fn rope_scaling(rope: Option<Json<'_>>) -> Result<RopeScaling, ModelError> {
    let Some(rope) = rope else {
        return Ok(RopeScaling::None);
    };
    let kind = match rope.str("rope_type")? {
        Some(kind) => kind,
        None => rope.str("type")?.unwrap_or("default"),
    };
    if kind != "llama3" {
        return Ok(RopeScaling::Named {
            kind: quoted(kind),
            factor: rope.f64("factor")?,
        });
    }
    let number = |key| rope.required(key, "a number", rope.f64(key)?);
    Ok(RopeScaling::Llama3 {
        factor: number("factor")?,
        low_freq_factor: number("low_freq_factor")?,
        high_freq_factor: number("high_freq_factor")?,
        original_context_length: number("original_max_position_embeddings")?,
    })
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
