//! Tensor data that come when they are asked for: out of a stream, in its order, or from their places in a file.
//!
//! The header is read first, by itself. What a tensor holds is read into memory of its own, once, and kept until the
//! checkpoint gives it back. Nothing is mapped: a file that is cut short or rewritten meanwhile is an error of the next
//! tensor that is asked for, and no signal.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use bytes::{Buf, Bytes};

use super::tensor::TensorInfo;
use crate::error::{ModelError, Place};
use crate::mmap;

/// Bytes of a header that are read before it is parsed for the first time; then twice as many, and so on.
const FIRST_LOOK: u64 = 1 << 20;

/// The longest header: ten times that of the largest vocabulary in use (a quarter of a million tokens with merges).
const MAX_HEADER: u64 = 256 << 20;

/// Where the tensors of one file come from.
pub(super) enum Source {
    /// In the order of their places, each once.
    Stream {
        reader: Box<dyn Read + Send>,
        /// Bytes read so far.
        at: u64,
        /// What has ended it.
        failed: bool,
    },
    /// From anywhere in a file.
    File { file: File, stamp: Stamp },
}

impl Source {
    /// A stream of which `prefix` has been read already.
    pub fn stream(prefix: Bytes, rest: Box<dyn Read + Send>) -> Self {
        Self::Stream {
            reader: Box::new(prefix.reader().chain(rest)),
            at: 0,
            failed: false,
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream { at, failed, .. } => {
                let mut stream = f.debug_struct("Stream");
                stream.field("at", at).field("failed", failed).finish()
            }
            Self::File { file, .. } => f.debug_tuple("File").field(file).finish(),
        }
    }
}

/// What tells that nobody has written a file since it was opened. Not the time at which its own data changed: a file
/// that was replaced by another is still whole for whoever has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            len: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }
}

/// The data of a model whose files were not opened as a whole.
#[derive(Debug)]
pub(super) struct Later {
    sources: Vec<Mutex<Source>>,   // of each file
    arrived: Vec<OnceLock<Bytes>>, // of each tensor
    /// Tensors in the order of their places, for streams; those of unknown size are skipped.
    order: Vec<u32>,
}

impl Later {
    pub fn new(sources: Vec<Source>, tensors: &[TensorInfo]) -> Self {
        let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
        order.retain(|&i| tensors[i as usize].bytes().is_some());
        order.sort_by_key(|&i| tensors[i as usize].offset());
        Self {
            sources: sources.into_iter().map(Mutex::new).collect(),
            arrived: tensors.iter().map(|_| OnceLock::new()).collect(),
            order,
        }
    }

    /// What a tensor holds, if somebody has asked for it.
    pub fn arrived(&self, index: usize) -> Option<&Bytes> {
        self.arrived[index].get()
    }

    /// What a tensor of known size holds. `name` is that of its file.
    pub fn get(
        &self,
        name: &str,
        tensors: &[TensorInfo],
        index: usize,
    ) -> Result<&Bytes, ModelError> {
        if let Some(bytes) = self.arrived(index) {
            return Ok(bytes);
        }
        let wanted = &tensors[index];
        let source = &self.sources[wanted.shard()];
        let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *source {
            Source::File { file, stamp } => {
                let bytes = read_at(file, *stamp, wanted);
                let bytes = bytes.map_err(|error| failed(name, wanted, error))?;
                Ok(self.arrived[index].get_or_init(|| bytes))
            }
            Source::Stream {
                reader,
                at,
                failed: ended,
            } => {
                // Whatever lies before it is kept too: a stream comes by once.
                let arrived = |i: &&u32| self.arrived[**i as usize].get().is_none();
                for &i in self.order.iter().filter(arrived) {
                    if *ended {
                        let again = io::Error::other("it has ended before, with an error");
                        return Err(failed(name, wanted, again));
                    }
                    let tensor = &tensors[i as usize];
                    *ended = true;
                    let bytes = read_next(reader, *at, tensor);
                    let bytes = bytes.map_err(|error| failed(name, tensor, error))?;
                    *ended = false;
                    *at = tensor.offset() + bytes.len() as u64;
                    let _ = self.arrived[i as usize].set(bytes);
                    if i as usize == index {
                        break;
                    }
                }
                self.arrived(index).ok_or_else(|| {
                    failed(name, wanted, io::Error::from(io::ErrorKind::UnexpectedEof))
                })
            }
        }
    }
}

/// Parses the header at the start of `source`, reading no more of it than about twice its length. Returns what `parse`
/// makes of it, with the bytes read.
pub(super) fn read_header<T>(
    name: &str,
    source: &mut dyn Read,
    parse: impl Fn(Bytes) -> Result<T, ModelError>,
) -> Result<(T, Bytes), ModelError> {
    let mut prefix = Vec::new();
    let mut look = FIRST_LOOK;
    loop {
        let wanted = look - prefix.len() as u64;
        let read = source.take(wanted).read_to_end(&mut prefix);
        let read = read.map_err(|source| ModelError::Io {
            file: name.into(),
            action: "read the header",
            source,
        })?;
        let bytes = Bytes::from(prefix);
        let all = (read as u64) < wanted || look >= MAX_HEADER;
        match parse(bytes.clone()) {
            Ok(parsed) => return Ok((parsed, bytes)),
            // What is no model at all does not become one by its rest.
            Err(error @ (ModelError::NotAModel { .. } | ModelError::GgufVersion { .. })) => {
                return Err(error);
            }
            Err(error) if all => return Err(error),
            Err(_) => {}
        }
        prefix = Vec::from(bytes);
        look *= 2;
    }
}

/// Reads on in a stream, of which `at` bytes have been read, to the end of a tensor.
fn read_next(reader: &mut dyn Read, at: u64, tensor: &TensorInfo) -> io::Result<Bytes> {
    let gap = tensor.offset().checked_sub(at);
    let gap = gap.ok_or_else(|| io::Error::other("it is behind what was read already"))?;
    let skipped = io::copy(&mut reader.take(gap), &mut io::sink())?;
    if skipped < gap {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    mmap::read_in(reader, tensor.bytes().unwrap_or_default())
}

fn read_at(file: &mut File, stamp: Stamp, tensor: &TensorInfo) -> io::Result<Bytes> {
    let unchanged = |file: &File| match Stamp::of(file)? == stamp {
        true => Ok(()),
        false => Err(io::Error::other(
            "somebody has written the file since it was opened",
        )),
    };
    unchanged(file)?;
    file.seek(SeekFrom::Start(tensor.offset()))?;
    let bytes = mmap::read_in(file, tensor.bytes().unwrap_or_default())?;
    unchanged(file)?;
    Ok(bytes)
}

/// The error for a tensor that does not come.
fn failed(name: &str, tensor: &TensorInfo, source: io::Error) -> ModelError {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        return ModelError::Truncated {
            file: name.into(),
            place: Place::Tensor(tensor.name().into()),
            offset: tensor.offset(),
            needed: tensor.bytes().unwrap_or_default(),
            available: 0,
        };
    }
    ModelError::Io {
        file: name.into(),
        action: "read a tensor",
        source,
    }
}
