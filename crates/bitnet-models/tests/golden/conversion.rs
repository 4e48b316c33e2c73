//! What `convert` writes is the same model: the same bytes each time, and the logits of the directory bit for bit.

use std::path::{Path, PathBuf};

use crate::session::{Session, two_threads};
use bitnet_kernels::KvType;
use bitnet_models::export::{DirectoryExport, ModelCard};
use bitnet_models::tensor_files::{TensorContainer, TensorFiles};
use bitnet_models::{
    Checkpoint, CheckpointOptions, Export, ExportError, Finding, Severity, Targets, TensorRole,
    TokenizerSource,
};
use bitnet_quantization::{I2sDialect, ScaleLayout, TensorType};
use bitnet_tokenizers::{
    EncodeOptions, GgufVocabulary, SentencePieceFiles, Tokenizer, TokenizerOptions,
};

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

/// Factors of the embedding, the parts and the logits, and LongRoPE's divisors, which are tensors of a GGUF file.
#[test]
fn a_minicpm_directory_keeps_its_factors_and_its_rotations() {
    let dir = tempfile::tempdir().unwrap();
    let original = open(&data("minicpm-tiny"));
    let expected = logits(&original);
    let (from, mut written) = (original.config(), 0);
    for ty in TYPES {
        let Ok(bytes) = convert(&original, &targets(ty)) else {
            continue;
        };
        let path = dir.path().join("converted.gguf");
        std::fs::write(&path, bytes).unwrap();
        let converted = open(&path);
        assert!(
            converted.findings().is_empty(),
            "{:?}",
            converted.findings()
        );
        let to = converted.config();
        assert_eq!(
            [to.embedding_scale, to.residual_scale, to.head_scale],
            [from.embedding_scale, from.residual_scale, from.head_scale]
        );
        assert!(from.rope.freq_factors.is_some() && from.rope.attention_factor > 1.0);
        assert_eq!(to.rope.freq_factors, from.rope.freq_factors);
        assert_eq!(to.rope.attention_factor, from.rope.attention_factor);
        assert_eq!(to.context_length, from.context_length);
        assert!(logits(&converted) == expected, "{ty}");
        // There is no way back: config.json is openbmb's own.
        let back = DirectoryExport::of_gguf(&converted, &mut |_| true).err();
        assert!(matches!(back, Some(ExportError::Request { .. })));
        written += 1;
    }
    assert!(written >= 1);
}

#[test]
fn divisors_of_longer_texts_are_told_as_not_computed_where_there_are_such_texts() {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(data("minicpm-tiny")).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    let path = dir.path().join("config.json");
    let original: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let open_with = |set: &dyn Fn(&mut serde_json::Value)| {
        let mut config = original.clone();
        set(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
        let checkpoint = open(dir.path());
        let all = bitnet_models::check(dir.path(), &CheckpointOptions::default());
        let long = |findings: &[Finding]| {
            let mut found = findings.iter().filter(|f| f.code == "longrope-divisors");
            found.next().cloned()
        };
        assert_eq!(long(checkpoint.findings()), long(&all));
        (checkpoint.config().context_length, long(&all))
    };
    let (context, finding) = open_with(&|_| {});
    let finding = finding.unwrap();
    assert_eq!((context, finding.severity), (256, Severity::Note));
    let message = &finding.message;
    assert!(
        message.contains("512 positions") && message.contains("context is 256"),
        "{message}"
    );
    // As long as the first set reaches, or with one set for all lengths, nothing is left out.
    let (context, finding) = open_with(&|config| config["max_position_embeddings"] = 256.into());
    assert_eq!((context, finding), (256, None));
    let (context, finding) = open_with(&|config| {
        let scaling = &mut config["rope_scaling"];
        scaling["long_factor"] = scaling["short_factor"].clone();
    });
    assert_eq!((context, finding), (512, None));
}

#[test]
fn sparse_attention_is_told_as_ignored_with_the_length_from_which_it_matters() {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(data("minicpm-tiny")).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    let path = dir.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let with = |sparse: &str| {
        let sparse = format!("{{\"sparse_config\": {sparse},");
        std::fs::write(&path, text.replacen('{', &sparse, 1)).unwrap();
    };
    let found = || {
        let opened = Checkpoint::open(dir.path(), &CheckpointOptions::default());
        let findings = opened.unwrap().findings().to_vec();
        let all = bitnet_models::check(dir.path(), &CheckpointOptions::default());
        let sparse = |f: &&Finding| f.code == "sparse-attention";
        let (one, other) = (findings.iter().find(sparse), all.iter().find(sparse));
        assert_eq!(one, other);
        one.map(|finding| (finding.severity, finding.message.clone()))
    };
    assert_eq!(found(), None);
    with("null");
    assert_eq!(found(), None);
    with(r#"{"kernel_size": 32, "dense_len": 100}"#);
    let (severity, message) = found().unwrap();
    assert_eq!(severity, Severity::Warning);
    assert!(message.starts_with("from 100 positions on"), "{message}");
    with(r#"{"dense_len": 8192}"#);
    let (severity, message) = found().unwrap();
    assert_eq!(severity, Severity::Note);
    assert!(message.contains("context of 256"), "{message}");
    with("7");
    assert!(Checkpoint::open(dir.path(), &CheckpointOptions::default()).is_err());
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
fn tokenizer_template_and_sampling_defaults_go_over() {
    let dir = tempfile::tempdir().unwrap();
    for name in DIRECTORIES {
        let original = open(&data(name));
        let converted = converted(dir.path(), &original, &targets(TensorType::I2S));
        let (a, b) = (tokenizer(&original), tokenizer(&converted));
        assert_eq!((a.bos(), a.eos()), (b.bos(), b.eos()), "{name}");
        let mut ends = a.end_of_generation().to_vec();
        ends.extend(&original.generation_defaults().eos);
        ends.sort_unstable();
        ends.dedup();
        assert_eq!(b.end_of_generation(), ends, "{name}");
        for text in [
            "Hello, world! 123",
            " a\n\n  b",
            "<|eot_id|>",
            "Ünïcödé 你好",
        ] {
            for special in [false, true] {
                let options = EncodeOptions {
                    add_special: special,
                    parse_special: special,
                };
                let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, options).ok();
                assert_eq!(ids(&a), ids(&b), "{name} {text:?}");
            }
        }
        assert_eq!(
            original.chat_template().unwrap(),
            converted.chat_template().unwrap(),
            "{name}"
        );
        let (a, b) = (
            original.generation_defaults(),
            converted.generation_defaults(),
        );
        assert_eq!(a.top_p, b.top_p, "{name}");
        assert_eq!(a.top_k, b.top_k, "{name}");
        if a.do_sample == Some(false) {
            assert_eq!(b.temperature, Some(0.0), "{name}");
        } else {
            assert_eq!(a.temperature, b.temperature, "{name}");
        }
        assert_eq!(original.config().name, converted.config().name);
    }
}

/// A directory from before `tokenizer.json`, with a SentencePiece vocabulary of as many pieces as its embedding has
/// rows.
#[test]
fn a_directory_with_a_tokenizer_model_alone_is_converted() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "generation_config.json"] {
        let from = data("reference/tiny-bitnet-silu").join(name);
        std::fs::copy(from, dir.path().join(name)).unwrap();
    }
    let whole = data("../../../bitnet-tokenizers/tests/data/spm/tokenizer.model");
    let whole = std::fs::read(whole).unwrap();
    let all = SentencePieceFiles {
        model: &whole,
        ..Default::default()
    };
    let all = GgufVocabulary::from_sentencepiece(&all).unwrap();
    // The first pieces of a BPE model are one too; fields as in sentencepiece_model.proto.
    let mut model = Vec::new();
    for id in 0..500 {
        let mut piece = vec![0x0a, all.tokens[id].len() as u8];
        piece.extend(all.tokens[id].as_bytes());
        piece.push(0x15);
        piece.extend(all.scores[id].to_le_bytes());
        piece.extend([0x18, all.token_types[id] as u8]);
        model.extend([0x0a, piece.len() as u8]);
        model.extend(piece);
    }
    model.extend([0x12, 2, 3 << 3, 2]); // trainer: BPE
    model.extend([0x1a, 2, 4 << 3, 0]); // normaliser: spaces stay
    std::fs::write(dir.path().join("tokenizer.model"), &model).unwrap();
    let added = r#"{"<|eot_id|>": 505}"#;
    std::fs::write(dir.path().join("added_tokens.json"), added).unwrap();

    let out = tempfile::tempdir().unwrap();
    let converted = converted(out.path(), &open(dir.path()), &targets(TensorType::Tq2_0));
    let tokenizer = tokenizer(&converted);
    assert_eq!(tokenizer.vocab_size(), 512);
    let options = EncodeOptions::default();
    let ids = tokenizer.encode("the ships<|eot_id|>", options).unwrap();
    let expected = Tokenizer::from_gguf(all, &TokenizerOptions { strict: true }).unwrap();
    let mut expected = expected.encode("the ships", options).unwrap();
    assert!(expected.iter().all(|&id| id < 500), "{expected:?}");
    expected.push(505);
    assert_eq!(ids, expected);

    // More tokens than rows.
    std::fs::remove_file(dir.path().join("added_tokens.json")).unwrap();
    std::fs::write(dir.path().join("tokenizer.model"), whole).unwrap();
    let error = convert(&open(dir.path()), &targets(TensorType::Tq2_0)).unwrap_err();
    assert!(error.to_string().contains("640"), "{error}");
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
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(data("reference/tiny-bitnet-bf16")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
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

#[test]
fn a_model_card_becomes_keys() {
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(data("reference/tiny-bitnet")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let card = "---\nlicense: mit\nlanguage:\n- en\nbase_model: org/base\n---\n# A model\n";
    std::fs::write(dir.path().join("README.md"), card).unwrap();
    let out = tempfile::tempdir().unwrap();
    let converted = converted(out.path(), &open(dir.path()), &targets(TensorType::I2S));
    let metadata = converted.describe().metadata;
    let value = |key: &str| {
        metadata
            .iter()
            .find(|entry| entry.0 == key)
            .map(|entry| &*entry.2)
    };
    assert_eq!(value("general.license"), Some("\"mit\""));
    assert_eq!(value("general.base_model.0.organization"), Some("\"org\""));
    assert_eq!(value("general.languages"), Some("an array of 1 string"));
    assert_eq!(value("bitnet-b1.58.rope.freq_base"), Some("500000"));

    let back = out.path().join("hf");
    std::fs::create_dir(&back).unwrap();
    directory(&back, &converted);
    let card = std::fs::read(back.join("README.md")).unwrap();
    let card = ModelCard::parse(&card);
    assert_eq!(card.license.as_deref(), Some("mit"));
    assert_eq!(
        (card.languages, card.base_models),
        (vec!["en".into()], vec!["org/base".into()])
    );
}

/// Writes a GGUF checkpoint as a directory into `dir`.
fn directory(dir: &Path, checkpoint: &Checkpoint) -> Checkpoint {
    let write = || {
        let export = DirectoryExport::of_gguf(checkpoint, &mut |_| true).unwrap();
        let documents = export.documents().to_vec();
        let size = export.file_bytes();
        let bytes = export.write(Vec::new(), &mut |_| true).unwrap();
        assert_eq!(bytes.len() as u64, size);
        (documents, bytes)
    };
    let (documents, bytes) = write();
    assert!(write() == (documents.clone(), bytes.clone()), "twice");
    for (name, text) in documents {
        std::fs::write(dir.join(name), text).unwrap();
    }
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
    open(dir)
}

#[test]
fn a_packed_directory_comes_back_from_gguf_with_the_same_tensors() {
    for name in DIRECTORIES {
        // Stretched rotations are in the file as numbers, which tell no rule; master weights are gone.
        if name == "llama-rope-tiny" {
            continue;
        }
        let original = open(&data(name));
        let expected = logits(&original);
        for ty in TYPES {
            if convert(&original, &targets(ty)).is_err() {
                // Rows that fill no block.
                assert_ne!(ty, TensorType::I2S, "{name}");
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let file = converted(dir.path(), &original, &targets(ty));
            let hf = dir.path().join("hf");
            std::fs::create_dir(&hf).unwrap();
            let back = directory(&hf, &file);
            let place = format!("{name} {ty}");
            assert!(back.findings().is_empty(), "{place}: {:?}", back.findings());
            assert!(logits(&back) == expected, "{place}");
            same_words(&original, &back, &place);
            if !name.ends_with("bf16") {
                same_tensors(&data(name), &hf);
            }
        }
    }
}

/// Both have the same tokenizer and end where the same tokens are.
fn same_words(original: &Checkpoint, back: &Checkpoint, place: &str) {
    let (a, b) = (tokenizer(original), tokenizer(back));
    let options = EncodeOptions::default();
    let text = "Hello, world! 123 <|eot_id|>";
    assert_eq!(
        a.encode(text, options).unwrap(),
        b.encode(text, options).unwrap()
    );
    let (mut defaults, expected) = (
        back.generation_defaults().clone(),
        original.generation_defaults(),
    );
    if defaults.eos.starts_with(&expected.eos) {
        defaults.eos.clone_from(&expected.eos);
    }
    assert_eq!(defaults.eos, expected.eos, "{place}");
}

/// The files of both directories have the same tensors, byte by byte.
fn same_tensors(a: &Path, b: &Path) {
    let tensors = |path: &Path| {
        let bytes = std::fs::read(path.join("model.safetensors")).unwrap();
        TensorFiles::from_bytes(
            TensorContainer::Safetensors,
            "model.safetensors",
            bytes.into(),
        )
        .unwrap()
    };
    let (a, b) = (tensors(a), tensors(b));
    for tensor in a.tensors() {
        let name = tensor.name();
        let other = b.tensor(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(tensor.stored_type(), other.stored_type(), "{name}");
        assert_eq!(tensor.shape(), other.shape(), "{name}");
        assert!(a.slice(tensor) == b.slice(other), "{name}");
    }
    assert_eq!(a.tensors().len(), b.tensors().len());
}
