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
    /// Share of the best token's probability that a token needs.
    pub const MIN_P: &str = "general.sampling.min_p";
    /// Divisor of positive and multiplier of negative logits of tokens already seen.
    pub const REPETITION_PENALTY: &str = "general.sampling.penalty_repeat";
}

/// What a value must be, in words and as a test. A request would be refused for it: better the model at once, with its
/// file.
type Rule = (&'static str, fn(f32) -> bool);

const FINITE: Rule = ("a finite number", f32::is_finite);
const TEMPERATURE: Rule = ("a finite number from 0", |v| v >= 0.0 && v.is_finite());
const SHARE: Rule = ("a number from 0 to 1", |v| (0.0..=1.0).contains(&v));
const FACTOR: Rule = ("a finite number above 0", |v| v > 0.0 && v.is_finite());

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
    /// Share of the best token's probability that a token needs; 0 keeps all.
    pub min_p: Option<f32>,
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
        let number = |key, (expected, holds): Rule| match metadata.f32(key)? {
            Some(value) if !holds(value) => Err(ModelError::Field {
                file: metadata.file().into(),
                field: key.into(),
                expected: expected.into(),
                found: value.to_string(),
            }),
            value => Ok(value),
        };
        // Below 0 means 0 to llama.cpp: greedy, and all tokens.
        let temperature = number(sampling::TEMPERATURE, FINITE)?.map(|t| t.max(0.0));
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
            top_p: number(sampling::TOP_P, SHARE)?,
            top_k: top_k.map(|k| usize::try_from(k.max(0)).unwrap_or(usize::MAX)),
            min_p: number(sampling::MIN_P, SHARE)?,
            repetition_penalty: number(sampling::REPETITION_PENALTY, FACTOR)?,
            ..Self::default()
        })
    }

    fn from_json(json: Json<'_>) -> Result<Self, ModelError> {
        let number = |key, (expected, holds): Rule| match json.f64(key)?.map(|v| v as f32) {
            Some(value) if !holds(value) => Err(json.wrong(key, expected)),
            value => Ok(value),
        };
        Ok(Self {
            do_sample: json.bool("do_sample")?,
            temperature: number("temperature", TEMPERATURE)?,
            top_p: number("top_p", SHARE)?,
            min_p: number("min_p", SHARE)?,
            top_k: json
                .u64("top_k")?
                .map(|k| usize::try_from(k).unwrap_or(usize::MAX)),
            repetition_penalty: number("repetition_penalty", FACTOR)?,
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

    #[test]
    fn bad_values_of_a_gguf_file_are_told_by_their_key() {
        for (key, value) in [
            (sampling::TEMPERATURE, f32::NAN),
            (sampling::TEMPERATURE, f32::INFINITY),
            (sampling::TOP_P, 1.5),
            (sampling::TOP_P, f32::NAN),
            (sampling::MIN_P, -0.1),
            (sampling::REPETITION_PENALTY, 0.0),
            (sampling::REPETITION_PENALTY, f32::INFINITY),
        ] {
            let error = of(&[(key, Value::F32(value))]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("test"), "{error}");
        }
        assert_eq!(
            of(&[(sampling::MIN_P, Value::F32(0.1))]).unwrap().min_p,
            Some(0.1)
        );
    }

    #[test]
    fn a_generation_config_is_read_whole_and_its_faults_are_told_by_field() {
        let read = |text: &str| {
            let file = JsonFile::parse(GENERATION_CONFIG.into(), text.as_bytes())?;
            GenerationDefaults::from_json(file.root())
        };
        let all = read(
            r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05,
                "repetition_penalty": 1.1, "eos_token_id": [1, 2], "bos_token_id": 3}"#,
        );
        let expected = GenerationDefaults {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_p: Some(0.9),
            top_k: Some(20),
            min_p: Some(0.05),
            repetition_penalty: Some(1.1),
            eos: vec![1, 2],
            bos: Some(3),
        };
        assert_eq!(all.unwrap(), expected);
        for (field, value) in [
            ("do_sample", "1"),
            ("temperature", "\"hot\""),
            ("temperature", "-0.5"),
            ("temperature", "1e300"),
            ("top_p", "1.01"),
            ("top_p", "[0.9]"),
            ("top_k", "-1"),
            ("top_k", "2.5"),
            ("min_p", "2"),
            ("min_p", "true"),
            ("repetition_penalty", "0"),
            ("repetition_penalty", "-1"),
        ] {
            let error = read(&format!("{{\"{field}\": {value}}}")).unwrap_err();
            assert!(
                matches!(&error, ModelError::Field { field: found, .. } if found == field),
                "{error:?}"
            );
            assert!(error.to_string().contains(GENERATION_CONFIG), "{error}");
        }
    }
}
