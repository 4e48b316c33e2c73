//! Times llama.cpp on one model file, phase by phase (`bitnet-crossval MODEL --threads 2 --phases decode:128`), or
//! writes what it computes (`--logits`, `--tokenize`, `--score`, `--dequantize`).
//!
//! The other half of `cargo run -p xtask -- peers`, which runs this program and `bitnet bench` in turns, and of
//! `crossval` and `full-crossval`, which hold its numbers against ours. One JSON object a line on standard output: when
//! it times, first what was built and loaded, then one for each phase. A build without the instructions that the CPU has
//! would be beaten for the wrong reason, so it is refused (see [`isa`]).

mod evaluate;
mod isa;
mod llama;
mod options;
mod phase;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use llama::LlamaModel;
use options::{Options, Task};
use phase::{Outcome, Phase};

fn main() -> ExitCode {
    let started = Instant::now();
    let result = Options::parse(std::env::args().skip(1)).and_then(|o| run(&o, started));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, started: Instant) -> Result<()> {
    let system_info = llama::system_info();
    isa::check(&system_info, options.isa)?;
    if options.info {
        println!("{system_info}");
        return Ok(());
    }
    if let Some(task) = &options.task {
        return compute(options, task);
    }
    let model = LlamaModel::load(&options.model)?;
    if !options.quiet {
        print(&json!({
            "engine": "llama.cpp",
            "system_info": system_info,
            "model": model.description(),
            "load_s": started.elapsed().as_secs_f64(),
        }))?;
    }
    for &phase in &options.phases {
        let outcomes = match phase {
            Phase::First { prompt } => vec![phase::first(&model, options.threads, prompt)?],
            phase => phase::rates(&model, options, phase)?,
        };
        for outcome in outcomes {
            print(&line(phase, options.threads, outcome, started))?;
        }
    }
    Ok(())
}

/// Computes instead of timing.
fn compute(options: &Options, task: &Task) -> Result<()> {
    let (path, threads) = (&options.model, options.threads);
    let load = || LlamaModel::load(path);
    match task {
        Task::Logits { ids, out, trace } => evaluate::logits(&load()?, threads, ids, out, *trace),
        Task::Tokenize(text) => print(&evaluate::tokens(&load()?, text)?),
        Task::Score { text, ctx } => print(&evaluate::score(&load()?, threads, text, *ctx)?),
        Task::Dequantize(out) => llama::dequantize(path, out, threads),
    }
}

/// One measurement in the words of `bitnet bench --format json`.
fn line(phase: Phase, threads: usize, outcome: Outcome, started: Instant) -> Value {
    let (name, prompt, generate, batch) = match phase {
        Phase::Prefill { prompt } => ("prefill", prompt, 0, 1),
        Phase::Decode {
            generate,
            batch,
            depth,
        } => ("decode", depth.max(1), generate, batch),
        Phase::First { prompt } => ("first", prompt, 1, 1),
    };
    json!({
        "phase": name, "prompt": prompt, "generate": generate, "batch": batch, "threads": threads,
        "tok_s": outcome.tokens as f64 / outcome.seconds, "seconds": outcome.seconds,
        "since_start_s": started.elapsed().as_secs_f64(),
    })
}

/// Printed at once: whoever waits for the first token reads the clock when the line arrives.
fn print(value: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(())
}
