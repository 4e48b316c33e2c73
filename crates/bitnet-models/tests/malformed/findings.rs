//! A check reports everything that is wrong, with place and remedy, and counts what repeats.

use bitnet_models::{CheckpointOptions, Finding, Severity, check};

use crate::ALONE;
use crate::bytes::*;

/// The findings for the valid model with one change.
fn findings(change: impl Fn(&mut File)) -> Vec<Finding> {
    let mut file = File::model();
    file.set("tokenizer.ggml.pre", STRING, string("llama-bpe"));
    file.set("tokenizer.chat_template", STRING, string("{{ messages }}"));
    change(&mut file);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    check(&path, &CheckpointOptions::default())
}

fn one(change: impl Fn(&mut File)) -> (Severity, &'static str, String) {
    let findings = findings(change);
    let [finding] = &findings[..] else {
        panic!("expected one finding: {findings:?}")
    };
    (finding.severity, finding.code, finding.place.clone())
}

#[test]
fn a_sound_model_has_no_findings() {
    let _alone = ALONE.lock();
    assert_eq!(findings(|_| ()), []);
}

#[test]
fn every_kind_of_finding_has_its_severity_code_and_place() {
    let _alone = ALONE.lock();
    let query = "blk.0.attn_q.weight";
    let place = format!("tensor {query}");
    let scale =
        |scale: f32| move |f: &mut File| f.tensor(query).data = i2s(128 * 128, TRITS, scale);
    assert_eq!(
        one(scale(40.0)),
        (Severity::Warning, "scale-inverse", place.clone())
    );
    assert_eq!(
        one(scale(-0.5)),
        (Severity::Warning, "scale-negative", place.clone())
    );
    assert_eq!(
        one(scale(f32::NAN)),
        (Severity::Error, "scale", place.clone())
    );
    let zeros = |f: &mut File| f.tensor(query).data = i2s(128 * 128, 0b01_01_01_01, 0.5);
    assert_eq!(one(zeros), (Severity::Warning, "all-zero", place));
    let unused = |f: &mut File| _ = f.add("mtp.0.weight", T_F32, &[4], f32s(&[0.0; 4]));
    assert_eq!(
        one(unused),
        (
            Severity::Warning,
            "unused-tensors",
            "tensor mtp.0.weight".into()
        )
    );
    let field = |name: &str| format!("field tokenizer.{name}");
    for (change, severity, code, place) in [
        (
            (|f: &mut File| _ = f.remove("tokenizer.ggml.pre")) as fn(&mut File),
            Severity::Warning,
            "tokenizer-pre-missing",
            field("ggml.pre"),
        ),
        (
            |f| {
                _ = f.set(
                    "tokenizer.chat_template",
                    STRING,
                    string("{{ 'BITNETAssistant: ' }}"),
                )
            },
            Severity::Warning,
            "chat-template-placeholder",
            field("chat_template"),
        ),
        (
            |f| _ = f.remove("tokenizer.chat_template"),
            Severity::Note,
            "chat-template-missing",
            field("chat_template"),
        ),
        (
            |f| _ = f.remove("tokenizer.ggml.tokens"),
            Severity::Warning,
            "tokenizer-missing",
            field("ggml.tokens"),
        ),
        (
            |f| _ = f.remove("tokenizer.ggml.eos_token_id"),
            Severity::Warning,
            "eos-missing",
            field("ggml.eos_token_id"),
        ),
        (
            |f| _ = f.set("tokenizer.ggml.eos_token_id", U32, vec![8, 0, 0, 0]),
            Severity::Error,
            "eos-out-of-range",
            field("ggml.eos_token_id"),
        ),
        (
            |f| _ = f.set("tokenizer.ggml.scores", ARRAY, array(F32, 1, &f32s(&[0.0]))),
            Severity::Error,
            "vocabulary-length",
            field("ggml.scores"),
        ),
    ] {
        assert_eq!(one(change), (severity, code, place));
    }
}

#[test]
fn codes_that_are_no_trits_are_counted_by_row() {
    let _alone = ALONE.lock();
    let found = findings(|f| f.tensor("blk.0.ffn_up.weight").data[..64].fill(0xff));
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].severity, found[0].code),
        (Severity::Error, "invalid-code")
    );
    // 64 bytes of codes are 256 weights: two rows of 128.
    assert!(
        found[0]
            .message
            .ends_with("(2 of 256 rows hold such codes)"),
        "{}",
        found[0].message
    );
    assert!(found[0].remedy.contains("--dialect"));
}

#[test]
fn all_faults_are_reported_and_repeated_ones_counted() {
    let _alone = ALONE.lock();
    let found = findings(|f| {
        f.tensors
            .retain(|tensor| !tensor.name.starts_with(b"blk.0.attn_"));
        f.tensor("output_norm.weight").data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        f.add("blk.0.ffn_up.bias", T_F32, &[256], f32s(&[0.0; 256]));
    });
    let codes: Vec<&str> = found.iter().map(|finding| finding.code).collect();
    assert_eq!(
        codes,
        [
            "missing-tensor",
            "missing-tensor",
            "missing-tensor",
            "vector-value",
            "foreign-tensor",
            "missing-tensor"
        ]
    );
    assert!(
        found[5].message.starts_with("3 more tensors"),
        "{}",
        found[5].message
    );
}

#[test]
fn what_cannot_be_opened_is_one_finding() {
    let _alone = ALONE.lock();
    let found = check(
        std::path::Path::new("/no/such/model.gguf"),
        &CheckpointOptions::default(),
    );
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].severity, found[0].code),
        (Severity::Error, "unreadable")
    );
}
