//! A synthetic model as a GGUF file, streamed row by row: the largest shape needs the memory of one row.

use std::io::Write;
use std::path::Path;

use bitnet_models::gguf::{
    Array, FILE_TYPE, GgufWriter, TensorWriter, Value, WriteError, file_type,
};
use bitnet_models::{Projection, TensorRole};
use bitnet_quantization::TensorType;

use crate::exit::CliError;
use crate::pending::{Pending, sync};
use crate::synth::encode::{self, TernaryEncoder};
use crate::synth::shape::{Arch, Shape};
use crate::synth::vocabulary::{CHAT_TEMPLATE, Vocabulary};

/// Random stream of the embedding.
pub const EMBEDDING: u64 = 0;
/// Random stream of the head, where it is not the embedding.
pub const HEAD: u64 = 1;

/// Random stream of a projection.
pub fn tensor_index(layer: usize, projection: Projection) -> u64 {
    (HEAD as usize + 1 + layer * Projection::ALL.len() + projection as usize) as u64
}

/// How the tensors are stored.
#[derive(Debug, Clone, Copy)]
pub struct Types {
    /// The seven projections of each layer.
    pub ternary: TensorType,
    /// Embedding and head.
    pub dense: TensorType,
}

/// What a tensor of the file holds.
enum Content {
    Dense {
        tensor: u64,
    },
    Ones,
    Ternary {
        layer: usize,
        projection: Projection,
    },
}

/// One tensor of the file.
struct Entry {
    name: String,
    ty: TensorType,
    rows: usize,
    cols: usize,
    content: Content,
}

/// Total bytes of the tensors, for a progress bar.
pub fn data_bytes(shape: &Shape, types: Types) -> u64 {
    let bytes = |e: &Entry| {
        e.ty.storage_bytes(e.rows as u64 * e.cols as u64)
            .unwrap_or(0)
    };
    entries(shape, types).iter().map(bytes).sum()
}

/// Writes the file; `advance` is told the bytes written since its last call and may stop the work.
///
/// # Errors
/// A usage error when a type cannot store the shape's rows, I/O errors, what `advance` returns.
pub fn write(
    shape: &Shape,
    types: Types,
    seed: u64,
    target: &Path,
    advance: &mut dyn FnMut(u64) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let entries = entries(shape, types);
    if let Some(entry) = entries.iter().find(|e| !encode::fits(e.ty, e.cols)) {
        return Err(CliError::usage(
            format!(
                "{} cannot store {}: its rows have {} weights",
                entry.ty, entry.name, entry.cols
            ),
            "choose another --type or --head-type",
        ));
    }
    let mut header = GgufWriter::new();
    for (key, value) in metadata(shape, types)? {
        header
            .metadata(&key, value)
            .map_err(|e| writing(&e, target))?;
    }
    for entry in &entries {
        let dims = match entry.content {
            Content::Ones => vec![entry.cols as u64],
            _ => vec![entry.cols as u64, entry.rows as u64],
        };
        header
            .tensor(&entry.name, entry.ty, &dims)
            .map_err(|e| writing(&e, target))?;
    }
    let pending = Pending::new(target)?;
    let mut writer = header
        .start(pending.create_file()?)
        .map_err(|e| writing(&e, target))?;
    for entry in &entries {
        write_entry(shape, entry, seed, &mut writer, target, advance)?;
    }
    sync(writer.finish().map_err(|e| writing(&e, target))?, target)?;
    pending.finish()
}

/// Rows are handed over in pieces of about this size: enough for the call to cost nothing.
const PIECE_BYTES: usize = 256 << 10;

fn write_entry<W: Write>(
    shape: &Shape,
    entry: &Entry,
    seed: u64,
    writer: &mut TensorWriter<W>,
    target: &Path,
    advance: &mut dyn FnMut(u64) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut bytes = Vec::with_capacity(PIECE_BYTES * 2);
    let mut hand_over = |bytes: &mut Vec<u8>| {
        writer.write(bytes).map_err(|e| writing(&e, target))?;
        let n = bytes.len() as u64;
        bytes.clear();
        advance(n)
    };
    match entry.content {
        Content::Ones => {
            bytes.extend(std::iter::repeat_n(1f32.to_le_bytes(), entry.cols).flatten());
        }
        Content::Dense { tensor } => {
            let mut values = vec![0.0; entry.cols];
            for row in 0..entry.rows {
                encode::dense_row(entry.ty, (seed, tensor), row, &mut values, &mut bytes)?;
                if bytes.len() >= PIECE_BYTES {
                    hand_over(&mut bytes)?;
                }
            }
        }
        Content::Ternary { layer, projection } => {
            let mut encoder =
                TernaryEncoder::new(entry.ty, seed, tensor_index(layer, projection), entry.cols);
            for row in 0..entry.rows {
                encoder.push_row(source_row(shape, projection, row), &mut bytes)?;
                if bytes.len() >= PIECE_BYTES {
                    hand_over(&mut bytes)?;
                }
            }
            encoder.finish(&mut bytes)?;
        }
    }
    hand_over(&mut bytes)
}

/// The row of the checkpoint that is row `row` of the file: `llama` files have the rows of Q and K permuted, within
/// each head, so that the two halves that rotate together lie side by side.
fn source_row(shape: &Shape, projection: Projection, row: usize) -> usize {
    if shape.arch != Arch::Llama || !matches!(projection, Projection::Query | Projection::Key) {
        return row;
    }
    let (head, k) = (row / shape.head_dim, row % shape.head_dim);
    head * shape.head_dim + (k % 2) * (shape.head_dim / 2) + k / 2
}

fn entries(shape: &Shape, types: Types) -> Vec<Entry> {
    let dense = |role: TensorRole, tensor| Entry {
        name: role.gguf_name(),
        ty: types.dense,
        rows: shape.vocab_size,
        cols: shape.hidden_size,
        content: Content::Dense { tensor },
    };
    let norm = |role: TensorRole, cols| Entry {
        name: role.gguf_name(),
        ty: TensorType::F32,
        rows: 1,
        cols,
        content: Content::Ones,
    };
    let mut entries = vec![dense(TensorRole::Embedding, EMBEDDING)];
    for layer in 0..shape.n_layers {
        for (place, len) in shape.layer_norms() {
            entries.push(norm(TensorRole::Norm(layer, place), len));
        }
        for projection in Projection::ALL {
            let (rows, cols) = shape.projection(projection);
            entries.push(Entry {
                name: TensorRole::Projection(layer, projection).gguf_name(),
                ty: types.ternary,
                rows,
                cols,
                content: Content::Ternary { layer, projection },
            });
        }
    }
    entries.push(norm(TensorRole::FinalNorm, shape.hidden_size));
    if !shape.tied {
        entries.push(dense(TensorRole::Head, HEAD));
    }
    entries
}

fn metadata(shape: &Shape, types: Types) -> Result<Vec<(String, Value)>, CliError> {
    let vocabulary = Vocabulary::generate(shape.vocab_size)?;
    let arch = shape.arch.name();
    let own = |key: &str, value| (format!("{arch}.{key}"), value);
    let number = |n: usize| Value::U32(n as u32);
    let token_types: Vec<i32> = (0..vocabulary.tokens.len())
        .map(|id| {
            if id < vocabulary.first_special {
                TOKEN_NORMAL
            } else {
                TOKEN_CONTROL
            }
        })
        .collect();
    let merges = vocabulary
        .merges
        .iter()
        .map(|(left, right)| format!("{left} {right}"));
    Ok(vec![
        ("general.architecture".into(), Value::string(arch)),
        ("general.name".into(), Value::string(&shape.name)),
        (
            "general.description".into(),
            Value::string("random weights and a generated vocabulary, for benchmarks"),
        ),
        (FILE_TYPE.into(), Value::U32(file_type(types.ternary))),
        ("general.quantization_version".into(), Value::U32(2)),
        own("context_length", number(shape.context_length)),
        own("embedding_length", number(shape.hidden_size)),
        own("block_count", number(shape.n_layers)),
        own("feed_forward_length", number(shape.intermediate_size)),
        own("vocab_size", number(shape.vocab_size)),
        own("attention.head_count", number(shape.n_heads)),
        own("attention.head_count_kv", number(shape.n_kv_heads)),
        own("attention.key_length", number(shape.head_dim)),
        own("attention.value_length", number(shape.head_dim)),
        own(
            "attention.layer_norm_rms_epsilon",
            Value::F32(shape.rms_norm_eps),
        ),
        own("rope.dimension_count", number(shape.head_dim)),
        own("rope.freq_base", Value::F32(shape.rope_base)),
        ("tokenizer.ggml.model".into(), Value::string("gpt2")),
        ("tokenizer.ggml.pre".into(), Value::string("gpt-2")),
        (
            "tokenizer.ggml.tokens".into(),
            Value::Array(Array::of_strings(&vocabulary.tokens)),
        ),
        (
            "tokenizer.ggml.token_type".into(),
            Value::Array(Array::of_i32(&token_types)),
        ),
        (
            "tokenizer.ggml.merges".into(),
            Value::Array(Array::of_strings(merges)),
        ),
        (
            "tokenizer.ggml.bos_token_id".into(),
            Value::U32(vocabulary.bos()),
        ),
        (
            "tokenizer.ggml.eos_token_id".into(),
            Value::U32(vocabulary.eos()),
        ),
        (
            "tokenizer.ggml.eot_token_id".into(),
            Value::U32(vocabulary.eot()),
        ),
        ("tokenizer.ggml.add_bos_token".into(), Value::Bool(true)),
        (
            "tokenizer.chat_template".into(),
            Value::string(CHAT_TEMPLATE),
        ),
    ])
}

/// `tokenizer.ggml.token_type` of ordinary tokens.
const TOKEN_NORMAL: i32 = 1;
/// `tokenizer.ggml.token_type` of special tokens.
const TOKEN_CONTROL: i32 = 3;

fn writing(error: &WriteError, target: &Path) -> CliError {
    match error {
        WriteError::Io(e) => CliError::file("write", target, e),
        other => CliError::runtime(
            format!("cannot write {}: {other}", target.display()),
            "choose another shape or type",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::shape::ShapeName;

    #[test]
    fn llama_rows_are_permuted_within_each_head() {
        let shape = Shape {
            n_heads: 2,
            head_dim: 4,
            ..ShapeName::FalconE1b.shape()
        };
        let rows: Vec<usize> = (0..8)
            .map(|row| source_row(&shape, Projection::Query, row))
            .collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(source_row(&shape, Projection::Value, 1), 1);
    }

    #[test]
    fn the_2b_shape_has_the_published_tensors() {
        let shape = ShapeName::B2b4t.shape();
        let types = Types {
            ternary: TensorType::I2S,
            dense: TensorType::F16,
        };
        assert_eq!(entries(&shape, types).len(), 332);
        // The published file: 1,187,801,280 bytes with its metadata and vocabulary of some 8 MB.
        let bytes = data_bytes(&shape, types);
        assert!((1_178_000_000..1_180_000_000).contains(&bytes), "{bytes}");
    }
}
