//! Numbers as people read them: sizes, rates, times.

use std::time::Duration;

/// Bytes in decimal units, three digits: `1.19 GB`, as the bandwidth figures they are compared with.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, &["B", "kB", "MB", "GB", "TB"])
}

/// A plain count in decimal units: `2.08 G`.
pub fn count(n: u64) -> String {
    scaled(n as f64, &["", "k", "M", "G", "T"])
        .trim_end()
        .to_string()
}

/// A duration with three digits: `1.23 s`, `45.6 ms`, `789 µs`.
pub fn duration(d: Duration) -> String {
    let seconds = d.as_secs_f64();
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    format!("{} {unit}", three_digits(value))
}

/// Events per second; 0 when no time passed, so that the figure can go into JSON.
pub fn rate(n: f64, d: Duration) -> f64 {
    let seconds = d.as_secs_f64();
    if seconds > 0.0 { n / seconds } else { 0.0 }
}

/// A share of 0 to 1: `47.3 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A number with three significant digits, no exponent.
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.5 would be printed as 1000 of the smaller unit.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{value} {}", units[0])
    } else {
        format!("{} {}", three_digits(value), units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (999_700, "1.00 MB"),
            (1_187_801_280, "1.19 GB"),
        ];
        for (n, expected) in cases {
            assert_eq!(bytes(n), expected);
        }
        assert_eq!(count(2_084_044_800), "2.08 G");
        assert_eq!(count(12), "12");
    }

    #[test]
    fn durations_choose_their_unit() {
        assert_eq!(duration(Duration::from_micros(789)), "789 µs");
        assert_eq!(duration(Duration::from_micros(45_600)), "45.6 ms");
        assert_eq!(duration(Duration::from_millis(1_234)), "1.23 s");
    }

    #[test]
    fn a_rate_over_no_time_is_zero_not_infinite() {
        assert_eq!(rate(5.0, Duration::ZERO), 0.0);
        assert_eq!(rate(5.0, Duration::from_millis(500)), 10.0);
    }
}
