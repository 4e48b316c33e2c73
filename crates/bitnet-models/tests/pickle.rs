//! PyTorch's own files: the tensors of real ones are those of the same model in safetensors, and everything else that a
//! pickle can say is refused, with its offset.

#[path = "pickle/archive.rs"]
mod archive;
#[path = "pickle/hostile.rs"]
mod hostile;
#[path = "pickle/lying_archives.rs"]
mod lying_archives;
#[path = "pickle/mutations.rs"]
mod mutations;

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_models::mmap::{self, Access};
use bitnet_models::tensor_files::{TensorContainer, TensorFiles};
use bitnet_models::{
    Checkpoint, CheckpointOptions, Export, FileStamp, ModelError, Projection, Targets, TensorRole,
    check, model_files,
};
use bitnet_quantization::{I2sDialect, TensorType};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn read(container: TensorContainer, path: &str) -> TensorFiles {
    let bytes = fs::read(data(path)).unwrap();
    TensorFiles::from_bytes(container, path, bytes.into()).unwrap_or_else(|e| panic!("{e}"))
}

fn refusal(path: &str) -> ModelError {
    let bytes = fs::read(data(path)).unwrap();
    TensorFiles::from_bytes(TensorContainer::Pickle, "FILE", bytes.into()).expect_err("a refusal")
}

fn assert_same_tensors(pickle: &TensorFiles, safetensors: &TensorFiles) {
    let names = |files: &TensorFiles| {
        let names = files
            .tensors()
            .iter()
            .map(|tensor| tensor.name().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(pickle), names(safetensors));
    for (a, b) in pickle.tensors().iter().zip(safetensors.tensors()) {
        assert_eq!(a.shape(), b.shape(), "{}", a.name());
        assert_eq!(a.stored_type(), b.stored_type(), "{}", a.name());
        assert_eq!(pickle.slice(a), safetensors.slice(b), "{}", a.name());
    }
}

#[test]
fn every_type_and_every_kind_of_view_reads_as_in_safetensors_in_every_protocol() {
    let expected = read(TensorContainer::Safetensors, "pickle/types.safetensors");
    assert_eq!(expected.tensors().len(), 19);
    for protocol in 2..=5 {
        let pickle = read(
            TensorContainer::Pickle,
            &format!("pickle/types-{protocol}.bin"),
        );
        assert_same_tensors(&pickle, &expected);
        let offset = |name: &str| pickle.tensor(name).unwrap().offset();
        assert_eq!(offset("embedding.weight"), offset("head.weight"), "tied");
    }
}

/// A model directory in a temporary one. Its name, which conversion keeps, is always the same.
struct Model {
    path: PathBuf,
    _parent: tempfile::TempDir,
}

impl Model {
    fn path(&self) -> &Path {
        &self.path
    }
}

/// A directory with what is not weights of `llama-rope-tiny`, and the files of `weights`.
fn directory(weights: &str) -> Model {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("llama-rope-tiny");
    fs::create_dir(&path).unwrap();
    let dir = Model {
        path,
        _parent: parent,
    };
    let copy = |from: &Path| {
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let other_form = name.starts_with("golden") || name.ends_with(".gguf");
            if path.is_file() && !other_form && name != "model.safetensors" {
                fs::copy(&path, dir.path().join(name)).unwrap();
            }
        }
    };
    copy(&data("llama-rope-tiny"));
    if weights == "model.safetensors" {
        let from = data("llama-rope-tiny").join(weights);
        fs::copy(from, dir.path().join(weights)).unwrap();
    } else {
        copy(&data(weights));
    }
    dir
}

fn pickles() -> CheckpointOptions {
    CheckpointOptions {
        allow_pickle: true,
        ..CheckpointOptions::default()
    }
}

fn converted(dir: &Path, ternary: TensorType) -> Vec<u8> {
    let checkpoint = Checkpoint::open(dir, &pickles()).unwrap_or_else(|e| panic!("{e}"));
    let targets = Targets {
        ternary: ternary.into(),
        embedding: None,
        head: None,
        i2s_dialect: I2sDialect::default(),
        tiles: None,
        ternarize: false,
    };
    let export = Export::of_directory(&checkpoint, &targets, &mut |_| true).unwrap();
    export.write(Vec::new(), &mut |_| true).unwrap().0
}

#[test]
fn shards_of_torch_convert_to_the_bytes_that_safetensors_convert_to() {
    let (pickled, plain) = (
        directory("llama-rope-tiny/pickle"),
        directory("model.safetensors"),
    );
    let open = |dir: &Path| TensorFiles::open_dir(dir, Access::Map, true).unwrap();
    let (a, b) = (open(pickled.path()), open(plain.path()));
    assert_eq!((a.n_files(), b.n_files()), (2, 1));
    assert_same_tensors(&a, &b);
    for ty in [TensorType::I2S, TensorType::Q2_0] {
        let (a, b) = (converted(pickled.path(), ty), converted(plain.path(), ty));
        assert!(a == b, "{ty}: {} and {} bytes", a.len(), b.len());
    }
    let described = Checkpoint::open(pickled.path(), &pickles())
        .unwrap()
        .describe();
    assert_eq!(described.container, "PyTorch pickle");
    let findings = |dir: &Path| check(dir, &pickles()).len();
    assert_eq!(findings(pickled.path()), findings(plain.path()));
    let listed = model_files(pickled.path()).unwrap();
    let bins = listed
        .iter()
        .filter(|file| file.extension().unwrap() == "bin");
    assert_eq!(bins.count(), 2);
    for file in &listed {
        assert!(FileStamp::at(file).unwrap().bytes() > 0);
    }
}

#[test]
fn a_pickle_is_not_even_opened_unless_it_is_allowed() {
    let dir = directory("llama-rope-tiny/pickle");
    let error = Checkpoint::open(dir.path(), &CheckpointOptions::default()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.ends_with(
            "pytorch_model.bin.index.json: not a model file: it is a Python pickle or zip archive"
        ),
        "{message}"
    );
    assert!(
        error.hint().contains("convert --allow-pickle"),
        "{}",
        error.hint()
    );
    fs::copy(
        data("llama-rope-tiny/model.safetensors"),
        dir.path().join("model.safetensors"),
    )
    .unwrap();
    let opened = Checkpoint::open(dir.path(), &pickles()).unwrap();
    assert_eq!(
        opened.describe().container,
        "safetensors",
        "which goes first"
    );
}

#[test]
fn an_index_leads_to_files_of_weights_alone() {
    for name in [
        "optimizer.bin",
        "../pytorch_model.bin",
        "pytorch_model.safetensors",
    ] {
        let dir = directory("llama-rope-tiny/pickle");
        let index = dir.path().join("pytorch_model.bin.index.json");
        let text = fs::read_to_string(&index).unwrap();
        fs::write(
            &index,
            text.replace("pytorch_model-00001-of-00002.bin", name),
        )
        .unwrap();
        let error = Checkpoint::open(dir.path(), &pickles())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("only plain names like pytorch_model-….bin are followed"),
            "{error}"
        );
    }
}

#[test]
fn tied_weights_in_memory_outlive_the_release_of_one_of_them() {
    let large = 1 << 21;
    let pickle = archive::state_dict(&[("a", &[large]), ("b", &[large])]);
    let numbers = vec![7; large as usize * 4];
    let bytes = archive::zip(&[("m/data.pkl", &pickle), ("m/data/0", &numbers)]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), bytes).unwrap();
    let files = TensorFiles::open_dir(dir.path(), Access::ReadIntoMemory, true).unwrap();
    let [a, b] = files.tensors() else {
        panic!("two tensors")
    };
    mmap::release(files.slice(a));
    assert!(files.slice(b).iter().all(|byte| *byte == 7));
}

#[test]
fn torch_files_of_anything_but_a_state_dict_are_refused_in_words() {
    for (file, expected) in [
        (
            "legacy.bin",
            "FILE: container: expected a state dict as torch.save writes it since PyTorch 1.6 (a zip archive), found \
             PyTorch's format from before 1.6: load and save it again with a newer PyTorch",
        ),
        (
            "transposed.bin",
            "FILE: data.pkl at byte OFFSET: expected the elements of [3, 2] in order, found strides [1, 3]: save the \
             tensor's .contiguous() copy",
        ),
        (
            "training.bin",
            "FILE: tensor epoch: expected a tensor (a training checkpoint has its state dict under a name: save that \
             alone), found an integer",
        ),
        (
            "system.bin",
            "FILE: data.pkl at byte OFFSET: expected a global of a state dict, found the global posix.system",
        ),
        (
            "big-endian.bin",
            "FILE: byteorder: expected a state dict as torch.save writes it since PyTorch 1.6 (a zip archive), found \
             numbers in the byte order \"big\"",
        ),
    ] {
        let error = refusal(&format!("pickle/{file}"));
        let mut message = error.to_string();
        if let ModelError::Pickle {
            offset: Some(offset),
            ..
        } = &error
        {
            message = message.replace(&format!("byte {offset}:"), "byte OFFSET:");
        }
        assert_eq!(message, expected, "{file}");
        assert!(
            error.hint().contains("nothing in the file was run"),
            "{}",
            error.hint()
        );
        assert_eq!(error.code(), "pickle");
    }
}

#[test]
fn a_checkpoint_with_pickled_weights_gives_the_trits_of_the_safetensors() {
    let (pickled, plain) = (
        directory("llama-rope-tiny/pickle"),
        directory("model.safetensors"),
    );
    let [a, b] =
        [pickled.path(), plain.path()].map(|dir| Checkpoint::open(dir, &pickles()).unwrap());
    for projection in [Projection::Query, Projection::Down] {
        let role = TensorRole::Projection(0, projection);
        let (a, b) = (a.ternary(role).unwrap(), b.ternary(role).unwrap());
        assert_eq!(a.scale(), b.scale());
        let (mut left, mut right) = (vec![0; a.cols()], vec![0; a.cols()]);
        for row in 0..a.rows() {
            a.read_row(row, &mut left, &mut []).unwrap();
            b.read_row(row, &mut right, &mut []).unwrap();
            assert_eq!(left, right, "{role} row {row}");
        }
    }
}
