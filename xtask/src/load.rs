//! `cargo run --release -p xtask -- load` and `-- soak`: a running server measured from outside.
//!
//! Client and server share the machine, so the client is one thread that does no more than it must, and the figure that
//! a busy machine does not spoil is reported beside the rates: the server's processor time for each token.
//!
//! # Layout
//! - [`options`]: the command line
//! - [`server`]: servers that are started for the measurement
//! - [`vocabulary`]: what prompts are made of
//! - [`draws`]: what is left to chance
//! - [`drive`]: clients, closed and open loop, that stream, leave and dawdle
//! - [`answer`]: HTTP and event streams, read as they come
//! - [`watch`]: memory, processor time and health of the server
//! - [`latency`]: percentiles of times
//! - [`gaps`]: how evenly the tokens of a stream come
//! - [`overhead`]: what serving costs, judged
//! - [`against_bench`]: a crowd's answers, held against what `bitnet bench` foresees
//! - [`report`]: the table and the JSON document

mod against_bench;
pub mod answer;
mod draws;
mod drive;
mod gaps;
mod latency;
mod options;
mod overhead;
mod report;
mod server;
mod vocabulary;
mod watch;

use anyhow::{Result, ensure};
use std::path::Path;

use draws::Draws;
use drive::Driver;
use options::{Arrivals, LoadPlan, Trial};
use report::Round;
use server::LoadSubject;
use vocabulary::PromptVocabulary;
use watch::Watch;

pub use options::USAGE;

/// Measures a server.
///
/// # Errors
/// Wrong arguments, a server that does not start; after `--overhead` and `--against-bench`, a verdict that it failed.
pub fn run(root: &Path, args: &[&str]) -> Result<()> {
    if let Some(rest) = args.strip_prefix(&["--overhead"]) {
        return overhead::run(root, rest);
    }
    if let ["--against-bench", model, rest @ ..] = args {
        return against_bench::run(root, model, rest);
    }
    let plan = LoadPlan::parse(args)?;
    let rounds = measure(root, &plan)?;
    report::print(&plan, &rounds)
}

/// Measures a server for long and judges what was measured.
///
/// # Errors
/// As [`run`], and a verdict that it failed.
pub fn soak(root: &Path, args: &[&str]) -> Result<()> {
    let (plan, trial) = LoadPlan::parse_soak(args)?;
    let rounds = measure(root, &plan)?;
    report::print(&plan, &rounds)?;
    let faults: Vec<String> = rounds
        .iter()
        .flat_map(|round| judge(trial, round))
        .collect();
    ensure!(faults.is_empty(), "not passed: {}", faults.join("; "));
    println!("passed");
    Ok(())
}

fn measure(root: &Path, plan: &LoadPlan) -> Result<Vec<Round>> {
    let subject = LoadSubject::start(root, plan)?;
    let driver = Driver {
        address: subject.address,
        pid: subject.pid,
        plan: plan.clone(),
        vocabulary: PromptVocabulary::ask(subject.address, plan.key.as_deref())?,
        draws: Draws::default(),
    };
    match plan.arrivals {
        Arrivals::Closed(clients) => eprintln!("{clients} clients at {}", subject.address),
        Arrivals::Open(rate) => eprintln!("{rate} requests a second to {}", subject.address),
    }
    let watch = Watch::start(subject.address, subject.pid);
    (0..plan.rounds)
        .map(|_| {
            let tally = driver.round(|| drop(watch.take()))?;
            let seen = watch.take();
            Ok(Round { tally, seen })
        })
        .collect()
}

/// Megabytes a minute that memory may grow after the warm-up: an hour adds less than a prompt of any length takes.
const FLAT: f64 = 0.5;

/// How much longer than its median a stream's largest gap may be, the machine's own stalls not counted.
const EVEN: f64 = 5.0;

/// Milliseconds in which the health route answers.
const PROMPT: f64 = 50.0;

/// Megabytes that a server of the embedded model may take under a crowd: bounded, and far below what 2,000 requests
/// that were all let in would take.
const CROWD_MEMORY: f64 = 256.0;

/// Milliseconds in which half of a crowd's refusals come; the client's own way and the full machine are in them.
const REFUSAL: f64 = 5.0;

/// What a trial found wrong.
fn judge(trial: Trial, round: &Round) -> Vec<String> {
    let mut faults = Vec::new();
    let mut at_most = |name: &str, limit: f64| match round.figure(name) {
        Some(value) if value <= limit => {}
        Some(value) => faults.push(format!("{name} is {value:.3}, at most {limit}")),
        None => faults.push(format!("{name} was not measured")),
    };
    at_most("health_largest_ms", PROMPT);
    at_most("health_failures", 0.0);
    match trial {
        Trial::Streams(_) => {
            at_most("errors", 0.0);
            at_most("memory_slope_mb_min", FLAT);
            at_most("gap_ratio_worst_own", EVEN);
        }
        Trial::Crowd { .. } => {
            at_most("memory_largest_mb", CROWD_MEMORY);
            at_most("refusal_p50_ms", REFUSAL);
            let tally = &round.tally;
            let others = tally
                .troubles
                .keys()
                .filter(|what| !what.starts_with("429 "));
            faults.extend(others.map(|what| format!("some requests ended with {what}")));
            if tally.answered == 0 || tally.refusal.len() == 0 {
                faults.push("a crowd sees answers and refusals".into());
            }
        }
    }
    faults
}
