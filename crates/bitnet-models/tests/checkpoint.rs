//! What a checkpoint does with the choices it is given: layouts of I2_S, ways of reading, multipliers, templates.

use std::path::Path;

use bitnet_models::gguf::{Array, GgufWriter, Value};
use bitnet_models::mmap::{Access, FileBytes, release};
use bitnet_models::{
    Checkpoint, CheckpointOptions, ErrorClass, Projection, TensorRole, TokenizerSource,
};
use bitnet_quantization::{I2sDialect, ScaleLayout, TensorType, encode_i2s, quantize};

const HIDDEN: usize = 128;
const QUERY: TensorRole = TensorRole::Projection(0, Projection::Query);

/// A Qwen3-shaped model of one layer; query rows are all +1, 0, -1, 0, ..., in this type and layout.
fn model(ty: TensorType, dialect: I2sDialect, multiplier: Option<f32>) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    let mut contents = Vec::new();
    let mut put =
        |writer: &mut GgufWriter, name: &str, ty: TensorType, dims: &[usize], bytes: Vec<u8>| {
            let dims: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
            assert_eq!(writer.tensor(name, ty, &dims).unwrap(), bytes.len() as u64);
            contents.push(bytes);
        };
    writer
        .metadata("general.architecture", Value::string("qwen3"))
        .unwrap();
    for (key, value) in [
        ("context_length", 32),
        ("embedding_length", HIDDEN as u32),
        ("block_count", 1),
        ("feed_forward_length", HIDDEN as u32),
        ("attention.head_count", 2),
    ] {
        writer
            .metadata(&format!("qwen3.{key}"), Value::U32(value))
            .unwrap();
    }
    // Per-layer arrays and other integer types are taken where one number is meant.
    writer
        .metadata(
            "qwen3.attention.head_count_kv",
            Value::Array(Array::of_i32(&[2])),
        )
        .unwrap();
    writer
        .metadata("qwen3.attention.layer_norm_rms_epsilon", Value::F64(1e-6))
        .unwrap();
    let ones = |n: usize| [0, 0, 0x80, 0x3f].repeat(n);
    put(
        &mut writer,
        "token_embd.weight",
        TensorType::F16,
        &[HIDDEN, 4],
        vec![0; HIDDEN * 8],
    );
    put(
        &mut writer,
        "output_norm.weight",
        TensorType::F32,
        &[HIDDEN],
        ones(HIDDEN),
    );
    for (name, len) in [
        ("attn_norm", HIDDEN),
        ("ffn_norm", HIDDEN),
        ("attn_q_norm", 64),
        ("attn_k_norm", 64),
    ] {
        put(
            &mut writer,
            &format!("blk.0.{name}.weight"),
            TensorType::F32,
            &[len],
            ones(len),
        );
    }
    let trits: Vec<i8> = (0..HIDDEN * HIDDEN).map(|i| [1, 0, -1, 0][i % 4]).collect();
    for name in [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ] {
        let mut bytes = Vec::new();
        if ty == TensorType::I2S {
            encode_i2s(dialect, HIDDEN, HIDDEN, &trits, 0.5, &mut bytes).unwrap();
        } else {
            let values: Vec<f32> = trits.iter().map(|&trit| f32::from(trit) * 0.5).collect();
            quantize(ty, &values, &mut bytes).unwrap();
        }
        put(
            &mut writer,
            &format!("blk.0.{name}.weight"),
            ty,
            &[HIDDEN, HIDDEN],
            bytes,
        );
    }
    if let Some(factor) = multiplier {
        put(
            &mut writer,
            "blk.0.attn_q.scale",
            TensorType::F32,
            &[1],
            factor.to_le_bytes().into(),
        );
    }
    let mut data = writer.start(Vec::new()).unwrap();
    contents
        .iter()
        .try_for_each(|bytes| data.write(bytes))
        .unwrap();
    data.finish().unwrap()
}

fn open(bytes: Vec<u8>, options: CheckpointOptions) -> Checkpoint {
    Checkpoint::from_gguf_bytes("test", bytes.into(), &options)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Row 5 of the query projection and the scale.
fn query(checkpoint: &Checkpoint) -> (Vec<i8>, f32) {
    let rows = checkpoint.ternary(QUERY).unwrap();
    let ScaleLayout::PerTensor(scale) = rows.scale() else {
        panic!("expected one scale")
    };
    let mut trits = vec![0; HIDDEN];
    rows.read_row(5, &mut trits, &mut []).unwrap();
    (trits, scale)
}

#[test]
fn every_ternary_type_gives_the_same_trits() {
    let expected = ([1, 0, -1, 0].repeat(HIDDEN / 4), 0.5);
    for ty in [
        TensorType::I2S,
        TensorType::Q2_0,
        TensorType::F16,
        TensorType::F32,
        TensorType::BF16,
    ] {
        let checkpoint = open(
            model(ty, I2sDialect::Block128, None),
            CheckpointOptions::default(),
        );
        assert_eq!(query(&checkpoint), expected, "{ty}");
    }
}

#[test]
fn the_dialect_option_chooses_the_layout() {
    for &dialect in I2sDialect::ALL {
        let options = CheckpointOptions {
            dialects: dialect.into(),
            ..CheckpointOptions::default()
        };
        let checkpoint = open(model(TensorType::I2S, dialect, None), options);
        assert_eq!(
            query(&checkpoint).0,
            [1, 0, -1, 0].repeat(HIDDEN / 4),
            "{dialect}"
        );
    }
}

#[test]
fn an_output_multiplier_is_part_of_the_scale() {
    let checkpoint = open(
        model(TensorType::I2S, I2sDialect::Block128, Some(3.0)),
        CheckpointOptions::default(),
    );
    assert_eq!(query(&checkpoint).1, 1.5);
    assert_eq!(
        checkpoint
            .findings()
            .iter()
            .filter(|finding| finding.code == "unused-tensors")
            .count(),
        0
    );
}

#[test]
fn reading_into_memory_gives_what_mapping_gives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, model(TensorType::I2S, I2sDialect::Block128, None)).unwrap();
    let mapped = Checkpoint::open(&path, &CheckpointOptions::default()).unwrap();
    let options = CheckpointOptions {
        access: Access::ReadIntoMemory,
        ..CheckpointOptions::default()
    };
    let read = Checkpoint::open(&path, &options).unwrap();
    assert_eq!(query(&mapped), query(&read));
    std::fs::write(&path, b"").unwrap();
    assert_eq!(query(&read).1, 0.5); // nothing of the file is needed any more
}

#[test]
fn files_without_bytes_and_directories_are_handled() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    assert_eq!(FileBytes::open(&empty).unwrap().len(), 0);
    let error = FileBytes::open(dir.path()).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unreadable);
    let error =
        Checkpoint::open(Path::new("no/such.gguf"), &CheckpointOptions::default()).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unreadable);
    assert!(
        error
            .to_string()
            .starts_with("no/such.gguf: cannot open the file"),
        "{error}"
    );
}

#[test]
fn absent_sections_are_absent() {
    let checkpoint = open(
        model(TensorType::I2S, I2sDialect::Block128, None),
        CheckpointOptions::default(),
    );
    assert!(matches!(
        checkpoint.tokenizer_source().unwrap(),
        TokenizerSource::Missing
    ));
    assert_eq!(checkpoint.chat_template().unwrap(), None);
    let config = checkpoint.config();
    assert_eq!(
        (config.vocab_size, config.n_kv_heads, config.tied_head),
        (4, 2, true)
    );
    assert!(!checkpoint.has(TensorRole::Head));
}

#[test]
fn chat_templates_of_a_directory_are_found_in_all_three_places() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reference/tiny-bitnet");
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(reference.join(name), dir.path().join(name)).unwrap();
    }
    let template = || {
        let checkpoint = Checkpoint::open(dir.path(), &CheckpointOptions::default()).unwrap();
        checkpoint.chat_template().unwrap()
    };
    assert_eq!(template(), None);
    let config = dir.path().join("tokenizer_config.json");
    std::fs::write(&config, r#"{"a": [1, {"b": 2}], "chat_template": "one"}"#).unwrap();
    assert_eq!(template().as_deref(), Some("one"));
    let list = r#"{"chat_template": [{"name": "rag", "template": "no"}, {"name": "default", "template": "two"}]}"#;
    std::fs::write(&config, list).unwrap();
    assert_eq!(template().as_deref(), Some("two"));
    std::fs::write(dir.path().join("chat_template.jinja"), "three").unwrap();
    assert_eq!(template().as_deref(), Some("three"));
}

#[test]
fn released_pages_come_back_with_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(&path, &content).unwrap();
    let mapped = FileBytes::open(&path).unwrap();
    let read = FileBytes::read_into_memory(&path).unwrap();
    for bytes in [&mapped, &read] {
        for part in [
            &bytes[..],
            &bytes[5000..90_001],
            &bytes[7..7],
            &bytes[99_999..],
        ] {
            release(part);
        }
        assert_eq!(bytes[..], content);
    }
    // Memory that was never a file's stays as it is.
    release(&content);
    assert_eq!(content[250], 250);
}
