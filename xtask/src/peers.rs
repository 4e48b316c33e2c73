//! `cargo run -p xtask -- peers`: our speed next to llama.cpp's, measured in turns on this machine.
//!
//! A shared machine is faster in one minute than in the next, so single figures say little. Here both engines run the
//! same phase right after each other, the one that begins changes from round to round, and what counts is the ratio.
//! Every measurement is a process of its own, so neither engine can warm anything up for the other.
//!
//! # Layout
//! - [`options`]: the command line
//! - [`plan`]: which rows there are, with the models and phases of both sides
//! - [`models`]: the random models of real shapes that both engines load
//! - [`engine`]: building and running the engines, reading what they print
//! - [`statistics`]: medians and ratios over the rounds
//! - [`report`]: the table and the JSON document

mod engine;
mod models;
mod options;
mod plan;
mod report;
pub(crate) mod statistics;

use anyhow::Result;
use std::collections::BTreeMap;
use std::path::Path;

use engine::Engines;
use options::PeersOptions;
use plan::{Comparison, PeerJob, Timed};
use statistics::Sample;

pub use options::USAGE;

/// Builds, makes models, measures, prints.
///
/// # Errors
/// Wrong arguments, a failed build, an engine that fails or was built without the CPU's instructions.
pub fn run(root: &Path, args: &[&str]) -> Result<()> {
    let options = PeersOptions::parse(args)?;
    let rows = plan::rows(&options);
    let engines = Engines::build(root, &options, &rows)?;
    let folder = models::folder(&engines, &options)?;
    models::make(&engines, &folder, &rows, options.quick)?;
    models::warm(&folder, &rows)?;

    let mut samples = Samples::new();
    let measured = measure_all(&engines, &folder, options.rounds, &rows, &mut samples);
    // An hour's figures are not thrown away because the last process failed.
    report::print(&options, &engines, &rows, &samples)?;
    measured
}

/// What was measured, a sample for each round.
type Samples = BTreeMap<PeerJob, Vec<Sample>>;

/// Runs all rows, round by round, the two sides of each right after each other.
fn measure_all(
    engines: &Engines,
    folder: &Path,
    rounds: usize,
    rows: &[Comparison],
    samples: &mut Samples,
) -> Result<()> {
    for round in 0..rounds {
        for row in rows {
            let peers = row
                .peers
                .iter()
                .filter(|job| is_in_the_running(job, row, samples));
            let mut jobs: Vec<&PeerJob> = std::iter::once(&row.ours).chain(peers).collect();
            if round % 2 == 1 {
                jobs.reverse();
            }
            for job in jobs {
                measure(engines, folder, round, row, job, samples)?;
            }
        }
    }
    Ok(())
}

/// Whether a peer may yet be the fastest of its row: in the first round it was at least half as fast as another one.
fn is_in_the_running(job: &PeerJob, row: &Comparison, samples: &Samples) -> bool {
    let first = |job: &PeerJob| Some(samples.get(job)?.first()?.value);
    let Some(value) = first(job) else { return true };
    row.peers
        .iter()
        .filter_map(first)
        .all(|other| match job.phase {
            Timed::First(_) => value <= 2.0 * other,
            _ => 2.0 * value >= other,
        })
}

/// Runs a job unless another row has had it run in this round already.
fn measure(
    engines: &Engines,
    folder: &Path,
    round: usize,
    row: &Comparison,
    job: &PeerJob,
    samples: &mut Samples,
) -> Result<()> {
    let seen = samples.entry(job.clone()).or_default();
    if seen.len() > round {
        return Ok(());
    }
    let sample = engines.measure(folder, job)?;
    eprintln!(
        "round {}: {}, {} threads, {}: {}",
        round + 1,
        row.name,
        job.threads,
        job.engine.name(),
        report::figure(job.phase, sample.value),
    );
    seen.push(sample);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_that_are_far_behind_in_the_first_round_are_not_run_again() {
        let options = PeersOptions::parse(&["--shape", "bonsai-1.7b", "--threads", "1"]).unwrap();
        let rows = plan::rows(&options);
        let row = &rows[0];
        let mut samples = Samples::new();
        let mut measured = |job: &PeerJob, value| {
            let sample = Sample {
                value,
                ..Sample::default()
            };
            samples.entry(job.clone()).or_default().push(sample);
            let peers = row.peers.iter();
            peers
                .map(|job| is_in_the_running(job, row, &samples))
                .collect::<Vec<bool>>()
        };
        assert_eq!(measured(&row.peers[0], 2.0), [true, true]);
        assert_eq!(measured(&row.peers[1], 8.9), [false, true]);
        // One bad round later changes nothing.
        assert_eq!(measured(&row.peers[1], 1.0), [false, true]);
    }
}
