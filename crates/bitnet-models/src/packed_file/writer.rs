//! Writing a file of packed weights: array after array, or pieces of several arrays by turns.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bitnet_kernels::{PACKED_ALIGNMENT, PackWriter, PieceWriter};
use bytes::Bytes;

use super::{HEADER_BYTES, Index, MAGIC, PackedFileError, VERSION};
use crate::error::file_name;
use crate::own_files::{self, Unfinished};

/// Writes a file of packed weights beside its final name and gives it that name in the end: a reader finds all of it or
/// nothing.
#[derive(Debug)]
pub struct PackedFileWriter {
    path: PathBuf,
    unfinished: Option<Unfinished>,
    out: BufWriter<File>,
    index: Index,
    at: u64,
    pieced: Vec<Pieced>, // arrays that were begun last
}

/// An array whose bytes come piece by piece.
#[derive(Debug)]
struct Pieced {
    entry: usize, // in the index
    at: u64,
    end: u64,
    sum: crc32fast::Hasher,
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
    ) -> Result<PackedFileWriter, PackedFileError> {
        let io = |action| {
            move |source| PackedFileError::Io {
                file: file_name(path),
                action,
                source,
            }
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        own_files::make_folder(folder).map_err(io("make its folder"))?;
        own_files::remove_left_over(folder);
        let (unfinished, file) = Unfinished::file(path).map_err(io("create the file"))?;
        let mut writer = PackedFileWriter {
            path: path.to_owned(),
            unfinished: Some(unfinished),
            out: BufWriter::with_capacity(1 << 20, file),
            index: Index {
                engine: concat!("bitnet ", env!("CARGO_PKG_VERSION")).into(),
                key: key.into(),
                packing: packing.into(),
                head_copy: false,
                arrays: Vec::new(),
            },
            at: 0,
            pieced: Vec::new(),
        };
        writer.pad(HEADER_BYTES as u64).map_err(io("write"))?;
        Ok(writer)
    }

    /// Says that the last arrays are the head's small copy.
    pub fn has_head_copy(&mut self) {
        self.index.head_copy = true;
    }

    /// Writes index and header and gives the file its name; its length in bytes. `synced`: wait until the system has it
    /// on its disk; pages that are mapped before that count as this process's own.
    ///
    /// # Errors
    /// [`PackedFileError::Io`]; nothing is left then but what was there before.
    pub fn finish(mut self, synced: bool) -> Result<u64, PackedFileError> {
        let path = self.path.clone();
        self.complete(synced).map_err(|source| PackedFileError::Io {
            file: file_name(&path),
            action: "write",
            source,
        })
    }

    fn complete(&mut self, synced: bool) -> io::Result<u64> {
        self.end_pieces()?;
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
        if synced {
            self.out.get_ref().sync_data()?;
        }
        if let Some(unfinished) = self.unfinished.take() {
            unfinished.rename(&self.path)?;
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

impl PackedFileWriter {
    /// Makes sure that the arrays that were begun are whole, and goes on behind them.
    fn end_pieces(&mut self) -> io::Result<()> {
        if self.pieced.is_empty() {
            return Ok(());
        }
        for Pieced {
            entry,
            at,
            end,
            sum,
        } in self.pieced.drain(..)
        {
            if at < end {
                let message = format!("array {entry} lacks {} bytes", end - at);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            self.index.arrays[entry].2 = sum.finalize();
        }
        self.out.seek(SeekFrom::Start(self.at))?;
        Ok(())
    }
}

impl PackWriter for PackedFileWriter {
    fn array(&mut self, bytes: Bytes) -> io::Result<()> {
        self.end_pieces()?;
        self.pad(self.at.next_multiple_of(PACKED_ALIGNMENT as u64))?;
        self.out.write_all(&bytes)?;
        let entry = (self.at, bytes.len() as u64, crc32fast::hash(&bytes));
        self.index.arrays.push(entry);
        self.at += bytes.len() as u64;
        Ok(())
    }
}

impl PieceWriter for PackedFileWriter {
    fn begin_arrays(&mut self, lens: &[usize]) -> io::Result<()> {
        self.end_pieces()?;
        for &len in lens {
            // What is not written in between is zeros.
            let start = self.at.next_multiple_of(PACKED_ALIGNMENT as u64);
            self.at = start + len as u64;
            self.pieced.push(Pieced {
                entry: self.index.arrays.len(),
                at: start,
                end: self.at,
                sum: crc32fast::Hasher::new(),
            });
            self.index.arrays.push((start, len as u64, 0));
        }
        Ok(())
    }

    fn piece(&mut self, array: usize, bytes: &[u8]) -> io::Result<()> {
        let beyond = || io::Error::new(io::ErrorKind::InvalidInput, "bytes beyond the array");
        let pieced = self.pieced.get_mut(array).ok_or_else(beyond)?;
        if bytes.len() as u64 > pieced.end - pieced.at {
            return Err(beyond());
        }
        self.out.seek(SeekFrom::Start(pieced.at))?;
        self.out.write_all(bytes)?;
        pieced.sum.update(bytes);
        pieced.at += bytes.len() as u64;
        Ok(())
    }
}
