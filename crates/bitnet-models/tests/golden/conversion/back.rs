//! The way back: a file becomes a directory with the same tensors, words and logits.

use std::path::Path;

use bitnet_models::Checkpoint;
use bitnet_models::export::DirectoryExport;
use bitnet_models::tensor_files::{TensorContainer, TensorFiles};
use bitnet_quantization::TensorType;
use bitnet_tokenizers::EncodeOptions;

use super::{DIRECTORIES, TYPES, convert, converted, data, logits, open, targets, tokenizer};

/// Writes a GGUF checkpoint as a directory into `dir`.
pub(super) fn directory(dir: &Path, checkpoint: &Checkpoint) -> Checkpoint {
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
