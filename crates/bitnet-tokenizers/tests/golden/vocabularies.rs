//! The tokenizers under test, built once per test binary.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bitnet_tokenizers::{GgufVocabulary, Tokenizer, TokenizerOptions};
use serde_json::Value;

/// One vocabulary with its golden data.
pub struct Reference {
    pub golden: Value,
    /// Name and tokenizer of each way to load it.
    pub tokenizers: Vec<(&'static str, Tokenizer)>,
}

pub static LLAMA3: LazyLock<Reference> = LazyLock::new(|| {
    let folder = data().join("llama3");
    let mut json = Vec::new();
    let packed = read(&folder.join("tokenizer.json.gz"));
    flate2::read::GzDecoder::new(packed.as_slice())
        .read_to_end(&mut json)
        .unwrap();
    Reference::load(&folder, &json, &folder, "bitnet-b1.58")
});

pub static TINY: LazyLock<Reference> = LazyLock::new(|| {
    let hf = data().join("../../../bitnet-models/tests/data/reference/tiny-bitnet");
    Reference::load(
        &data().join("tiny"),
        &read(&hf.join("tokenizer.json")),
        &hf,
        "bitnet-25",
    )
});

impl Reference {
    fn load(golden: &Path, tokenizer_json: &[u8], hf: &Path, architecture: &str) -> Self {
        let config = read(&hf.join("tokenizer_config.json"));
        let map = read(&hf.join("special_tokens_map.json"));
        let options = TokenizerOptions { strict: true };
        let from_hf =
            |json: &[u8]| Tokenizer::from_hf(json, Some(&config), Some(&map), &options).unwrap();

        let parsed: Value = serde_json::from_slice(tokenizer_json).unwrap();
        let named = GgufVocabulary {
            pre: Some("llama-bpe".into()),
            chat_template: Some(BITNET_TEMPLATE.into()),
            ..gguf_vocabulary(&parsed, architecture)
        };
        let unnamed = gguf_vocabulary(&parsed, architecture);
        Self {
            golden: serde_json::from_slice(&read(&golden.join("golden_ids.json"))).unwrap(),
            tokenizers: vec![
                ("tokenizer.json", from_hf(tokenizer_json)),
                (
                    "tokenizer.json, other form of merges",
                    from_hf(&with_other_merges(parsed)),
                ),
                ("GGUF", Tokenizer::from_gguf(named, &options).unwrap()),
                (
                    "GGUF without pre",
                    Tokenizer::from_gguf(unnamed, &TokenizerOptions::default()).unwrap(),
                ),
            ],
        }
    }

    /// The entries of one list of the golden file.
    pub fn cases(&self, list: &str) -> &[Value] {
        let cases = self.golden[list].as_array().unwrap();
        assert!(!cases.is_empty());
        cases
    }
}

pub fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a converter writes into a GGUF file for this `tokenizer.json` (without `pre`, as the official file).
fn gguf_vocabulary(json: &Value, architecture: &str) -> GgufVocabulary {
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let n_tokens = vocab.len() + added.len();
    let mut tokens = vec![String::new(); n_tokens];
    let mut token_types = vec![1; n_tokens];
    for (text, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = text.clone();
    }
    for token in added {
        let id = token["id"].as_u64().unwrap() as usize;
        tokens[id] = token["content"].as_str().unwrap().to_owned();
        token_types[id] = 3;
    }
    let id_of = |text: &str| Some(tokens.iter().position(|token| token == text).unwrap() as u32);
    let merges = json["model"]["merges"].as_array().unwrap();
    GgufVocabulary {
        model: "gpt2".into(),
        architecture: architecture.into(),
        bos: id_of("<|begin_of_text|>"),
        eos: id_of("<|end_of_text|>"),
        padding: id_of("<|end_of_text|>"),
        add_bos: Some(true),
        scores: vec![0.0; n_tokens],
        merges: merges.iter().map(merge_as_text).collect(),
        chat_template: Some(
            "{{ 'Human: ' + message['content'] + '\\n\\nBITNETAssistant: ' }}".into(),
        ),
        tokens,
        token_types,
        ..GgufVocabulary::default()
    }
}

fn merge_as_text(merge: &Value) -> String {
    match merge {
        Value::String(text) => text.clone(),
        pair => format!(
            "{} {}",
            pair[0].as_str().unwrap(),
            pair[1].as_str().unwrap()
        ),
    }
}

/// The same file with its merges as pairs instead of texts, or the other way round.
fn with_other_merges(mut json: Value) -> Vec<u8> {
    for merge in json["model"]["merges"].as_array_mut().unwrap() {
        *merge = match merge.as_str().and_then(|text| text.split_once(' ')) {
            Some((left, right)) => serde_json::json!([left, right]),
            None => Value::String(merge_as_text(merge)),
        };
    }
    serde_json::to_vec(&json).unwrap()
}

/// The documented format of BitNet b1.58 2B-4T.
const BITNET_TEMPLATE: &str = "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}\
{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";
