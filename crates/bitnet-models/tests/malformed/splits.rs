//! Models split over several files: what is followed, and what is refused.

use std::path::{Path, PathBuf};

use bitnet_models::gguf::{
    Gguf, GgufWriter, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, Value, shard_name,
};
use bitnet_quantization::TensorType;

use crate::{ALONE, bytes};

/// What the shards say about themselves; the defaults are right.
struct Split {
    count: u16,
    numbers: [u16; 3],
    n_tensors: i32,
    names: [&'static str; 3],
}

impl Default for Split {
    fn default() -> Self {
        Self {
            count: 3,
            numbers: [0, 1, 2],
            n_tensors: 3,
            names: ["a", "b", "c"],
        }
    }
}

/// Writes three files of one tensor each and returns the first one's path.
fn write(dir: &Path, split: &Split) -> PathBuf {
    for (index, name) in split.names.iter().enumerate() {
        let mut writer = GgufWriter::new();
        if index == 0 {
            writer
                .metadata("general.architecture", Value::string("llama"))
                .unwrap();
            writer
                .metadata(SPLIT_TENSORS, Value::I32(split.n_tensors))
                .unwrap();
        }
        // Every shard may have an alignment of its own.
        writer.alignment(32 << index).unwrap();
        writer
            .metadata(SPLIT_NO, Value::U16(split.numbers[index]))
            .unwrap();
        let count = if index == 2 { split.count } else { 3 };
        writer.metadata(SPLIT_COUNT, Value::U16(count)).unwrap();
        writer.tensor(name, TensorType::F32, &[3]).unwrap();
        let mut data = writer.start(Vec::new()).unwrap();
        data.write(&bytes::f32s(&[index as f32; 3])).unwrap();
        std::fs::write(
            dir.join(shard_name("m", index as u64, 3)),
            data.finish().unwrap(),
        )
        .unwrap();
    }
    dir.join(shard_name("m", 0, 3))
}

/// The message for a split with this fault, without the directory.
fn refusal(split: Split) -> String {
    let dir = tempfile::tempdir().unwrap();
    let error = Gguf::open(&write(dir.path(), &split)).unwrap_err();
    error
        .to_string()
        .replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn the_first_file_opens_all_of_them() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let gguf = Gguf::open(&write(dir.path(), &Split::default())).unwrap();
    assert_eq!(gguf.n_files(), 3);
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        let tensor = gguf.tensor(name).unwrap();
        assert_eq!(tensor.shard(), index);
        assert_eq!(gguf.data(tensor).unwrap(), bytes::f32s(&[index as f32; 3]));
    }
}

#[test]
fn shards_that_do_not_belong_together_are_refused() {
    let _alone = ALONE.lock();
    for (split, message) in [
        (
            Split {
                numbers: [0, 2, 1],
                ..Split::default()
            },
            "m-00002-of-00003.gguf: field split.no: expected 1, found 2",
        ),
        (
            Split {
                count: 4,
                ..Split::default()
            },
            "m-00003-of-00003.gguf: field split.count: expected 3 as in m-00001-of-00003.gguf, found 4",
        ),
        (
            Split {
                n_tensors: 4,
                ..Split::default()
            },
            "m-00001-of-00003.gguf: field split.tensors.count: expected 3, the number of tensors in all 3 files, found 4",
        ),
        (
            Split {
                names: ["a", "b", "a"],
                ..Split::default()
            },
            "m-00003-of-00003.gguf: tensor a: expected each name once, found it twice",
        ),
    ] {
        let found = refusal(split).replace("as in /", "as in ");
        assert_eq!(found, message);
    }
}

#[test]
fn a_later_file_asks_for_the_first_one() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &Split::default());
    let error = Gguf::open(&dir.path().join(shard_name("m", 1, 3))).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("it is a later file of a split model"),
        "{error}"
    );
    assert!(error.hint().contains("-00001-of-"));
}

#[test]
fn a_missing_file_is_named() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let first = write(dir.path(), &Split::default());
    std::fs::remove_file(dir.path().join(shard_name("m", 2, 3))).unwrap();
    let error = Gguf::open(&first).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("m-00003-of-00003.gguf: cannot open the file"),
        "{error}"
    );
    assert_eq!(error.class(), bitnet_models::ErrorClass::Unreadable);
}

#[test]
fn a_renamed_first_file_and_one_in_memory_cannot_find_their_siblings() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let first = write(dir.path(), &Split::default());
    let bytes = std::fs::read(&first).unwrap();
    let renamed = dir.path().join("model.gguf");
    std::fs::rename(&first, &renamed).unwrap();
    let error = Gguf::open(&renamed).unwrap_err().to_string();
    assert!(
        error.contains("expected a file named …-00001-of-00003.gguf"),
        "{error}"
    );
    let error = Gguf::from_bytes("memory", bytes.into())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "memory: field split.count: expected 1 for a model in memory, found 3"
    );
}

#[test]
fn an_absurd_number_of_files_is_refused_before_any_is_looked_for() {
    let _alone = ALONE.lock();
    let dir = tempfile::tempdir().unwrap();
    let mut file = bytes::File::model();
    file.set(SPLIT_COUNT, bytes::U32, u32::MAX.to_le_bytes().into());
    let path = dir.path().join("m-00001-of-4294967295.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    let error = Gguf::open(&path).unwrap_err().to_string();
    assert!(
        error.ends_with("field split.count: expected at most 1024 files, found 4294967295"),
        "{error}"
    );
}
