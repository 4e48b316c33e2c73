//! The JSON header of a safetensors file, parsed in one pass that stores nothing but the tensors.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::shown;
use crate::error::{ModelError, Place};
use crate::tensor_files::StoredTensor;

/// Most dimensions of a tensor: real ones have up to five.
pub(crate) const MAX_RANK: usize = 8;

/// How the values of a safetensors tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names say all there is
pub enum StoredType {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    BF16,
    F32,
    F64,
    /// A type of the format that no model of ours uses (sub-byte and 8-bit floats, complex numbers).
    Other,
}

impl StoredType {
    const NAMED: [(&'static str, Self, u64); 13] = [
        ("BOOL", Self::Bool, 1),
        ("U8", Self::U8, 1),
        ("I8", Self::I8, 1),
        ("U16", Self::U16, 2),
        ("I16", Self::I16, 2),
        ("U32", Self::U32, 4),
        ("I32", Self::I32, 4),
        ("U64", Self::U64, 8),
        ("I64", Self::I64, 8),
        ("F16", Self::F16, 2),
        ("BF16", Self::BF16, 2),
        ("F32", Self::F32, 4),
        ("F64", Self::F64, 8),
    ];
    /// Types of the specification beyond those.
    const OTHERS: [&'static str; 11] = [
        "F4",
        "F6_E2M3",
        "F6_E3M2",
        "F8_E4M3",
        "F8_E5M2",
        "F8_E8M0",
        "F8_E4M3FNUZ",
        "F8_E5M2FNUZ",
        "C64",
        "U4",
        "I4",
    ];

    fn from_name(name: &str) -> Option<Self> {
        let named = Self::NAMED
            .iter()
            .find(|(known, ..)| *known == name)
            .map(|(_, ty, _)| *ty);
        named.or_else(|| Self::OTHERS.contains(&name).then_some(Self::Other))
    }

    /// Bytes of one value, where the type is one that a model uses.
    pub(crate) fn bytes(self) -> Option<u64> {
        Self::NAMED
            .iter()
            .find(|(_, ty, _)| *ty == self)
            .map(|(.., bytes)| *bytes)
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            Self::NAMED
                .iter()
                .find(|(_, ty, _)| ty == self)
                .map_or("another type", |(name, ..)| name),
        )
    }
}

/// Parses a header; the tensors' offsets are still relative to the data.
pub(super) fn parse(
    file: &str,
    header: &[u8],
    shard: u16,
) -> Result<Vec<StoredTensor>, ModelError> {
    let current = RefCell::new(None);
    let mut json = serde_json::Deserializer::from_slice(header);
    let tensors = json.deserialize_map(Header {
        shard,
        current: &current,
    });
    tensors
        .and_then(|tensors| json.end().map(|()| tensors))
        .map_err(|error| ModelError::Malformed {
            file: file.into(),
            place: current.take().map_or(Place::Part("header"), Place::Tensor),
            // Headers are one line in practice; where one is not, the parser's own line and column have to do.
            offset: (error.line() == 1).then(|| super::LENGTH_BYTES + error.column() as u64),
            expected: "a safetensors header".into(),
            found: error.to_string(),
        })
}

struct Header<'c> {
    shard: u16,
    /// The tensor being parsed, for error messages.
    current: &'c RefCell<Option<String>>,
}

impl<'de> Visitor<'de> for Header<'_> {
    type Value = Vec<StoredTensor>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key_seed(Text)? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            self.current.replace(Some(name.to_string()));
            let entry = map.next_value_seed(Entry)?;
            tensors.push(StoredTensor {
                name: name.into(),
                shape: entry.shape.into(),
                start: entry.offsets.0,
                end: entry.offsets.1,
                stored_type: entry.stored_type,
                shard: self.shard,
            });
            self.current.replace(None);
        }
        Ok(tensors)
    }
}

struct Fields {
    stored_type: StoredType,
    shape: Vec<u64>,
    offsets: (u64, u64),
}

struct Entry;

impl<'de> DeserializeSeed<'de> for Entry {
    type Value = Fields;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entry {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let (mut stored_type, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key_seed(Text)? {
            let repeated = match &*key {
                "dtype" => {
                    let name = map.next_value_seed(Text)?;
                    let ty = StoredType::from_name(&name).ok_or_else(|| {
                        A::Error::custom(format!("unknown dtype {}", shown(&name)))
                    })?;
                    stored_type.replace(ty).is_some()
                }
                "shape" => shape.replace(map.next_value_seed(Numbers)?).is_some(),
                "data_offsets" => offsets.replace(map.next_value::<(u64, u64)>()?).is_some(),
                other => return Err(A::Error::custom(format!("unknown field {}", shown(other)))),
            };
            if repeated {
                return Err(A::Error::custom(format!("field {} twice", shown(&key))));
            }
        }
        Ok(Fields {
            stored_type: stored_type.ok_or_else(|| A::Error::missing_field("dtype"))?,
            shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
            offsets: offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?,
        })
    }
}

/// A shape: at most [`MAX_RANK`] numbers, whatever the header says.
struct Numbers;

impl<'de> DeserializeSeed<'de> for Numbers {
    type Value = Vec<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u64>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Numbers {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a shape of at most {MAX_RANK} dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u64>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = seq.next_element()? {
            if numbers.len() == MAX_RANK {
                return Err(A::Error::custom(format!(
                    "shape of more than {MAX_RANK} dimensions"
                )));
            }
            numbers.push(number);
        }
        Ok(numbers)
    }
}

/// A string, borrowed from the header where it has no escapes.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}
