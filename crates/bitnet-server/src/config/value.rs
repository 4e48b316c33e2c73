//! What a setting's value may be, and how it is read from a file, a variable or a flag and written back.
//!
//! Files are typed, so a number in quotes is refused there; variables and flags are text, so it is parsed. The text
//! that `SettingValue::write` makes can be read back from a YAML file: `--print-config` depends on it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bitnet_inference::Dialects;
use bitnet_inference::KvType;

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

/// Seconds as a number, or text with a unit.
impl SettingValue for Duration {
    fn expected() -> String {
        "seconds, or a time such as 500ms, 30s, 5m or 1h".into()
    }

    fn read(given: Given<'_>) -> Option<Duration> {
        let (number, unit) = match given {
            Given::File(FileValue::Int(seconds)) => {
                return u64::try_from(*seconds).ok().map(Duration::from_secs);
            }
            Given::File(FileValue::Float(seconds)) => {
                return Duration::try_from_secs_f64(*seconds).ok();
            }
            given => split_unit(&String::read(given)?)?,
        };
        let seconds = match unit.as_str() {
            "" | "s" => 1.0,
            "ms" => 0.001,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number * seconds).ok()
    }

    fn write(&self) -> String {
        if self.subsec_nanos() == 0 {
            format!("{}s", self.as_secs()).write()
        } else {
            format!("{}ms", self.as_secs_f64() * 1e3).write()
        }
    }
}

/// The longest time that something may take; none where that is 0, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeLimit(pub Option<Duration>);

impl TimeLimit {
    /// No limit.
    pub const NONE: TimeLimit = TimeLimit(None);

    /// This one.
    pub const fn of(time: Duration) -> TimeLimit {
        TimeLimit(Some(time))
    }
}

impl SettingValue for TimeLimit {
    fn expected() -> String {
        format!("0 (no limit), {}", Duration::expected())
    }

    fn read(given: Given<'_>) -> Option<TimeLimit> {
        let time = Option::<Duration>::read(given)?;
        Some(TimeLimit(time.filter(|time| !time.is_zero())))
    }

    fn write(&self) -> String {
        self.0.map_or("0".into(), |time| time.write())
    }

    fn is_unset(&self) -> bool {
        self.0.is_none()
    }
}

/// A number of bytes; `8GB` is 8 000 000 000 and `8GiB` 8 589 934 592 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl SettingValue for ByteSize {
    fn expected() -> String {
        "bytes, or a size such as 512KiB, 64MiB or 8GB".into()
    }

    fn read(given: Given<'_>) -> Option<ByteSize> {
        let (number, unit) = match given {
            Given::File(FileValue::Int(bytes)) => return u64::try_from(*bytes).ok().map(ByteSize),
            given => split_unit(&String::read(given)?)?,
        };
        let bytes = match unit.as_str() {
            "" | "b" => 1.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "kib" => 1024.0,
            "mib" => 1_048_576.0,
            "gib" => 1_073_741_824.0,
            _ => return None,
        };
        let bytes = number * bytes;
        // 2^53: above it a double no longer counts single bytes, and no machine has as many.
        (bytes <= 9_007_199_254_740_992.0).then_some(ByteSize(bytes as u64))
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}

/// A number of zero or more, and the letters after it in lower case.
fn split_unit(text: &str) -> Option<(f64, String)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim().to_ascii_lowercase()))
}

/// One of the engine's own words, which have names but no order: here they have that of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineWord<T>(pub T);

impl<T: PartialEq> PartialOrd for EngineWord<T>
where
    EngineWord<T>: SettingValue,
{
    fn partial_cmp(&self, other: &EngineWord<T>) -> Option<std::cmp::Ordering> {
        self.write().partial_cmp(&other.write())
    }
}

macro_rules! engine_words {
    ($($name:ty, $all:expr;)+) => {$(
        impl SettingValue for EngineWord<$name> {
            fn expected() -> String {
                let words: Vec<&str> = $all.iter().map(|word| word.name()).collect();
                format!("one of {}", words.join(", "))
            }

            fn read(given: Given<'_>) -> Option<Self> {
                let text = String::read(given)?;
                let word = $all.iter().copied().find(|word| word.name() == text);
                word.map(EngineWord)
            }

            fn write(&self) -> String {
                self.0.name().to_owned()
            }
        }
    )+};
}
engine_words! {
    KvType, KvType::ALL;
}

impl SettingValue for EngineWord<Dialects> {
    fn expected() -> String {
        Dialects::EXPECTED.to_owned()
    }

    fn read(given: Given<'_>) -> Option<Self> {
        String::read(given)?.parse().ok().map(EngineWord)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }
}

/// A setting that is one word of a few.
macro_rules! words {
    ($(#[$of:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl SettingValue for $name {
            fn expected() -> String {
                format!("one of {}", [$($word),+].join(", "))
            }

            fn read(given: Given<'_>) -> Option<$name> {
                match String::read(given)?.as_str() {
                    $($word => Some($name::$variant),)+
                    _ => None,
                }
            }

            fn write(&self) -> String {
                match self {
                    $($name::$variant => $word,)+
                }
                .to_owned()
            }
        }
    };
}

words! {
    /// Where models run.
    DevicePreference {
        /// What the probe at load finds fastest.
        Auto = "auto",
        /// The processor.
        Cpu = "cpu",
        /// A graphics processor, or nothing: without one the server does not start.
        Gpu = "gpu",
    }
}

words! {
    /// Whether requests for inference need a key where the server listens on loopback only.
    LoopbackInference {
        /// Open while neither keys nor tokens are configured.
        Auto = "auto",
        /// Open always; a key that is sent must still be a good one.
        Open = "open",
        /// A key always.
        Key = "key",
    }
}

words! {
    /// How JSON Web Tokens are signed. Exactly one is accepted, whatever a token's header says.
    JwtAlgorithm {
        /// HMAC with SHA-256 and a shared secret.
        Hs256 = "HS256",
        /// RSA PKCS #1 v1.5 with SHA-256.
        Rs256 = "RS256",
        /// ECDSA over P-256 with SHA-256.
        Es256 = "ES256",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

words! {
    /// How lines of the server's own log are written.
    LogFormat {
        /// For people.
        Text = "text",
        /// For programs, an object a line, and nothing else on standard error.
        Json = "json",
    }
}

words! {
    /// How requests are logged.
    AccessLogFormat {
        /// Not at all.
        None = "none",
        /// As the server's own log.
        On = "on",
        /// For people.
        Text = "text",
        /// For programs, an object a line.
        Json = "json",
    }
}

words! {
    /// How traces and metrics travel to a collector.
    OtlpProtocol {
        /// Protobuf over HTTP, port 4318.
        Http = "http",
        /// gRPC, port 4317.
        Grpc = "grpc",
    }
}

words! {
    /// How `/v1/embeddings` makes a vector of a text.
    PoolingChoice {
        /// As the model's files say; models whose files say nothing have no embeddings.
        Model = "model",
        /// The state of the last token.
        Last = "last",
        /// The mean over all tokens.
        Mean = "mean",
        /// The state of the first token.
        Cls = "cls",
    }
}
