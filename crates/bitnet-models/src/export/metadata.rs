//! The keys of a GGUF file made of a Hugging Face directory: the model's shape, its tokenizer, what it recommends for
//! sampling, licence and origin. Names are those of the GGUF specification and gguf-py.

use bitnet_tokenizers::GgufVocabulary;

use super::form::TernaryTarget;
use super::model_card::ModelCard;
use crate::config::{ConfigField, ModelConfig};
use crate::generation::{GenerationDefaults, sampling};
use crate::gguf::{Array, FILE_TYPE, Value, model};

/// Everything that goes into the header.
pub(super) struct Header<'a> {
    pub config: &'a ModelConfig,
    pub generation: &'a GenerationDefaults,
    pub vocabulary: &'a GgufVocabulary,
    pub card: &'a ModelCard,
    pub ternary: TernaryTarget,
}

impl Header<'_> {
    /// All keys with their values, in the order in which they are written.
    pub fn metadata(&self) -> Vec<(String, Value)> {
        let general = |key: &str, value| (key.to_owned(), value);
        let mut keys = vec![
            general(model::ARCHITECTURE, Value::string(self.config.family.name)),
            general("general.type", Value::string("model")),
            general("general.name", Value::string(&self.config.name)),
        ];
        keys.extend(self.card.metadata());
        keys.push(general(FILE_TYPE, Value::U32(self.ternary.file_type())));
        keys.push(general("general.quantization_version", Value::U32(2)));
        keys.extend(self.sampling());
        keys.extend(self.shape());
        keys.extend(tokenizer(self.vocabulary));
        keys
    }

    fn sampling(&self) -> Vec<(String, Value)> {
        let defaults = self.generation;
        // Greedy decoding has no key of its own: it is a temperature of 0.
        let temperature = match defaults.do_sample {
            Some(false) => Some(0.0),
            _ => defaults.temperature,
        };
        let top_k = defaults
            .top_k
            .map(|k| Value::I32(i32::try_from(k).unwrap_or(i32::MAX)));
        let numbers = [
            (sampling::TEMPERATURE, temperature.map(Value::F32)),
            (sampling::TOP_K, top_k),
            (sampling::TOP_P, defaults.top_p.map(Value::F32)),
            (sampling::MIN_P, defaults.min_p.map(Value::F32)),
            (
                sampling::REPETITION_PENALTY,
                defaults.repetition_penalty.map(Value::F32),
            ),
        ];
        let present = numbers.into_iter();
        present
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect()
    }

    /// MiniCPM's factors; none for other families, whose architectures imply them.
    fn multipliers(&self) -> Vec<(ConfigField, Value)> {
        let config = self.config;
        if !config.family.own_multipliers {
            return Vec::new();
        }
        let factors = [
            (ConfigField::EmbeddingScale, config.embedding_scale),
            (ConfigField::ResidualScale, config.residual_scale),
            (ConfigField::LogitScale, config.head_scale.map(divisor)),
        ];
        let given = factors.into_iter();
        given
            .filter_map(|(field, factor)| Some((field, Value::F32(factor?))))
            .collect()
    }

    fn shape(&self) -> Vec<(String, Value)> {
        use ConfigField as Field;
        let config = self.config;
        let number = |field, n: usize| (field, Value::U32(n as u32)); // sizes are checked against limits far below
        let fields = [
            number(Field::ContextLength, config.context_length),
            number(Field::HiddenSize, config.hidden_size),
            number(Field::LayerCount, config.n_layers),
            number(Field::IntermediateSize, config.intermediate_size),
            number(Field::VocabSize, config.vocab_size),
            number(Field::HeadCount, config.n_heads),
            number(Field::KvHeadCount, config.n_kv_heads),
            number(Field::HeadDim, config.head_dim),
            number(Field::ValueHeadDim, config.head_dim),
            (Field::RmsNormEps, Value::F32(config.rms_norm_eps)),
            number(Field::RopeDim, config.rope.n_rot),
            (Field::RopeBase, Value::F32(config.rope.base)),
        ];
        let named = |(field, value)| (model::key(config.family.name, field), value);
        let mut keys: Vec<_> = fields.into_iter().map(named).collect();
        keys.extend(self.multipliers().into_iter().map(named));
        if config.family.own_multipliers && config.rope.freq_factors.is_some() {
            let key = |name: &str| format!("{}.rope.scaling.{name}", config.family.name);
            let context = Value::U32(config.context_length as u32);
            keys.extend([
                (key("type"), Value::string("longrope")),
                (key("original_context_length"), context),
                (key("attn_factor"), Value::F32(config.rope.attention_factor)),
            ]);
        }
        if let Some(embedding) = config.embedding {
            let key = format!("{}.pooling_type", config.family.name);
            keys.push((key, Value::U32(embedding.pooling.gguf_number())));
        }
        keys
    }
}

/// The divisor of which `inverse` is the inverse: the first neighbour of its own inverse that leads back to it bit for
/// bit.
fn divisor(inverse: f32) -> f32 {
    let near = 1.0 / inverse;
    let around = [near, near.next_up(), near.next_down()];
    let exact = around.into_iter().find(|d| 1.0 / d == inverse);
    exact.unwrap_or(near)
}

/// The tokenizer section.
fn tokenizer(vocabulary: &GgufVocabulary) -> Vec<(String, Value)> {
    let mut keys = Vec::new();
    let mut add = |key: &str, value: Value| keys.push((key.to_owned(), value));
    add("tokenizer.ggml.model", Value::string(&vocabulary.model));
    if let Some(pre) = &vocabulary.pre {
        add("tokenizer.ggml.pre", Value::string(pre));
    }
    let strings = |list: &[String]| Value::Array(Array::of_strings(list));
    add(model::TOKENS, strings(&vocabulary.tokens));
    if !vocabulary.scores.is_empty() {
        let scores = Array::of_f32(&vocabulary.scores);
        add("tokenizer.ggml.scores", Value::Array(scores));
    }
    let types = Array::of_i32(&vocabulary.token_types);
    add("tokenizer.ggml.token_type", Value::Array(types));
    if !vocabulary.merges.is_empty() {
        add("tokenizer.ggml.merges", strings(&vocabulary.merges));
    }
    for (name, id) in [
        ("bos", vocabulary.bos),
        ("eos", vocabulary.eos),
        ("eot", vocabulary.eot),
        ("eom", vocabulary.eom),
        ("unknown", vocabulary.unknown),
        ("padding", vocabulary.padding),
    ] {
        if let Some(id) = id {
            add(&format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
        }
    }
    for (name, flag) in [
        ("add_bos_token", vocabulary.add_bos),
        ("add_eos_token", vocabulary.add_eos),
        ("add_space_prefix", vocabulary.add_space_prefix),
    ] {
        if let Some(flag) = flag {
            add(&format!("tokenizer.ggml.{name}"), Value::Bool(flag));
        }
    }
    if let Some(template) = &vocabulary.chat_template {
        add(model::CHAT_TEMPLATE, Value::string(template));
    }
    keys
}
