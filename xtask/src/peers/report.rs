//! What `peers` prints: a table of 80 columns, and a JSON document.

use super::Samples;
use super::engine::Engines;
use super::models;
use super::options::PeersOptions;
use super::plan::{Comparison, PeerJob, Timed};
use super::statistics::{Sample, Spread, fastest, ratios, spread};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;

/// Columns of a row's name in the table.
pub const NAME_WIDTH: usize = 29;

/// A row with its figures.
#[derive(Debug, Clone, PartialEq)]
struct Compared {
    name: String,
    phase: Timed,
    threads: usize,
    ours: Side,
    peer: Side,
    /// Of each round.
    ratio: Spread,
}

/// One side of it.
#[derive(Debug, Clone, PartialEq)]
struct Side {
    engine: &'static str,
    model: String,
    samples: Vec<f64>,
    value: Spread,
    bandwidth_share: Option<f64>,
    compute_share: Option<f64>,
}

/// Prints the comparison, and writes it where the options say.
///
/// # Errors
/// When the file cannot be written.
pub fn print(
    options: &PeersOptions,
    engines: &Engines,
    rows: &[Comparison],
    samples: &Samples,
) -> Result<()> {
    let compared = compare(rows, samples);
    let document = document(options, engines, &compared);
    let text = format!("{document:#}\n");
    if let Some(file) = &options.out {
        fs::write(file, &text).with_context(|| format!("could not write {}", file.display()))?;
    }
    print!("{}", if options.json { text } else { table(&compared) });
    Ok(())
}

/// A figure with its unit.
pub fn figure(phase: Timed, value: f64) -> String {
    match phase {
        Timed::First(_) => format!("{value:.2} s"),
        _ => format!("{value:.1} tok/s"),
    }
}

fn lower_is_better(phase: Timed) -> bool {
    matches!(phase, Timed::First(_))
}

/// Rows that have samples on both sides, against the fastest of their peers.
fn compare(rows: &[Comparison], samples: &Samples) -> Vec<Compared> {
    let values = |job: &PeerJob| -> Vec<f64> {
        let of_job = samples.get(job).into_iter().flatten();
        of_job.map(|sample| sample.value).collect()
    };
    rows.iter()
        .filter_map(|row| {
            let lower = lower_is_better(row.ours.phase);
            let peers: Vec<Vec<f64>> = row.peers.iter().map(values).collect();
            let best = fastest(&peers, lower)?;
            let ratio = ratios(&values(&row.ours), &peers[best], lower);
            Some(Compared {
                name: row.name.clone(),
                phase: row.ours.phase,
                threads: row.ours.threads,
                ours: side(&row.ours, samples.get(&row.ours)?)?,
                peer: side(&row.peers[best], samples.get(&row.peers[best])?)?,
                ratio: spread(&ratio)?,
            })
        })
        .collect()
}

fn side(job: &PeerJob, samples: &[Sample]) -> Option<Side> {
    let values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
    let median_of = |share: fn(&Sample) -> Option<f64>| {
        let shares: Vec<f64> = samples.iter().filter_map(share).collect();
        spread(&shares).map(|spread| spread.median)
    };
    Some(Side {
        engine: job.engine.name(),
        model: models::file_name(job.model),
        value: spread(&values)?,
        samples: values,
        bandwidth_share: median_of(|s| s.bandwidth_share),
        compute_share: median_of(|s| s.compute_share),
    })
}

/// Medians, the median of the rounds' ratios with its ends, and our shares of the machine's limits.
fn table(rows: &[Compared]) -> String {
    let mut text = format!(
        "{:<NAME_WIDTH$} {:>3} {:>7} {:>7} {:>6} {:>11} {:>5} {:>5}\n",
        "tok/s (first token: ms)", "thr", "bitnet", "peer", "ratio", "min-max", "read", "int8"
    );
    for row in rows {
        let number = |value: f64| match row.phase {
            Timed::First(_) => format!("{:.0}", value * 1e3),
            _ if value >= 100.0 => format!("{value:.0}"),
            _ => format!("{value:.1}"),
        };
        let share = |share: Option<f64>| {
            share.map_or(String::new(), |share| format!("{:.0}%", share * 100.0))
        };
        text.push_str(
            format!(
                "{:<NAME_WIDTH$} {:>3} {:>7} {:>7} {:>6.2} {:>11} {:>5} {:>5}",
                row.name,
                row.threads,
                number(row.ours.value.median),
                number(row.peer.value.median),
                row.ratio.median,
                format!("{:.2}-{:.2}", row.ratio.min, row.ratio.max),
                share(row.ours.bandwidth_share),
                share(row.ours.compute_share),
            )
            .trim_end(),
        );
        text.push('\n');
    }
    text
}

fn document(options: &PeersOptions, engines: &Engines, rows: &[Compared]) -> Value {
    let builds = engines.system_info.iter();
    json!({
        "rounds": options.rounds,
        "quick": options.quick,
        "builds": builds
            .map(|(engine, info)| json!({ "engine": engine.name(), "system_info": info }))
            .collect::<Vec<_>>(),
        "rows": rows.iter().map(row_json).collect::<Vec<_>>(),
    })
}

fn row_json(row: &Compared) -> Value {
    let (phase, prompt, generate, batch) = match row.phase {
        Timed::Prefill(prompt) => ("prefill", prompt, 0, 1),
        Timed::First(prompt) => ("first", prompt, 1, 1),
        Timed::Decode {
            generate,
            batch,
            depth,
        } => ("decode", depth.max(1), generate, batch),
    };
    let spread = |s: Spread| json!({ "median": s.median, "min": s.min, "max": s.max });
    let side = |side: &Side| {
        json!({
            "engine": side.engine,
            "model": side.model,
            "value": spread(side.value),
            "samples": side.samples,
            "bandwidth_share": side.bandwidth_share,
            "compute_share": side.compute_share,
        })
    };
    json!({
        "name": row.name,
        "phase": phase,
        "prompt": prompt,
        "generate": generate,
        "batch": batch,
        "threads": row.threads,
        "unit": if lower_is_better(row.phase) { "s" } else { "tok/s" },
        "ours": side(&row.ours),
        "peer": side(&row.peer),
        "ratio": spread(row.ratio),
    })
}

#[cfg(test)]
mod tests {
    use super::super::plan;
    use super::*;

    fn sampled() -> (Vec<Comparison>, Samples) {
        let rows = plan::rows(&PeersOptions::parse(&[]).unwrap());
        let mut samples = Samples::new();
        for (i, row) in rows.iter().enumerate() {
            for (j, job) in std::iter::once(&row.ours).chain(&row.peers).enumerate() {
                let value = (1000 + i) as f64 / (j + 1) as f64;
                let sample = Sample {
                    value,
                    bandwidth_share: Some(0.876),
                    compute_share: None,
                };
                samples.insert(job.clone(), vec![sample; 3]);
            }
        }
        (rows, samples)
    }

    #[test]
    fn the_table_fits_80_columns() {
        let (rows, samples) = sampled();
        let text = table(&compare(&rows, &samples));
        assert_eq!(text.lines().count(), rows.len() + 1);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn a_row_is_held_against_the_fastest_of_its_peers() {
        let (rows, mut samples) = sampled();
        let row = rows.iter().find(|row| row.peers.len() == 2).unwrap();
        let set = |samples: &mut Samples, job: &PeerJob, value: f64| {
            let sample = Sample {
                value,
                ..Sample::default()
            };
            samples.insert(job.clone(), vec![sample; 2]);
        };
        set(&mut samples, &row.ours, 30.0);
        set(&mut samples, &row.peers[0], 10.0);
        set(&mut samples, &row.peers[1], 15.0);
        let compared = compare(std::slice::from_ref(row), &samples);
        assert_eq!(compared[0].ratio.median, 2.0);
        assert_eq!(compared[0].peer.value.median, 15.0);
        let document = row_json(&compared[0]);
        assert_eq!(document["ratio"]["median"], 2.0);
        assert_eq!(document["ours"]["samples"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_later_first_token_is_a_smaller_ratio() {
        let (rows, mut samples) = sampled();
        let lower = |row: &&Comparison| lower_is_better(row.ours.phase);
        let row = rows.iter().find(lower).unwrap();
        for (job, value) in [(&row.ours, 2.0), (&row.peers[0], 1.0)] {
            let sample = Sample {
                value,
                ..Sample::default()
            };
            samples.insert(job.clone(), vec![sample]);
        }
        let compared = compare(std::slice::from_ref(row), &samples);
        assert_eq!(compared[0].ratio.median, 0.5);
    }
}
