//! Serving a crowd, held against what `bitnet bench` measures of the same model without a server.
//!
//! Sixteen clients send a prompt of 128 tokens each at once and stream 128 tokens. `bench` foresees how long that
//! takes: all prompts at its prefill rate, then all answers at its rate of sixteen sequences. It runs before and after,
//! because a machine is not equally fast for minutes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::options::LoadPlan;
use super::report::{self, Round};
use crate::peers::statistics::spread;
use crate::process::output;
use crate::served::release_program;

/// Clients, all at once.
const CLIENTS: usize = 16;

/// Tokens of a prompt, and of an answer.
const TOKENS: usize = 128;

/// How much longer than foreseen they may take.
const SLOWER: f64 = 1.25;

/// Measures `model` both ways and judges; `args` are more options of `load`.
///
/// # Errors
/// As [`super::run`], and a verdict that serving takes too long.
pub fn run(root: &Path, model: &str, args: &[&str]) -> Result<()> {
    let plan = plan(model, args)?;
    let program = release_program(root)?;
    let before = foreseen(&program, model)?;
    let rounds = super::measure(root, &plan)?;
    let after = foreseen(&program, model)?;
    report::print(&plan, &rounds)?;
    let foreseen = (before + after) / 2.0;
    let took = duration(&rounds).context("a round without answers")?;
    let ratio = took / foreseen;
    println!(
        "{CLIENTS} clients took {took:.1} s; bench foresees {before:.1} s before and {after:.1} s after: {ratio:.2} times"
    );
    let faults: Vec<String> = rounds.iter().flat_map(faults).collect();
    ensure!(faults.is_empty(), "not passed: {}", faults.join("; "));
    ensure!(
        ratio <= SLOWER,
        "not passed: serving takes {ratio:.2} times what bench foresees, at most {SLOWER}"
    );
    println!("passed");
    Ok(())
}

fn plan(model: &str, more: &[&str]) -> Result<LoadPlan> {
    let (clients, tokens) = (CLIENTS.to_string(), TOKENS.to_string());
    let places = format!("max-concurrent-requests={CLIENTS}");
    let mut args = vec!["--serve", model, "--rounds", "3", "--setting", &places];
    args.extend(["--clients", &clients, "--requests", &clients]);
    args.extend(["--prompt", &tokens, "--answer", &tokens]);
    args.extend(more);
    let plan = LoadPlan::parse(&args)?;
    ensure!(
        !plan.json,
        "--against-bench prints a verdict: use --out for the JSON document"
    );
    Ok(plan)
}

/// Seconds that the requests take by the rates of `bench`.
fn foreseen(program: &Path, model: &str) -> Result<f64> {
    let mut command = Command::new(program);
    command.arg("bench");
    if model != "embedded" {
        command.args(["--model", model]);
    }
    let (tokens, batch) = (TOKENS.to_string(), CLIENTS.to_string());
    command.args(["--prompts", &tokens, "--tokens", &tokens]);
    command.args(["--batches", &batch, "--format", "json"]);
    let document: Value = serde_json::from_str(&output(&mut command)?)?;
    by_rates(&document)
}

fn by_rates(document: &Value) -> Result<f64> {
    let rate = |phase: &str| {
        let results = document["results"].as_array()?;
        let row = results.iter().find(|row| row["phase"] == phase)?;
        row["tok_s"].as_f64().filter(|rate| *rate > 0.0)
    };
    let seconds = |phase: &str| {
        let rate = rate(phase).with_context(|| format!("bench tells no rate of {phase}"))?;
        anyhow::Ok((CLIENTS * TOKENS) as f64 / rate)
    };
    Ok(seconds("prefill")? + seconds("decode")?)
}

/// Seconds of the median round.
fn duration(rounds: &[Round]) -> Option<f64> {
    let seconds = rounds.iter().map(|round| round.tally.seconds);
    spread(&seconds.collect::<Vec<f64>>()).map(|spread| spread.median)
}

/// A round counts only if everybody had a whole answer.
fn faults(round: &Round) -> Vec<String> {
    let tally = &round.tally;
    let mut faults: Vec<String> = tally
        .troubles
        .keys()
        .map(|what| format!("a request ended with {what}"))
        .collect();
    let expected = CLIENTS * TOKENS;
    if tally.prompt_tokens as usize != expected || tally.answered != CLIENTS {
        faults.push(format!(
            "{} answers to {} prompt tokens, not {CLIENTS} to {expected}",
            tally.answered, tally.prompt_tokens
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::drive::LoadTally;
    use super::super::watch::Watched;
    use super::*;

    #[test]
    fn what_bench_foresees_is_the_sum_of_both_phases() {
        let document = json!({"results": [
            {"phase": "prefill", "tok_s": 1024.0},
            {"phase": "decode", "tok_s": 512.0},
        ]});
        assert_eq!(by_rates(&document).unwrap(), 2.0 + 4.0);
        let error = by_rates(&json!({"results": [{"phase": "prefill", "tok_s": 1.0}]}));
        assert!(error.unwrap_err().to_string().contains("no rate of decode"));
    }

    #[test]
    fn a_round_that_misses_an_answer_does_not_count() {
        let round = |answered, prompt_tokens| Round {
            tally: LoadTally {
                answered,
                prompt_tokens,
                seconds: 3.0,
                ..LoadTally::default()
            },
            seen: Watched::default(),
        };
        assert_eq!(faults(&round(16, 2048)), [""; 0]);
        assert_eq!(faults(&round(15, 1920)).len(), 1);
        assert_eq!(duration(&[round(16, 2048)]), Some(3.0));
        assert_eq!(duration(&[]), None);
    }

    #[test]
    fn the_plan_is_of_sixteen_at_once() {
        let plan = plan("m.gguf", &["--rounds", "5"]).unwrap();
        assert_eq!((plan.rounds, plan.workload.prompt), (5, TOKENS));
        assert!(super::plan("m.gguf", &["--format", "json"]).is_err());
    }
}
