//! The tensors of a model directory: one file or several with their index, whatever container holds them.
//!
//! Safetensors and PyTorch's own files come out as the same list, so that nothing behind it knows which it was.

mod directory;

use bytes::Bytes;

use crate::error::{ModelError, Place};
use crate::pickle;
use crate::safetensors::{self, StoredType};
use bitnet_quantization::TensorType;

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    pub(crate) name: Box<str>,
    pub(crate) shape: Box<[u64]>,
    /// Offsets from the start of the file.
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) stored_type: StoredType,
    pub(crate) shard: u16,
}

impl StoredTensor {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its dimensions, slowest first (a weight is `[out_features, in_features]`).
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// How its values are stored.
    pub fn stored_type(&self) -> StoredType {
        self.stored_type
    }

    /// Its type, where it is one of the floats that this engine computes with.
    pub fn tensor_type(&self) -> Option<TensorType> {
        match self.stored_type {
            StoredType::F32 => Some(TensorType::F32),
            StoredType::F16 => Some(TensorType::F16),
            StoredType::BF16 => Some(TensorType::BF16),
            _ => None,
        }
    }

    /// Where its data start, in bytes from the start of its file.
    pub fn offset(&self) -> u64 {
        self.start
    }

    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// Which file of a sharded checkpoint it is in, from 0.
    pub fn shard(&self) -> usize {
        self.shard as usize
    }
}

/// What holds the tensors of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorContainer {
    /// A safetensors file.
    Safetensors,
    /// The zip archive with a pickle that `torch.save` writes.
    Pickle,
}

impl TensorContainer {
    /// As listings call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Pickle => "PyTorch pickle",
        }
    }

    fn read(self, file: &str, bytes: &Bytes, shard: u16) -> Result<Vec<StoredTensor>, ModelError> {
        match self {
            Self::Safetensors => safetensors::read_file(file, bytes, shard),
            Self::Pickle => pickle::read_file(file, bytes, shard),
        }
    }
}

/// The open weights of a checkpoint: one file, or several with their index.
#[derive(Debug)]
pub struct TensorFiles {
    container: TensorContainer,
    shards: Vec<Shard>,
    /// Sorted by name.
    tensors: Vec<StoredTensor>,
}

#[derive(Debug)]
struct Shard {
    name: String,
    bytes: Bytes,
}

impl TensorFiles {
    /// Reads one file; `name` stands for it in messages.
    ///
    /// # Errors
    /// Every way it can be damaged or hostile: see [`ModelError`].
    pub fn from_bytes(
        container: TensorContainer,
        name: &str,
        bytes: Bytes,
    ) -> Result<Self, ModelError> {
        let tensors = container.read(name, &bytes, 0)?;
        let name = name.into();
        Self::join(container, vec![(Shard { name, bytes }, tensors)])
    }

    /// What holds the tensors.
    pub fn container(&self) -> TensorContainer {
        self.container
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        let found = self
            .tensors
            .binary_search_by(|tensor| tensor.name().cmp(name))
            .ok()?;
        Some(&self.tensors[found])
    }

    /// A tensor's bytes.
    pub fn slice(&self, tensor: &StoredTensor) -> &[u8] {
        // Within the file, checked when read.
        &self.shards[tensor.shard()].bytes[tensor.start as usize..tensor.end as usize]
    }

    /// A tensor's bytes, sharing the file.
    pub fn data(&self, tensor: &StoredTensor) -> Bytes {
        self.shards[tensor.shard()]
            .bytes
            .slice(tensor.start as usize..tensor.end as usize)
    }

    /// The whole file a tensor is in.
    pub(crate) fn file_bytes(&self, tensor: &StoredTensor) -> &Bytes {
        &self.shards[tensor.shard()].bytes
    }

    /// The name of the file a tensor is in, for messages.
    pub fn file_of(&self, tensor: &StoredTensor) -> &str {
        &self.shards[tensor.shard()].name
    }

    /// The name of the first (or only) file, for messages.
    pub fn file(&self) -> &str {
        &self.shards[0].name
    }

    /// How many files the checkpoint has.
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

    fn join(
        container: TensorContainer,
        parts: Vec<(Shard, Vec<StoredTensor>)>,
    ) -> Result<Self, ModelError> {
        let mut joined = Self {
            container,
            shards: Vec::new(),
            tensors: Vec::new(),
        };
        for (shard, tensors) in parts {
            joined.shards.push(shard);
            if joined.tensors.is_empty() {
                joined.tensors = tensors;
            } else {
                joined.tensors.extend(tensors);
            }
        }
        joined
            .tensors
            .sort_unstable_by(|a, b| a.name.cmp(&b.name).then(a.shard.cmp(&b.shard)));
        if let Some(pair) = joined
            .tensors
            .windows(2)
            .find(|pair| pair[0].name == pair[1].name)
        {
            return Err(ModelError::Malformed {
                file: joined.file_of(&pair[1]).into(),
                place: Place::Tensor(pair[1].name.to_string()),
                offset: None,
                expected: "each name once".into(),
                found: "it twice".into(),
            });
        }
        Ok(joined)
    }

    /// Copies files of which several tensors share bytes, as tied weights do, out of the pages that [`release`] takes:
    /// of a file in memory they would be zeros for the second tensor.
    ///
    /// [`release`]: crate::mmap::release
    fn keep_shared(mut self) -> Self {
        for (index, shard) in self.shards.iter_mut().enumerate() {
            let tensors = self.tensors.iter().filter(|tensor| tensor.shard() == index);
            let mut ranges: Vec<_> = tensors.map(|tensor| (tensor.start, tensor.end)).collect();
            ranges.sort_unstable();
            if ranges.windows(2).any(|pair| pair[1].0 < pair[0].1) {
                shard.bytes = Bytes::copy_from_slice(&shard.bytes);
            }
        }
        self
    }
}
