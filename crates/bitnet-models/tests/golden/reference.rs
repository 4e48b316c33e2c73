//! Reading golden data: `NAME.json` (prompts, greedy text, perplexity) and `NAME.safetensors` (numbers).

use serde::Deserialize;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The golden data of one model.
pub struct Golden {
    summary: Summary,
    header: serde_json::Map<String, Value>,
    data: Vec<u8>,
}

#[derive(Deserialize)]
struct Summary {
    prompts: Vec<Prompt>,
    perplexity: Option<Perplexity>,
}

/// A prompt and what the model says next.
#[derive(Deserialize)]
pub struct Prompt {
    /// `p1`, `p7`, `p64`, `p200`, `r32` or `chat`.
    pub id: String,
    /// Its token ids.
    pub ids: Vec<u32>,
    /// The 64 most probable next tokens, one after another, not stopping at an end token.
    #[serde(default)]
    pub greedy: Vec<u32>,
    /// How far the best logit was ahead of the second at each of them.
    #[serde(default)]
    pub greedy_margins: Vec<f32>,
}

#[derive(Deserialize)]
struct Perplexity {
    ppl: f64,
    logprobs: Vec<f64>,
}

impl Golden {
    /// Reads `stem.json` and `stem.safetensors`.
    pub fn read(stem: &Path) -> Golden {
        let read = |extension: &str| {
            let path = format!("{}.{extension}", stem.display());
            fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        let summary = serde_json::from_slice(&read("json")).expect("a golden summary");
        let file = read("safetensors");
        let header_len = u64::from_le_bytes(file[..8].try_into().expect("eight bytes")) as usize;
        let header =
            serde_json::from_slice(&file[8..8 + header_len]).expect("a safetensors header");
        Golden {
            summary,
            header,
            data: file[8 + header_len..].to_vec(),
        }
    }

    /// All prompts.
    pub fn prompts(&self) -> &[Prompt] {
        &self.summary.prompts
    }

    /// The prompt called `id`.
    pub fn prompt(&self, id: &str) -> &Prompt {
        self.summary
            .prompts
            .iter()
            .find(|prompt| prompt.id == id)
            .unwrap_or_else(|| panic!("no prompt {id}"))
    }

    /// Perplexity of the first ids of the perplexity text in one window, and how many ids these are.
    pub fn perplexity(&self) -> (f64, usize) {
        let perplexity = self.summary.perplexity.as_ref();
        let perplexity = perplexity.expect("golden data of a whole model");
        (perplexity.ppl, perplexity.logprobs.len() + 1)
    }

    /// The names of all tensors that start with `prefix`.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.header
            .keys()
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// A tensor of type F32.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.elements(name, "F32")
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
            .collect()
    }

    /// A tensor of type I32.
    pub fn i32(&self, name: &str) -> Vec<i32> {
        self.elements(name, "I32")
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes(b.try_into().expect("four bytes")))
            .collect()
    }

    /// A tensor of type I8.
    pub fn i8(&self, name: &str) -> Vec<i8> {
        self.elements(name, "I8")
            .iter()
            .map(|&byte| byte as i8)
            .collect()
    }

    fn elements(&self, name: &str, dtype: &str) -> &[u8] {
        let tensor = self
            .header
            .get(name)
            .unwrap_or_else(|| panic!("no golden tensor {name}"));
        assert_eq!(tensor["dtype"], dtype, "{name}");
        let offset = |end: usize| tensor["data_offsets"][end].as_u64().expect("an offset") as usize;
        &self.data[offset(0)..offset(1)]
    }
}

/// The index of the largest value, the first of them on ties.
pub fn argmax(values: &[f32]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// How far the largest value is ahead of the second.
pub fn margin(values: &[f32]) -> f32 {
    let best = argmax(values);
    let others = values
        .iter()
        .enumerate()
        .filter(|&(i, _)| i != best)
        .map(|(_, &value)| value);
    values[best] - others.fold(f32::NEG_INFINITY, f32::max)
}
