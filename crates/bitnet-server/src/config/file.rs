//! Configuration files: YAML and TOML become the same list of keys and values, each with its line.
//!
//! The file is not trusted: at most [`MAX_FILE_BYTES`] are read, and a setting lies in a section and is a plain value
//! or a list of them, so nothing deeper is ever built, whatever the parsers would take.

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::SettingError;
use super::value::FileValue;

/// Largest file: all settings with their comments take a tenth of it.
pub const MAX_FILE_BYTES: u64 = 1 << 18;

/// A key of the file, where it stands, and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FileEntry {
    /// `section.name`, or a section alone when nothing is in it.
    pub key: String,
    /// Line of the key, from 1.
    pub line: u64,
    /// `None` for a section alone.
    pub value: Option<FileValue>,
}

/// Reads and parses a file.
pub(super) fn read(path: &Path) -> Result<Vec<FileEntry>, SettingError> {
    let name = path.display().to_string();
    let failed = |source| SettingError::Read {
        path: name.clone(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(SettingError::TooLarge { path: name });
    }
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    parse(&name, extension, &text)
}

fn parse(name: &str, extension: &str, text: &str) -> Result<Vec<FileEntry>, SettingError> {
    let syntax = |line: u64, reason: String| SettingError::Syntax {
        place: format!("{name}:{line}"),
        reason,
    };
    match extension {
        "yaml" | "yml" => {
            if text
                .lines()
                .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
            {
                return Ok(Vec::new());
            }
            serde_saphyr::from_str_with_options::<Document<serde_saphyr::Spanned<String>>>(
                text,
                serde_saphyr::options! { with_snippet: false },
            )
            .map(|document| document.resolve(text))
            .map_err(|e| {
                let line = e.location().map_or(1, |location| location.line());
                syntax(line, yaml_reason(&e))
            })
        }
        "toml" => toml::from_str::<Document<toml::Spanned<String>>>(text)
            .map(|document| document.resolve(text))
            .map_err(|e| {
                syntax(
                    line_at(text, e.span().map_or(0, |span| span.start)),
                    one_line(e.message()),
                )
            }),
        _ => Err(SettingError::Format { path: name.into() }),
    }
}

/// What is wrong, for whoever wrote the file: nothing of the parser's own settings and types.
fn yaml_reason(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::MessageFormatter;
    if let serde_saphyr::Error::MultipleDocuments { .. } = error {
        return "a second document begins here (`---`), and a configuration is one".into();
    }
    let text = one_line(&serde_saphyr::UserMessageFormatter.format_message(error));
    // serde's names of what stands there.
    text.replace("invalid type: map,", "found a section,")
        .replace("invalid type: sequence,", "found a list,")
        .replace("invalid type: ", "found ")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line_at(text: &str, byte: usize) -> u64 {
    1 + text.bytes().take(byte).filter(|b| *b == b'\n').count() as u64
}

/// A key that knows its place, in the way of one parser.
trait PlacedKey: DeserializeOwned {
    /// The key, and its line.
    fn resolve(self, text: &str) -> (String, u64);
}

impl PlacedKey for serde_saphyr::Spanned<String> {
    fn resolve(self, _: &str) -> (String, u64) {
        (self.value, self.referenced.line())
    }
}

impl PlacedKey for toml::Spanned<String> {
    fn resolve(self, text: &str) -> (String, u64) {
        let line = line_at(text, self.span().start);
        (self.into_inner(), line)
    }
}

/// Sections in their order, each with its settings.
struct Document<K>(Vec<(K, Vec<(K, FileValue)>)>);

impl<K: PlacedKey> Document<K> {
    fn resolve(self, text: &str) -> Vec<FileEntry> {
        let mut entries = Vec::new();
        for (section, settings) in self.0 {
            let (section, line) = section.resolve(text);
            if settings.is_empty() {
                entries.push(FileEntry {
                    key: section.clone(),
                    line,
                    value: None,
                });
            }
            for (name, value) in settings {
                let (name, line) = name.resolve(text);
                entries.push(FileEntry {
                    key: format!("{section}.{name}"),
                    line,
                    value: Some(value),
                });
            }
        }
        entries
    }
}

impl<'de, K: PlacedKey> Deserialize<'de> for Document<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Table::<K, Section<K>>::new("sections with settings in them, such as `server:`")
            .deserialize(deserializer)
            .map(|sections| {
                Document(
                    sections
                        .into_iter()
                        .map(|(key, section)| (key, section.0))
                        .collect(),
                )
            })
    }
}

struct Section<K>(Vec<(K, FileValue)>);

impl<'de, K: PlacedKey> Deserialize<'de> for Section<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Table::<K, FileValue>::new(
            "settings in a section, such as `server:` and below it `port: 8080`",
        )
        .deserialize(deserializer)
        .map(Section)
    }
}

/// A table of any keys, in their order; nothing at all is an empty one.
struct Table<K, V> {
    expected: &'static str,
    of: PhantomData<(K, V)>,
}

impl<K, V> Table<K, V> {
    fn new(expected: &'static str) -> Table<K, V> {
        Table {
            expected,
            of: PhantomData,
        }
    }
}

impl<'de, K: PlacedKey, V: Deserialize<'de>> DeserializeSeed<'de> for Table<K, V> {
    type Value = Vec<(K, V)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, K: PlacedKey, V: Deserialize<'de>> Visitor<'de> for Table<K, V> {
    type Value = Vec<(K, V)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }
}

impl<'de> Deserialize<'de> for FileValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Plain { in_list: false })
    }
}

/// A plain value, or outside a list a list of them.
struct Plain {
    in_list: bool,
}

impl<'de> DeserializeSeed<'de> for Plain {
    type Value = FileValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<FileValue, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Plain {
    type Value = FileValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or a list of values")
    }

    fn visit_bool<E>(self, value: bool) -> Result<FileValue, E> {
        Ok(FileValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<FileValue, E> {
        Ok(FileValue::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<FileValue, E> {
        Ok(FileValue::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<FileValue, E> {
        Ok(FileValue::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<FileValue, E> {
        Ok(FileValue::Text(value.into()))
    }

    fn visit_unit<E>(self) -> Result<FileValue, E> {
        Ok(FileValue::Null)
    }

    fn visit_none<E>(self) -> Result<FileValue, E> {
        Ok(FileValue::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<FileValue, A::Error> {
        if self.in_list {
            return Err(A::Error::custom(
                "a list within a list is no value of a setting",
            ));
        }
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Plain { in_list: true })? {
            list.push(item);
        }
        Ok(FileValue::List(list))
    }
}
