//! What can be wrong with a model file, said in one line: which file, which field or tensor, at which byte,
//! what was expected and what was found; beside it a hint that says what to do about it.
//!
//! Everything quoted from a file passes through [`quoted`]: a hostile name can neither break the line nor
//! reach the terminal as an escape sequence.

use std::fmt;
use std::io;
use std::path::Path;

use bitnet_kernels::KernelError;
use bitnet_quantization::QuantError;

use crate::batch::BatchError;
use crate::config::{ConfigError, ConfigField};
use crate::file_kind::{FileKind, GgufVersion};

/// Why a model cannot be opened, read or loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused: no such file, no permission, a read error.
    #[error("{file}: cannot {action}: {source}")]
    Io {
        /// The file or directory asked for.
        file: String,
        /// What was attempted, as a verb phrase: "open", "map into memory".
        action: &'static str,
        /// The system's own words.
        source: io::Error,
    },
    /// The file is something else than a model.
    #[error("{file}: not a model file: it is {found}")]
    NotAModel {
        /// The file.
        file: String,
        /// What its first bytes look like.
        found: FileKind,
    },
    /// A directory lacks a file that a Hugging Face checkpoint must have.
    #[error("{file}: the directory has no {missing}")]
    IncompleteDirectory {
        /// The directory.
        file: String,
        /// What is missing, as a file name or a choice of file names.
        missing: &'static str,
    },
    /// A GGUF file of a version that is not read.
    #[error("{file}: GGUF header at byte 4: expected version 2 or 3, little-endian; found {found}")]
    GgufVersion {
        /// The file.
        file: String,
        /// The version found.
        found: GgufVersion,
    },
    /// The file ends before something it promises.
    #[error(
        "{file}: {place} at byte {offset}: expected {needed} more bytes, found {available} (the file is cut short)"
    )]
    Truncated {
        /// The file.
        file: String,
        /// What was being read.
        place: Place,
        /// Where it starts, in bytes from the start of the file.
        offset: u64,
        /// How many bytes it needs from there.
        needed: u64,
        /// How many there are.
        available: u64,
    },
    /// The file contradicts its format.
    #[error("{file}: {place}{}: expected {expected}, found {found}", At(*offset))]
    Malformed {
        /// The file.
        file: String,
        /// What is wrong.
        place: Place,
        /// Where, in bytes from the start of the file, when it is at one place.
        offset: Option<u64>,
        /// What the format asks for.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A pickle holds, or asks for, something else than plain tensors.
    #[error("{file}: {place}{}: expected {expected}, found {found}", At(*offset))]
    Pickle {
        /// The file.
        file: String,
        /// What holds it: a part of the archive, or a tensor.
        place: Place,
        /// Where, in bytes from the start of the file, when it is at one place.
        offset: Option<u64>,
        /// What the file of a state dict has there.
        expected: Box<str>,
        /// What is there.
        found: Box<str>,
    },
    /// A count or a size is beyond what a real model needs (`gguf::limits`).
    #[error("{file}: {place}{}: expected at most {limit} {unit}, found {found}", At(*offset))]
    Limit {
        /// The file.
        file: String,
        /// Which count or size.
        place: Place,
        /// Where it is declared, in bytes from the start of the file.
        offset: Option<u64>,
        /// The largest value accepted.
        limit: u64,
        /// What is counted: "bytes", "tensors".
        unit: &'static str,
        /// The value declared.
        found: u64,
    },
    /// The model's architecture is not one that this engine runs.
    #[error("{file}: {place}: expected one of {supported}, found {found}")]
    Architecture {
        /// The file.
        file: String,
        /// The field that names the architecture.
        place: Place,
        /// The architecture named.
        found: String,
        /// The architectures that run, comma-separated.
        supported: String,
    },
    /// A field that the model needs is absent.
    #[error("{file}: field {field}: expected {expected}, found no such field")]
    MissingField {
        /// The file.
        file: String,
        /// The field's name as the file format spells it.
        field: String,
        /// What kind of value it should hold.
        expected: String,
    },
    /// A field holds a value that cannot be right.
    #[error("{file}: field {field}: expected {expected}, found {found}")]
    Field {
        /// The file.
        file: String,
        /// The field's name as the file format spells it.
        field: String,
        /// What values are possible.
        expected: String,
        /// The value in the file.
        found: String,
    },
    /// A tensor that the model needs is absent.
    #[error("{file}: tensor {tensor}: expected {expected}, found no such tensor")]
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The shape it should have.
        expected: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{file}: tensor {tensor}: expected shape {expected}, found {found}")]
    TensorShape {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The shape that the configuration gives.
        expected: String,
        /// The shape in the file.
        found: String,
    },
    /// A tensor is stored in a type that cannot be read, or not in this place.
    #[error("{file}: tensor {tensor}: expected {expected}, found {found}")]
    TensorType {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// Which types are possible.
        expected: String,
        /// The type in the file.
        found: String,
    },
    /// A type number that several formats use, of which the file and `--dialect` make none, or more than one.
    #[error("{file}: tensor {tensor}: its type number {number} {what}")]
    Dialect {
        /// The file.
        file: String,
        /// The first tensor of that number.
        tensor: String,
        /// The number.
        number: u32,
        /// What is the matter, as a verb phrase.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// A projection holds ordinary numbers where a ternary model has {-s, 0, +s}.
    #[error("{file}: tensor {tensor}: expected ternary weights, found {found}")]
    NotTernary {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// What the weights look like instead.
        found: String,
    },
    /// A weight scale that no trained model has.
    #[error("{file}: tensor {tensor}: expected a finite scale above 0, found {found}")]
    Scale {
        /// The file.
        file: String,
        /// The tensor that holds the scale.
        tensor: String,
        /// The scale in the file.
        found: f32,
    },
    /// A tensor's bytes cannot be decoded.
    #[error("{file}: tensor {tensor}: {source}")]
    TensorData {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// What the decoder found.
        source: QuantError,
    },
    /// A tensor that changes the result and that no part of the forward pass reads.
    #[error(
        "{file}: tensor {tensor}: expected no such tensor in a model of family {family}, found it"
    )]
    ForeignTensor {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The family that the file says it is.
        family: &'static str,
    },
    /// A value of a vector that would poison every result.
    #[error("{file}: tensor {tensor}, element {index}: expected {expected}, found {found}")]
    VectorValue {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// Which value.
        index: usize,
        /// What values are possible.
        expected: &'static str,
        /// The value in the file.
        found: f32,
    },
    /// The configuration is one that this engine does not compute.
    #[error("{file}: {source}")]
    Config {
        /// The file.
        file: String,
        /// What is not supported.
        source: ConfigError,
    },
    /// The kernels refused to start or to take a tensor.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Weights cannot be decoded.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// A batch does not fit the buffers it was made for.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// Which of the command line's exit codes an error belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The file could not be read at all: exit code 1.
    Unreadable,
    /// The file was read and is of no use: exit code 3.
    Unusable,
}

impl ModelError {
    /// Whether the file could not be read, or was read and is unusable.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io { .. } | Self::Kernel(_) => ErrorClass::Unreadable,
            _ => ErrorClass::Unusable,
        }
    }

    /// A configuration error with the file's name and the file's own name of the field.
    pub(crate) fn from_config(
        file: &str,
        error: ConfigError,
        key: impl Fn(ConfigField) -> String,
        architecture_key: &str,
    ) -> Self {
        let file = file.to_owned();
        match error {
            ConfigError::Architecture { found, supported } => Self::Architecture {
                file,
                place: Place::Field(architecture_key.into()),
                found: quoted(&found),
                supported,
            },
            ConfigError::Field {
                field,
                found,
                expected,
            } => Self::Field {
                file,
                field: key(field),
                expected,
                found,
            },
            source => Self::Config { file, source },
        }
    }

    /// A stable name for the kind of error, as compat-check prints it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "unreadable",
            Self::NotAModel { .. } => "not-a-model",
            Self::IncompleteDirectory { .. } => "incomplete-directory",
            Self::GgufVersion { .. } => "gguf-version",
            Self::Truncated { .. } => "truncated",
            Self::Malformed { .. } => "malformed",
            Self::Pickle { .. } => "pickle",
            Self::Limit { .. } => "limit",
            Self::Architecture { .. } => "architecture",
            Self::MissingField { .. } => "missing-field",
            Self::Field { .. } => "field",
            Self::MissingTensor { .. } => "missing-tensor",
            Self::TensorShape { .. } => "tensor-shape",
            Self::TensorType { .. } => "tensor-type",
            Self::Dialect { .. } => "dialect",
            Self::NotTernary { .. } => "not-ternary",
            Self::Scale { .. } => "scale",
            Self::TensorData { .. } | Self::Quant(_) => "tensor-data",
            Self::ForeignTensor { .. } => "foreign-tensor",
            Self::VectorValue { .. } => "vector-value",
            Self::Config { .. } => "config",
            Self::Kernel(_) => "kernel",
            Self::Batch(_) => "batch",
        }
    }

    /// The field, tensor or file that the error is about.
    pub fn place(&self) -> String {
        match self {
            Self::Truncated { place, .. }
            | Self::Malformed { place, .. }
            | Self::Pickle { place, .. }
            | Self::Limit { place, .. }
            | Self::Architecture { place, .. } => place.to_string(),
            Self::MissingField { field, .. } | Self::Field { field, .. } => {
                format!("field {field}")
            }
            Self::MissingTensor { tensor, .. }
            | Self::TensorShape { tensor, .. }
            | Self::TensorType { tensor, .. }
            | Self::Dialect { tensor, .. }
            | Self::NotTernary { tensor, .. }
            | Self::Scale { tensor, .. }
            | Self::TensorData { tensor, .. }
            | Self::ForeignTensor { tensor, .. }
            | Self::VectorValue { tensor, .. } => format!("tensor {tensor}"),
            Self::GgufVersion { .. } => "version".into(),
            Self::Io { file, .. }
            | Self::NotAModel { file, .. }
            | Self::IncompleteDirectory { file, .. }
            | Self::Config { file, .. } => file.clone(),
            Self::Kernel(_) | Self::Quant(_) | Self::Batch(_) => "engine".into(),
        }
    }

    /// What to do about it, in one sentence.
    pub fn hint(&self) -> String {
        const AGAIN: &str =
            "the file is damaged: download it again and compare its size and checksum";
        const CHECK: &str = "`bitnet compat-check` lists everything that is wrong with the file";
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "check the path; --model takes a .gguf file or a Hugging Face model directory".into()
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "the file exists but this user may not read it".into()
            }
            Self::Io { .. } => "check the path and the disk, then try again".into(),
            Self::NotAModel { found, .. } => found.hint().into(),
            Self::IncompleteDirectory { missing, .. } => format!(
                "a model directory holds config.json, model.safetensors and tokenizer.json; add {missing} or name a .gguf file"
            ),
            Self::GgufVersion { found, .. } => found.hint().into(),
            Self::Truncated { .. } => {
                "the download is incomplete: fetch the file again and compare its size with the published one".into()
            }
            Self::TensorData { source: QuantError::InvalidCode { format: "I2_S", .. }, .. } => {
                "the file is damaged or in another I2_S layout: try --dialect i2s-64 or i2s-4row".into()
            }
            Self::TensorData { source: QuantError::Codebook { .. }, .. } => {
                "take the model in I2_S, TQ2_0 or Q2_0, or make such a file from the original weights with `bitnet convert`".into()
            }
            Self::Dialect { hint, .. } => hint.clone(),
            Self::Malformed { .. } | Self::TensorData { .. } | Self::Quant(_) => AGAIN.into(),
            Self::Pickle { .. } => {
                "nothing in the file was run, and Python might: take the model's safetensors files, or have its author save \
                 the state dict alone with `safetensors.torch.save_file`"
                    .into()
            }
            Self::Limit { .. } => {
                "no real model needs that much: the file is damaged or made to harm; do not use it".into()
            }
            Self::Architecture { supported, .. } => {
                format!("choose a model of one of these architectures: {supported}")
            }
            Self::MissingField { .. } | Self::Field { .. } => {
                format!("the file was written by a faulty converter or is damaged; {CHECK}")
            }
            Self::MissingTensor { .. } | Self::TensorShape { .. } => {
                format!("the file does not hold the model that its header describes: convert it again; {CHECK}")
            }
            Self::TensorType { .. } => {
                "convert the model again to a type that this engine reads (I2_S, TQ1_0, TQ2_0 or Q2_0 for the projections, F16 or Q6_K for the embedding, F32 for norms)".into()
            }
            Self::NotTernary { .. } => {
                "this engine runs 1.58-bit models only: choose the model's ternary release, or quantise it with a ternary-aware tool".into()
            }
            Self::Scale { .. } => format!("the converter lost the scale: convert the model again; {CHECK}"),
            Self::ForeignTensor { .. } => {
                "the file holds another kind of model than its architecture says; running it without this tensor would give wrong text".into()
            }
            Self::VectorValue { .. } => AGAIN.into(),
            Self::Config { .. } => "choose another model or another export of this one".into(),
            Self::Batch(_) => "this is an error in the calling program, not in the model".into(),
            Self::Kernel(_) => "try another kernel with BITNET_KERNEL, or a machine with more memory".into(),
        }
    }
}

/// The part of a file that an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A part of the container, in words: "tensor count", "header".
    Part(&'static str),
    /// A metadata key or a field of config.json.
    Field(String),
    /// A tensor.
    Tensor(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(part) => f.write_str(part),
            Self::Field(field) => write!(f, "field {}", quoted(field)),
            Self::Tensor(tensor) => write!(f, "tensor {}", quoted(tensor)),
        }
    }
}

/// How much of a string from a file is quoted in a message.
const QUOTED_CHARS: usize = 64;

/// A string from a file, made fit for one line of a terminal: control characters escaped, long ones cut.
pub fn quoted(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(QUOTED_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(QUOTED_CHARS).is_some() {
        out.push('…');
    }
    out
}

/// A path as error messages show it: control characters escaped, nothing cut.
pub fn file_name(path: &Path) -> String {
    let shown = path.display().to_string();
    if shown.chars().any(char::is_control) {
        shown.escape_debug().to_string()
    } else {
        shown
    }
}

/// " at byte N", or nothing where an error has no single offset.
struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " at byte {offset}"),
            None => Ok(()),
        }
    }
}
