//! `bitnet bench`: tokens per second, next to what this machine could do at most.
//!
//! Three measurements: prefill (a prompt of random tokens through the model), decode (one token after another from a
//! prompt of one) and batched decode (several sequences at once). The machine's limits, memory read bandwidth and int8
//! dot products, are measured in the same run with the largest number of threads asked for, so that the shares say how far
//! from the hardware the engine is, whatever machine it runs on.

mod report;

use std::time::{Duration, Instant};

use bitnet_inference::{Engine, GenerateOptions, Prompt};
use bitnet_kernels::{cpu_features, measure};
use clap::{Args, ValueEnum};

use crate::args::{EngineArgs, ModelArgs};
use crate::env::Environment;
use crate::exit::CliError;
use crate::exit::Exit;
use crate::interrupt::Cooperative;
use crate::model_source::{self, LoadExtras, ModelSource};
use crate::output::Out;
use crate::progress::Progress;
use crate::synth::weights::Random;
use crate::units;

use self::report::{Machine, Measured, Report};

/// Options of `bitnet bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet bench --model model.gguf\n  \
    bitnet bench --model model.gguf -p 128,512 -n 128 -b 1,4,8,16,32 -t 1,2 --format md\n  \
    bitnet bench -p 32 -n 32 --repetitions 1 --format json\n\n\
    tok/s is the median of the repetitions. Shares are of this machine's limits, measured in the same run\n\
    with the largest number of threads. Prefill runs one prompt, decode each batch size.")]
pub struct BenchArgs {
    /// Prompt lengths to prefill
    #[arg(short = 'p', long = "prompts", value_name = "LIST", value_delimiter = ',', default_value = "128",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub prompts: Vec<u32>,

    /// Numbers of tokens to decode
    #[arg(short = 'n', long = "tokens", value_name = "LIST", value_delimiter = ',', default_value = "64",
          value_parser = clap::value_parser!(u32).range(2..))]
    pub tokens: Vec<u32>,

    /// Numbers of sequences to decode at once
    #[arg(short = 'b', long = "batches", value_name = "LIST", value_delimiter = ',', default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batches: Vec<u32>,

    /// Numbers of threads; --threads takes a list here [default: BITNET_CPU_THREADS, else all cores]
    #[arg(short = 't', long = "threads", value_name = "LIST", value_delimiter = ',',
          value_parser = crate::args::parse_threads)]
    pub threads: Vec<usize>,

    /// Runs of each measurement
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repetitions: u32,

    /// text (a table), json or md
    #[arg(long, value_enum, default_value_t = BenchFormat::Text)]
    pub format: BenchFormat,

    /// Kernel to use, by name; `bitnet --version` lists them [default: the fastest]
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,

    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// What `bench` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    /// A table.
    Text,
    /// One JSON document.
    Json,
    /// A Markdown table.
    Md,
}

/// Decode starts after a prompt of this many tokens.
const DECODE_PROMPT: usize = 1;

/// Measures and prints.
///
/// # Errors
/// An unusable model, lengths beyond its context, Ctrl-C (after printing what was measured).
pub fn run(args: &BenchArgs, env: &Environment) -> Result<Exit, CliError> {
    let threads = match (args.threads.as_slice(), env.threads) {
        ([], Some(n)) => vec![n],
        ([], None) => vec![cpu_features().cores],
        (list, _) => list.to_vec(),
    };
    let source = ModelSource::choose(args.model.model.as_deref(), env)?;
    let n_steps = threads.len() * (args.prompts.len() + args.tokens.len() * args.batches.len());
    let n_runs = (n_steps * args.repetitions as usize) as u64;
    let cooperative = Cooperative::begin();
    let most = threads.iter().copied().max().unwrap_or(1);
    let machine = Machine {
        cpu: cpu_features().model.unwrap_or_else(|| "unknown".into()),
        read_gb_s: measure::read_bandwidth(most)?,
        int8_gops: measure::int8_peak(most)?,
    };
    let mut report = Report {
        model: source.name(),
        machine,
        results: Vec::new(),
    };
    let bar = Progress::new("measuring", n_runs);
    let mut interrupted = None;
    for &n_threads in &threads {
        let mut bench = Bench::load(args, env, &source, n_threads)?;
        bench.bar = Some(&bar);
        if let Err(error) = bench.run_all(args, &cooperative, &mut report) {
            if error.class != Exit::Interrupted {
                return Err(error);
            }
            interrupted = Some(error);
            break;
        }
    }
    drop(bar);
    let mut out = Out::stdout();
    match args.format {
        BenchFormat::Json => out.json(&report)?,
        BenchFormat::Text => out.text(&report::text(&report))?,
        BenchFormat::Md => out.text(&report::table(&report).markdown())?,
    }
    out.flush()?;
    interrupted.map_or(Ok(Exit::Ok), Err)
}

/// A model loaded for a number of threads.
struct Bench<'a> {
    engine: Engine,
    threads: usize,
    bar: Option<&'a Progress>,
}

impl<'a> Bench<'a> {
    fn load(
        args: &BenchArgs,
        env: &Environment,
        source: &ModelSource,
        threads: usize,
    ) -> Result<Bench<'a>, CliError> {
        let largest = |list: &[u32]| list.iter().copied().max().unwrap_or(1) as usize;
        let context = largest(&args.prompts).max(DECODE_PROMPT + largest(&args.tokens)) + 1;
        let engine_args = EngineArgs {
            threads: Some(threads),
            ctx: Some(context),
            kv_type: None,
            device: None,
            kernel: args.kernel.clone(),
        };
        let extras = LoadExtras {
            max_sequences: largest(&args.batches),
            ..LoadExtras::default()
        };
        let options = model_source::load_options(&args.model, &engine_args, env, extras);
        let engine = model_source::load_source(source, &options)?;
        Ok(Bench {
            engine,
            threads,
            bar: None,
        })
    }

    fn run_all(
        &self,
        args: &BenchArgs,
        stop: &Cooperative,
        report: &mut Report,
    ) -> Result<(), CliError> {
        for &prompt in &args.prompts {
            let prompt = prompt as usize;
            let rates = self.repeat(args, stop, || self.prefill(prompt))?;
            // One pass reads the ternary weights; the head is read once, for the last token.
            let bytes = self.engine.info().bytes_per_token as f64 / prompt as f64;
            report.results.push(self.measured(
                ("prefill", prompt, 0, 1),
                &rates,
                bytes,
                &report.machine,
            ));
        }
        for &generate in &args.tokens {
            for &batch in &args.batches {
                let (generate, batch) = (generate as usize, batch as usize);
                let rates = self.repeat(args, stop, || self.decode(generate, batch))?;
                let bytes = self.engine.info().bytes_per_token as f64 / batch as f64;
                let what = ("decode", DECODE_PROMPT, generate, batch);
                report
                    .results
                    .push(self.measured(what, &rates, bytes, &report.machine));
            }
        }
        Ok(())
    }

    fn repeat(
        &self,
        args: &BenchArgs,
        stop: &Cooperative,
        run: impl Fn() -> Result<f64, CliError>,
    ) -> Result<Vec<f64>, CliError> {
        // The first run faults pages in and warms caches; it is not counted.
        run()?;
        let mut rates = Vec::new();
        for _ in 0..args.repetitions {
            if stop.requested() {
                return Err(stop.error("what was measured until then is above"));
            }
            rates.push(run()?);
            if let Some(bar) = self.bar {
                bar.add(1);
            }
        }
        rates.sort_by(f64::total_cmp);
        Ok(rates)
    }

    /// Prompt tokens per second.
    fn prefill(&self, prompt: usize) -> Result<f64, CliError> {
        let ids = self.random_ids(prompt, 0);
        let mut generation = self.engine.generate(Prompt::Ids(ids), &options(1))?;
        generation.by_ref().try_for_each(|token| token.map(drop))?;
        Ok(units::rate(prompt as f64, generation.timings().prefill))
    }

    /// Decoded tokens per second of all sequences together, from the first token of the last to start until the end.
    fn decode(&self, generate: usize, batch: usize) -> Result<f64, CliError> {
        let requests = (0..batch)
            .map(|i| {
                (
                    Prompt::Ids(self.random_ids(DECODE_PROMPT, i as u64)),
                    options(generate),
                )
            })
            .collect();
        let mut waiting = vec![true; batch];
        let mut started: Option<Instant> = None;
        let mut last = Duration::ZERO;
        let mut tokens = 0usize;
        for item in self.engine.batch(requests)? {
            item.token?;
            waiting[item.index] = false;
            match started {
                None if !waiting.contains(&true) => started = Some(Instant::now()),
                None => {}
                Some(start) => {
                    tokens += 1;
                    last = start.elapsed();
                }
            }
        }
        Ok(units::rate(tokens as f64, last))
    }

    /// Random ordinary tokens: real text would make no difference to the work.
    fn random_ids(&self, n: usize, stream: u64) -> Vec<u32> {
        let mut random = Random::for_row(0, stream, n as u64);
        let vocab_size = self.engine.config().vocab_size as u64;
        (0..n)
            .map(|_| (random.next_u64() % vocab_size) as u32)
            .collect()
    }

    fn measured(
        &self,
        (phase, prompt, generate, batch): (&'static str, usize, usize, usize),
        rates: &[f64],
        bytes_per_token: f64,
        machine: &Machine,
    ) -> Measured {
        let tok_s = report::median(rates);
        let operations = 2.0 * self.engine.config().n_ternary_weights() as f64;
        // A model that fits the caches reads faster than memory could: it has all of that limit.
        let share = |value: f64, limit: f64| {
            if limit > 0.0 {
                (value / limit).min(1.0)
            } else {
                0.0
            }
        };
        Measured {
            phase,
            prompt,
            generate,
            batch,
            threads: self.threads,
            tok_s,
            tok_s_min: rates.first().copied().unwrap_or(0.0),
            tok_s_max: rates.last().copied().unwrap_or(0.0),
            bytes_per_token,
            bandwidth_share: share(tok_s * bytes_per_token, machine.read_gb_s * 1e9),
            compute_share: share(tok_s * operations, machine.int8_gops * 1e9),
        }
    }
}

/// Greedy, so that sampling costs next to nothing, and never ending early.
fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        ..GenerateOptions::greedy()
    }
}
