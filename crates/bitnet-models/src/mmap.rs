//! A file's bytes behind one cheap handle: mapped, so that a model's weights are paged in on first use and
//! shared between processes, or read into memory.
//!
//! A mapped file that another process truncates raises SIGBUS at the next touch of a missing page; whoever
//! cannot rule that out, as a server cannot, uses [`FileBytes::read_into_memory`]: a copy in pages of its own, which
//! can be given back one by one like those of a file. This is the only module of the crate with `unsafe` code.

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::error::{ModelError, file_name};
use crate::own_files;

/// How a file's bytes come into the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Mapped: no copy, paged in on use.
    #[default]
    Map,
    /// Mapped, if nobody but this user and root may write the file: nobody else can cut it short then.
    MapOwn,
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
            Access::MapOwn => Self::open_own(path),
            Access::ReadIntoMemory => Self::read_into_memory(path),
        }
    }

    /// Maps a file read-only; slices of the handle keep the mapping alive.
    ///
    /// # Errors
    /// [`ModelError::Io`] when the file cannot be opened or mapped, or is a directory.
    pub fn open(path: &Path) -> Result<Bytes, ModelError> {
        Self::map(&open(path)?, path, false)
    }

    fn open_own(path: &Path) -> Result<Bytes, ModelError> {
        let file = open(path)?;
        let metadata = file.metadata();
        let trusted = metadata.and_then(|metadata| own_files::check_file(&metadata));
        trusted.map_err(|source| ModelError::Io {
            file: file_name(path),
            action: "trust the file",
            source,
        })?;
        Self::map(&file, path, false)
    }

    /// The same of a file that is open, all of it mapped and read at once: for one of which everything is read. `path`
    /// stands for it in messages.
    ///
    /// # Errors
    /// As [`FileBytes::open`].
    pub fn map_populated(file: &File, path: &Path) -> Result<Bytes, ModelError> {
        Self::map(file, path, true)
    }

    fn map(file: &File, path: &Path, populate: bool) -> Result<Bytes, ModelError> {
        let len = regular_len(file, path)?;
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
        let mapped =
            unsafe { options.map(file) }.map(|map| mappings::share(map, mappings::Pages::File));
        #[cfg(target_family = "wasm")]
        let mapped = read_all(file, len);
        mapped.map_err(|source| ModelError::Io {
            file: file_name(path),
            action: "map the file into memory",
            source,
        })
    }

    /// Reads a whole file into memory. What happens to the file afterwards changes nothing.
    ///
    /// # Errors
    /// [`ModelError::Io`] when the file cannot be opened or read, is a directory, or ends earlier than it said.
    pub fn read_into_memory(path: &Path) -> Result<Bytes, ModelError> {
        let file = open(path)?;
        let len = regular_len(&file, path)?;
        read_all(&file, len).map_err(|source| ModelError::Io {
            file: file_name(path),
            action: "read the file",
            source,
        })
    }
}

/// Gives the pages of a part of an opened file back to the system, when its content is needed no more: they leave this
/// process's memory. Pages of a mapped file come back with their content if somebody reads them after all; those of a
/// file that was read into memory are zeros from then on, so only whole pages of the part are given back. For other
/// bytes, and on systems without the advice, nothing happens.
pub fn release(part: &[u8]) {
    #[cfg(unix)]
    mappings::release(part);
    #[cfg(not(unix))]
    let _ = part;
}

/// Which mappings there are: a slice does not tell what it is a slice of.
#[cfg(not(target_family = "wasm"))]
mod mappings {
    use std::sync::{Arc, Mutex, PoisonError, Weak};

    use bytes::Bytes;
    use memmap2::Mmap;

    static MAPPINGS: Mutex<Vec<Weak<Mapping>>> = Mutex::new(Vec::new());

    /// Where dropped pages come from again.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Pages {
        /// From the file.
        File,
        /// From nowhere: they are zeros.
        Memory,
    }

    struct Mapping {
        map: Mmap,
        pages: Pages,
    }

    /// What [`Bytes`] keep alive.
    struct Owner(Arc<Mapping>);

    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0.map
        }
    }

    /// The mapping as bytes, remembered for as long as they live.
    pub fn share(map: Mmap, pages: Pages) -> Bytes {
        let mapping = Arc::new(Mapping { map, pages });
        let mut mappings = MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner);
        mappings.retain(|mapping| mapping.strong_count() > 0);
        mappings.push(Arc::downgrade(&mapping));
        Bytes::from_owner(Owner(mapping))
    }

    /// The largest page of the systems this runs on (arm64 and POWER have 64 KiB): parts are cut to whole ones, so that
    /// no byte beside them is lost.
    #[cfg(unix)]
    const PAGE: usize = 64 << 10;

    #[cfg(unix)]
    pub fn release(part: &[u8]) {
        let mappings = MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner);
        let found = mappings
            .iter()
            .filter_map(Weak::upgrade)
            .find_map(|mapping| {
                let all = mapping.map.as_ptr_range();
                let inside = all.start <= part.as_ptr() && part.as_ptr_range().end <= all.end;
                let offset = part.as_ptr().addr().wrapping_sub(all.start.addr());
                inside.then_some((mapping, offset))
            });
        let Some((mapping, offset)) = found else {
            return;
        };
        let (mut start, mut end) = (offset, offset + part.len());
        if mapping.pages == Pages::Memory {
            let base = mapping.map.as_ptr().addr();
            start = (base + start).next_multiple_of(PAGE) - base;
            end = ((base + end) & !(PAGE - 1)).saturating_sub(base);
        }
        if start < end {
            // SAFETY: the range lies in a read-only mapping of ours. Of a file nothing was ever written: dropped pages
            // are read from it again. In memory they become zeros, whole pages of `part` alone; the caller has said
            // that nobody reads them any more, and any byte is a valid u8. A refusal only costs memory.
            let _ = unsafe {
                mapping.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    start,
                    end - start,
                )
            };
        }
    }
}

fn open_error(path: &Path) -> impl Fn(io::Error) -> ModelError {
    |source| ModelError::Io {
        file: file_name(path),
        action: "open the file",
        source,
    }
}

fn open(path: &Path) -> Result<File, ModelError> {
    File::open(path).map_err(open_error(path))
}

/// The length of an open file; directories are refused here because opening one succeeds on Unix.
fn regular_len(file: &File, path: &Path) -> Result<u64, ModelError> {
    let metadata = file.metadata().map_err(open_error(path))?;
    if metadata.is_dir() {
        return Err(open_error(path)(io::Error::from(
            io::ErrorKind::IsADirectory,
        )));
    }
    Ok(metadata.len())
}

/// Reads `len` bytes: the length is the file system's, so it may be trusted with an allocation, and a device or pipe
/// that never ends is not followed. A file that is shorter by now was cut meanwhile.
fn read_all(mut file: &File, len: u64) -> io::Result<Bytes> {
    read_in(&mut file, len)
}

/// Reads `len` bytes into memory of their own, which [`release`] gives back. A large length that nothing stands behind
/// costs addresses alone: memory is taken as bytes arrive.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] where there are fewer, what reading says, a length that no memory has.
pub fn read_in(source: &mut (impl io::Read + ?Sized), len: u64) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    #[cfg(not(target_family = "wasm"))]
    if len >= OWN_PAGES {
        let mut map = memmap2::MmapMut::map_anon(len)?;
        source.read_exact(&mut map)?;
        return Ok(mappings::share(
            map.make_read_only()?,
            mappings::Pages::Memory,
        ));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(io::Error::other)?;
    bytes.resize(len, 0);
    source.read_exact(&mut bytes)?;
    Ok(Bytes::from(bytes))
}

/// Bytes from which on a copy has pages of its own, so that parts of it can be given back.
#[cfg(not(target_family = "wasm"))]
const OWN_PAGES: usize = 1 << 20;

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_copy_outlives_its_file_and_gives_back_whole_pages_of_a_part_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..2 << 20).map(|i: u32| (i % 251) as u8 + 1).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = FileBytes::read_into_memory(&path).unwrap();
        File::create(&path).unwrap().set_len(0).unwrap();
        assert!(bytes == content);

        let part = 1000..1_500_000;
        release(&bytes[part.clone()]);
        assert!(bytes[..part.start] == content[..part.start]);
        assert!(bytes[part.end..] == content[part.end..]);
        let zeros = bytes[part].iter().filter(|byte| **byte == 0).count();
        assert!(zeros >= 1_300_000 && zeros % 4096 == 0, "{zeros}");
    }

    #[test]
    fn a_mapped_file_comes_back_after_its_release() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..2 << 20).map(|i: u32| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = FileBytes::open(&path).unwrap();
        release(&bytes[1000..1_500_000]);
        assert!(bytes == content);
    }
}
