//! A synthetic model as a Hugging Face directory: `config.json`, tokenizer files, one `model.safetensors`.
//!
//! Ternary weights are packed as transformers packs them: byte row `p` of `[out / 4, in]` holds output rows `p`,
//! `p + out/4`, `p + 2 out/4` and `p + 3 out/4` in bits 1:0, 3:2, 5:4 and 7:6, each as trit + 1. BitNet checkpoints
//! store the scale that multiplies (`autobitlinear`), Llama ones its inverse (`bitlinear`). Master weights are bf16
//! matrices, quantised by whoever reads them.

use std::io::Write;
use std::path::Path;

use bitnet_models::safetensors::{DeclaredTensor, StoredType, file_head};
use bitnet_models::{Projection, TensorRole};
use bitnet_quantization::TensorType;
use serde_json::{Map, Value, json};

use crate::exit::CliError;
use crate::pending::{Pending, sync};
use crate::synth::encode;
use crate::synth::gguf::{EMBEDDING, HEAD, tensor_index};
use crate::synth::shape::{Arch, Shape};
use crate::synth::vocabulary::{CHAT_TEMPLATE, Vocabulary};
use crate::synth::weights;

/// One tensor of the safetensors file.
struct Entry {
    declared: DeclaredTensor,
    content: Content,
}

enum Content {
    /// Rows of bf16 values.
    Dense { tensor: u64 },
    /// Ones in bf16.
    Ones,
    /// Packed trits `[out / 4, in]`.
    Packed { tensor: u64 },
    /// One bf16 number.
    Scalar(f32),
}

impl Entry {
    fn new(name: String, stored_type: StoredType, shape: Vec<usize>, content: Content) -> Entry {
        Entry {
            declared: DeclaredTensor {
                name,
                stored_type,
                shape,
            },
            content,
        }
    }
}

/// Total bytes of the tensors, for a progress bar.
pub fn data_bytes(shape: &Shape, masters: bool) -> u64 {
    entries(shape, masters)
        .iter()
        .map(|e| e.declared.bytes())
        .sum()
}

/// Writes the directory; `advance` is told the bytes written since its last call and may stop the work.
///
/// # Errors
/// A usage error for an architecture that has no such checkpoints, I/O errors, what `advance` returns.
pub fn write(
    shape: &Shape,
    masters: bool,
    seed: u64,
    target: &Path,
    advance: &mut dyn FnMut(u64) -> Result<(), CliError>,
) -> Result<(), CliError> {
    if shape.arch == Arch::Qwen3 {
        return Err(CliError::usage(
            "there are no packed Hugging Face checkpoints of architecture qwen3",
            "leave out --hf, or choose --arch bitnet-b1.58, bitnet or llama",
        ));
    }
    if masters && !shape.arch.sub_norms() {
        return Err(CliError::usage(
            format!("checkpoints of architecture {} are packed", shape.arch),
            "leave out --masters, or choose --arch bitnet-b1.58 or bitnet",
        ));
    }
    let vocabulary = Vocabulary::generate(shape.vocab_size)?;
    let pending = Pending::new(target)?;
    pending.create_directory()?;
    let documents = [
        ("config.json", config(shape, masters, &vocabulary)),
        ("generation_config.json", generation_config(&vocabulary)),
        (
            "tokenizer_config.json",
            tokenizer_config(shape, &vocabulary),
        ),
        ("tokenizer.json", tokenizer(&vocabulary)),
    ];
    for (name, document) in documents {
        let path = pending.path().join(name);
        let text = format!("{document:#}\n");
        std::fs::write(&path, text).map_err(|e| CliError::file("write", &target.join(name), &e))?;
    }
    write_tensors(&entries(shape, masters), seed, &pending, target, advance)?;
    pending.finish()
}

fn write_tensors(
    entries: &[Entry],
    seed: u64,
    pending: &Pending,
    target: &Path,
    advance: &mut dyn FnMut(u64) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let name = "model.safetensors";
    let path = pending.path().join(name);
    let wrap = |e: &std::io::Error| CliError::file("write", &target.join(name), e);
    let file = std::fs::File::create(&path).map_err(|e| wrap(&e))?;
    let mut writer = std::io::BufWriter::with_capacity(1 << 20, file);
    let head = file_head(entries.iter().map(|e| &e.declared));
    writer.write_all(&head).map_err(|e| wrap(&e))?;
    let mut bytes = Vec::new();
    for entry in entries {
        let shape = &entry.declared.shape;
        let rows = if shape.len() == 2 { shape[0] } else { 1 };
        for row in 0..rows {
            bytes.clear();
            entry_row(entry, seed, row, rows, &mut bytes)?;
            writer.write_all(&bytes).map_err(|e| wrap(&e))?;
            advance(bytes.len() as u64)?;
        }
    }
    sync(writer, &target.join(name))
}

fn entry_row(
    entry: &Entry,
    seed: u64,
    row: usize,
    rows: usize,
    out: &mut Vec<u8>,
) -> Result<(), CliError> {
    let cols = entry.declared.shape.last().copied().unwrap_or(1);
    match entry.content {
        Content::Dense { tensor } => encode::dense_row(
            TensorType::BF16,
            (seed, tensor),
            row,
            &mut vec![0.0; cols],
            out,
        ),
        Content::Ones => {
            out.extend(std::iter::repeat_n(half::bf16::ONE.to_le_bytes(), cols).flatten());
            Ok(())
        }
        Content::Packed { tensor } => {
            let mut trits = vec![0i8; cols];
            out.resize(cols, 0);
            for crumb in 0..4 {
                weights::trits(seed, tensor, row + crumb * rows, &mut trits);
                for (byte, trit) in out.iter_mut().zip(&trits) {
                    *byte |= ((trit + 1) as u8) << (2 * crumb);
                }
            }
            Ok(())
        }
        Content::Scalar(value) => {
            out.extend(half::bf16::from_f32(value).to_le_bytes());
            Ok(())
        }
    }
}

fn entries(shape: &Shape, masters: bool) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut add = |role: TensorRole, dtype, dims, content| {
        if let Some(name) = role.hf_name() {
            entries.push(Entry::new(name, dtype, dims, content));
        }
    };
    let dense_dims = || vec![shape.vocab_size, shape.hidden_size];
    add(
        TensorRole::Embedding,
        StoredType::BF16,
        dense_dims(),
        Content::Dense { tensor: EMBEDDING },
    );
    for layer in 0..shape.n_layers {
        for (place, len) in shape.layer_norms() {
            add(
                TensorRole::Norm(layer, place),
                StoredType::BF16,
                vec![len],
                Content::Ones,
            );
        }
        for p in Projection::ALL {
            let (rows, cols) = shape.projection(p);
            let (role, tensor) = (TensorRole::Projection(layer, p), tensor_index(layer, p));
            if masters {
                let content = Content::Dense { tensor };
                add(role, StoredType::BF16, vec![rows, cols], content);
            } else {
                let content = Content::Packed { tensor };
                add(role, StoredType::U8, vec![rows / 4, cols], content);
            }
        }
    }
    add(
        TensorRole::FinalNorm,
        StoredType::BF16,
        vec![shape.hidden_size],
        Content::Ones,
    );
    if !shape.tied {
        add(
            TensorRole::Head,
            StoredType::BF16,
            dense_dims(),
            Content::Dense { tensor: HEAD },
        );
    }
    let scales: Vec<Entry> = entries
        .iter()
        .filter_map(|e| scale_of(e, shape.arch))
        .collect();
    entries.extend(scales);
    entries
}

/// The scale that stands beside a packed tensor.
fn scale_of(entry: &Entry, arch: Arch) -> Option<Entry> {
    let (Content::Packed { .. }, [_, cols]) = (&entry.content, &entry.declared.shape[..]) else {
        return None;
    };
    let scale = weights::ternary_scale(*cols);
    let stored = if arch == Arch::Llama {
        1.0 / scale
    } else {
        scale
    };
    let name = format!("{}_scale", entry.declared.name);
    Some(Entry::new(
        name,
        StoredType::BF16,
        vec![1],
        Content::Scalar(stored),
    ))
}

fn config(shape: &Shape, masters: bool, vocabulary: &Vocabulary) -> Value {
    let (architecture, model_type, act, linear_class) = match shape.arch {
        Arch::BitnetB158 => ("BitNetForCausalLM", "bitnet", "relu2", "autobitlinear"),
        Arch::Bitnet => ("BitNetForCausalLM", "bitnet", "silu", "autobitlinear"),
        Arch::Llama => ("LlamaForCausalLM", "llama", "silu", "bitlinear"),
        Arch::Qwen3 => ("Qwen3ForCausalLM", "qwen3", "silu", "bitlinear"),
    };
    json!({
        "architectures": [architecture],
        "model_type": model_type,
        "_name_or_path": shape.name,
        "hidden_act": act,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.context_length,
        "rope_theta": shape.rope_base,
        "rms_norm_eps": shape.rms_norm_eps,
        "tie_word_embeddings": shape.tied,
        "attention_bias": false,
        "bos_token_id": vocabulary.bos(),
        "eos_token_id": vocabulary.eos(),
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": linear_class,
            "quantization_mode": if masters { "online" } else { "offline" },
        },
    })
}

fn generation_config(vocabulary: &Vocabulary) -> Value {
    json!({ "bos_token_id": vocabulary.bos(), "eos_token_id": [vocabulary.eos(), vocabulary.eot()] })
}

fn tokenizer_config(shape: &Shape, vocabulary: &Vocabulary) -> Value {
    let text = |id: u32| vocabulary.tokens[id as usize].clone();
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": text(vocabulary.bos()),
        "eos_token": text(vocabulary.eos()),
        "clean_up_tokenization_spaces": false,
        "model_max_length": shape.context_length,
        "chat_template": CHAT_TEMPLATE,
    })
}

fn tokenizer(vocabulary: &Vocabulary) -> Value {
    let special = vocabulary
        .tokens
        .iter()
        .enumerate()
        .skip(vocabulary.first_special);
    let added: Vec<Value> = special
        .map(|(id, text)| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let plain = vocabulary
        .tokens
        .iter()
        .enumerate()
        .take(vocabulary.first_special);
    let vocab: Map<String, Value> = plain.map(|(id, text)| (text.clone(), json!(id))).collect();
    let merges: Vec<Value> = vocabulary
        .merges
        .iter()
        .map(|(left, right)| json!([left, right]))
        .collect();
    let bos = &vocabulary.tokens[vocabulary.bos() as usize];
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": bos, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [
                { "SpecialToken": { "id": bos, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": bos, "type_id": 1 } }, { "Sequence": { "id": "B", "type_id": 1 } },
            ],
            "special_tokens": { bos: { "id": bos, "ids": [vocabulary.bos()], "tokens": [bos] } },
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges,
        },
    })
}
