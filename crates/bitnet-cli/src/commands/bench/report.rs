//! What `bitnet bench` prints: the JSON document, and the same as a table.

use serde::Serialize;

use crate::table::{Align, Table};
use crate::units;

/// The JSON document: a contract.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which model.
    pub model: String,
    /// What it ran on.
    pub machine: Machine,
    /// In the order they were measured.
    pub results: Vec<Measured>,
}

/// The machine's limits, measured in the same run.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    /// Streaming read, 10^9 bytes a second.
    pub read_gb_s: f64,
    /// 10^9 operations a second; a multiply-add is two.
    pub int8_gops: f64,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// `prefill` or `decode`.
    pub phase: &'static str,
    /// Prompt tokens of each sequence.
    pub prompt: usize,
    /// Tokens decoded for each sequence.
    pub generate: usize,
    /// Sequences at once.
    pub batch: usize,
    /// Threads in use.
    pub threads: usize,
    /// Median over the repetitions, of all sequences together.
    pub tok_s: f64,
    /// Slowest repetition.
    pub tok_s_min: f64,
    /// Fastest repetition.
    pub tok_s_max: f64,
    /// Weight bytes read for each token: a pass over the weights is shared by all tokens that it runs.
    pub bytes_per_token: f64,
    /// Of the machine's read bandwidth, 0 to 1.
    pub bandwidth_share: f64,
    /// Of the machine's int8 peak, 0 to 1.
    pub compute_share: f64,
}

/// The middle of sorted rates; of an even number the mean of the two middle ones.
pub fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    match n {
        0 => 0.0,
        _ if n % 2 == 1 => sorted[n / 2],
        _ => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The results as a table.
pub fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("phase", Align::Left),
        ("prompt", Align::Right),
        ("gen", Align::Right),
        ("batch", Align::Right),
        ("thr", Align::Right),
        ("tok/s", Align::Right),
        ("spread", Align::Right),
        ("B/token", Align::Right),
        ("GB/s", Align::Right),
        ("read", Align::Right),
        ("int8", Align::Right),
    ]);
    for r in &report.results {
        table.row(vec![
            r.phase.into(),
            r.prompt.to_string(),
            r.generate.to_string(),
            r.batch.to_string(),
            r.threads.to_string(),
            units::three_digits(r.tok_s),
            format!("{:.0}%", spread(r) * 100.0),
            units::bytes(r.bytes_per_token as u64).replace(' ', ""),
            units::three_digits(r.tok_s * r.bytes_per_token / 1e9),
            format!("{:.0}%", r.bandwidth_share * 100.0),
            format!("{:.0}%", r.compute_share * 100.0),
        ]);
    }
    table
}

/// How far the repetitions lie apart, as a share of their median.
fn spread(r: &Measured) -> f64 {
    if r.tok_s > 0.0 {
        (r.tok_s_max - r.tok_s_min) / r.tok_s
    } else {
        0.0
    }
}

/// Model, machine and table.
pub fn text(report: &Report) -> String {
    format!(
        "model   {}\nmachine {}: {} GB/s read, {} int8 GOPS\n\n{}",
        report.model,
        report.machine.cpu,
        units::three_digits(report.machine.read_gb_s),
        units::three_digits(report.machine.int8_gops),
        table(report).text()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[1.0, 3.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
    }

    #[test]
    fn the_table_fits_80_columns() {
        let measured = Measured {
            phase: "prefill",
            prompt: 4096,
            generate: 1024,
            batch: 128,
            threads: 128,
            tok_s: 12345.6,
            tok_s_min: 12000.1,
            tok_s_max: 12999.9,
            bytes_per_token: 2.3e5,
            bandwidth_share: 0.987,
            compute_share: 0.123,
        };
        let machine = Machine {
            cpu: "x".into(),
            read_gb_s: 32.2,
            int8_gops: 1443.0,
        };
        let report = Report {
            model: "m".into(),
            machine,
            results: vec![measured],
        };
        let text = table(&report).text();
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
}
