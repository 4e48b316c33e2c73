//! Opening GGUF files, whole or split, without copying a tensor.
//!
//! ```text
//! magic "GGUF" | version u32 | tensor count u64 | metadata count u64 | metadata | tensor directory | padding | data
//! ```
//! Source: the GGUF specification (ggml, docs/gguf.md).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bitnet_quantization::Dialects;
use bytes::Bytes;

use super::cursor::Cursor;
use super::later::{Later, Source, Stamp, read_header};
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
    /// Where tensors come from whose bytes are not in a shard.
    later: Option<Later>,
}

#[derive(Debug)]
struct Shard {
    name: String,
    /// The file, or its header alone.
    bytes: Bytes,
    /// Bytes of the whole file.
    len: u64,
}

/// What one file says, before it is joined with the others of its split.
#[derive(Debug)]
pub(super) struct Part {
    pub name: String,
    pub bytes: Bytes,
    /// Bytes of the whole file, of which `bytes` may be the start alone.
    len: u64,
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

    /// [`Gguf::open`] with the choice of reading into memory instead of mapping, and with what numbers of several
    /// meanings are to mean.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn open_with(path: &Path, access: Access, dialects: Dialects) -> Result<Self, ModelError> {
        let bytes = FileBytes::load(path, access)?;
        let len = Some(bytes.len() as u64);
        let first = Part::read(file_name(path), bytes, len, 0, dialects)?;
        let mut parts = vec![first];
        for (shard, sibling) in split::siblings(path, &parts[0].name, &parts[0].metadata)?
            .iter()
            .enumerate()
        {
            let bytes = FileBytes::load(sibling, access)?;
            let (name, len) = (file_name(sibling), Some(bytes.len() as u64));
            parts.push(Part::read(name, bytes, len, shard as u16 + 1, dialects)?);
        }
        split::check(&parts)?;
        Self::join(parts, None)
    }

    /// Reads the headers of a `.gguf` file, for the first of a split also the others', and of tensors only those that
    /// are asked for. Nothing is mapped; a file that changes meanwhile is an error of the next tensor.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn open_lazily(path: &Path, dialects: Dialects) -> Result<Self, ModelError> {
        let open = |path: &Path, shard: u16| -> Result<(Part, Source), ModelError> {
            let name = file_name(path);
            let failed = |source| ModelError::Io {
                file: file_name(path),
                action: "open the file",
                source,
            };
            let mut file = File::open(path).map_err(failed)?;
            let stamp = Stamp::of(&file).map_err(failed)?;
            let len = Some(stamp.len);
            let (part, _) = read_header(&name, &mut file, |bytes| {
                Part::read(name.clone(), bytes, len, shard, dialects)
            })?;
            Ok((part, Source::File { file, stamp }))
        };
        let (first, source) = open(path, 0)?;
        let (mut parts, mut sources) = (vec![first], vec![source]);
        for (shard, sibling) in split::siblings(path, &parts[0].name, &parts[0].metadata)?
            .iter()
            .enumerate()
        {
            let (part, source) = open(sibling, shard as u16 + 1)?;
            parts.push(part);
            sources.push(source);
        }
        split::check(&parts)?;
        Self::join(parts, Some(sources))
    }

    /// Reads the header of a `.gguf` file that comes in a stream, and on in it as tensors are asked for; `name` stands
    /// for it in messages. Tensors that come by before they are asked for are kept. The end of a stream is not known,
    /// so where the last tensor is the only one of a type number that several projects use, `dialects` has to name its
    /// format.
    ///
    /// # Errors
    /// As [`Gguf::open`]; a split cannot be read this way.
    pub fn from_stream(
        name: &str,
        mut stream: Box<dyn Read + Send>,
        dialects: Dialects,
    ) -> Result<Self, ModelError> {
        let (part, prefix) = read_header(name, &mut *stream, |bytes| {
            Part::read(name.into(), bytes, None, 0, dialects)
        })?;
        let parts = vec![part];
        split::check(&parts)?;
        Self::join(parts, Some(vec![Source::stream(prefix, stream)]))
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
        let len = Some(bytes.len() as u64);
        let part = Part::read(name.into(), bytes, len, 0, dialects)?;
        let parts = vec![part];
        split::check(&parts)?;
        Self::join(parts, None)
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
        Some(&self.tensors[self.index(name)?])
    }

    fn index(&self, name: &str) -> Option<usize> {
        let found = self
            .by_name
            .binary_search_by(|&i| self.tensors[i as usize].name().cmp(name))
            .ok()?;
        Some(self.by_name[found] as usize)
    }

    /// Whether tensors are read when they are asked for, so that looking at one reads it.
    pub(crate) fn reads_later(&self) -> bool {
        self.later.is_some()
    }

    /// A tensor's bytes, shared with the file.
    ///
    /// # Errors
    /// [`ModelError::TensorType`] when the type is not one that this engine reads: its size is unknown.
    pub fn data(&self, tensor: &TensorInfo) -> Result<Bytes, ModelError> {
        let slice = self.slice(tensor)?;
        Ok(self.file_bytes(tensor).slice_ref(slice))
    }

    /// A tensor's bytes, borrowed.
    ///
    /// # Errors
    /// As [`Gguf::data`]; of a model that is read as it is asked for, also a file or a stream that ends too early,
    /// fails or has changed.
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
        if let (Some(later), Some(index)) = (&self.later, self.index(tensor.name())) {
            return Ok(later.get(&shard.name, &self.tensors, index)?);
        }
        let start = tensor.offset() as usize; // within the file, checked when read
        Ok(&shard.bytes[start..start + len as usize])
    }

    /// The whole file a tensor is in, or whatever its bytes are a part of.
    pub(crate) fn file_bytes(&self, tensor: &TensorInfo) -> &Bytes {
        let arrived = self.later.as_ref().zip(self.index(tensor.name()));
        arrived
            .and_then(|(later, index)| later.arrived(index))
            .unwrap_or(&self.shards[tensor.shard()].bytes)
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
        self.shards.iter().map(|shard| shard.len).sum()
    }

    fn join(parts: Vec<Part>, sources: Option<Vec<Source>>) -> Result<Self, ModelError> {
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
                len: first.len,
            }],
            version: first.version,
            alignment: first.alignment,
            later: None,
        };
        for part in parts {
            joined.tensors.extend(part.tensors);
            joined.shards.push(Shard {
                name: part.name,
                bytes: part.bytes,
                len: part.len,
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
        joined.later = sources.map(|sources| Later::new(sources, &joined.tensors));
        Ok(joined)
    }
}

impl Part {
    /// Reads a header. `bytes` begin with it; `len` is the length of the file, where it is known.
    fn read(
        name: String,
        bytes: Bytes,
        len: Option<u64>,
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
            file_len: len,
            alignment: alignment.into(),
        };
        tensor::place(&name, &mut tensors, data, dialects)?;
        let end = |tensor: &TensorInfo| tensor.offset() + tensor.bytes().unwrap_or(0);
        Ok(Self {
            len: len.unwrap_or_else(|| tensors.iter().map(end).max().unwrap_or(start)),
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
