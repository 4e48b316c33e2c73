//! A small Hugging Face directory, and damage to its documents with the error that each must give.

use std::path::Path;

/// One change to a valid directory, and the message it must give; `DIR` stands for the directory.
pub struct DirCase {
    pub name: &'static str,
    pub change: fn(&Path),
    pub error: &'static str,
    pub hint: &'static str,
}

pub const AGAIN: &str = "download it again";
const CONVERTER: &str = "faulty converter";

/// Writes a small packed BitNet model: hidden 8, one layer, two heads.
pub fn write_model(dir: &Path) {
    write(dir, "config.json", CONFIG.as_bytes());
    write(
        dir,
        "generation_config.json",
        b"{\"eos_token_id\": [1, 2], \"temperature\": 0.6}",
    );
    write(dir, "model.safetensors", &safetensors(&tensors()));
}

const CONFIG: &str = r#"{
  "architectures": ["BitNetForCausalLM"], "hidden_act": "relu2", "hidden_size": 8, "intermediate_size": 16,
  "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 4,
  "max_position_embeddings": 64, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": true,
  "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
}"#;

pub struct Entry {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

pub fn tensors() -> Vec<Entry> {
    let mut list = Vec::new();
    let mut add = |name: String, dtype, shape: &[usize], data: Vec<u8>| {
        list.push(Entry {
            name,
            dtype,
            shape: shape.into(),
            data,
        });
    };
    let ones = |n: usize| [0x80, 0x3f].repeat(n); // bf16
    add(
        "model.embed_tokens.weight".into(),
        "BF16",
        &[4, 8],
        ones(32),
    );
    add("model.norm.weight".into(), "BF16", &[8], ones(8));
    for (name, len) in [
        ("input_layernorm", 8),
        ("post_attention_layernorm", 8),
        ("self_attn.attn_sub_norm", 8),
        ("mlp.ffn_sub_norm", 16),
    ] {
        add(
            format!("model.layers.0.{name}.weight"),
            "BF16",
            &[len],
            ones(len),
        );
    }
    for (name, rows, cols) in [
        ("self_attn.q_proj", 8, 8),
        ("self_attn.k_proj", 4, 8),
        ("self_attn.v_proj", 4, 8),
        ("self_attn.o_proj", 8, 8),
        ("mlp.gate_proj", 16, 8),
        ("mlp.up_proj", 16, 8),
        ("mlp.down_proj", 8, 16),
    ] {
        let packed = vec![0b10_01_00_01; rows / 4 * cols];
        add(
            format!("model.layers.0.{name}.weight"),
            "U8",
            &[rows / 4, cols],
            packed,
        );
        add(
            format!("model.layers.0.{name}.weight_scale"),
            "BF16",
            &[1],
            ones(1),
        );
    }
    list
}

pub fn safetensors(tensors: &[Entry]) -> Vec<u8> {
    let mut at = 0;
    let mut entries = Vec::new();
    for tensor in tensors {
        let end = at + tensor.data.len();
        let Entry {
            name, dtype, shape, ..
        } = tensor;
        entries.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{at},{end}]}}"#
        ));
        at = end;
    }
    let data: Vec<u8> = tensors
        .iter()
        .flat_map(|tensor| tensor.data.clone())
        .collect();
    with_header(&format!("{{{}}}", entries.join(",")), &data)
}

pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        data,
    ]
    .concat()
}

pub fn write(dir: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(dir.join(name), bytes).unwrap();
}

/// Replaces a part of config.json.
pub fn config(dir: &Path, from: &str, to: &str) {
    assert!(CONFIG.contains(from));
    write(dir, "config.json", CONFIG.replace(from, to).as_bytes());
}

/// A case whose message is compared in whole.
pub const fn case(
    name: &'static str,
    change: fn(&Path),
    error: &'static str,
    hint: &'static str,
) -> DirCase {
    DirCase {
        name,
        change,
        error,
        hint,
    }
}

/// Documents that are missing, no JSON, or say what cannot be.
pub fn cases() -> Vec<DirCase> {
    vec![
        case(
            "no config",
            |d| std::fs::remove_file(d.join("config.json")).unwrap(),
            "DIR: the directory has no config.json",
            "add config.json",
        ),
        case(
            "no weights",
            |d| std::fs::remove_file(d.join("model.safetensors")).unwrap(),
            "DIR: the directory has no model.safetensors",
            "add model.safetensors",
        ),
        case(
            "pickled weights",
            |d| std::fs::rename(d.join("model.safetensors"), d.join("pytorch_model.bin")).unwrap(),
            "DIR/pytorch_model.bin: not a model file: it is a Python pickle or zip archive",
            "can run code",
        ),
        case(
            "config of another kind",
            |d| write(d, "config.json", b"[1, 2]"),
            "DIR/config.json: JSON document at byte 0: expected an object, found a list of 2",
            AGAIN,
        ),
        case(
            "config that is no JSON",
            |d| write(d, "config.json", b"{\"a\": }"),
            "DIR/config.json: JSON document: expected valid JSON, found expected value at line 1 column 7",
            AGAIN,
        ),
        case(
            "config that is a web page",
            |d| write(d, "config.json", b"<html></html>"),
            "DIR/config.json: not a model file: it is a web page",
            "/resolve/main/",
        ),
        case(
            "config of a megabyte",
            |d| write(d, "config.json", &[b' '; 1 << 20]),
            "DIR/config.json: file size: expected at most 262144 bytes, found 1048576",
            "made to harm",
        ),
        case(
            "config of deep lists",
            |d| write(d, "config.json", &[b'['; 100_000]),
            "DIR/config.json: JSON document: expected valid JSON, found recursion limit exceeded at line 1 column 128",
            AGAIN,
        ),
        case(
            "unsupported architecture",
            |d| config(d, "BitNetForCausalLM", "MambaForCausalLM"),
            "DIR/config.json: field architectures: expected one of BitNetForCausalLM, BitnetForCausalLM, LlamaForCausalLM, Qwen3ForCausalLM, Qwen3Model, Gemma3ForCausalLM, Gemma3TextModel, MiniCPMForCausalLM, found MambaForCausalLM",
            "Qwen3ForCausalLM",
        ),
        case(
            "architecture missing",
            |d| config(d, r#""architectures": ["BitNetForCausalLM"], "#, ""),
            "DIR/config.json: field architectures: expected a list with the model's class, found no such field",
            CONVERTER,
        ),
        case(
            "another activation",
            |d| config(d, "relu2", "gelu"),
            "DIR/config.json: BitNetForCausalLM with hidden_act `gelu` is not supported; expected relu2 or silu",
            "another export",
        ),
        case(
            "hidden size missing",
            |d| config(d, r#""hidden_size": 8, "#, ""),
            "DIR/config.json: field hidden_size: expected an integer, found no such field",
            CONVERTER,
        ),
        case(
            "hidden size as text",
            |d| config(d, r#""hidden_size": 8"#, r#""hidden_size": "8""#),
            "DIR/config.json: field hidden_size: expected a non-negative integer, found \"8\"",
            CONVERTER,
        ),
        case(
            "no heads",
            |d| {
                config(
                    d,
                    r#""num_attention_heads": 2"#,
                    r#""num_attention_heads": 0"#,
                )
            },
            "DIR/config.json: field num_attention_heads: expected 1 to 4096, found 0",
            CONVERTER,
        ),
        case(
            "negative layers",
            |d| config(d, r#""num_hidden_layers": 1"#, r#""num_hidden_layers": -1"#),
            "DIR/config.json: field num_hidden_layers: expected a non-negative integer, found -1",
            CONVERTER,
        ),
        case(
            "biases",
            |d| {
                config(
                    d,
                    r#""vocab_size": 4"#,
                    r#""vocab_size": 4, "attention_bias": true"#,
                )
            },
            "DIR/config.json: field attention_bias: expected false, found true",
            CONVERTER,
        ),
        case(
            "another quantisation",
            |d| config(d, r#""bitnet", "linear"#, r#""gptq", "linear"#),
            "DIR/config.json: field quantization_config.quant_method: expected \"bitnet\", found \"gptq\"",
            CONVERTER,
        ),
        case(
            "unknown linear class",
            |d| config(d, "autobitlinear", "multibitlinear"),
            "DIR/config.json: field quantization_config.linear_class: expected \"bitlinear\" or \"autobitlinear\", found \"multibitlinear\"",
            CONVERTER,
        ),
        case(
            "unknown mode",
            |d| config(d, "offline", "sometimes"),
            "DIR/config.json: field quantization_config.quantization_mode: expected \"online\" or \"offline\", found \"sometimes\"",
            CONVERTER,
        ),
        case(
            "generation settings as text",
            |d| write(d, "generation_config.json", b"{\"temperature\": \"hot\"}"),
            "DIR/generation_config.json: field temperature: expected a number, found \"hot\"",
            CONVERTER,
        ),
        case(
            "generation settings out of range",
            |d| write(d, "generation_config.json", b"{\"min_p\": 2}"),
            "DIR/generation_config.json: field min_p: expected a number from 0 to 1, found 2",
            CONVERTER,
        ),
    ]
}
