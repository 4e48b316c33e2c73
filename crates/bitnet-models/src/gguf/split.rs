//! Models split over several files: `NAME-00001-of-00003.gguf` and its siblings.
//!
//! The first file carries the metadata; every file carries `split.no`, `split.count` and its own tensors. The
//! siblings' names are derived from the first one's file name, so they cannot lead out of its directory.

use std::path::{Path, PathBuf};

use super::limits::MAX_SHARDS;
use super::metadata::Metadata;
use super::reader::Part;
use crate::error::{ModelError, quoted};
use crate::file_kind::FileKind;

/// Key of a file's place in its split, from 0.
pub const SPLIT_NO: &str = "split.no";
/// Key of the number of files.
pub const SPLIT_COUNT: &str = "split.count";
/// Key of the number of tensors in all files.
pub const SPLIT_TENSORS: &str = "split.tensors.count";

/// The name of file `index` (from 0) of a split of `count`.
///
/// ```
/// assert_eq!(bitnet_models::gguf::shard_name("m", 0, 3), "m-00001-of-00003.gguf");
/// ```
pub fn shard_name(prefix: &str, index: u64, count: u64) -> String {
    format!("{prefix}-{:05}-of-{count:05}.gguf", index + 1)
}

/// The other files of the split whose first file is at `path`; none for a whole model.
pub(super) fn siblings(
    path: &Path,
    file: &str,
    metadata: &Metadata,
) -> Result<Vec<PathBuf>, ModelError> {
    let count = metadata.u64(SPLIT_COUNT)?.unwrap_or(1);
    if count <= 1 {
        return Ok(Vec::new());
    }
    if count > MAX_SHARDS {
        return Err(field(
            file,
            SPLIT_COUNT,
            format!("at most {MAX_SHARDS} files"),
            count.to_string(),
        ));
    }
    if metadata.u64(SPLIT_NO)?.unwrap_or(0) != 0 {
        return Err(ModelError::NotAModel {
            file: file.into(),
            found: FileKind::LaterShard,
        });
    }
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let Some(prefix) = name.strip_suffix(&shard_name("", 0, count)) else {
        let expected = format!(
            "a file named …{} (or the files merged into one)",
            shard_name("", 0, count)
        );
        return Err(field(
            file,
            SPLIT_COUNT,
            expected,
            format!("{count} files and the name {}", quoted(name)),
        ));
    };
    Ok((1..count)
        .map(|index| path.with_file_name(shard_name(prefix, index, count)))
        .collect())
}

/// Checks that the files belong together and are all there.
pub(super) fn check(parts: &[Part]) -> Result<(), ModelError> {
    let first = &parts[0];
    let count = first.metadata.u64(SPLIT_COUNT)?.unwrap_or(1).max(1);
    if count != parts.len() as u64 {
        let expected = format!("{} for a model in memory", parts.len());
        return Err(field(&first.name, SPLIT_COUNT, expected, count.to_string()));
    }
    if count == 1 {
        return Ok(());
    }
    for (index, part) in parts.iter().enumerate() {
        let no = part.metadata.u64(SPLIT_NO)?;
        if no != Some(index as u64) {
            return Err(field(&part.name, SPLIT_NO, index.to_string(), shown(no)));
        }
        let its_count = part.metadata.u64(SPLIT_COUNT)?;
        if its_count != Some(count) {
            let expected = format!("{count} as in {}", first.name);
            return Err(field(&part.name, SPLIT_COUNT, expected, shown(its_count)));
        }
    }
    let tensors: u64 = parts.iter().map(|part| part.tensors.len() as u64).sum();
    match first.metadata.u64(SPLIT_TENSORS)? {
        Some(declared) if declared != tensors => {
            let expected = format!("{tensors}, the number of tensors in all {count} files");
            Err(field(
                &first.name,
                SPLIT_TENSORS,
                expected,
                declared.to_string(),
            ))
        }
        _ => Ok(()),
    }
}

fn field(file: &str, field: &str, expected: String, found: String) -> ModelError {
    ModelError::Field {
        file: file.into(),
        field: field.into(),
        expected,
        found,
    }
}

fn shown(value: Option<u64>) -> String {
    value.map_or_else(|| "no such field".into(), |v| v.to_string())
}
