//! What `bitnet bench` prints: the JSON document, and the same as a table.

use bitnet_inference::LayoutSpeeds;
use bitnet_kernels::cpu_features;
use serde::Serialize;

use crate::table::{Align, Table};
use crate::units;

use super::limits::{Limit, Limits};
use super::profile::{self, Part};

/// The JSON document: a contract.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which model.
    pub model: String,
    /// Its shape in words; empty before it is loaded.
    #[serde(skip)]
    pub shape: String,
    /// What it ran on.
    pub machine: Machine,
    /// The kernel for every number of threads.
    pub kernels: Vec<Chosen>,
    /// In the order they were measured.
    pub results: Vec<Measured>,
}

/// The machine's limits, measured in the same run.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    /// Streaming read with the most threads that were benched, 10^9 bytes a second.
    pub read_gb_s: f64,
    /// The same for int8 arithmetic, 10^9 operations a second; a multiply-add is two.
    pub int8_gops: f64,
    /// The limits of one thread, of all, and of every number of threads that was benched.
    pub limits: Vec<Limit>,
}

/// The kernel that a number of threads ran.
#[derive(Debug, Serialize)]
pub struct Chosen {
    /// Threads in use.
    pub threads: usize,
    /// Name of the kernel.
    pub kernel: String,
    /// The race of the two layouts of weights that chose it, in 10^9 weights a second; null without a choice.
    pub layouts: Option<LayoutSpeeds>,
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
    /// Weights, keys and values read for each token: a pass over the weights is shared by all tokens that it runs.
    pub bytes_per_token: f64,
    /// Of the machine's read bandwidth with as many threads, 0 to 1.
    pub bandwidth_share: f64,
    /// Of the machine's int8 peak with as many threads, 0 to 1.
    pub compute_share: f64,
    /// Operations of the ternary products.
    #[serde(skip)]
    pub operations_per_token: f64,
    /// Where the time goes, when that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Vec<Part>>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(model: String) -> Report {
        Report {
            model,
            shape: String::new(),
            machine: Machine {
                cpu: cpu_features().model.unwrap_or_else(|| "unknown".into()),
                read_gb_s: 0.0,
                int8_gops: 0.0,
                limits: Vec::new(),
            },
            kernels: Vec::new(),
            results: Vec::new(),
        }
    }

    /// Fills in the limits and every result's shares of them.
    pub fn hold_against(&mut self, limits: &Limits) {
        self.machine.limits = limits.all().to_vec();
        let most = self.results.iter().map(|r| r.threads).max();
        if let Some(limit) = most.and_then(|threads| limits.of(threads)) {
            self.machine.read_gb_s = limit.read_gb_s;
            self.machine.int8_gops = limit.int8_gops;
        }
        // A model that fits the caches reads faster than memory could: it has all of that limit.
        let share = |value: f64, limit: f64| {
            if limit > 0.0 {
                (value / limit).min(1.0)
            } else {
                0.0
            }
        };
        for r in &mut self.results {
            if let Some(limit) = limits.of(r.threads) {
                r.bandwidth_share = share(r.tok_s * r.bytes_per_token, limit.read_gb_s * 1e9);
                r.compute_share = share(r.tok_s * r.operations_per_token, limit.int8_gops * 1e9);
            }
        }
    }
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

/// Model, machine, table, and where the time goes.
pub fn text(report: &Report) -> String {
    let mut text = format!("model   {}\nmachine {}\n", report.model, report.machine.cpu);
    for limit in &report.machine.limits {
        text.push_str(&format!(
            "        {} GB/s read, {} int8 GOPS with {} thread{}\n",
            units::three_digits(limit.read_gb_s),
            units::three_digits(limit.int8_gops),
            limit.threads,
            if limit.threads == 1 { "" } else { "s" },
        ));
    }
    for chosen in &report.kernels {
        let plural = if chosen.threads == 1 { "" } else { "s" };
        text.push_str(&format!(
            "kernel  {} with {} thread{plural}{}\n",
            chosen.kernel,
            chosen.threads,
            chosen.layouts.map_or_else(String::new, |speeds| format!(
                ": {} G weights/s at 2 bits, {} at 1.6, in pairs {} times as fast",
                units::three_digits(speeds.i2s),
                units::three_digits(speeds.t5),
                units::three_digits(speeds.gain)
            )),
        ));
    }
    text.push('\n');
    text.push_str(&table(report).text());
    for (title, parts) in profiles(report) {
        text.push_str(&format!("\n{title}\n{}", profile::table(parts).text()));
    }
    text
}

/// The tables as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut text = table(report).markdown();
    for (title, parts) in profiles(report) {
        text.push_str(&format!(
            "\n{title}\n\n{}",
            profile::table(parts).markdown()
        ));
    }
    text
}

/// The results that have a profile, with a line that says which they are.
fn profiles(report: &Report) -> impl Iterator<Item = (String, &[Part])> {
    report.results.iter().filter_map(|r| {
        let what = match r.phase {
            "prefill" => format!("prefill of {}", r.prompt),
            phase => format!(
                "{phase} of {} after {}, batch {}",
                r.generate, r.prompt, r.batch
            ),
        };
        let title = format!("{what}, {} threads", r.threads);
        Some((title, r.profile.as_deref()?))
    })
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
            operations_per_token: 1.0,
            profile: None,
        };
        let mut report = Report::new("m".into());
        report.results.push(measured);
        let text = table(&report).text();
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
}
