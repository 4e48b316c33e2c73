//! The files beside the weights: `config.json`, the tokenizer's, the chat template, the model card.

use bitnet_tokenizers::HfTokenizerFiles;
use serde_json::{Map, Value, json};

use super::Item;
use crate::checkpoint::{Checkpoint, TokenizerSource};
use crate::config::ModelConfig;
use crate::export::ExportError;
use crate::export::model_card::ModelCard;
use crate::safetensors::StoredType;

/// Files by name.
type Documents = Vec<(&'static str, String)>;

/// The JSON files and the model card.
pub(super) fn documents(
    checkpoint: &Checkpoint,
    items: &[Item<'_>],
    divides: bool,
) -> Result<(Documents, Vec<String>), ExportError> {
    let mut notes = Vec::new();
    if let Some(embedding) = checkpoint.config().embedding {
        let pooling = embedding.pooling.name();
        notes.push(format!(
            "config.json has no word for the pooling, which is {pooling}"
        ));
    }
    let vocabulary = match checkpoint.tokenizer_source()? {
        TokenizerSource::Gguf(vocabulary) => Some(vocabulary),
        _ => None,
    };
    let (bos, eos) = vocabulary.as_ref().map_or((None, None), |v| (v.bos, v.eos));
    let mut ends: Vec<u32> = Vec::new();
    if let Some(vocabulary) = &vocabulary {
        let declared = [vocabulary.eos, vocabulary.eot, vocabulary.eom];
        for id in declared.into_iter().flatten() {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
    }
    let wide = |item: &&Item<'_>| item.declared.stored_type == StoredType::F32;
    let half = |item: &&Item<'_>| item.declared.stored_type == StoredType::F16;
    let dtype = if items.iter().any(|item| wide(&item)) {
        "float32"
    } else if items.iter().any(|item| half(&item)) {
        "float16"
    } else {
        "bfloat16"
    };
    let config = config(checkpoint.config(), (bos, eos), dtype, divides);
    let mut documents = vec![("config.json", pretty(&config))];
    let defaults = checkpoint.generation_defaults();
    let mut generation = Map::new();
    let one_or_many = match ends.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        many => json!(many),
    };
    for (key, value) in [
        ("bos_token_id", json!(bos)),
        ("eos_token_id", one_or_many),
        ("do_sample", json!(defaults.do_sample)),
        (
            "temperature",
            number(defaults.temperature.filter(|t| *t > 0.0)),
        ),
        ("top_p", number(defaults.top_p)),
        ("top_k", json!(defaults.top_k)),
        ("min_p", number(defaults.min_p)),
        ("repetition_penalty", number(defaults.repetition_penalty)),
    ] {
        if !value.is_null() {
            generation.insert(key.into(), value);
        }
    }
    documents.push(("generation_config.json", pretty(&Value::Object(generation))));
    match vocabulary {
        Some(vocabulary) => {
            let HfTokenizerFiles {
                tokenizer_json,
                tokenizer_config,
            } = vocabulary.to_hf()?;
            documents.push(("tokenizer.json", tokenizer_json));
            documents.push(("tokenizer_config.json", tokenizer_config));
        }
        None => notes.push("the file has no tokenizer, so the directory has none".into()),
    }
    let card = checkpoint.gguf().map(ModelCard::of_gguf);
    if let Some(readme) = card.and_then(|card| card.readme(&checkpoint.config().name)) {
        documents.push(("README.md", readme));
    }
    Ok((documents, notes))
}

/// A number that was an f32 with the digits that it was written with.
fn number(value: Option<f32>) -> Value {
    value.map_or(Value::Null, |value| {
        value
            .to_string()
            .parse::<f64>()
            .map_or(Value::Null, |v| json!(v))
    })
}

fn config(
    config: &ModelConfig,
    (bos, eos): (Option<u32>, Option<u32>),
    dtype: &str,
    divides: bool,
) -> Value {
    // The first is the one that generates.
    let architecture = config.family.hf_architectures.first();
    let architecture = architecture.copied().unwrap_or_default();
    let model_type = match architecture {
        "BitNetForCausalLM" => "bitnet",
        "Qwen3ForCausalLM" => "qwen3",
        _ => "llama",
    };
    let linear_class = if divides {
        "bitlinear"
    } else {
        "autobitlinear"
    };
    json!({
        "architectures": [architecture],
        "model_type": model_type,
        "_name_or_path": config.name,
        "hidden_act": config.family.hf_activation(),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rope_theta": number(Some(config.rope.base)),
        "rms_norm_eps": number(Some(config.rms_norm_eps)),
        "tie_word_embeddings": config.tied_head,
        "attention_bias": false,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "torch_dtype": dtype,
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": linear_class,
            "quantization_mode": "offline",
            "modules_to_not_convert": if config.tied_head { Value::Null } else { json!(["lm_head"]) },
        },
    })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
