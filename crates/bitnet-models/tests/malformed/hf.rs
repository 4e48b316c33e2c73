//! Malformed Hugging Face directories with the error that each must give.

use std::path::Path;

/// One change to a valid directory, and the message it must give; `DIR` stands for the directory.
pub struct DirCase {
    pub name: &'static str,
    pub change: fn(&Path),
    pub error: &'static str,
    pub hint: &'static str,
}

const AGAIN: &str = "download it again";
const CONVERTER: &str = "faulty converter";
const CUT: &str = "download is incomplete";

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

struct Entry {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    data: Vec<u8>,
}

fn tensors() -> Vec<Entry> {
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

fn safetensors(tensors: &[Entry]) -> Vec<u8> {
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

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        data,
    ]
    .concat()
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(dir.join(name), bytes).unwrap();
}

fn weights(dir: &Path, bytes: &[u8]) {
    write(dir, "model.safetensors", bytes);
}

fn header(dir: &Path, header: &str) {
    weights(dir, &with_header(header, &[0; 8]));
}

/// Replaces a part of config.json.
fn config(dir: &Path, from: &str, to: &str) {
    assert!(CONFIG.contains(from));
    write(dir, "config.json", CONFIG.replace(from, to).as_bytes());
}

/// Changes one tensor of the valid file.
fn tensor(dir: &Path, name: &str, change: impl Fn(&mut Entry)) {
    let mut list = tensors();
    change(
        list.iter_mut()
            .find(|tensor| tensor.name.ends_with(name))
            .unwrap(),
    );
    weights(dir, &safetensors(&list));
}

/// Replaces the weights by two files and an index with this weight map.
fn sharded(dir: &Path, weight_map: &str) {
    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
    let list = tensors();
    let (first, second) = list.split_at(3);
    write(dir, "a.safetensors", &safetensors(first));
    write(dir, "b.safetensors", &safetensors(second));
    write(
        dir,
        "model.safetensors.index.json",
        format!(r#"{{"metadata": {{}}, "weight_map": {weight_map}}}"#).as_bytes(),
    );
}

/// The right index: every tensor in the file that holds it.
pub fn write_sharded(dir: &Path) {
    let list = tensors();
    let entries = list.iter().enumerate().map(|(i, tensor)| {
        format!(
            r#""{}": "{}.safetensors""#,
            tensor.name,
            if i < 3 { "a" } else { "b" }
        )
    });
    sharded(
        dir,
        &format!("{{{}}}", entries.collect::<Vec<_>>().join(", ")),
    );
}

/// A case whose message is compared in whole.
const fn case(
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
        case(
            "weights shorter than a length",
            |d| weights(d, b"\x08\0\0"),
            "DIR/model.safetensors: not a model file: it is only 3 bytes long",
            "the download failed",
        ),
        case(
            "weights that are a git-lfs pointer",
            |d| weights(d, b"version https://git-lfs.github.com/spec/v1\n"),
            "DIR/model.safetensors: not a model file: it is a git-lfs pointer",
            "git lfs pull",
        ),
        case(
            "header longer than the file",
            |d| weights(d, b"\0\x10\0\0\0\0\0\0{}"),
            "DIR/model.safetensors: header at byte 8: expected 4096 more bytes, found 2 (the file is cut short)",
            CUT,
        ),
        case(
            "header of 2^64-1 bytes",
            |d| weights(d, b"\xff\xff\xff\xff\xff\xff\xff\xff{}"),
            "DIR/model.safetensors: header length at byte 0: expected at most 100000000 bytes, found 18446744073709551615",
            "made to harm",
        ),
        case(
            "header that is no JSON",
            |d| header(d, "{\"a\":"),
            "DIR/model.safetensors: tensor a at byte 13: expected a safetensors header, found EOF while parsing a value at line 1 column 5",
            AGAIN,
        ),
        case(
            "header that is a list",
            |d| header(d, "[1]"),
            "DIR/model.safetensors: header at byte 8: expected a safetensors header, found invalid type: sequence, expected an object of tensors at line 1 column 0",
            AGAIN,
        ),
        case(
            "tensor without dtype",
            |d| header(d, r#"{"a":{"shape":[8],"data_offsets":[0,8]}}"#),
            "DIR/model.safetensors: tensor a at byte 47: expected a safetensors header, found missing field `dtype` at line 1 column 39",
            AGAIN,
        ),
        case(
            "unknown dtype",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U9","shape":[8],"data_offsets":[0,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a at byte 26: expected a safetensors header, found unknown dtype \"U9\" at line 1 column 18",
            AGAIN,
        ),
        case(
            "unknown field",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"x":1}}"#,
                )
            },
            "DIR/model.safetensors: tensor a at byte 63: expected a safetensors header, found unknown field \"x\" at line 1 column 55",
            AGAIN,
        ),
        case(
            "negative offset",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[-1,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a at byte 57: expected a safetensors header, found invalid value: integer `-1`, expected u64 at line 1 column 49",
            AGAIN,
        ),
        case(
            "nine dimensions",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,8],"data_offsets":[0,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a at byte 54: expected a safetensors header, found shape of more than 8 dimensions at line 1 column 46",
            AGAIN,
        ),
        case(
            "element count wraps",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a: expected an element count below 2^64, found shape [4294967296, 4294967296]",
            AGAIN,
        ),
        case(
            "byte count wraps",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a: expected less than 2^64 bytes for F32 [4611686018427387906], found data_offsets [0, 8], 8 bytes",
            AGAIN,
        ),
        case(
            "size that is not the shape's",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a: expected 32 bytes for F32 [8], found data_offsets [0, 8], 8 bytes",
            AGAIN,
        ),
        case(
            "offsets backwards",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[8,0]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a: expected data_offsets in ascending order, found [8, 0]",
            AGAIN,
        ),
        case(
            "overlap",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor b: expected data from offset 8 on, found offset 4, overlapping the tensor before it",
            AGAIN,
        ),
        case(
            "gap",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor b: expected data from offset 2 on, found offset 4, after a gap",
            AGAIN,
        ),
        case(
            "bytes of nobody",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
                )
            },
            "DIR/model.safetensors: end of the last tensor at byte 65: expected the end of the file at byte 69, found 4 bytes that belong to no tensor",
            AGAIN,
        ),
        case(
            "tensor past the end",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a at byte 63: expected 64 more bytes, found 8 (the file is cut short)",
            CUT,
        ),
        case(
            "tensor twice",
            |d| {
                header(
                    d,
                    r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
                )
            },
            "DIR/model.safetensors: tensor a: expected each name once, found it twice",
            AGAIN,
        ),
        case(
            "missing projection",
            |d| tensor(d, "up_proj.weight", |t| t.name.push('x')),
            "DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight: expected the up projection of layer 0, [16, 8], found no such tensor",
            "convert it again",
        ),
        case(
            "missing scale",
            |d| tensor(d, "q_proj.weight_scale", |t| t.name.push('x')),
            "DIR/model.safetensors: tensor model.layers.0.self_attn.q_proj.weight_scale: expected the scale of packed trits, [1], found no such tensor",
            "convert it again",
        ),
        case(
            "scale of two values",
            |d| {
                tensor(d, "q_proj.weight_scale", |t| {
                    (t.shape, t.data) = (vec![2], vec![0; 4])
                })
            },
            "DIR/model.safetensors: tensor model.layers.0.self_attn.q_proj.weight_scale: expected shape [1], found [2]",
            "convert it again",
        ),
        case(
            "scale NaN",
            |d| tensor(d, "q_proj.weight_scale", |t| t.data = vec![0xc0, 0x7f]),
            "DIR/model.safetensors: tensor model.layers.0.self_attn.q_proj.weight_scale: expected a finite scale above 0, found NaN",
            "lost the scale",
        ),
        case(
            "projection of another shape",
            |d| tensor(d, "up_proj.weight", |t| t.shape = vec![8, 4]),
            "DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight: expected shape [16, 8], found [8, 4]",
            "convert it again",
        ),
        case(
            "projection of integers",
            |d| tensor(d, "up_proj.weight", |t| t.dtype = "I8"),
            "DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight: expected shape [16, 8], found [4, 8]",
            "convert it again",
        ),
        case(
            "code 3",
            |d| tensor(d, "up_proj.weight", |t| t.data[5] = 0xff),
            "DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight: packed uint8 weights: code 3 at row 0, column 5 is not a trit (0, 1, 2 stand for -1, 0, +1): the data are damaged or written in another layout",
            AGAIN,
        ),
        case(
            "scale 0 that divides",
            |d| {
                config(d, "autobitlinear", "bitlinear");
                tensor(d, "up_proj.weight_scale", |t| t.data = vec![0, 0])
            },
            "DIR/model.safetensors: tensor model.layers.0.mlp.up_proj.weight_scale: expected a finite scale above 0, found 0",
            "lost the scale",
        ),
        case(
            "ordinary weights",
            |d| {
                tensor(d, "k_proj.weight", |t| {
                    (t.dtype, t.shape, t.data) =
                        ("BF16", vec![4, 8], (0..64).map(|i| 0x30 + i % 16).collect())
                })
            },
            "DIR/model.safetensors: tensor model.layers.0.self_attn.k_proj.weight: expected ternary weights, found BF16 weights of several magnitudes (0.000000002561137 and 0.000000041443855 among the first)",
            "ternary release",
        ),
        case(
            "index that leads out",
            |d| sharded(d, r#"{"x": "../../etc/passwd"}"#),
            "DIR/model.safetensors.index.json: field weight_map: expected an object of tensor names and file names, found file name \"../../etc/passwd\": only plain names ending in .safetensors are followed at line 1 column 56",
            AGAIN,
        ),
        case(
            "index with an absolute path",
            |d| sharded(d, r#"{"x": "/tmp/x.safetensors"}"#),
            "DIR/model.safetensors.index.json: field weight_map: expected an object of tensor names and file names, found file name \"/tmp/x.safetensors\": only plain names ending in .safetensors are followed at line 1 column 58",
            AGAIN,
        ),
        case(
            "index of nothing",
            |d| sharded(d, "{}"),
            "DIR/model.safetensors.index.json: field weight_map: expected at least one tensor, found none",
            AGAIN,
        ),
        case(
            "index of a missing file",
            |d| sharded(d, r#"{"x": "c.safetensors"}"#),
            "DIR/c.safetensors: cannot open the file: No such file or directory (os error 2)",
            "check the path",
        ),
        case(
            "index of a missing tensor",
            |d| {
                sharded(
                    d,
                    r#"{"x": "a.safetensors", "model.norm.weight": "a.safetensors"}"#,
                )
            },
            "DIR/model.safetensors.index.json: field weight_map: expected an object of tensor names and file names, found tensor x, which no file holds at line 1 column 52",
            AGAIN,
        ),
        case(
            "index with a tensor in the wrong file",
            |d| {
                sharded(
                    d,
                    r#"{"model.norm.weight": "b.safetensors", "model.embed_tokens.weight": "a.safetensors"}"#,
                )
            },
            "DIR/model.safetensors.index.json: field weight_map: expected an object of tensor names and file names, found tensor model.norm.weight in a.safetensors, not in b.safetensors at line 1 column 68",
            AGAIN,
        ),
    ]
}
