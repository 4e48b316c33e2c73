//! Where the time of one measurement went, by operation.

use std::time::Duration;

use bitnet_inference::Profile;
use serde::Serialize;

use crate::table::{Align, Table};
use crate::units;

/// One operation's part.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// Its name; `other` is what no operation accounts for (scheduling, sampling, copies of logits).
    pub operation: &'static str,
    /// How often it ran.
    pub calls: u64,
    /// How long, together.
    pub seconds: f64,
    /// Of the whole, 0 to 1.
    pub share: f64,
    /// Weights, or keys and values, read: 10^9 bytes a second.
    pub gb_s: f64,
    /// Operations of its products, 10^9 a second; a multiply-add is two.
    pub gops: f64,
}

/// The parts of a run that took `wall`.
pub fn parts(profile: &Profile, wall: Duration) -> Vec<Part> {
    let share = |time: Duration| units::rate(time.as_secs_f64(), wall);
    let mut parts: Vec<Part> = profile
        .totals()
        .map(|(operation, total)| Part {
            operation: operation.name(),
            calls: total.calls,
            seconds: total.time.as_secs_f64(),
            share: share(total.time),
            gb_s: units::rate(total.work.bytes as f64, total.time) / 1e9,
            gops: units::rate(total.work.operations as f64, total.time) / 1e9,
        })
        .collect();
    let other = wall.saturating_sub(profile.time());
    parts.push(Part {
        operation: "other",
        calls: 0,
        seconds: other.as_secs_f64(),
        share: share(other),
        gb_s: 0.0,
        gops: 0.0,
    });
    parts
}

/// The parts as a table.
pub fn table(parts: &[Part]) -> Table {
    let mut table = Table::new(&[
        ("operation", Align::Left),
        ("calls", Align::Right),
        ("time", Align::Right),
        ("share", Align::Right),
        ("GB/s", Align::Right),
        ("GOPS", Align::Right),
    ]);
    let some = |value: f64, text: String| if value > 0.0 { text } else { String::new() };
    for part in parts {
        table.row(vec![
            part.operation.into(),
            some(part.calls as f64, part.calls.to_string()),
            units::duration(Duration::from_secs_f64(part.seconds)),
            format!("{:.1}%", part.share * 100.0),
            some(part.gb_s, units::three_digits(part.gb_s)),
            some(part.gops, units::three_digits(part.gops)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use bitnet_models::{Observer, Operation, Work};

    use super::*;

    #[test]
    fn what_no_operation_accounts_for_is_other() {
        let mut profile = Profile::default();
        let work = Work {
            bytes: 4_000_000,
            operations: 8_000_000,
        };
        profile.timed(Operation::Head, work, Duration::from_millis(4));
        let parts = parts(&profile, Duration::from_millis(16));
        assert_eq!(parts.len(), 2);
        assert_eq!((parts[0].operation, parts[0].calls), ("head", 1));
        assert!((parts[0].gb_s - 1.0).abs() < 1e-9 && (parts[0].gops - 2.0).abs() < 1e-9);
        assert!((parts[0].share - 0.25).abs() < 1e-9);
        assert_eq!(parts[1].operation, "other");
        assert!((parts[1].share - 0.75).abs() < 1e-9);
        let text = table(&parts).text();
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
}
