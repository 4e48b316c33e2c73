//! Small JSON files of a checkpoint (`config.json`, `generation_config.json`) with getters that name the field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{ModelError, Place, file_name, quoted};
use crate::file_kind::FileKind;
use crate::mmap::FileBytes;

/// Bytes of the largest such file that is read: published ones have under 20 KB, and a parsed value can take forty
/// times the bytes of its text.
const MAX_BYTES: u64 = 256 << 10;

/// A JSON object of a file, or a section of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Json<'a> {
    file: &'a str,
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

/// A JSON file whose top level is an object.
#[derive(Debug, Clone)]
pub(crate) struct JsonFile {
    file: String,
    map: Map<String, Value>,
}

impl JsonFile {
    /// Reads a file of at most 256 KiB.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let bytes = FileBytes::read_into_memory(path)?;
        Self::parse(file_name(path), &bytes)
    }

    /// Reads a file whose top level is a list, which becomes the field `name`.
    pub fn read_list(path: &Path, name: &str) -> Result<Self, ModelError> {
        let bytes = FileBytes::read_into_memory(path)?;
        Self::parse(
            file_name(path),
            &[b"{\"", name.as_bytes(), b"\":", &bytes, b"}"].concat(),
        )
    }

    pub fn parse(file: String, bytes: &[u8]) -> Result<Self, ModelError> {
        if bytes.len() as u64 > MAX_BYTES {
            let (place, found) = (Place::Part("file size"), bytes.len() as u64);
            return Err(ModelError::Limit {
                file,
                place,
                offset: None,
                limit: MAX_BYTES,
                unit: "bytes",
                found,
            });
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Self { file, map }),
            Ok(other) => Err(ModelError::Malformed {
                file,
                place: Place::Part("JSON document"),
                offset: Some(0),
                expected: "an object".into(),
                found: describe(&other),
            }),
            Err(_)
                if matches!(
                    FileKind::of(bytes),
                    FileKind::Html | FileKind::GitLfsPointer | FileKind::Empty
                ) =>
            {
                Err(ModelError::NotAModel {
                    file,
                    found: FileKind::of(bytes),
                })
            }
            Err(error) => Err(ModelError::Malformed {
                file,
                place: Place::Part("JSON document"),
                offset: None,
                expected: "valid JSON".into(),
                found: error.to_string(),
            }),
        }
    }

    /// All fields: name, type, value in a few words.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &'static str, String)> {
        self.map.iter().map(|(key, value)| {
            let kind = match value {
                Value::Null => "null",
                Value::Bool(_) => "bool",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "list",
                Value::Object(_) => "object",
            };
            (key.as_str(), kind, describe(value))
        })
    }

    pub fn root(&self) -> Json<'_> {
        Json {
            file: &self.file,
            prefix: "",
            map: &self.map,
        }
    }
}

impl<'a> Json<'a> {
    pub fn file(self) -> &'a str {
        self.file
    }

    /// The value of a key; JSON's null counts as absent.
    pub fn get(self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// A section, itself an object.
    pub fn section(self, key: &'a str) -> Result<Option<Json<'a>>, ModelError> {
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Json {
            file: self.file,
            prefix: key,
            map,
        }))
    }

    pub fn str(self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn bool(self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A non-negative integer; 4.0 counts as 4.
    pub fn u64(self, key: &str) -> Result<Option<u64>, ModelError> {
        self.typed(key, "a non-negative integer", |value| {
            value.as_u64().or_else(|| {
                let float = value.as_f64()?;
                ((0.0..9.0e15).contains(&float) && float.fract() == 0.0).then_some(float as u64)
            })
        })
    }

    pub fn f64(self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A list of strings; `None` when absent.
    pub fn strings(self, key: &str) -> Result<Option<Vec<&'a str>>, ModelError> {
        self.typed(key, "a list of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    /// A list of numbers; `None` when absent.
    pub fn numbers(self, key: &str) -> Result<Option<Vec<f64>>, ModelError> {
        self.typed(key, "a list of numbers", |value| {
            value.as_array()?.iter().map(Value::as_f64).collect()
        })
    }

    /// A token id or a list of them; empty when absent.
    pub fn ids(self, key: &str) -> Result<Vec<u32>, ModelError> {
        let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let ids = self.typed(key, "a token id or a list of them", |value| {
            match value.as_array() {
                Some(list) => list.iter().map(id).collect::<Option<Vec<u32>>>(),
                None => Some(vec![id(value)?]),
            }
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// The value, or the error that says it is missing.
    pub fn required<T>(self, key: &str, expected: &str, value: Option<T>) -> Result<T, ModelError> {
        value.ok_or_else(|| ModelError::MissingField {
            file: self.file.into(),
            field: self.path(key),
            expected: expected.into(),
        })
    }

    /// The error for a value that cannot be right.
    pub fn wrong(self, key: &str, expected: &str) -> ModelError {
        ModelError::Field {
            file: self.file.into(),
            field: self.path(key),
            expected: expected.into(),
            found: self.map.get(key).map_or_else(|| "nothing".into(), describe),
        }
    }

    fn path(self, key: &str) -> String {
        if self.prefix.is_empty() {
            key.into()
        } else {
            format!("{}.{key}", self.prefix)
        }
    }

    fn typed<T>(
        self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value)
                .map(Some)
                .ok_or_else(|| self.wrong(key, expected)),
        }
    }
}

/// A JSON value in a few words.
fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", quoted(text)),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(map) => format!("an object of {} fields", map.len()),
        other => other.to_string(),
    }
}
