//! The tensor directory of a GGUF file: names, shapes, types and places, checked before any byte is used.
//!
//! What is checked: lengths and counts against `limits`, products and sums in checked arithmetic, blocks against
//! row lengths, alignment, that every tensor lies within the file and that no two share bytes. The order of the
//! tensors and gaps between them are the writer's business.

use bitnet_quantization::{Dialects, TensorType, TypeId, type_from_ggml_id};

use super::cursor::Cursor;
use super::limits::{MAX_DIM, MAX_DIMS, MAX_NAME_BYTES, MAX_TENSORS};
use super::size_test;
use crate::error::{ModelError, Place, quoted};

/// Bytes of the shortest possible directory entry: name length, one letter, dimension count, one dimension, type
/// and offset. Bounds the tensor count by the bytes that are there.
const MIN_ENTRY_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// One tensor of a GGUF file.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    name: Box<str>,
    dims: [u64; MAX_DIMS],
    /// Where its data start, from the start of its file.
    offset: u64,
    /// Bytes of its data; 0 where the type is not read, so that its size is unknown.
    bytes: u64,
    type_id: u32,
    /// What the number means in this file: several projects may use it.
    meaning: TypeId,
    /// What the sizes say that it means, where somebody has said otherwise.
    overruled: Option<TypeId>,
    shard: u16,
    n_dims: u8,
}

impl TensorInfo {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its dimensions as the file has them: the first one is contiguous (a weight's input features).
    pub fn dims(&self) -> &[u64] {
        &self.dims[..self.n_dims as usize]
    }

    /// `[rows, cols]` of a matrix, `[1, len]` of a vector; higher dimensions count as rows.
    pub fn shape(&self) -> (u64, u64) {
        (self.dims[1..].iter().product(), self.dims[0])
    }

    /// How many values it holds.
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().product() // checked when read
    }

    /// What its type number means in this file.
    pub fn type_id(&self) -> TypeId {
        self.meaning
    }

    /// Its type number as the file has it.
    pub fn type_number(&self) -> u32 {
        self.type_id
    }

    /// Its type, when this engine reads it.
    pub fn tensor_type(&self) -> Option<TensorType> {
        match self.type_id() {
            TypeId::Supported(ty) => Some(ty),
            _ => None,
        }
    }

    /// Where its data start, in bytes from the start of its file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of its data, when the type is one that this engine reads or imports.
    pub fn bytes(&self) -> Option<u64> {
        matches!(self.meaning, TypeId::Supported(_) | TypeId::Foreign(_)).then_some(self.bytes)
    }

    /// Which file of a split it is in, from 0.
    pub fn shard(&self) -> usize {
        self.shard as usize
    }

    /// What the sizes of its number's tensors say that the number means, where `--dialect` says otherwise.
    pub fn overruled(&self) -> Option<TypeId> {
        self.overruled
    }

    /// Gives the type number a meaning, with the bytes that the tensor then has, and the meaning that this overrules.
    pub(super) fn means(&mut self, meaning: TypeId, bytes: u64, overruled: Option<TypeId>) {
        self.meaning = meaning;
        self.bytes = bytes;
        self.overruled = overruled;
    }

    /// Reads one entry; the offset is still relative to the data section.
    pub(super) fn read(cursor: &mut Cursor<'_>, shard: u16) -> Result<Self, ModelError> {
        let at = cursor.offset();
        let name = cursor.string(MAX_NAME_BYTES, || Place::Part("tensor name"))?;
        let name: Box<str> = match std::str::from_utf8(&name) {
            Ok("") => {
                return Err(cursor.malformed(
                    at,
                    Place::Part("tensor name"),
                    "a name",
                    "an empty string",
                ));
            }
            Ok(name) => name.into(),
            Err(_) => {
                let found = quoted(&String::from_utf8_lossy(&name));
                return Err(cursor.malformed(at, Place::Part("tensor name"), "UTF-8", found));
            }
        };
        let place = || Place::Tensor(name.to_string());
        let dims_at = cursor.offset();
        let n_dims = cursor.u32(place)?;
        if n_dims == 0 || n_dims as usize > MAX_DIMS {
            return Err(cursor.malformed(
                dims_at,
                place(),
                "1 to 4 dimensions",
                n_dims.to_string(),
            ));
        }
        let mut dims = [1u64; MAX_DIMS];
        for dim in &mut dims[..n_dims as usize] {
            let at = cursor.offset();
            *dim = cursor.u64(place)?;
            if *dim == 0 {
                return Err(cursor.malformed(at, place(), "dimensions of at least 1", "0"));
            }
            if *dim > MAX_DIM {
                return Err(cursor.limit(at, (MAX_DIM, "values in a dimension"), *dim, place()));
            }
        }
        let malformed =
            |expected: &str, found: String| cursor.malformed(dims_at, place(), expected, found);
        let n_elements = dims
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(dim));
        let n_elements = n_elements
            .filter(|&n| n <= i64::MAX as u64)
            .ok_or_else(|| {
                malformed(
                    "an element count below 2^63",
                    format!("dimensions {:?}", &dims),
                )
            })?;
        let type_id = cursor.u32(place)?;
        let meaning = type_from_ggml_id(type_id);
        let bytes = match meaning {
            TypeId::Supported(ty) => {
                let block = ty.block_len() as u64;
                if !dims[0].is_multiple_of(block) {
                    let expected = format!("rows of a multiple of {block} values ({ty})");
                    return Err(cursor.malformed(dims_at, place(), expected, dims[0].to_string()));
                }
                ty.storage_bytes(n_elements).ok_or_else(|| {
                    cursor.malformed(
                        dims_at,
                        place(),
                        "a byte count below 2^64",
                        format!("{n_elements} values of {ty}"),
                    )
                })?
            }
            _ => 0,
        };
        let offset = cursor.u64(place)?;
        Ok(Self {
            name,
            dims,
            offset,
            bytes,
            type_id,
            meaning,
            overruled: None,
            shard,
            n_dims: n_dims as u8,
        })
    }
}

/// Where the tensor data of one file lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct DataSection {
    /// First byte, from the start of the file.
    pub start: u64,
    /// Bytes of the whole file.
    /// `None` where the file's end is not known: of a stream.
    pub file_len: Option<u64>,
    pub alignment: u64,
}

impl DataSection {
    pub(super) fn padded(self, bytes: u64) -> Option<u64> {
        bytes.checked_next_multiple_of(self.alignment)
    }
}

/// Refuses a tensor count that the bytes at the cursor cannot hold.
pub(super) fn check_count(
    cursor: &Cursor<'_>,
    count: u64,
    count_at: u64,
) -> Result<(), ModelError> {
    let place = Place::Part("tensor count");
    if count > MAX_TENSORS {
        return Err(cursor.limit(count_at, (MAX_TENSORS, "tensors"), count, place));
    }
    if count > cursor.remaining() / MIN_ENTRY_BYTES {
        let expected = format!(
            "at most {}, which is what the file has room for",
            cursor.remaining() / MIN_ENTRY_BYTES
        );
        return Err(cursor.malformed(count_at, place, expected, count.to_string()));
    }
    Ok(())
}

/// Turns the offsets of one file's tensors into offsets from the start of the file and checks that each lies within
/// it, aligned, sharing no byte with another.
pub(super) fn place(
    file: &str,
    tensors: &mut [TensorInfo],
    data: DataSection,
    dialects: Dialects,
) -> Result<(), ModelError> {
    for tensor in tensors.iter_mut() {
        let malformed = |expected: String, found: u64| ModelError::Malformed {
            file: file.into(),
            place: Place::Tensor(tensor.name.to_string()),
            offset: None,
            expected,
            found: format!("offset {found}"),
        };
        if !tensor.offset.is_multiple_of(data.alignment) {
            return Err(malformed(
                format!("an offset that is a multiple of {}", data.alignment),
                tensor.offset,
            ));
        }
        let file_len = data.file_len.unwrap_or(i64::MAX as u64);
        let available = file_len.saturating_sub(data.start);
        if tensor.offset > available {
            return Err(malformed(
                format!("an offset within the {available} bytes of data"),
                tensor.offset,
            ));
        }
        tensor.offset += data.start; // both are within the file
    }
    let file_len = data.file_len.unwrap_or(i64::MAX as u64);
    let mut by_offset: Vec<u32> = (0..tensors.len() as u32).collect();
    by_offset.sort_unstable_by_key(|&i| (tensors[i as usize].offset, i));
    let spans: Vec<u64> = (0..by_offset.len())
        .map(|at| {
            let end = by_offset
                .get(at + 1)
                .map_or(file_len, |&next| tensors[next as usize].offset);
            end - tensors[by_offset[at] as usize].offset
        })
        .collect();
    let span = |at: usize| spans[at];
    size_test::resolve(file, tensors, &by_offset, &spans, data, dialects)?;
    for (at, &index) in by_offset.iter().enumerate() {
        let tensor = &tensors[index as usize];
        let available = file_len - tensor.offset;
        if tensor.bytes > available {
            return Err(ModelError::Truncated {
                file: file.into(),
                place: Place::Tensor(tensor.name.to_string()),
                offset: tensor.offset,
                needed: tensor.bytes,
                available,
            });
        }
        if tensor.bytes > span(at) {
            let next = &tensors[by_offset[at + 1] as usize];
            return Err(ModelError::Malformed {
                file: file.into(),
                place: Place::Tensor(tensor.name.to_string()),
                offset: Some(tensor.offset),
                expected: format!("{} bytes of its own", tensor.bytes),
                found: format!(
                    "tensor {} {} bytes further on",
                    quoted(&next.name),
                    span(at)
                ),
            });
        }
    }
    Ok(())
}
