//! The file that keeps a model's packed weights, so that a later start maps them and packs nothing.
//!
//! Packing half a gigabyte takes a second or two, most of it the system's clearing of fresh pages; a mapped file costs
//! neither. The file belongs to one model file and one way of packing and says so; whoever finds another key, another
//! packing, another version or a wrong checksum packs anew and writes the file again. Nothing is in it that is not in the
//! model.
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

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bitnet_kernels::{PACKED_ALIGNMENT, PackReader, PackWriter};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::file_name;
use crate::mmap::FileBytes;

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
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(source) => {
                return Err(PackedFileError::Io {
                    file,
                    action: "look for the file",
                    source,
                });
            }
        }
        let bytes = FileBytes::open_populated(path).map_err(|error| PackedFileError::Unusable {
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

/// Writes a file of packed weights beside its final name and gives it that name in the end: a reader finds all of it or
/// nothing.
#[derive(Debug)]
pub struct PackedFileWriter {
    path: PathBuf,
    unfinished: Unfinished,
    out: BufWriter<File>,
    index: Index,
    at: u64,
}

impl PackedFileWriter {
    /// Starts the file `path`, in a folder that is made if there is none.
    ///
    /// # Errors
    /// [`PackedFileError::Io`].
    pub fn create(
        path: &Path,
        key: &str,
        packing: &str,
        head_copy: bool,
    ) -> Result<PackedFileWriter, PackedFileError> {
        let io = |action| {
            move |source| PackedFileError::Io {
                file: file_name(path),
                action,
                source,
            }
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io("make its folder"))?;
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let unfinished = PathBuf::from(name);
        let file = File::create_new(&unfinished).map_err(io("create the file"))?;
        let mut writer = PackedFileWriter {
            path: path.to_owned(),
            unfinished: Unfinished(Some(unfinished)),
            out: BufWriter::with_capacity(1 << 20, file),
            index: Index {
                engine: concat!("bitnet ", env!("CARGO_PKG_VERSION")).into(),
                key: key.into(),
                packing: packing.into(),
                head_copy,
                arrays: Vec::new(),
            },
            at: 0,
        };
        writer.pad(HEADER_BYTES as u64).map_err(io("write"))?;
        Ok(writer)
    }

    /// Writes index and header and gives the file its name; its length in bytes.
    ///
    /// # Errors
    /// [`PackedFileError::Io`]; nothing is left then but what was there before.
    pub fn finish(mut self) -> Result<u64, PackedFileError> {
        let path = self.path.clone();
        self.complete().map_err(|source| PackedFileError::Io {
            file: file_name(&path),
            action: "write",
            source,
        })
    }

    fn complete(&mut self) -> io::Result<u64> {
        let index = serde_json::to_vec(&self.index)?;
        let start = self.at;
        self.out.write_all(&index)?;
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&start.to_le_bytes());
        header[24..32].copy_from_slice(&(index.len() as u64).to_le_bytes());
        header[32..36].copy_from_slice(&crc32fast::hash(&index).to_le_bytes());
        let sum = crc32fast::hash(&header[16..40]);
        header[12..16].copy_from_slice(&sum.to_le_bytes());
        self.out.rewind()?;
        self.out.write_all(&header)?;
        self.out.flush()?;
        if let Some(unfinished) = &self.unfinished.0 {
            fs::rename(unfinished, &self.path)?;
            self.unfinished.0 = None;
        }
        Ok(start + index.len() as u64)
    }

    fn pad(&mut self, to: u64) -> io::Result<()> {
        const ZEROS: [u8; HEADER_BYTES] = [0; HEADER_BYTES];
        let missing = (to - self.at) as usize;
        self.out.write_all(&ZEROS[..missing])?;
        self.at = to;
        Ok(())
    }
}

impl PackWriter for PackedFileWriter {
    fn array(&mut self, bytes: Bytes) -> io::Result<()> {
        self.pad(self.at.next_multiple_of(PACKED_ALIGNMENT as u64))?;
        self.out.write_all(&bytes)?;
        let entry = (self.at, bytes.len() as u64, crc32fast::hash(&bytes));
        self.index.arrays.push(entry);
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// A file that goes away unless it is finished.
#[derive(Debug)]
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Nothing more can be done about a file that cannot be removed.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests;
