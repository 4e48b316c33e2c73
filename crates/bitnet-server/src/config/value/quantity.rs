//! Times and sizes, which may have a unit behind their number.

use std::time::Duration;

use super::{FileValue, Given, SettingValue};

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
