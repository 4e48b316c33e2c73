//! Writing GGUF version 3, streaming: everything is declared first, then the tensors' bytes follow in order.
//!
//! Only the header is ever in memory, so a file of any size is written in the space of one row.

use std::io::{self, Write};

use bitnet_quantization::TensorType;

use super::limits::{
    DEFAULT_ALIGNMENT, MAX_ALIGNMENT, MAX_DIM, MAX_DIMS, MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_TENSORS,
};
use super::reader::MAGIC;
use super::value::Value;

/// Version written.
const VERSION: u32 = 3;
/// Key of the alignment, written by the writer itself.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// What a total size must be.
const TOO_LARGE: &str = "a file below 2^64 bytes";

/// Why a GGUF file cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output refused.
    #[error("cannot write the GGUF file: {0}")]
    Io(#[from] io::Error),
    /// A key, name, shape or alignment that a reader would refuse.
    #[error("{what}: expected {expected}, found {found}")]
    Invalid {
        /// The key, tensor or setting.
        what: String,
        /// What a reader accepts.
        expected: String,
        /// What was declared.
        found: String,
    },
    /// The tensors' bytes were not the declared ones.
    #[error("tensor {tensor}: expected {expected} bytes, found {found}")]
    Length {
        /// The tensor's name.
        tensor: String,
        /// Bytes that its type and shape take.
        expected: u64,
        /// Bytes written.
        found: u64,
    },
    /// More tensors were written than declared, or fewer.
    #[error("expected {expected} tensors, found {found}")]
    Count {
        /// Tensors declared.
        expected: usize,
        /// Tensors written.
        found: usize,
    },
}

/// The declarations of a GGUF file: metadata and tensors, in the order in which they are to be stored.
///
/// ```
/// use bitnet_models::gguf::{Gguf, GgufWriter, Value};
/// use bitnet_quantization::TensorType;
///
/// let mut writer = GgufWriter::new();
/// writer.metadata("general.architecture", Value::string("llama"))?;
/// writer.tensor("output_norm.weight", TensorType::F32, &[2])?;
/// let mut data = writer.start(Vec::new())?;
/// data.write(&[0, 0, 128, 63, 0, 0, 0, 64])?; // in as many pieces as you like
/// let file = data.finish()?;
/// let gguf = Gguf::from_bytes("example", file.into())?;
/// assert_eq!(gguf.tensors()[0].dims(), [2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct GgufWriter {
    alignment: u32,
    metadata: Vec<(String, Value)>,
    tensors: Vec<Declared>,
}

#[derive(Debug, Clone)]
struct Declared {
    name: String,
    type_id: u32,
    dims: Vec<u64>,
    bytes: u64,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    /// An empty file with the default alignment of 32 bytes.
    pub fn new() -> Self {
        Self {
            alignment: DEFAULT_ALIGNMENT,
            metadata: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// Aligns tensor data to another power of two; recorded as `general.alignment`.
    ///
    /// # Errors
    /// [`WriteError::Invalid`] when a reader would refuse it.
    pub fn alignment(&mut self, alignment: u32) -> Result<(), WriteError> {
        if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
            return Err(invalid(
                ALIGNMENT_KEY,
                format!("a power of two from 8 to {MAX_ALIGNMENT}"),
                alignment,
            ));
        }
        self.alignment = alignment;
        Ok(())
    }

    /// Declares a key-value pair.
    ///
    /// # Errors
    /// [`WriteError::Invalid`] for an empty, over-long or repeated key, and for `general.alignment`, which
    /// [`GgufWriter::alignment`] sets.
    pub fn metadata(&mut self, key: &str, value: Value) -> Result<(), WriteError> {
        if key.is_empty() || key.len() as u64 > MAX_KEY_BYTES {
            return Err(invalid(
                "metadata key",
                format!("1 to {MAX_KEY_BYTES} bytes"),
                key.len(),
            ));
        }
        if key == ALIGNMENT_KEY || self.metadata.iter().any(|(other, _)| other == key) {
            return Err(invalid(key, "each key once".into(), "it again"));
        }
        self.metadata.push((key.into(), value));
        Ok(())
    }

    /// Declares a tensor of `dims`, contiguous dimension first (a weight is `[in_features, out_features]`), and
    /// returns how many bytes of data it takes.
    ///
    /// # Errors
    /// [`WriteError::Invalid`] for a name or shape that a reader would refuse.
    pub fn tensor(&mut self, name: &str, ty: TensorType, dims: &[u64]) -> Result<u64, WriteError> {
        self.check_declaration(name, dims)?;
        let block = ty.block_len() as u64;
        if !dims[0].is_multiple_of(block) {
            return Err(invalid(
                name,
                format!("rows of a multiple of {block} values ({ty})"),
                dims[0],
            ));
        }
        let n_elements = dims
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(dim));
        let bytes = n_elements.and_then(|n| ty.storage_bytes(n));
        let bytes = bytes
            .ok_or_else(|| invalid(name, "a byte count below 2^64".into(), format!("{dims:?}")))?;
        self.tensors.push(Declared {
            name: name.into(),
            type_id: ty.ggml_id(),
            dims: dims.into(),
            bytes,
        });
        Ok(bytes)
    }

    /// Declares a tensor by its type's number in the file and the bytes that it takes, for data that are passed on as
    /// they are.
    ///
    /// # Errors
    /// As [`GgufWriter::tensor`].
    pub fn raw_tensor(
        &mut self,
        name: &str,
        type_id: u32,
        dims: &[u64],
        bytes: u64,
    ) -> Result<(), WriteError> {
        self.check_declaration(name, dims)?;
        self.tensors.push(Declared {
            name: name.into(),
            type_id,
            dims: dims.into(),
            bytes,
        });
        Ok(())
    }

    fn check_declaration(&self, name: &str, dims: &[u64]) -> Result<(), WriteError> {
        if name.is_empty() || name.len() as u64 > MAX_NAME_BYTES {
            return Err(invalid(
                "tensor name",
                format!("1 to {MAX_NAME_BYTES} bytes"),
                name.len(),
            ));
        }
        if self.tensors.len() as u64 >= MAX_TENSORS {
            return Err(invalid(
                "tensor count",
                format!("at most {MAX_TENSORS}"),
                self.tensors.len() + 1,
            ));
        }
        if dims.is_empty()
            || dims.len() > MAX_DIMS
            || dims.iter().any(|d| !(1..=MAX_DIM).contains(d))
        {
            return Err(invalid(
                name,
                format!("1 to 4 dimensions of 1 to {MAX_DIM}"),
                format!("{dims:?}"),
            ));
        }
        Ok(())
    }

    /// Bytes of the finished file.
    ///
    /// # Errors
    /// [`WriteError::Invalid`] as [`GgufWriter::start`].
    pub fn file_bytes(&self) -> Result<u64, WriteError> {
        let (header, data) = self.header()?;
        (header.len() as u64)
            .checked_add(data)
            .ok_or_else(|| invalid("the file", TOO_LARGE.into(), "more"))
    }

    /// Writes the header; the tensors' bytes follow through the returned writer.
    ///
    /// # Errors
    /// [`WriteError::Io`] when the output fails; [`WriteError::Invalid`] for a tensor declared twice or a total size
    /// that does not fit in 64 bits.
    pub fn start<W: Write>(self, mut out: W) -> Result<TensorWriter<W>, WriteError> {
        let (header, _) = self.header()?;
        out.write_all(&header)?;
        Ok(TensorWriter {
            out,
            tensors: self.tensors,
            alignment: self.alignment,
            current: 0,
            written: 0,
        })
    }

    /// Everything before the tensors' bytes, padding included, and how many bytes those are with theirs.
    fn header(&self) -> Result<(Vec<u8>, u64), WriteError> {
        let mut names: Vec<&str> = self.tensors.iter().map(|t| t.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid(pair[0], "each tensor once".into(), "it twice"));
        }
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        let aligned = (self.alignment != DEFAULT_ALIGNMENT)
            .then_some((ALIGNMENT_KEY, Value::U32(self.alignment)));
        header.extend((self.metadata.len() as u64 + u64::from(aligned.is_some())).to_le_bytes());
        let pairs = self
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value));
        for (key, value) in aligned
            .iter()
            .map(|(key, value)| (*key, value))
            .chain(pairs)
        {
            string(&mut header, key);
            header.extend((value.value_type() as u32).to_le_bytes());
            value.write(&mut header);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            string(&mut header, &tensor.name);
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor
                .dims
                .iter()
                .for_each(|dim| header.extend(dim.to_le_bytes()));
            header.extend(tensor.type_id.to_le_bytes());
            header.extend(offset.to_le_bytes());
            let end = offset.checked_add(tensor.bytes);
            offset = end
                .and_then(|end| end.checked_next_multiple_of(self.alignment.into()))
                .ok_or_else(|| invalid(&tensor.name, TOO_LARGE.into(), "more"))?;
        }
        if !self.tensors.is_empty() {
            header.resize(header.len().next_multiple_of(self.alignment as usize), 0);
        }
        Ok((header, offset))
    }
}

/// Takes the bytes of the declared tensors, in order.
#[derive(Debug)]
pub struct TensorWriter<W: Write> {
    out: W,
    tensors: Vec<Declared>,
    alignment: u32,
    /// The tensor being written.
    current: usize,
    /// Bytes of it that are written.
    written: u64,
}

impl<W: Write> TensorWriter<W> {
    /// Appends bytes to the current tensor, which may come in any number of pieces; a piece belongs to one tensor.
    ///
    /// # Errors
    /// [`WriteError::Length`] when the piece runs past the tensor's end, [`WriteError::Count`] when all declared
    /// tensors are complete, [`WriteError::Io`] when the output fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(tensor) = self.tensors.get(self.current) else {
            return Err(WriteError::Count {
                expected: self.tensors.len(),
                found: self.tensors.len() + 1,
            });
        };
        let written = self.written.saturating_add(bytes.len() as u64);
        if written > tensor.bytes {
            return Err(WriteError::Length {
                tensor: tensor.name.clone(),
                expected: tensor.bytes,
                found: written,
            });
        }
        self.out.write_all(bytes)?;
        self.written = written;
        if written == tensor.bytes {
            const ZEROS: [u8; 4096] = [0; 4096];
            let alignment = u64::from(self.alignment);
            let mut padding = (alignment - written % alignment) % alignment;
            while padding > 0 {
                let piece = padding.min(ZEROS.len() as u64);
                self.out.write_all(&ZEROS[..piece as usize])?;
                padding -= piece;
            }
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Name of the tensor whose bytes are due next.
    pub fn current_tensor(&self) -> Option<&str> {
        self.tensors
            .get(self.current)
            .map(|tensor| tensor.name.as_str())
    }

    /// Ends the file and hands the output back, flushed.
    ///
    /// # Errors
    /// [`WriteError::Count`] or [`WriteError::Length`] when tensors are missing or incomplete, [`WriteError::Io`] when
    /// the output fails.
    pub fn finish(mut self) -> Result<W, WriteError> {
        if let Some(tensor) = self.tensors.get(self.current) {
            if self.written > 0 {
                let (tensor, expected, found) = (tensor.name.clone(), tensor.bytes, self.written);
                return Err(WriteError::Length {
                    tensor,
                    expected,
                    found,
                });
            }
            return Err(WriteError::Count {
                expected: self.tensors.len(),
                found: self.current,
            });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn invalid(what: impl Into<String>, expected: String, found: impl ToString) -> WriteError {
    WriteError::Invalid {
        what: what.into(),
        expected,
        found: found.to_string(),
    }
}
