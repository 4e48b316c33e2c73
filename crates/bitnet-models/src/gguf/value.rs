//! Metadata values. Strings and arrays stay where they are in the file: a vocabulary of 128,256 tokens costs
//! nothing until it is iterated, and a declared length never becomes an allocation.

use std::str::Utf8Error;

use bytes::Bytes;

/// One of GGUF's value types; the discriminants are the file's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ValueType {
    /// 8-bit unsigned integer.
    U8 = 0,
    /// 8-bit signed integer.
    I8 = 1,
    /// 16-bit unsigned integer.
    U16 = 2,
    /// 16-bit signed integer.
    I16 = 3,
    /// 32-bit unsigned integer.
    U32 = 4,
    /// 32-bit signed integer.
    I32 = 5,
    /// IEEE single.
    F32 = 6,
    /// One byte, 0 or 1.
    Bool = 7,
    /// Length-prefixed UTF-8.
    String = 8,
    /// A run of values of one type.
    Array = 9,
    /// 64-bit unsigned integer.
    U64 = 10,
    /// 64-bit signed integer.
    I64 = 11,
    /// IEEE double.
    F64 = 12,
}

impl ValueType {
    /// The type with this number in a file.
    pub fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [
            U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64,
        ]
        .get(id as usize)
        .copied()
    }

    /// Name in the specification's spelling.
    pub fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            String => "string",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }

    /// Bytes of one value in a file; the least bytes where the length varies.
    pub(super) fn min_bytes(self) -> u64 {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            U64 | I64 | F64 | String => 8,
            Array => 12,
        }
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// 8-bit unsigned integer.
    U8(u8),
    /// 8-bit signed integer.
    I8(i8),
    /// 16-bit unsigned integer.
    U16(u16),
    /// 16-bit signed integer.
    I16(i16),
    /// 32-bit unsigned integer.
    U32(u32),
    /// 32-bit signed integer.
    I32(i32),
    /// IEEE single.
    F32(f32),
    /// Truth value.
    Bool(bool),
    /// A string, as the file's bytes.
    String(Text),
    /// A run of values of one type.
    Array(Array),
    /// 64-bit unsigned integer.
    U64(u64),
    /// 64-bit signed integer.
    I64(i64),
    /// IEEE double.
    F64(f64),
}

impl Value {
    /// A string value, for writing.
    pub fn string(text: &str) -> Self {
        Self::String(Text(Bytes::copy_from_slice(text.as_bytes())))
    }

    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// Any integer type, widened.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// A float of either width, or an integer, as f32.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(v) => Some(v),
            Self::F64(v) => Some(v as f32),
            _ => self.as_integer().map(|v| v as f32),
        }
    }

    /// A string that is valid UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => text.as_str().ok(),
            _ => None,
        }
    }

    /// Reads one scalar of type `ty` from exactly its bytes; `None` for a bool that is neither 0 nor 1, and for
    /// strings and arrays.
    pub(super) fn scalar(ty: ValueType, bytes: &[u8]) -> Option<Self> {
        fn le<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.try_into().ok()
        }
        Some(match ty {
            ValueType::U8 => Self::U8(u8::from_le_bytes(le(bytes)?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(le(bytes)?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(le(bytes)?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(le(bytes)?)),
            ValueType::U32 => Self::U32(u32::from_le_bytes(le(bytes)?)),
            ValueType::I32 => Self::I32(i32::from_le_bytes(le(bytes)?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(le(bytes)?)),
            ValueType::U64 => Self::U64(u64::from_le_bytes(le(bytes)?)),
            ValueType::I64 => Self::I64(i64::from_le_bytes(le(bytes)?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(le(bytes)?)),
            ValueType::Bool => match bytes {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                _ => return None,
            },
            ValueType::String | ValueType::Array => return None,
        })
    }

    /// Appends the value as a file holds it, without its type.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(v) => out.push(*v),
            Self::I8(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(u8::from(*v)),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
            Self::String(text) => {
                out.extend((text.0.len() as u64).to_le_bytes());
                out.extend_from_slice(&text.0);
            }
            Self::Array(array) => {
                out.extend((array.element_type as u32).to_le_bytes());
                out.extend((array.len as u64).to_le_bytes());
                out.extend_from_slice(&array.bytes);
            }
        }
    }
}

/// A string of a file, not necessarily UTF-8: the reader does not refuse a model for a mangled description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub(super) Bytes);

impl Text {
    /// The string's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The string.
    ///
    /// # Errors
    /// Where the bytes are not UTF-8. Checked on every call: the bytes may be a mapped file.
    pub fn as_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.0)
    }
}

/// An array of a file: elements back to back, decoded on demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    pub(super) element_type: ValueType,
    pub(super) len: usize,
    /// The elements as the file holds them; the reader has walked them once, so all lengths are known to fit.
    pub(super) bytes: Bytes,
}

impl Array {
    /// An array of strings, for writing.
    pub fn of_strings<S: AsRef<str>>(strings: impl IntoIterator<Item = S>) -> Self {
        let (mut bytes, mut len) = (Vec::new(), 0);
        for string in strings {
            bytes.extend((string.as_ref().len() as u64).to_le_bytes());
            bytes.extend_from_slice(string.as_ref().as_bytes());
            len += 1;
        }
        Self {
            element_type: ValueType::String,
            len,
            bytes: bytes.into(),
        }
    }

    /// An array of f32, for writing.
    pub fn of_f32(values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self {
            element_type: ValueType::F32,
            len: values.len(),
            bytes: bytes.into(),
        }
    }

    /// An array of i32, for writing.
    pub fn of_i32(values: &[i32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self {
            element_type: ValueType::I32,
            len: values.len(),
            bytes: bytes.into(),
        }
    }

    /// The type of every element.
    pub fn element_type(&self) -> ValueType {
        self.element_type
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order.
    pub fn iter(&self) -> Elements<'_> {
        Elements {
            array: self,
            at: 0,
            left: self.len,
        }
    }
}

/// Iterator over an [`Array`].
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    array: &'a Array,
    at: usize,
    left: usize,
}

impl Iterator for Elements<'_> {
    type Item = Value;

    /// `None` also where the bytes no longer are what the reader checked (a file rewritten while mapped).
    fn next(&mut self) -> Option<Value> {
        self.left = self.left.checked_sub(1)?;
        let bytes = &self.array.bytes;
        let rest = bytes.get(self.at..)?;
        let (start, len) = match self.array.element_type {
            ValueType::String => (
                8,
                usize::try_from(u64::from_le_bytes(*rest.first_chunk()?)).ok()?,
            ),
            scalar => (0, scalar.min_bytes() as usize),
        };
        let from = self.at + start;
        let to = from.checked_add(len)?;
        let element = bytes.get(from..to)?;
        self.at = to;
        if self.array.element_type == ValueType::String {
            return Some(Value::String(Text(bytes.slice(from..to))));
        }
        // A byte that is no bool was refused by the reader.
        Value::scalar(self.array.element_type, element)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}
