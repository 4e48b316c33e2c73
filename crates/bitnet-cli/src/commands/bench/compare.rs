//! Two JSON reports of `bitnet bench`, row by row: what a change gained or lost.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::exit::{CliError, Exit};
use crate::output::Out;
use crate::table::{Align, Table};
use crate::units;

use super::BenchFormat;

/// What is read back of a report.
#[derive(Debug, Deserialize)]
struct Measurements {
    results: Vec<Row>,
}

/// One row of it.
#[derive(Debug, Clone, Deserialize)]
struct Row {
    phase: String,
    prompt: usize,
    generate: usize,
    batch: usize,
    threads: usize,
    tok_s: f64,
}

/// A row that both reports have.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Compared {
    phase: String,
    prompt: usize,
    generate: usize,
    batch: usize,
    threads: usize,
    before_tok_s: f64,
    after_tok_s: f64,
    ratio: f64,
}

/// Prints the ratio of every row that both reports have.
///
/// # Errors
/// Files that cannot be read, are no reports, or have no row in common.
pub fn run(before: &Path, after: &Path, format: BenchFormat) -> Result<Exit, CliError> {
    let rows = compare(&read(before)?, &read(after)?);
    if rows.is_empty() {
        return Err(CliError::usage(
            "the reports have no row in common",
            "measure the same phases, lengths, batches and threads twice with --format json",
        ));
    }
    let mut out = Out::stdout();
    match format {
        BenchFormat::Json => out.json(&rows)?,
        BenchFormat::Text => out.text(&table(&rows).text())?,
        BenchFormat::Md => out.text(&table(&rows).markdown())?,
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn read(path: &Path) -> Result<Measurements, CliError> {
    let text = fs::read_to_string(path).map_err(|error| {
        CliError::runtime(
            format!("cannot read {}: {error}", path.display()),
            "name a file that `bitnet bench --format json` wrote",
        )
    })?;
    serde_json::from_str(&text).map_err(|error| {
        CliError::usage(
            format!("{} is no report of bitnet bench: {error}", path.display()),
            "name a file that `bitnet bench --format json` wrote",
        )
    })
}

fn compare(before: &Measurements, after: &Measurements) -> Vec<Compared> {
    let key = |r: &Row| (r.phase.clone(), r.prompt, r.generate, r.batch, r.threads);
    let pairs = before.results.iter().filter_map(|b| {
        let a = after.results.iter().find(|a| key(a) == key(b))?;
        (b.tok_s > 0.0).then_some((b, a))
    });
    pairs
        .map(|(before, after)| Compared {
            phase: before.phase.clone(),
            prompt: before.prompt,
            generate: before.generate,
            batch: before.batch,
            threads: before.threads,
            before_tok_s: before.tok_s,
            after_tok_s: after.tok_s,
            ratio: after.tok_s / before.tok_s,
        })
        .collect()
}

fn table(rows: &[Compared]) -> Table {
    let mut table = Table::new(&[
        ("phase", Align::Left),
        ("prompt", Align::Right),
        ("gen", Align::Right),
        ("batch", Align::Right),
        ("thr", Align::Right),
        ("before", Align::Right),
        ("after", Align::Right),
        ("ratio", Align::Right),
    ]);
    for r in rows {
        table.row(vec![
            r.phase.clone(),
            r.prompt.to_string(),
            r.generate.to_string(),
            r.batch.to_string(),
            r.threads.to_string(),
            units::three_digits(r.before_tok_s),
            units::three_digits(r.after_tok_s),
            format!("{:.2}", r.ratio),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows: &[(&str, usize, f64)]) -> Measurements {
        let row = |&(phase, batch, tok_s): &(&str, usize, f64)| Row {
            phase: phase.into(),
            prompt: 1,
            generate: 64,
            batch,
            threads: 2,
            tok_s,
        };
        Measurements {
            results: rows.iter().map(row).collect(),
        }
    }

    #[test]
    fn rows_are_matched_by_what_they_measure() {
        let before = report(&[
            ("prefill", 1, 100.0),
            ("decode", 1, 20.0),
            ("decode", 4, 0.0),
        ]);
        let after = report(&[
            ("decode", 4, 60.0),
            ("decode", 1, 30.0),
            ("decode", 16, 9.0),
        ]);
        let rows = compare(&before, &after);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].phase.as_str(), rows[0].ratio), ("decode", 1.5));
        assert!(table(&rows).text().contains("1.50"));
    }
}
