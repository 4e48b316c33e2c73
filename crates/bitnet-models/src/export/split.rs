//! A model in several files, and several files in one: the tensors' bytes are passed on as they are.
//!
//! The first file of a split carries all keys, the others only their place in it (`split.no`, `split.count`,
//! `split.tensors.count`, in gguf-split's types), so that they are found by name from the first.

use std::io::Write;
use std::ops::Range;

use super::{ExportError, PIECE_BYTES, go_on};
use crate::error::{ModelError, Place, quoted};
use crate::gguf::limits::MAX_SHARDS;
use crate::gguf::writer::ALIGNMENT_KEY;
use crate::gguf::{
    Gguf, GgufWriter, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, TensorInfo, Value, model,
};
use crate::mmap;

/// How large a file of a split may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitLimit {
    /// Bytes of a file; a single tensor that is larger has a file of its own.
    Bytes(u64),
    /// Tensors of a file.
    Tensors(usize),
}

/// One file of a split, planned.
#[derive(Debug)]
pub struct SplitPart {
    header: GgufWriter,
    tensors: Range<usize>,
}

impl SplitPart {
    /// How many tensors it holds.
    pub fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Bytes of the file.
    ///
    /// # Errors
    /// [`ExportError::Write`] for a size beyond 64 bits.
    pub fn file_bytes(&self) -> Result<u64, ExportError> {
        Ok(self.header.file_bytes()?)
    }

    /// Writes the file and returns the output, flushed. `advance` is told the bytes written since its last call and
    /// returns whether to go on.
    ///
    /// # Errors
    /// [`ExportError::Write`] when the output fails, [`ExportError::Stopped`] when `advance` says so.
    pub fn write<W: Write>(
        self,
        gguf: &Gguf,
        out: W,
        advance: &mut dyn FnMut(u64) -> bool,
    ) -> Result<W, ExportError> {
        let mut writer = self.header.start(out)?;
        for tensor in &gguf.tensors()[self.tensors] {
            for piece in gguf.slice(tensor)?.chunks(PIECE_BYTES) {
                writer.write(piece)?;
                mmap::release(piece);
                go_on(advance, piece.len() as u64)?;
            }
        }
        Ok(writer.finish()?)
    }
}

/// Plans the files of a split, in order.
///
/// # Errors
/// [`ExportError::Request`] for a limit that makes more files than a reader takes, or a single one;
/// [`ExportError::Model`] for a tensor whose size is not known.
pub fn split(gguf: &Gguf, limit: SplitLimit) -> Result<Vec<SplitPart>, ExportError> {
    let request = |what: String, expected: String| Err(ExportError::Request { what, expected });
    let alignment = u64::from(gguf.alignment());
    let mut ranges: Vec<Range<usize>> = Vec::new();
    // The keys of the first file and its place in the split; the others have the place alone.
    let mut used = part(gguf, 0..0, true, (0, 1, 0))?.file_bytes()?;
    let mut from = 0;
    for (at, tensor) in gguf.tensors().iter().enumerate() {
        let bytes = known_bytes(gguf, tensor)?;
        let padded = bytes
            .checked_next_multiple_of(alignment)
            .unwrap_or(u64::MAX);
        let added = padded.saturating_add(entry_bytes(tensor));
        let full = match limit {
            SplitLimit::Bytes(most) => used.saturating_add(added).saturating_add(alignment) > most,
            SplitLimit::Tensors(most) => at - from >= most.max(1),
        };
        if full && at > from {
            ranges.push(from..at);
            (from, used) = (at, PLACE_BYTES);
        }
        used = used.saturating_add(added);
    }
    ranges.push(from..gguf.tensors().len());
    let count = ranges.len();
    if count < 2 {
        return request(
            "a split of a model that fits in one file".into(),
            "a smaller limit".into(),
        );
    }
    if count as u64 > MAX_SHARDS {
        return request(
            format!("a split into {count} files"),
            format!("at most {MAX_SHARDS} files: a larger limit"),
        );
    }
    let total = gguf.tensors().len();
    let parts = ranges.into_iter().enumerate();
    parts
        .map(|(no, range)| part(gguf, range, no == 0, (no, count, total)))
        .collect()
}

/// Plans one file of all tensors, without the keys of a split.
///
/// # Errors
/// [`ExportError::Model`] for a tensor whose size is not known.
pub fn merge(gguf: &Gguf) -> Result<SplitPart, ExportError> {
    rewrite(gguf, &[])
}

/// The same with other values of some keys; those that the file lacks come last.
///
/// # Errors
/// As [`merge`], and [`ExportError::Write`] for a key that cannot be one.
pub fn rewrite(gguf: &Gguf, changes: &[(String, Value)]) -> Result<SplitPart, ExportError> {
    let tensors = 0..gguf.tensors().len();
    let mut header = empty_header(gguf)?;
    for (key, value) in changed_keys(gguf, changes) {
        header.metadata(&key, value)?;
    }
    declare(gguf, header, tensors)
}

/// Makes sure that two models have the same keys (but for those of a split) and the same tensors, byte for byte.
///
/// # Errors
/// [`ExportError::Differs`] naming what differs, [`ExportError::Stopped`] when `advance` says so.
pub fn compare(
    original: &Gguf,
    written: &Gguf,
    advance: &mut dyn FnMut(u64) -> bool,
) -> Result<(), ExportError> {
    compare_rewritten(original, written, &[], advance)
}

/// The same of a file that was written with [`changes`](rewrite).
///
/// # Errors
/// As [`compare`].
pub fn compare_rewritten(
    original: &Gguf,
    written: &Gguf,
    changes: &[(String, Value)],
    advance: &mut dyn FnMut(u64) -> bool,
) -> Result<(), ExportError> {
    let differs = |what: String| Err(ExportError::Differs { what });
    let (a, b) = (changed_keys(original, changes), changed_keys(written, &[]));
    if a != b {
        let other = a.iter().zip(&b).find(|(a, b)| a != b);
        let key = other.map_or("the number of keys", |(a, _)| &*a.0);
        return differs(format!("key {}", quoted(key)));
    }
    if original.tensors().len() != written.tensors().len() {
        return differs("the number of tensors".into());
    }
    for (a, b) in original.tensors().iter().zip(written.tensors()) {
        let declared = |tensor: &TensorInfo| {
            (
                tensor.name().to_owned(),
                tensor.type_number(),
                tensor.dims().to_vec(),
            )
        };
        let (old, new) = (original.slice(a)?, written.slice(b)?);
        if declared(a) != declared(b) || old != new {
            return differs(format!("tensor {}", quoted(a.name())));
        }
        mmap::release(old);
        mmap::release(new);
        go_on(advance, old.len() as u64)?;
    }
    Ok(())
}

fn part(
    gguf: &Gguf,
    tensors: Range<usize>,
    all_keys: bool,
    (no, count, total): (usize, usize, usize),
) -> Result<SplitPart, ExportError> {
    let mut header = empty_header(gguf)?;
    for (key, value) in changed_keys(gguf, &[]).into_iter().filter(|_| all_keys) {
        header.metadata(&key, value)?;
    }
    // Both counts are below the limits of their files, which are far below these types'.
    header.metadata(SPLIT_NO, Value::U16(no as u16))?;
    header.metadata(SPLIT_COUNT, Value::U16(count as u16))?;
    header.metadata(SPLIT_TENSORS, Value::I32(total as i32))?;
    declare(gguf, header, tensors)
}

/// A header without keys but for the alignment.
fn empty_header(gguf: &Gguf) -> Result<GgufWriter, ExportError> {
    let mut header = GgufWriter::new();
    if gguf.alignment() != crate::gguf::limits::DEFAULT_ALIGNMENT {
        header.alignment(gguf.alignment())?;
    }
    Ok(header)
}

/// All keys but the alignment and those of a split, some of them with other values.
fn changed_keys(gguf: &Gguf, changes: &[(String, Value)]) -> Vec<(String, Value)> {
    let kept = gguf.metadata().iter();
    let kept = kept.filter(|(key, _)| *key != ALIGNMENT_KEY && !is_place(key));
    let mut keys: Vec<(String, Value)> = kept
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    for (key, value) in changes {
        match keys.iter_mut().find(|(known, _)| known == key) {
            Some(known) => known.1 = value.clone(),
            None => keys.push((key.clone(), value.clone())),
        }
    }
    keys
}

fn declare(
    gguf: &Gguf,
    mut header: GgufWriter,
    tensors: Range<usize>,
) -> Result<SplitPart, ExportError> {
    for tensor in &gguf.tensors()[tensors.clone()] {
        let bytes = known_bytes(gguf, tensor)?;
        header.raw_tensor(tensor.name(), tensor.type_number(), tensor.dims(), bytes)?;
    }
    Ok(SplitPart { header, tensors })
}

fn is_place(key: &str) -> bool {
    [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS].contains(&key)
}

fn known_bytes(gguf: &Gguf, tensor: &TensorInfo) -> Result<u64, ModelError> {
    tensor.bytes().ok_or_else(|| ModelError::Malformed {
        file: gguf.file_of(tensor).into(),
        place: Place::Tensor(quoted(tensor.name())),
        offset: None,
        expected: "a type whose size is known".into(),
        found: tensor.type_id().to_string(),
    })
}

/// Bytes of a tensor's declaration: name, dimensions, type and offset.
fn entry_bytes(tensor: &TensorInfo) -> u64 {
    8 + tensor.name().len() as u64 + 4 + 8 * tensor.dims().len() as u64 + 4 + 8
}

/// Bytes of a header that holds nothing but the place in a split, and some to spare.
const PLACE_BYTES: u64 = 256;

/// The keys of a file's tokenizer section that are wrong or missing and known better, with their values.
///
/// # Errors
/// [`ModelError`] for a section that cannot be read.
pub fn repairs(gguf: &Gguf) -> Result<Vec<(String, Value)>, ModelError> {
    let Some(vocabulary) = model::vocabulary(gguf)? else {
        return Ok(Vec::new());
    };
    let keys = vocabulary.repaired_keys();
    let changes = [
        (
            "tokenizer.ggml.pre",
            keys.pre.map(|pre| Value::string(&pre)),
        ),
        (
            model::CHAT_TEMPLATE,
            keys.chat_template.map(|template| Value::string(&template)),
        ),
        ("tokenizer.ggml.eos_token_id", keys.eos.map(Value::U32)),
        ("tokenizer.ggml.eot_token_id", keys.eot.map(Value::U32)),
    ];
    let present = changes.into_iter();
    Ok(present
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect())
}
