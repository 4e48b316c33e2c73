//! Safetensors files: writing them as a stream, and reading them without copying: a length, a JSON header, then the
//! tensors' bytes.
//!
//! ```text
//! header length u64 | JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} | data
//! ```
//! The header is parsed here, not by the `safetensors` crate (which the tests write with): that one keeps the last of
//! two tensors with the same name, names no tensor in its errors, and buffers about ten times the header's bytes.
//! Source: the format's specification (huggingface/safetensors, README).

mod header;
mod writer;

use bytes::Bytes;

use crate::error::{ModelError, Place, quoted};
use crate::file_kind::FileKind;
use crate::tensor_files::StoredTensor;

pub(crate) use header::MAX_RANK;
pub use header::StoredType;
pub use writer::{DeclaredTensor, file_head};

/// Longest header that is read: the reference implementation's own limit. Real ones have under a megabyte.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes of the length field.
const LENGTH_BYTES: u64 = 8;

/// Reads and checks one file's header.
pub(crate) fn read_file(
    name: &str,
    bytes: &Bytes,
    shard: u16,
) -> Result<Vec<StoredTensor>, ModelError> {
    let file_len = bytes.len() as u64;
    let Some(length) = bytes.first_chunk::<8>() else {
        return Err(ModelError::NotAModel {
            file: name.into(),
            found: FileKind::of(bytes),
        });
    };
    let header_len = u64::from_le_bytes(*length);
    let kind = FileKind::of(bytes);
    if !matches!(kind, FileKind::Safetensors | FileKind::Unknown(_)) && bytes.get(8) != Some(&b'{')
    {
        return Err(ModelError::NotAModel {
            file: name.into(),
            found: kind,
        });
    }
    if header_len > MAX_HEADER_BYTES {
        let place = Place::Part("header length");
        let (limit, found) = (MAX_HEADER_BYTES, header_len);
        return Err(ModelError::Limit {
            file: name.into(),
            place,
            offset: Some(0),
            limit,
            unit: "bytes",
            found,
        });
    }
    let available = file_len - LENGTH_BYTES;
    if header_len > available {
        let place = Place::Part("header");
        return Err(ModelError::Truncated {
            file: name.into(),
            place,
            offset: LENGTH_BYTES,
            needed: header_len,
            available,
        });
    }
    let data_start = LENGTH_BYTES + header_len;
    let mut tensors = header::parse(
        name,
        &bytes[LENGTH_BYTES as usize..data_start as usize],
        shard,
    )?;
    place(name, &mut tensors, data_start, file_len)?;
    Ok(tensors)
}

/// Turns offsets within the data into offsets within the file, and checks that the tensors fill the data exactly:
/// in bounds, of the size that type and shape give, without overlap and without gaps.
fn place(
    file: &str,
    tensors: &mut [StoredTensor],
    data_start: u64,
    file_len: u64,
) -> Result<(), ModelError> {
    tensors.sort_unstable_by_key(|tensor| (tensor.start, tensor.end));
    let data_len = file_len - data_start;
    let mut at = 0;
    for tensor in tensors.iter_mut() {
        let malformed = |expected: String, found: String| ModelError::Malformed {
            file: file.into(),
            place: Place::Tensor(tensor.name.to_string()),
            offset: None,
            expected,
            found,
        };
        let (start, end) = (tensor.start, tensor.end);
        if end < start {
            return Err(malformed(
                "data_offsets in ascending order".into(),
                format!("[{start}, {end}]"),
            ));
        }
        let elements = tensor
            .shape
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(dim));
        let Some(elements) = elements else {
            return Err(malformed(
                "an element count below 2^64".into(),
                format!("shape {:?}", tensor.shape),
            ));
        };
        if let Some(size) = tensor.stored_type.bytes() {
            let expected = elements.checked_mul(size);
            if expected != Some(end - start) {
                let expected =
                    expected.map_or_else(|| "less than 2^64".into(), |bytes| bytes.to_string());
                return Err(malformed(
                    format!(
                        "{expected} bytes for {} {:?}",
                        tensor.stored_type, tensor.shape
                    ),
                    format!("data_offsets [{start}, {end}], {} bytes", end - start),
                ));
            }
        }
        if start != at {
            let what = if start < at {
                "overlapping the tensor before it"
            } else {
                "after a gap"
            };
            return Err(malformed(
                format!("data from offset {at} on"),
                format!("offset {start}, {what}"),
            ));
        }
        if end > data_len {
            return Err(ModelError::Truncated {
                file: file.into(),
                place: Place::Tensor(tensor.name.to_string()),
                offset: data_start + start.min(data_len),
                needed: end - start,
                available: data_len.saturating_sub(start),
            });
        }
        at = end;
        tensor.start = data_start + start;
        tensor.end = data_start + end;
    }
    if at != data_len {
        return Err(ModelError::Malformed {
            file: file.into(),
            place: Place::Part("end of the last tensor"),
            offset: Some(data_start + at),
            expected: format!("the end of the file at byte {file_len}"),
            found: format!("{} bytes that belong to no tensor", data_len - at),
        });
    }
    Ok(())
}

/// A header field as a message shows it.
pub(crate) fn shown(text: &str) -> String {
    format!("\"{}\"", quoted(text))
}
