//! What stands on the machine's stack, and the names that it knows.
//!
//! Source: torch/_utils.py and torch/storage.py for the names.

#[cfg(doc)]
use super::machine::PickleMachine;
use crate::safetensors::StoredType;

/// Something on the stack.
#[derive(Debug, Clone, Copy)]
pub enum PickleValue<'a> {
    /// `None`, a float, a list: allowed beside tensors, used by none.
    Unused(&'static str),
    Bool,
    Int(i64),
    Text(&'a str),
    Global(Global),
    /// A number of [`PickleMachine::tuples`].
    Tuple(usize),
    List,
    /// A number of [`PickleMachine::dicts`].
    Dict(usize),
    /// A number of [`PickleMachine::storages`].
    Storage(usize),
    /// A number of [`PickleMachine::views`].
    Tensor(usize),
}

impl PickleValue<'_> {
    /// What a message calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unused(kind) => kind,
            Self::Bool => "a bool",
            Self::Int(_) => "an integer",
            Self::Text(_) => "a string",
            Self::Global(global) => global.kind(),
            Self::Tuple(_) => "a tuple",
            Self::List => "a list",
            Self::Dict(_) => "a dict",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// A name of Python's that stands for something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v3`, which names the type apart from the storage.
    RebuildTyped,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// `torch.FloatStorage` and its like.
    Storage(StoredType),
    /// `torch.storage.UntypedStorage`.
    UntypedStorage,
    /// `torch.uint16` and its like.
    Type(StoredType),
}

impl Global {
    /// What a name stands for; `None` for every name that is not known.
    pub fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTyped),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch.storage", "UntypedStorage") => Some(Self::UntypedStorage),
            ("torch", name) => TYPES.iter().find_map(|(storage, dtype, ty)| {
                if *storage == Some(name) {
                    Some(Self::Storage(*ty))
                } else {
                    (*dtype == name).then_some(Self::Type(*ty))
                }
            }),
            _ => None,
        }
    }

    /// What a message calls it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::OrderedDict => "the class OrderedDict",
            Self::RebuildTensor | Self::RebuildTyped | Self::RebuildParameter => "a function",
            Self::Storage(_) | Self::UntypedStorage => "a class of storages",
            Self::Type(_) => "a type of numbers",
        }
    }
}

/// PyTorch's names for types of numbers: of the class of storages, where there is one, and of the type.
const TYPES: [(Option<&str>, &str, StoredType); 13] = [
    (Some("FloatStorage"), "float32", StoredType::F32),
    (Some("HalfStorage"), "float16", StoredType::F16),
    (Some("BFloat16Storage"), "bfloat16", StoredType::BF16),
    (Some("DoubleStorage"), "float64", StoredType::F64),
    (Some("BoolStorage"), "bool", StoredType::Bool),
    (Some("ByteStorage"), "uint8", StoredType::U8),
    (Some("CharStorage"), "int8", StoredType::I8),
    (Some("ShortStorage"), "int16", StoredType::I16),
    (Some("IntStorage"), "int32", StoredType::I32),
    (Some("LongStorage"), "int64", StoredType::I64),
    (None, "uint16", StoredType::U16),
    (None, "uint32", StoredType::U32),
    (None, "uint64", StoredType::U64),
];
