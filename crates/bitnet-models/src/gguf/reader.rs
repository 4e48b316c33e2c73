//! Opening GGUF files, whole or split, without copying a tensor.
//!
//! ```text
//! magic "GGUF" | version u32 | tensor count u64 | metadata count u64 | metadata | tensor directory | padding | data
//! ```
//! Source: the GGUF specification (ggml, docs/gguf.md).

use std::path::Path;

use bitnet_quantization::Dialects;
use bytes::Bytes;

use super::cursor::Cursor;
use super::limits::{DEFAULT_ALIGNMENT, MAX_ALIGNMENT};
use super::metadata::{Metadata, describe};
use super::split;
use super::tensor::{self, DataSection, TensorInfo};
use super::value::Value;
use crate::error::{ModelError, Place, file_name, quoted};
use crate::file_kind::{FileKind, GgufVersion};
use crate::mmap::{Access, FileBytes};

/// The first four bytes of every GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// An open GGUF model: one file, or all files of a split.
#[derive(Debug)]
pub struct Gguf {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<u32>,
    shards: Vec<Shard>,
    version: u32,
    alignment: u32,
}

#[derive(Debug)]
struct Shard {
    name: String,
    bytes: Bytes,
}

/// What one file says, before it is joined with the others of its split.
#[derive(Debug)]
pub(super) struct Part {
    pub name: String,
    pub bytes: Bytes,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    version: u32,
    alignment: u32,
}

impl Gguf {
    /// Maps a `.gguf` file; for the first file of a split also the others beside it.
    ///
    /// # Errors
    /// Every way a file can be missing, something else, damaged or hostile: see [`ModelError`].
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::open_with(path, Access::Map, Dialects::default())
    }

    /// [`Gguf::open`] with the choice of reading into memory instead of mapping, and with what numbers of several meanings
    /// are to mean.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn open_with(path: &Path, access: Access, dialects: Dialects) -> Result<Self, ModelError> {
        let bytes = FileBytes::load(path, access)?;
        let first = Part::read(file_name(path), bytes, 0, dialects)?;
        let mut parts = vec![first];
        for (shard, sibling) in split::siblings(path, &parts[0].name, &parts[0].metadata)?
            .iter()
            .enumerate()
        {
            let bytes = FileBytes::load(sibling, access)?;
            let name = file_name(sibling);
            parts.push(Part::read(name, bytes, shard as u16 + 1, dialects)?);
        }
        split::check(&parts)?;
        Self::join(parts)
    }

    /// Reads a model from bytes in memory, such as one that is part of the program; `name` stands for the file in
    /// messages.
    ///
    /// # Errors
    /// As [`Gguf::open`]; a split cannot be read this way.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self, ModelError> {
        Self::from_bytes_with(name, bytes, Dialects::default())
    }

    /// [`Gguf::from_bytes`] with what numbers of several meanings are to mean.
    ///
    /// # Errors
    /// As [`Gguf::from_bytes`].
    pub fn from_bytes_with(
        name: &str,
        bytes: Bytes,
        dialects: Dialects,
    ) -> Result<Self, ModelError> {
        let part = Part::read(name.into(), bytes, 0, dialects)?;
        let parts = vec![part];
        split::check(&parts)?;
        Self::join(parts)
    }

    /// The container's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What tensor data are aligned to, in bytes.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// The key-value section (of the first file).
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = self
            .by_name
            .binary_search_by(|&i| self.tensors[i as usize].name().cmp(name))
            .ok()?;
        Some(&self.tensors[self.by_name[found] as usize])
    }

    /// A tensor's bytes, shared with the file.
    ///
    /// # Errors
    /// [`ModelError::TensorType`] when the type is not one that this engine reads: its size is unknown.
    pub fn data(&self, tensor: &TensorInfo) -> Result<Bytes, ModelError> {
        Ok(self.file_bytes(tensor).slice_ref(self.slice(tensor)?))
    }

    /// A tensor's bytes, borrowed.
    ///
    /// # Errors
    /// As [`Gguf::data`].
    pub fn slice(&self, tensor: &TensorInfo) -> Result<&[u8], ModelError> {
        let shard = &self.shards[tensor.shard()];
        let Some(len) = tensor.bytes() else {
            return Err(ModelError::TensorType {
                file: shard.name.clone(),
                tensor: quoted(tensor.name()),
                expected: "a type that this engine reads".into(),
                found: tensor.type_id().to_string(),
            });
        };
        let start = tensor.offset() as usize; // within the file, checked when read
        Ok(&shard.bytes[start..start + len as usize])
    }

    /// The whole file a tensor is in.
    pub(crate) fn file_bytes(&self, tensor: &TensorInfo) -> &Bytes {
        &self.shards[tensor.shard()].bytes
    }

    /// The name of the file a tensor is in, for messages.
    pub fn file_of(&self, tensor: &TensorInfo) -> &str {
        &self.shards[tensor.shard()].name
    }

    /// The name of the first (or only) file, for messages.
    pub fn file(&self) -> &str {
        &self.shards[0].name
    }

    /// The names of all files, as they were opened.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().map(|shard| &*shard.name)
    }

    /// How many files the model is split into; 1 when it is not.
    pub fn n_files(&self) -> usize {
        self.shards.len()
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.bytes.len() as u64)
            .sum()
    }

    fn join(parts: Vec<Part>) -> Result<Self, ModelError> {
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else {
            unreachable!("a model has at least one file")
        };
        let mut joined = Self {
            metadata: first.metadata,
            tensors: first.tensors,
            by_name: Vec::new(),
            shards: vec![Shard {
                name: first.name,
                bytes: first.bytes,
            }],
            version: first.version,
            alignment: first.alignment,
        };
        for part in parts {
            joined.tensors.extend(part.tensors);
            joined.shards.push(Shard {
                name: part.name,
                bytes: part.bytes,
            });
        }
        let name = |i: u32| joined.tensors[i as usize].name();
        let mut by_name: Vec<u32> = (0..joined.tensors.len() as u32).collect();
        by_name.sort_unstable_by(|&a, &b| name(a).cmp(name(b)));
        if let Some(pair) = by_name
            .windows(2)
            .find(|pair| name(pair[0]) == name(pair[1]))
        {
            let second = &joined.tensors[pair[0].max(pair[1]) as usize];
            return Err(ModelError::Malformed {
                file: joined.file_of(second).into(),
                place: Place::Tensor(second.name().into()),
                offset: None,
                expected: "each name once".into(),
                found: "it twice".into(),
            });
        }
        joined.by_name = by_name;
        Ok(joined)
    }
}

impl Part {
    fn read(
        name: String,
        bytes: Bytes,
        shard: u16,
        dialects: Dialects,
    ) -> Result<Self, ModelError> {
        check_magic(&name, &bytes)?;
        let mut cursor = Cursor::new(&name, &bytes, MAGIC.len());
        let version = read_version(&mut cursor)?;
        let tensor_count_at = cursor.offset();
        let tensor_count = cursor.u64(|| Place::Part("tensor count"))?;
        let metadata_count_at = cursor.offset();
        let metadata_count = cursor.u64(|| Place::Part("metadata count"))?;
        tensor::check_count(&cursor, tensor_count, tensor_count_at)?;
        let metadata = Metadata::read(&mut cursor, metadata_count, metadata_count_at)?;
        let alignment = alignment(&metadata)?;
        tensor::check_count(&cursor, tensor_count, tensor_count_at)?;
        let mut tensors = Vec::with_capacity(tensor_count as usize); // the bytes of that many are there
        for _ in 0..tensor_count {
            tensors.push(TensorInfo::read(&mut cursor, shard)?);
        }
        let start = cursor.offset().next_multiple_of(alignment.into()); // the offset is far below 2^63
        let data = DataSection {
            start,
            file_len: bytes.len() as u64,
            alignment: alignment.into(),
        };
        tensor::place(&name, &mut tensors, data, dialects)?;
        Ok(Self {
            metadata,
            tensors,
            version,
            alignment,
            bytes,
            name,
        })
    }
}

fn check_magic(name: &str, bytes: &[u8]) -> Result<(), ModelError> {
    if bytes.starts_with(&MAGIC) {
        return Ok(());
    }
    if bytes.starts_with(b"FUGG") {
        let version = bytes
            .get(4..8)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u32::from_be_bytes);
        return Err(ModelError::GgufVersion {
            file: name.into(),
            found: GgufVersion::BigEndian(version),
        });
    }
    Err(ModelError::NotAModel {
        file: name.into(),
        found: FileKind::of(bytes),
    })
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, ModelError> {
    let version = cursor.u32(|| Place::Part("version"))?;
    let found = match version {
        2 | 3 => return Ok(version),
        1 => GgufVersion::One,
        // No flag tells the byte order; a small version read the wrong way round has its low half empty.
        _ if version != 0 && version & 0xffff == 0 => GgufVersion::BigEndian(version.swap_bytes()),
        _ => GgufVersion::Unknown(version),
    };
    Err(ModelError::GgufVersion {
        file: cursor.file().into(),
        found,
    })
}

fn alignment(metadata: &Metadata) -> Result<u32, ModelError> {
    const KEY: &str = "general.alignment";
    match metadata.get(KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(alignment))
            if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT =>
        {
            Ok(alignment)
        }
        Some(other) => Err(ModelError::Field {
            file: metadata.file().into(),
            field: KEY.into(),
            expected: format!("a u32 that is a power of two up to {MAX_ALIGNMENT}"),
            found: format!("{} of type {}", describe(other), other.value_type().name()),
        }),
    }
}
