//! A file's bytes behind one cheap handle: mapped, so that a model's weights are paged in on first use and
//! shared between processes, or read into memory.
//!
//! A mapped file that another process truncates raises SIGBUS at the next touch of a missing page; whoever
//! cannot rule that out uses [`FileBytes::read_into_memory`]. This is the only module of the crate with
//! `unsafe` code.

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::error::{ModelError, file_name};

/// How a file's bytes come into the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Mapped: no copy, paged in on use.
    #[default]
    Map,
    /// Read into memory: safe against a file that shrinks or changes while in use.
    ReadIntoMemory,
}

/// Opens files as [`Bytes`].
#[derive(Debug, Clone, Copy)]
pub struct FileBytes;

impl FileBytes {
    /// Opens a file the way `access` says.
    ///
    /// # Errors
    /// [`ModelError::Io`] when the file cannot be opened, mapped or read, or is a directory.
    pub fn load(path: &Path, access: Access) -> Result<Bytes, ModelError> {
        match access {
            Access::Map => Self::open(path),
            Access::ReadIntoMemory => Self::read_into_memory(path),
        }
    }

    /// Maps a file read-only; slices of the handle keep the mapping alive.
    ///
    /// # Errors
    /// [`ModelError::Io`] when the file cannot be opened or mapped, or is a directory.
    pub fn open(path: &Path) -> Result<Bytes, ModelError> {
        Self::map(path, false)
    }

    /// The same, with all pages that are in the system's cache mapped at once: for a file of which everything is read.
    ///
    /// # Errors
    /// As [`FileBytes::open`].
    pub fn open_populated(path: &Path) -> Result<Bytes, ModelError> {
        Self::map(path, true)
    }

    fn map(path: &Path, populate: bool) -> Result<Bytes, ModelError> {
        let (file, len) = open_regular(path)?;
        if len == 0 {
            return Ok(Bytes::new()); // an empty mapping is an error on most systems
        }
        #[cfg(not(target_family = "wasm"))]
        let mut options = memmap2::MmapOptions::new();
        #[cfg(not(target_family = "wasm"))]
        if populate {
            options.populate();
        }
        #[cfg(target_family = "wasm")]
        let _ = populate;
        // SAFETY: the mapping is read-only and private to this process, and `Bytes` hands out shared slices
        // only. That nobody truncates or rewrites the file meanwhile is the caller's side of the module note:
        // the parsers copy every length they check before they use it, so a rewrite yields wrong numbers at
        // worst, and a truncation SIGBUS.
        #[cfg(not(target_family = "wasm"))]
        let mapped = unsafe { options.map(&file) }.map(mappings::share);
        #[cfg(target_family = "wasm")]
        let mapped = read_all(&file, len);
        mapped.map_err(|source| ModelError::Io {
            file: file_name(path),
            action: "map the file into memory",
            source,
        })
    }

    /// Reads a whole file into memory.
    ///
    /// # Errors
    /// [`ModelError::Io`] when the file cannot be opened or read, or is a directory.
    pub fn read_into_memory(path: &Path) -> Result<Bytes, ModelError> {
        let (file, len) = open_regular(path)?;
        read_all(&file, len).map_err(|source| ModelError::Io {
            file: file_name(path),
            action: "read the file",
            source,
        })
    }
}

/// Gives the pages of a part of a mapped file back to the system, when its content is needed no more: they leave this
/// process's memory, and come back from the file if somebody reads them after all. For bytes that are not mapped, and
/// on systems without the advice, nothing happens.
pub fn release(part: &[u8]) {
    #[cfg(unix)]
    mappings::release(part);
    #[cfg(not(unix))]
    let _ = part;
}

/// Which mappings there are: a slice does not tell what it is a slice of, and the advice that drops a file's clean pages
/// would zero ordinary memory.
#[cfg(not(target_family = "wasm"))]
mod mappings {
    use std::sync::{Arc, Mutex, PoisonError, Weak};

    use bytes::Bytes;
    use memmap2::Mmap;

    static MAPPINGS: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());

    /// What [`Bytes`] keep alive.
    struct Mapping(Arc<Mmap>);

    impl AsRef<[u8]> for Mapping {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    /// The mapping as bytes, remembered for as long as they live.
    pub fn share(map: Mmap) -> Bytes {
        let map = Arc::new(map);
        let mut mappings = MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner);
        mappings.retain(|mapping| mapping.strong_count() > 0);
        mappings.push(Arc::downgrade(&map));
        Bytes::from_owner(Mapping(map))
    }

    #[cfg(unix)]
    pub fn release(part: &[u8]) {
        let mappings = MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner);
        let found = mappings.iter().filter_map(Weak::upgrade).find_map(|map| {
            let all = map.as_ptr_range();
            let inside = all.start <= part.as_ptr() && part.as_ptr_range().end <= all.end;
            let offset = part.as_ptr().addr().wrapping_sub(all.start.addr());
            inside.then_some((map, offset))
        });
        if let Some((map, offset)) = found {
            // SAFETY: the range lies in a read-only mapping of a file, of which nothing was ever written: dropped pages
            // are read from the file again, with the content that they had. A refusal only costs memory.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, part.len())
            };
        }
    }
}

/// The open file and its length; directories are refused here because opening one succeeds on Unix.
fn open_regular(path: &Path) -> Result<(File, u64), ModelError> {
    let io = |source| ModelError::Io {
        file: file_name(path),
        action: "open the file",
        source,
    };
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.is_dir() {
        return Err(io(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    Ok((file, metadata.len()))
}

/// Reads at most `len` bytes: the length is the file system's, so it may be trusted with an allocation, and
/// a device or pipe that never ends is not followed.
fn read_all(file: &File, len: u64) -> io::Result<Bytes> {
    use io::Read;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(usize::try_from(len).unwrap_or(usize::MAX))
        .map_err(io::Error::other)?;
    file.take(len).read_to_end(&mut bytes)?;
    Ok(Bytes::from(bytes))
}
