//! What a setting's value may be, and how it is read from a file, a variable or a flag and written back.
//!
//! Files are typed, so a number in quotes is refused there; variables and flags are text, so it is parsed. The text
//! that `SettingValue::write` makes can be read back from a YAML file: `--print-config` depends on it.

mod quantity;
mod words;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

pub use quantity::{ByteSize, TimeLimit};
pub use words::{
    AccessLogFormat, DevicePreference, EngineWord, JwtAlgorithm, LogFormat, LoopbackInference,
    OtlpProtocol, PoolingChoice,
};

/// Longest list in a setting: host names and directories are few, and the file is hostile.
const MAX_ITEMS: usize = 256;

/// A value as a configuration file has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FileValue {
    /// Nothing after the key, or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list of plain values.
    List(Vec<FileValue>),
}

/// What somebody wrote for a setting.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given<'a> {
    /// In a variable or behind a flag.
    Text(&'a str),
    /// In a file.
    File(&'a FileValue),
}

/// Which of a type's values a setting takes.
pub(super) enum Limit<T> {
    /// All of them.
    Any,
    /// Those in the range, both ends included, and none at all where a setting need not be set.
    Within(RangeInclusive<T>),
}

/// A type that a setting may have.
pub(super) trait SettingValue: Sized {
    /// What is expected, after the word "expected".
    fn expected() -> String;
    /// Reads what was given; `None` when it is not of this type.
    fn read(given: Given<'_>) -> Option<Self>;
    /// The value in the notation of YAML and, but for nothing at all, of TOML.
    fn write(&self) -> String;
    /// Whether it stands for no value, which no range excludes.
    fn is_unset(&self) -> bool {
        false
    }
}

impl<T: SettingValue + PartialOrd> Limit<T> {
    /// What is expected, with the range.
    pub(super) fn expected(&self) -> String {
        match self {
            Limit::Any => T::expected(),
            Limit::Within(range) => format!(
                "{} from {} to {}",
                T::expected(),
                range.start().write(),
                range.end().write()
            ),
        }
    }

    /// Reads what was given and holds it against the range.
    pub(super) fn read(&self, given: Given<'_>) -> Result<T, String> {
        T::read(given)
            .filter(|value| match self {
                Limit::Any => true,
                Limit::Within(range) => value.is_unset() || range.contains(value),
            })
            .ok_or_else(|| self.expected())
    }
}

impl SettingValue for bool {
    fn expected() -> String {
        "true or false".into()
    }

    fn read(given: Given<'_>) -> Option<bool> {
        match given {
            Given::File(FileValue::Bool(value)) => Some(*value),
            Given::Text("true" | "1" | "yes" | "on") => Some(true),
            Given::Text("false" | "0" | "no" | "off") => Some(false),
            _ => None,
        }
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl SettingValue for $type {
            fn expected() -> String {
                match u16::try_from(<$type>::MAX) {
                    Ok(most) => format!("a whole number from 0 to {most}"),
                    Err(_) => "a whole number".into(),
                }
            }

            fn read(given: Given<'_>) -> Option<$type> {
                match given {
                    Given::File(FileValue::Int(value)) => <$type>::try_from(*value).ok(),
                    Given::Text(text) => text.trim().parse().ok(),
                    Given::File(_) => None,
                }
            }

            fn write(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
whole_numbers!(u16, u32, u64, usize);

impl SettingValue for String {
    fn expected() -> String {
        "text that is not empty".into()
    }

    fn read(given: Given<'_>) -> Option<String> {
        let text = match given {
            Given::Text(text) => text,
            Given::File(FileValue::Text(text)) => text.as_str(),
            Given::File(_) => return None,
        }
        .trim();
        (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
    }

    fn write(&self) -> String {
        // JSON's strings are strings of YAML 1.2 and of TOML.
        serde_json::Value::from(self.as_str()).to_string()
    }
}

impl SettingValue for PathBuf {
    fn expected() -> String {
        "a path".into()
    }

    fn read(given: Given<'_>) -> Option<PathBuf> {
        String::read(given).map(PathBuf::from)
    }

    fn write(&self) -> String {
        self.display().to_string().write()
    }
}

impl SettingValue for IpAddr {
    fn expected() -> String {
        "an IP address".into()
    }

    fn read(given: Given<'_>) -> Option<IpAddr> {
        String::read(given)?.parse().ok()
    }

    fn write(&self) -> String {
        self.to_string().write()
    }
}

/// `null`, or nothing after the key, stands for a value that is not set.
impl<T: SettingValue> SettingValue for Option<T> {
    fn expected() -> String {
        T::expected()
    }

    fn read(given: Given<'_>) -> Option<Option<T>> {
        match given {
            Given::File(FileValue::Null) => Some(None),
            given => T::read(given).map(Some),
        }
    }

    fn write(&self) -> String {
        self.as_ref().map_or("null".into(), T::write)
    }

    fn is_unset(&self) -> bool {
        self.is_none()
    }
}

impl<T: SettingValue> SettingValue for Vec<T> {
    fn expected() -> String {
        format!("a list of at most {MAX_ITEMS}, each {}", T::expected())
    }

    fn read(given: Given<'_>) -> Option<Vec<T>> {
        let items: Option<Vec<T>> = match given {
            Given::Text(text) => text
                .split(',')
                .filter(|item| !item.trim().is_empty())
                .map(|item| T::read(Given::Text(item)))
                .collect(),
            Given::File(FileValue::List(items)) => items
                .iter()
                .map(|item| T::read(Given::File(item)))
                .collect(),
            Given::File(_) => None,
        };
        items.filter(|items| items.len() <= MAX_ITEMS)
    }

    fn write(&self) -> String {
        let items: Vec<String> = self.iter().map(T::write).collect();
        format!("[{}]", items.join(", "))
    }
}
