//! `strftime_now` of chat templates (`Today Date: 26 Jul 2024`), in UTC.
//!
//! Only the conversions that published templates use, so that no date library is needed. The calendar arithmetic is
//! Howard Hinnant's `civil_from_days`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The 1st of January 1970 was a Thursday: day 0 is the first of these.
const DAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];

/// Bytes of a date for each byte of its format at most: `%B` is `September`, `%F` ten.
pub(super) const LONGEST: usize = 5;

/// The time of rendering, as `format` says.
///
/// # Errors
/// A conversion that is not supported, or a platform without a clock.
pub(super) fn strftime_now(format: &str) -> Result<String, String> {
    if cfg!(all(target_family = "wasm", target_os = "unknown")) {
        return Err("strftime_now: this platform has no clock".to_owned());
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    strftime(format, now.as_secs())
}

/// Formats `seconds` since 1970.
fn strftime(format: &str, seconds: u64) -> Result<String, String> {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[(days % 7) as usize];
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let conversion = chars.next();
        out.push_str(&match conversion {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{hour12:02}"),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".to_owned(),
            other => {
                let shown = other.map_or_else(String::new, |c| c.to_string());
                let message = format!("strftime_now: the conversion `%{shown}` is not supported");
                return Err(message);
            }
        });
    }
    Ok(out)
}

/// Year, month (1 to 12) and day (1 to 31) of a day counted from the 1st of January 1970.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    // Counted from the 1st of March of year 0, leap days come last in their year.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days_have_their_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 Thu"),
            (951_782_400, "2000-02-29 Tue"),
            (1_709_164_800, "2024-02-29 Thu"),
            (1_721_952_000, "2024-07-26 Fri"),
            (4_107_542_399, "2100-02-28 Sun"),
            (4_107_542_400, "2100-03-01 Mon"),
        ] {
            assert_eq!(strftime("%F %a", seconds).unwrap(), expected);
        }
    }

    #[test]
    fn the_conversions_of_templates_work() {
        assert_eq!(
            strftime("%d %b %Y, %A %H:%M:%S %I %p 100%%", 1_721_999_045).unwrap(),
            "26 Jul 2024, Friday 13:04:05 01 PM 100%"
        );
        assert!(strftime("%Q", 0).is_err());
        assert!(strftime("%", 0).is_err());
    }
}
