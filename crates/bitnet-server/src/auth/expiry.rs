//! When a key stops being good, as people say it: after so many days, or on a date.
//!
//! Dates are those of UTC, so that a key ends at one moment wherever its server is.

use std::time::{Duration, UNIX_EPOCH};

use crate::request_log::rfc3339;

/// Longest time from now: whoever means more means for ever.
const MAX_DAYS: u64 = 36_525;

/// Last second that has a date of four digits for its year.
pub const LAST_SECOND: u64 = 253_402_300_799;

/// What is said is no time to come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpiryError {
    /// It is none.
    #[error(
        "'{0}' is no time: say 12h, 30d, 8w, a date such as 2027-01-31 (its beginning, in UTC) or 2027-01-31T12:00:00Z"
    )]
    Unknown(String),
    /// It is over, or too far away.
    #[error("'{0}' is not between now and {MAX_DAYS} days from now")]
    OutOfRange(String),
}

/// The second since 1970 that `text` means at the second `now`.
///
/// # Errors
/// When it means none, or one that is over.
pub fn parse(text: &str, now: u64) -> Result<u64, ExpiryError> {
    // It comes back to a terminal.
    let shown = || text.chars().filter(|c| !c.is_control()).take(40).collect();
    let found = span(text)
        .map(|span| now.saturating_add(span))
        .or_else(|| date(text));
    let at = found.ok_or_else(|| ExpiryError::Unknown(shown()))?;
    let last = now.saturating_add(MAX_DAYS * 86_400).min(LAST_SECOND);
    match at > now && at <= last {
        true => Ok(at),
        false => Err(ExpiryError::OutOfRange(shown())),
    }
}

/// A second since 1970, up to [`LAST_SECOND`], as a date.
pub fn written(second: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(second.min(LAST_SECOND));
    rfc3339(time).replace(".000Z", "Z")
}

/// Seconds of `30d`.
fn span(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let hours = match unit {
        'h' => 1,
        'd' => 24,
        'w' => 24 * 7,
        _ => return None,
    };
    let number = text.strip_suffix(unit)?;
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    // One with too many digits is out of range, and a time all the same.
    is_number.then(|| {
        number
            .parse()
            .unwrap_or(u64::MAX)
            .saturating_mul(hours * 3600)
    })
}

/// The second of `2027-01-31` or `2027-01-31T12:00:00Z`.
pub(super) fn date(text: &str) -> Option<u64> {
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        _ => text.to_owned(),
    };
    let part = |range: std::ops::Range<usize>| whole.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    let (hour, minute, second) = (part(11..13)?, part(14..16)?, part(17..19)?);
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    // Years begin in March, so that the day that may be missing is their last one; 719 468 days from then to 1970.
    let year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year;
    let at = (days.checked_sub(719_469)? * 86_400) + hour * 3600 + minute * 60 + second;
    // The other way round: no day that there is not, and no other notation.
    (at <= LAST_SECOND && written(at) == whole).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000; // 2026-11-18

    #[test]
    fn times_to_come_are_spans_and_dates() {
        for (text, expected) in [
            ("1h", NOW + 3600),
            ("30d", NOW + 30 * 86_400),
            ("2w", NOW + 14 * 86_400),
            ("2027-01-01", 1_798_761_600),
            ("2027-01-01T00:00:01Z", 1_798_761_601),
            ("2028-02-29", 1_835_395_200),
            ("2100-03-01", 4_107_542_400),
        ] {
            let at = parse(text, NOW).unwrap();
            assert_eq!(at, expected, "{text}: {}", written(at));
        }
    }

    #[test]
    fn what_is_no_time_or_over_is_told() {
        for text in [
            "",
            "d",
            "30",
            "30m",
            "-1d",
            "1.5d",
            "+3d",
            "soon",
            "2027-13-01",
            "2027-02-29",
            "2027-00-10",
            "2027-01-32",
            "2027-1-1",
            "27-01-01",
            "2027-01-01 00:00:00Z",
            "2027-01-01T25:00:00Z",
            "2027-01-01T00:00:00",
            "2027-01-01T00:00:00+02:00",
            "２０２７-01-01",
            "ééééé",
            "\u{1b}[2J",
        ] {
            let told = parse(text, NOW).unwrap_err();
            assert!(matches!(told, ExpiryError::Unknown(_)), "{text}: {told}");
            assert!(!told.to_string().contains('\u{1b}'));
        }
        for text in [
            "0d",
            "2026-11-18",
            "1970-01-01",
            "36526d",
            "99999999999999999999d",
            "9999-12-31",
            "2127-01-01",
        ] {
            let told = parse(text, NOW).unwrap_err();
            assert!(matches!(told, ExpiryError::OutOfRange(_)), "{text}: {told}");
        }
    }

    #[test]
    fn every_date_is_read_as_it_is_written() {
        let mut second = 0;
        while second <= LAST_SECOND {
            assert_eq!(date(&written(second)), Some(second));
            second += 86_400 * 97 + 12_345;
        }
        assert_eq!(date(&written(LAST_SECOND)), Some(LAST_SECOND));
        assert_eq!(written(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
