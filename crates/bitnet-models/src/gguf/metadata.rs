//! The key-value section of a GGUF file, and getters that say which field is wrong and how.
//!
//! Writers disagree about integer widths (u32, i32, u64) and write per-layer arrays where others write one
//! number; the getters take all of these and refuse only what has no meaning.

use super::cursor::Cursor;
use super::limits::{MAX_ARRAY, MAX_KEY_BYTES, MAX_METADATA, MAX_STRING_BYTES};
use super::value::{Array, Text, Value, ValueType};
use crate::error::{ModelError, Place, quoted};

/// The metadata of one file, in file order.
#[derive(Debug, Clone)]
pub struct Metadata {
    file: String,
    entries: Vec<(Box<str>, Value)>,
    /// Indices into `entries`, sorted by key.
    by_key: Vec<u32>,
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let found = self
            .by_key
            .binary_search_by(|&i| (*self.entries[i as usize].0).cmp(key))
            .ok()?;
        Some(&self.entries[self.by_key[found] as usize].1)
    }

    /// All keys and values, in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The name of the file, for messages.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// A string.
    ///
    /// # Errors
    /// [`ModelError::Field`] when the key holds something else, or bytes that are not UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.typed(key, "a UTF-8 string", Value::as_str)
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`ModelError::Field`] when the key holds something else.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", |value| match value {
            Value::Bool(v) => Some(*v),
            _ => None,
        })
    }

    /// A non-negative integer of any width.
    ///
    /// # Errors
    /// [`ModelError::Field`] when the key holds something else or a negative number.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, ModelError> {
        self.typed(key, "a non-negative integer", |value| {
            u64::try_from(value.as_integer()?).ok()
        })
    }

    /// A token id or another 32-bit non-negative integer; -1, which some writers use for "none", is `None`.
    ///
    /// # Errors
    /// [`ModelError::Field`] when the key holds something else.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, ModelError> {
        if self.get(key).and_then(Value::as_integer) == Some(-1) {
            return Ok(None);
        }
        self.typed(key, "an integer from 0 to 4294967295", |value| {
            u32::try_from(value.as_integer()?).ok()
        })
    }

    /// A number.
    ///
    /// # Errors
    /// [`ModelError::Field`] when the key holds something else.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
        self.typed(key, "a number", Value::as_f32)
    }

    /// A non-negative integer that may also be given once per layer, provided all layers agree.
    ///
    /// # Errors
    /// [`ModelError::Field`] when the key holds something else or the layers differ.
    pub fn uniform_u64(&self, key: &str) -> Result<Option<u64>, ModelError> {
        self.typed(
            key,
            "one non-negative integer, the same for every layer",
            |value| {
                let Value::Array(array) = value else {
                    return u64::try_from(value.as_integer()?).ok();
                };
                let mut elements = array.iter().map(|v| v.as_integer());
                let first = elements.next()??;
                if elements.any(|other| other != Some(first)) {
                    return None;
                }
                u64::try_from(first).ok()
            },
        )
    }

    /// An array whose elements are of type `element`.
    ///
    /// # Errors
    /// [`ModelError::Field`] when the key holds something else.
    pub fn array(&self, key: &str, element: ValueType) -> Result<Option<&Array>, ModelError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value {
            Value::Array(array) if array.element_type() == element || array.is_empty() => {
                Ok(Some(array))
            }
            _ => Err(self.wrong(key, &format!("an array of {}", element.name()), value)),
        }
    }

    /// The error for a field that must be there and is not.
    pub fn missing(&self, key: &str, expected: &str) -> ModelError {
        ModelError::MissingField {
            file: self.file.clone(),
            field: key.into(),
            expected: expected.into(),
        }
    }

    /// The error for a field whose value cannot be right.
    pub fn wrong(&self, key: &str, expected: &str, found: &Value) -> ModelError {
        ModelError::Field {
            file: self.file.clone(),
            field: key.into(),
            expected: expected.into(),
            found: describe(found),
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value)
                .map(Some)
                .ok_or_else(|| self.wrong(key, expected, value)),
        }
    }

    /// Reads `count` pairs at the cursor.
    pub(super) fn read(
        cursor: &mut Cursor<'_>,
        count: u64,
        count_at: u64,
    ) -> Result<Self, ModelError> {
        if count > MAX_METADATA {
            return Err(cursor.limit(
                count_at,
                (MAX_METADATA, "pairs"),
                count,
                Place::Part("metadata count"),
            ));
        }
        let mut entries: Vec<(Box<str>, Value)> = Vec::new();
        for _ in 0..count {
            let at = cursor.offset();
            let key = cursor.string(MAX_KEY_BYTES, || Place::Part("metadata key"))?;
            let key: Box<str> = match std::str::from_utf8(&key) {
                Ok("") => {
                    return Err(cursor.malformed(
                        at,
                        Place::Part("metadata key"),
                        "a name",
                        "an empty string",
                    ));
                }
                Ok(key) => key.into(),
                Err(_) => {
                    let found = quoted(&String::from_utf8_lossy(&key));
                    return Err(cursor.malformed(at, Place::Part("metadata key"), "UTF-8", found));
                }
            };
            let value = read_value(cursor, &key)?;
            entries.push((key, value));
        }
        let mut by_key: Vec<u32> = (0..entries.len() as u32).collect();
        by_key.sort_unstable_by(|&a, &b| entries[a as usize].0.cmp(&entries[b as usize].0));
        if let Some(pair) = by_key
            .windows(2)
            .find(|p| entries[p[0] as usize].0 == entries[p[1] as usize].0)
        {
            return Err(ModelError::Malformed {
                file: cursor.file().into(),
                place: Place::Field(entries[pair[0] as usize].0.to_string()),
                offset: None,
                expected: "each key once".into(),
                found: "it twice".into(),
            });
        }
        Ok(Self {
            file: cursor.file().into(),
            entries,
            by_key,
        })
    }
}

/// A value in a few words, for messages and tables.
pub fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => match text.as_str() {
            Ok(text) => format!("\"{}\"", quoted(text)),
            Err(_) => format!("{} bytes that are not UTF-8", text.as_bytes().len()),
        },
        Value::Array(array) => format!(
            "an array of {} {}",
            array.len(),
            array.element_type().name()
        ),
        Value::Bool(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        integer => integer
            .as_integer()
            .map_or_else(String::new, |v| v.to_string()),
    }
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, ModelError> {
    let place = || Place::Field(key.into());
    match read_type(cursor, key)? {
        ValueType::String => Ok(Value::String(Text(cursor.string(MAX_STRING_BYTES, place)?))),
        ValueType::Array => Ok(Value::Array(read_array(cursor, key)?)),
        scalar => {
            let at = cursor.offset();
            let bytes = cursor.take(scalar.min_bytes(), place)?;
            Value::scalar(scalar, &bytes).ok_or_else(|| {
                cursor.malformed(at, place(), "a bool of 0 or 1", bytes[0].to_string())
            })
        }
    }
}

fn read_type(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, ModelError> {
    let place = || Place::Field(key.into());
    let at = cursor.offset();
    let id = cursor.u32(place)?;
    ValueType::from_id(id)
        .ok_or_else(|| cursor.malformed(at, place(), "a value type from 0 to 12", id.to_string()))
}

/// Walks an array once without copying it: afterwards its bytes are known to hold every element.
fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, ModelError> {
    let place = || Place::Field(key.into());
    let type_at = cursor.offset();
    let element_type = read_type(cursor, key)?;
    if element_type == ValueType::Array {
        return Err(cursor.malformed(
            type_at,
            place(),
            "an array of scalars or strings",
            "an array of arrays",
        ));
    }
    let count_at = cursor.offset();
    let count = cursor.u64(place)?;
    if count > MAX_ARRAY {
        return Err(cursor.limit(count_at, (MAX_ARRAY, "elements"), count, place()));
    }
    // No overflow: count <= 2^30 and an element is at least 1 and at most 8 bytes here.
    let least = count * element_type.min_bytes();
    let start = cursor.clone();
    let bytes = if element_type == ValueType::String {
        if least > cursor.remaining() {
            cursor.take(least, place)?; // reports the truncation
        }
        for _ in 0..count {
            cursor.string(MAX_STRING_BYTES, place)?;
        }
        start.up_to(cursor)
    } else {
        cursor.take(least, place)?
    };
    if element_type == ValueType::Bool
        && let Some(i) = bytes.iter().position(|&b| b > 1)
    {
        let at = start.offset() + i as u64;
        return Err(cursor.malformed(at, place(), "bools of 0 or 1", bytes[i].to_string()));
    }
    Ok(Array {
        element_type,
        len: count as usize,
        bytes,
    })
}
