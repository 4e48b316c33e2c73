//! MiniCPM's directories: factors and divisors that GGUF has words for, and what is left out, which is told.

use bitnet_models::export::DirectoryExport;
use bitnet_models::{Checkpoint, CheckpointOptions, ExportError, Finding, Severity};

use super::{TYPES, convert, copy_of, data, logits, open, targets};

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
    let dir = copy_of("minicpm-tiny");
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
    let dir = copy_of("minicpm-tiny");
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
