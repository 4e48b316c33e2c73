//! The file that keeps a model's packed weights, so that a later start maps them and packs nothing.
//!
//! Packing half a gigabyte takes a second or two, most of it the system's clearing of fresh pages; a mapped file costs
//! neither. The file belongs to one model file and one way of packing and says so; whoever finds another key, another
//! packing, another version or a wrong checksum packs anew and writes the file again. Nothing is in it that is not in
//! the model.
//!
//! A mapped file that somebody cuts short ends the process, so a file is used only if nobody but its owner, who must be
//! the user of this process or root, may write it. Files of ours are written once, under another name, and never
//! touched again: a new one replaces the old by its name alone, and whoever has that mapped keeps it.
//!
//! ```text
//! 0    8 bytes  "BITNETPK"
//! 8    u32      version of this container: 1
//! 12   u32      CRC-32 of the bytes 16..40
//! 16   u64      where the index starts
//! 24   u64      bytes of the index
//! 32   u32      CRC-32 of the index
//! 36   u32      0
//! 64   arrays, each on a border of 64 bytes, zeros between them
//!      the index: a JSON object { "engine", "key", "packing", "head_copy", "arrays": [[offset, bytes, CRC-32], ...] }
//! ```
//!
//! Numbers are little-endian. What the arrays are is the backend's business ([`Backend::packing`]).
//!
//! [`Backend::packing`]: bitnet_kernels::Backend::packing

mod writer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bitnet_kernels::{PACKED_ALIGNMENT, PackReader, PackWriter};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{ModelError, file_name};
use crate::mmap::FileBytes;
use crate::model_files::FileStamp;
use crate::own_files;

pub use self::writer::PackedFileWriter;

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"BITNETPK";

/// Version of the container.
const VERSION: u32 = 1;

/// Bytes before the first array.
const HEADER_BYTES: usize = 64;

/// Bytes of an array that are summed at a time, so that large arrays keep all threads busy to the end.
const SUMMED_AT_ONCE: usize = 8 << 20;

/// Why a file of packed weights could not be used or written.
#[derive(Debug, thiserror::Error)]
pub enum PackedFileError {
    /// The operating system refused.
    #[error("{file}: cannot {action}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What was attempted.
        action: &'static str,
        /// The system's own words.
        source: io::Error,
    },
    /// The file belongs to another model, or to the model as it was before.
    #[error("{file}: the packed weights belong to another model")]
    OtherKey {
        /// The file.
        file: String,
    },
    /// The file is not what is needed.
    #[error("{file}: {what}: expected {expected}, found {found}")]
    Unusable {
        /// The file.
        file: String,
        /// What is wrong.
        what: &'static str,
        /// What is needed.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// Why weights could not be packed into a file.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The weights cannot be packed at all.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] PackedFileError),
}

/// Packed weights that are to be written to a file: handles of their arrays, which keep them in memory until then.
#[derive(Debug)]
pub struct PackedArrays {
    pub(crate) path: PathBuf,
    pub(crate) key: String,
    pub(crate) packing: String,
    pub(crate) head_copy: bool,
    pub(crate) arrays: Vec<Bytes>,
}

impl PackedArrays {
    /// Writes them; the bytes of the file.
    ///
    /// # Errors
    /// [`PackedFileError::Io`]; nothing is left behind then.
    pub fn write(self) -> Result<u64, PackedFileError> {
        let mut writer = PackedFileWriter::create(&self.path, &self.key, &self.packing)?;
        if self.head_copy {
            writer.has_head_copy();
        }
        for array in self.arrays {
            let written = writer.array(array);
            written.map_err(|source| PackedFileError::Io {
                file: file_name(&self.path),
                action: "write",
                source,
            })?;
        }
        writer.finish(false)
    }
}

impl PackWriter for PackedArrays {
    fn array(&mut self, bytes: Bytes) -> io::Result<()> {
        self.arrays.push(bytes);
        Ok(())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Index {
    engine: String,
    key: String,
    packing: String,
    head_copy: bool,
    arrays: Vec<(u64, u64, u32)>, // offset, bytes, CRC-32
}

/// An open file of packed weights, whose checksums are right. Gives its arrays in order.
#[derive(Debug)]
pub struct PackedFile {
    index: Index,
    bytes: Bytes,
    next: usize,
}

impl PackedFile {
    /// Maps the file at `path` and verifies all of it, on `threads` threads; `None` when there is no such file.
    ///
    /// # Errors
    /// [`PackedFileError`] for a file that is damaged, of another version, or does not belong to `key`.
    pub fn open(
        path: &Path,
        key: &str,
        threads: usize,
    ) -> Result<Option<PackedFile>, PackedFileError> {
        let file = file_name(path);
        let refuse = |what, expected: &dyn ToString, found: &dyn ToString| {
            Err(PackedFileError::Unusable {
                file: file.clone(),
                what,
                expected: expected.to_string(),
                found: found.to_string(),
            })
        };
        let io = |action| {
            let file = file.clone();
            move |source| PackedFileError::Io {
                file,
                action,
                source,
            }
        };
        let opened = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io("open the file"))?,
        };
        let metadata = opened.metadata().map_err(io("look at the file"))?;
        own_files::check_file(&metadata).map_err(io("trust the file"))?;
        let stamp = FileStamp::of(&metadata);
        let bytes =
            FileBytes::map_populated(&opened, path).map_err(|error| PackedFileError::Unusable {
                file: file.clone(),
                what: "the file",
                expected: "one that can be mapped".into(),
                found: error.to_string(),
            })?;
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return refuse("its length", &"at least 64 bytes", &bytes.len());
        };
        if &header[..8] != MAGIC {
            return refuse("its first bytes", &"BITNETPK", &"others");
        }
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        if u32_at(8) != VERSION {
            return refuse("its version", &VERSION, &u32_at(8));
        }
        if u32_at(12) != crc32fast::hash(&header[16..40]) {
            return refuse("its header", &"the checksum in it", &"another");
        }
        let part = |offset: u64, len: u64| {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            bytes.get(start..end)
        };
        let Some(index) = part(u64_at(16), u64_at(24)) else {
            return refuse("its index", &"one inside the file", &"one beyond its end");
        };
        if u32_at(32) != crc32fast::hash(index) {
            return refuse("its index", &"the checksum in the header", &"another");
        }
        let index: Index = match serde_json::from_slice(index) {
            Ok(index) => index,
            Err(error) => return refuse("its index", &"a JSON object of version 1", &error),
        };
        if index.key != key {
            return Err(PackedFileError::OtherKey { file });
        }
        let mut pieces = Vec::new();
        for (array, &(offset, len, _)) in index.arrays.iter().enumerate() {
            let Some(all) = part(offset, len) else {
                return refuse(
                    "its arrays",
                    &"arrays inside the file",
                    &"one beyond its end",
                );
            };
            if !offset.is_multiple_of(PACKED_ALIGNMENT as u64) {
                return refuse("its arrays", &"borders of 64 bytes", &offset);
            }
            pieces.extend(all.chunks(SUMMED_AT_ONCE).map(|piece| (array, piece)));
        }
        // Nobody has written it since this process has summed it: that is what its stamp says.
        if !own_files::is_checked(stamp) {
            let sums = checksums(&pieces, index.arrays.len(), threads);
            for (array, (&(_, _, expected), found)) in index.arrays.iter().zip(sums).enumerate() {
                if expected != found {
                    return refuse(
                        "an array's checksum",
                        &expected,
                        &format!("{found} (array {array})"),
                    );
                }
            }
            own_files::remember_checked(stamp);
        }
        Ok(Some(PackedFile {
            index,
            bytes,
            next: 0,
        }))
    }

    /// How the weights are packed, as [`Backend::packing`](bitnet_kernels::Backend::packing) names it.
    pub fn packing(&self) -> &str {
        &self.index.packing
    }

    /// Whether the head's small copy comes behind the layers.
    pub fn has_head_copy(&self) -> bool {
        self.index.head_copy
    }

    /// Bytes of the file.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: there is always a header.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl PackReader for PackedFile {
    fn array(&mut self) -> Option<Bytes> {
        let &(offset, len, _) = self.index.arrays.get(self.next)?;
        self.next += 1;
        // Both were held against the file's length when it was opened.
        let (start, len) = (offset as usize, len as usize);
        Some(self.bytes.slice(start..start + len))
    }
}

/// CRC-32 of each of `n` arrays from their pieces, which are in order.
fn checksums(pieces: &[(usize, &[u8])], n: usize, threads: usize) -> Vec<u32> {
    let next = AtomicUsize::new(0);
    let sum = || {
        let mut summed = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((_, piece)) = pieces.get(at) else {
                return summed;
            };
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(piece);
            summed.push((at, hasher));
        }
    };
    let mut hashers = vec![crc32fast::Hasher::new(); pieces.len()];
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(sum)).collect();
        let mut all = sum();
        for other in others {
            // A checksum cannot panic; were it to, the sums would not match.
            all.extend(other.join().unwrap_or_default());
        }
        for (at, hasher) in all {
            hashers[at] = hasher;
        }
    });
    let mut sums = vec![crc32fast::Hasher::new(); n];
    for ((array, _), hasher) in pieces.iter().zip(&hashers) {
        sums[*array].combine(hasher);
    }
    sums.into_iter().map(crc32fast::Hasher::finalize).collect()
}

#[cfg(test)]
mod tests;
