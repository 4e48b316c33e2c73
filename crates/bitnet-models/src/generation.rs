//! What a checkpoint recommends for sampling: Hugging Face's `generation_config.json`.

use std::path::Path;

use crate::error::ModelError;
use crate::gguf::Metadata;
use crate::json::{Json, JsonFile};

/// File name inside a model directory.
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";

/// The keys under which GGUF files carry the same (gguf-py, `Keys.General.SAMPLING_*`).
pub(crate) mod sampling {
    /// Softmax temperature; 0 is greedy.
    pub const TEMPERATURE: &str = "general.sampling.temp";
    /// How many of the most likely tokens are kept.
    pub const TOP_K: &str = "general.sampling.top_k";
    /// Nucleus mass.
    pub const TOP_P: &str = "general.sampling.top_p";
    /// Divisor of positive and multiplier of negative logits of tokens already seen.
    pub const REPETITION_PENALTY: &str = "general.sampling.penalty_repeat";
}

/// A model's own sampling settings; `None` where it says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Whether to sample at all; `false` means greedy.
    pub do_sample: Option<bool>,
    /// Softmax temperature.
    pub temperature: Option<f32>,
    /// Nucleus mass.
    pub top_p: Option<f32>,
    /// How many of the most likely tokens are kept; 0 keeps all.
    pub top_k: Option<usize>,
    /// Divisor of positive and multiplier of negative logits of tokens already seen.
    pub repetition_penalty: Option<f32>,
    /// Tokens that end a generation, beside those the tokenizer names.
    pub eos: Vec<u32>,
    /// The token that begins a sequence.
    pub bos: Option<u32>,
}

impl GenerationDefaults {
    /// Reads `generation_config.json` in `dir`, if it is there; `config` fills in the token ids that it lacks.
    pub(crate) fn read(dir: &Path, config: Json<'_>) -> Result<Self, ModelError> {
        let path = dir.join(GENERATION_CONFIG);
        let mut defaults = if path.exists() {
            Self::from_json(JsonFile::read(&path)?.root())?
        } else {
            Self::default()
        };
        if defaults.eos.is_empty() {
            defaults.eos = config.ids("eos_token_id")?;
        }
        if defaults.bos.is_none() {
            defaults.bos = config.ids("bos_token_id")?.first().copied();
        }
        Ok(defaults)
    }

    /// Reads the keys of a GGUF file; its end tokens are the tokenizer's.
    pub(crate) fn of_gguf(metadata: &Metadata) -> Result<Self, ModelError> {
        // Below 0 means 0 to llama.cpp: greedy, and all tokens.
        let temperature = metadata.f32(sampling::TEMPERATURE)?.map(|t| t.max(0.0));
        let top_k = match metadata.get(sampling::TOP_K) {
            None => None,
            Some(value) => Some(
                value
                    .as_integer()
                    .ok_or_else(|| metadata.wrong(sampling::TOP_K, "an integer", value))?,
            ),
        };
        Ok(Self {
            do_sample: temperature.map(|temperature| temperature > 0.0),
            temperature,
            top_p: metadata.f32(sampling::TOP_P)?,
            top_k: top_k.map(|k| usize::try_from(k.max(0)).unwrap_or(usize::MAX)),
            repetition_penalty: metadata.f32(sampling::REPETITION_PENALTY)?,
            ..Self::default()
        })
    }

    fn from_json(json: Json<'_>) -> Result<Self, ModelError> {
        let number = |key| Ok::<_, ModelError>(json.f64(key)?.map(|v| v as f32));
        Ok(Self {
            do_sample: json.bool("do_sample")?,
            temperature: number("temperature")?,
            top_p: number("top_p")?,
            top_k: json
                .u64("top_k")?
                .map(|k| usize::try_from(k).unwrap_or(usize::MAX)),
            repetition_penalty: number("repetition_penalty")?,
            eos: json.ids("eos_token_id")?,
            bos: json.ids("bos_token_id")?.first().copied(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Gguf, GgufWriter, Value};

    fn of(pairs: &[(&str, Value)]) -> Result<GenerationDefaults, ModelError> {
        let mut writer = GgufWriter::new();
        for (key, value) in pairs {
            writer.metadata(key, value.clone()).unwrap();
        }
        let bytes = writer.start(Vec::new()).unwrap().finish().unwrap();
        GenerationDefaults::of_gguf(Gguf::from_bytes("test", bytes.into())?.metadata())
    }

    #[test]
    fn a_files_own_settings_are_read_and_below_zero_is_zero() {
        assert_eq!(of(&[]).unwrap(), GenerationDefaults::default());
        let defaults = of(&[
            (sampling::TEMPERATURE, Value::F32(0.6)),
            (sampling::TOP_K, Value::I32(-1)),
            (sampling::TOP_P, Value::F32(0.9)),
        ])
        .unwrap();
        assert_eq!(
            (defaults.do_sample, defaults.temperature),
            (Some(true), Some(0.6))
        );
        assert_eq!((defaults.top_k, defaults.top_p), (Some(0), Some(0.9)));
        let greedy = of(&[(sampling::TEMPERATURE, Value::F32(-1.0))]).unwrap();
        assert_eq!(
            (greedy.do_sample, greedy.temperature),
            (Some(false), Some(0.0))
        );
        assert!(of(&[(sampling::TOP_K, Value::string("many"))]).is_err());
    }
}
