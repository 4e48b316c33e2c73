//! What `convert` writes is the same model: the same bytes each time, and the logits of the directory bit for bit.

mod back;
mod minicpm;
mod words;

use std::path::{Path, PathBuf};

use crate::session::{Session, two_threads};
use bitnet_kernels::KvType;
use bitnet_models::{
    Checkpoint, CheckpointOptions, Export, ExportError, Severity, Targets, TensorRole,
    TokenizerSource,
};
use bitnet_quantization::{I2sDialect, ScaleLayout, TensorType};
use bitnet_tokenizers::{Tokenizer, TokenizerOptions};
use tempfile::TempDir;

/// Every layout of a directory that is read: packed with either direction of scales, rows that fill no block, both
/// activations, master weights, heads in halves that GGUF wants in pairs, stretched rotations, a head of its own.
const DIRECTORIES: [&str; 7] = [
    "reference/tiny-bitnet",
    "reference/tiny-bitnet-bf16",
    "reference/tiny-bitnet-odd",
    "reference/tiny-bitnet-silu",
    "reference/tiny-falcon3-158",
    "llama-rope-tiny",
    "stories-5m",
];

const TYPES: [TensorType; 6] = bitnet_models::export::TERNARY_TYPES;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// A copy of a directory of the data, to be changed.
fn copy_of(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(data(name)).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    dir
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, &CheckpointOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn targets(ternary: TensorType) -> Targets {
    Targets {
        ternary: ternary.into(),
        embedding: None,
        head: None,
        i2s_dialect: I2sDialect::default(),
        tiles: None,
        ternarize: false,
    }
}

fn convert(checkpoint: &Checkpoint, targets: &Targets) -> Result<Vec<u8>, ExportError> {
    let export = Export::of_directory(checkpoint, targets, &mut |_| true)?;
    let size = export.file_bytes();
    let (bytes, _) = export.write(Vec::new(), &mut |_| true)?;
    assert_eq!(bytes.len() as u64, size);
    Ok(bytes)
}

/// Converts into a file of `dir` and opens it.
fn converted(dir: &Path, checkpoint: &Checkpoint, targets: &Targets) -> Checkpoint {
    let path = dir.join("converted.gguf");
    std::fs::write(&path, convert(checkpoint, targets).unwrap()).unwrap();
    open(&path)
}

fn logits(checkpoint: &Checkpoint) -> Vec<u32> {
    let mut session = Session::with(checkpoint, two_threads(), KvType::F32);
    let vocab_size = checkpoint.config().vocab_size as u32;
    let ids: Vec<u32> = (0..40).map(|i| (i * i * 31 + 7) % vocab_size).collect();
    let logits = session.all_logits(&ids, 40);
    logits.into_iter().map(f32::to_bits).collect()
}

fn tokenizer(checkpoint: &Checkpoint) -> Tokenizer {
    let options = TokenizerOptions { strict: true };
    match checkpoint.tokenizer_source().unwrap() {
        TokenizerSource::Gguf(vocabulary) => Tokenizer::from_gguf(*vocabulary, &options).unwrap(),
        TokenizerSource::Hf {
            tokenizer_json,
            tokenizer_config,
            special_tokens_map,
        } => Tokenizer::from_hf(
            &tokenizer_json,
            tokenizer_config.as_deref(),
            special_tokens_map.as_deref(),
            &options,
        )
        .unwrap(),
        TokenizerSource::SentencePiece { .. } | TokenizerSource::Missing => {
            panic!("no tokenizer.json")
        }
    }
}

#[test]
fn a_converted_directory_gives_the_same_logits_bit_for_bit_in_every_type_that_fits() {
    let dir = tempfile::tempdir().unwrap();
    for name in DIRECTORIES {
        let original = open(&data(name));
        let expected = logits(&original);
        let config = original.config();
        let mut written = 0;
        for ty in TYPES {
            let widths = [
                config.hidden_size,
                config.query_size(),
                config.intermediate_size,
            ];
            let fits = widths
                .iter()
                .all(|width| width.is_multiple_of(ty.block_len()));
            if !fits {
                let error = convert(&original, &targets(ty)).unwrap_err();
                assert!(
                    matches!(error, ExportError::Refused(_)),
                    "{name} {ty}: {error}"
                );
                continue;
            }
            let converted = converted(dir.path(), &original, &targets(ty));
            let mut findings = converted.findings().iter();
            assert!(
                findings.all(|f| f.severity == Severity::Note),
                "{name} {ty}"
            );
            assert!(logits(&converted) == expected, "{name} {ty}");
            written += 1;
        }
        assert!(written >= 2, "{name}");
    }
}

/// Codes, scales and biases of MLX; its embedding has codes too.
#[test]
fn an_mlx_directory_becomes_the_block_type_of_its_groups() {
    let dir = tempfile::tempdir().unwrap();
    let mlx = open(&data("qwen3-tiny/mlx"));
    let wanted = targets(TensorType::Q2_0);
    let converted = converted(dir.path(), &mlx, &wanted);
    assert!(logits(&converted) == logits(&mlx));
    let packed = open(&data("qwen3-tiny/qwen3-tiny.qwen3.Q2_0.gguf"));
    for role in TensorRole::required(mlx.config()) {
        if matches!(role, TensorRole::Projection(..)) {
            assert!(
                weights(&converted, role) == weights(&packed, role),
                "{role}"
            );
        }
    }
    let embedding = converted.matrix(TensorRole::Embedding).unwrap();
    assert_eq!(embedding.ty, TensorType::Q2_0);
    assert!(embedding.bytes == packed.matrix(TensorRole::Embedding).unwrap().bytes);
    assert!(convert(&mlx, &wanted).unwrap() == convert(&mlx, &wanted).unwrap());

    let other = Targets {
        embedding: Some(TensorType::F16),
        ..wanted
    };
    for (targets, why) in [
        (other, "`bitnet quantize`"),
        (targets(TensorType::I2S), "several scales"),
    ] {
        match convert(&mlx, &targets) {
            Err(ExportError::Refused(refused)) => {
                assert!(refused[0].why.contains(why), "{}", refused[0]);
            }
            other => panic!("{:?}", other.map(|bytes| bytes.len())),
        }
    }
}

/// Dense weights with a scale per block: 256 in attention, 64 elsewhere.
#[test]
fn dense_block_scaled_weights_become_the_block_types_that_hold_them() {
    let dir = tempfile::tempdir().unwrap();
    let dense = open(&data("qwen3-tiny/unpacked"));
    let expected = logits(&dense);
    let converted = converted(dir.path(), &dense, &targets(TensorType::Q2_0));
    assert!(logits(&converted) == expected);
    // What was unpacked: every trit and scale is where it was.
    let packed = open(&data("qwen3-tiny/qwen3-tiny.qwen3.Q2_0.gguf"));
    for role in TensorRole::required(dense.config()) {
        if matches!(role, TensorRole::Projection(..)) {
            assert!(
                weights(&converted, role) == weights(&packed, role),
                "{role}"
            );
            assert!(weights(&dense, role) == weights(&packed, role), "{role}");
        }
    }
    // The same numbers, though their types have blocks of 64 and of 256.
    assert!(logits(&packed) == expected);
    assert!(logits(&open(&data("qwen3-tiny/qwen3-tiny.qwen3.TQ2_0.gguf"))) == expected);
    assert!(logits(&open(&data("qwen3-tiny/mlx"))) == expected);

    for (ty, why) in [
        (TensorType::I2S, "several scales"),
        (TensorType::Tq1_0, "same block"),
    ] {
        match convert(&dense, &targets(ty)) {
            Err(ExportError::Refused(refused)) => {
                assert!(refused[0].why.contains(why), "{}", refused[0]);
            }
            other => panic!("{:?}", other.map(|bytes| bytes.len())),
        }
    }
}

/// Trits of a projection and the layout and bits of its scales, row by row.
fn weights(checkpoint: &Checkpoint, role: TensorRole) -> Vec<(ScaleLayout, Vec<i8>, Vec<u32>)> {
    let rows = checkpoint.ternary(role).unwrap();
    let row = |row| {
        let mut trits = vec![0; rows.cols()];
        let mut scales = vec![0.0; rows.scale().scales_per_row(rows.cols())];
        rows.read_row(row, &mut trits, &mut scales).unwrap();
        let bits = scales.into_iter().map(f32::to_bits).collect();
        (rows.scale(), trits, bits)
    };
    (0..rows.rows()).map(row).collect()
}

#[test]
fn the_same_directory_gives_the_same_bytes_twice() {
    for name in DIRECTORIES {
        let mut written = 0;
        for ty in TYPES {
            let Ok(first) = convert(&open(&data(name)), &targets(ty)) else {
                continue;
            };
            let second = convert(&open(&data(name)), &targets(ty)).unwrap();
            assert!(first == second, "{name} {ty}");
            written += 1;
        }
        assert!(written >= 2, "{name}");
    }
}

/// Falcon3's checkpoints store the inverse of the scale, whose inverse is no f16 number.
#[test]
fn a_scale_that_no_block_holds_goes_beside_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let original = open(&data("reference/tiny-falcon3-158"));
    let converted = converted(dir.path(), &original, &targets(TensorType::Q2_0));
    let beside = converted.describe().tensors.into_iter();
    let beside = beside
        .filter(|tensor| tensor.name.ends_with(".scale"))
        .count();
    assert!(beside > 0);
    for role in TensorRole::required(original.config()) {
        if !matches!(role, TensorRole::Projection(..)) {
            continue;
        }
        let scale = |checkpoint: &Checkpoint| match checkpoint.ternary(role).unwrap().scale() {
            ScaleLayout::PerTensor(scale) => scale.to_bits(),
            other => panic!("{other:?}"),
        };
        assert_eq!(scale(&original), scale(&converted), "{role}");
    }
}

#[test]
fn masters_come_with_a_report_and_ordinary_weights_need_a_word() {
    let masters = open(&data("reference/tiny-bitnet-bf16"));
    let export = Export::of_directory(&masters, &targets(TensorType::I2S), &mut |_| true).unwrap();
    let (_, reports) = export.write(Vec::new(), &mut |_| true).unwrap();
    let error = reports
        .iter()
        .find(|r| r.name == "blk.0.attn_q.weight")
        .unwrap()
        .error;
    let relative = error.unwrap().relative;
    assert!((0.1..0.9).contains(&relative), "{relative}");

    // The same weights in a model whose configuration does not call them masters.
    let dir = copy_of("reference/tiny-bitnet-bf16");
    let config = dir.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"online\"", "\"offline\"")).unwrap();
    let ordinary = open(dir.path());
    match convert(&ordinary, &targets(TensorType::I2S)) {
        Err(ExportError::Refused(refused)) => {
            assert_eq!(refused.len(), 4 * 7);
            assert!(refused[0].why.contains("are not ternary"), "{}", refused[0]);
        }
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
    let asked = Targets {
        ternarize: true,
        ..targets(TensorType::I2S)
    };
    let bytes = convert(&ordinary, &asked).unwrap();
    assert!(!bytes.is_empty());
}
