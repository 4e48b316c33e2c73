//! `bitnet bench`: tokens per second, next to what this machine could do at most.
//!
//! Three measurements: prefill (a prompt of random tokens through the model), decode (one token after another, from a
//! prompt of one or deep in a context) and batched decode (several sequences at once). The machine's limits, memory
//! read bandwidth and int8 dot products, are measured in the same run (see [`limits`]), so that the shares say how far
//! from the hardware the engine is, whatever machine it runs on.

mod compare;
mod limits;
mod plot;
mod profile;
mod report;
mod runs;

use std::path::PathBuf;

use bitnet_inference::KvType;
use bitnet_kernels::cpu_features;
use clap::{Args, ValueEnum};

use crate::args::ModelArgs;
use crate::env::Environment;
use crate::exit::{CliError, Exit};
use crate::interrupt::Cooperative;
use crate::model_source::ModelSource;
use crate::output::{Out, notice};
use crate::pending::Pending;
use crate::progress::Progress;

use self::limits::Limits;
use self::report::Report;
use self::runs::Bench;

/// Options of `bitnet bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bitnet bench --model model.gguf\n  \
    bitnet bench --model model.gguf -p 128,512 -n 128 -b 1,4,8,16,32 -t 1,2 --format md\n  \
    bitnet bench --model model.gguf -n 64 -d 1,4096 --kv-type f16 --profile\n  \
    bitnet bench --model model.gguf --plot shares.svg\n  \
    bitnet bench --compare before.json after.json\n\n\
    tok/s is the median of the repetitions. Shares are of this machine's limits for as many threads,\n\
    measured in the same run. Prefill runs one prompt, decode each batch size at each depth.")]
pub struct BenchArgs {
    /// Prompt lengths to prefill
    #[arg(short = 'p', long = "prompts", value_name = "LIST", value_delimiter = ',', default_value = "128",
          value_parser = clap::value_parser!(u32))]
    pub prompts: Vec<u32>,

    /// Numbers of tokens to decode
    #[arg(short = 'n', long = "tokens", value_name = "LIST", value_delimiter = ',', default_value = "64",
          value_parser = clap::value_parser!(u32))]
    pub tokens: Vec<u32>,

    /// Numbers of sequences to decode at once [default: 1; with --plot 1,2,4,8,16,32]
    #[arg(short = 'b', long = "batches", value_name = "LIST", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batches: Vec<u32>,

    /// Numbers of prompt tokens that decoding starts after
    #[arg(short = 'd', long = "depths", value_name = "LIST", value_delimiter = ',', default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub depths: Vec<u32>,

    /// Numbers of threads; --threads takes a list here [default: BITNET_CPU_THREADS, else all cores]
    #[arg(short = 't', long = "threads", value_name = "LIST", value_delimiter = ',',
          value_parser = crate::args::parse_threads)]
    pub threads: Vec<usize>,

    /// Runs of each measurement
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repetitions: u32,

    /// Run each measurement once more and tell where its time goes, by operation
    #[arg(long)]
    pub profile: bool,

    /// Draw the shares of the limits by tokens in a pass, for the largest number of threads, as an SVG file
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,

    /// Compare two JSON reports row by row instead of measuring
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"])]
    pub compare: Vec<PathBuf>,

    /// text (a table), json or md
    #[arg(long, value_enum, default_value_t = BenchFormat::Text)]
    pub format: BenchFormat,

    /// Type of the KV cache: f32, f16 or i8 [default: f32]
    #[arg(long, value_name = "TYPE", value_parser = crate::args::parse_kv_type)]
    pub kv_type: Option<KvType>,

    /// Compute every logit for every token, with no small copy of the head to search
    #[arg(long)]
    pub full_head: bool,

    /// Kernel to use, by name; `bitnet --version` lists them [default: the fastest]
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,

    /// Read every weight, also those of channels that are exactly 0
    #[arg(long)]
    pub dense: bool,

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

/// Batch sizes of a plot when nobody names any: every octave up to where int8 arithmetic is the limit.
const PLOT_BATCHES: [u32; 6] = [1, 2, 4, 8, 16, 32];

/// Measures and prints.
///
/// # Errors
/// An unusable model, lengths beyond its context, Ctrl-C (after printing what was measured).
pub fn run(args: &BenchArgs, env: &Environment) -> Result<Exit, CliError> {
    if let [before, after] = args.compare.as_slice() {
        return compare::run(before, after, args.format);
    }
    let plan = Plan::of(args, env)?;
    if let Some(file) = &args.plot {
        plot::check(file, &plan.pass_sizes())?;
    }
    let plot = args.plot.as_deref().map(Pending::new).transpose()?;
    let source = ModelSource::choose(args.model.model.as_deref(), env)?;
    let cooperative = Cooperative::begin();
    let bar = Progress::new("measuring", plan.n_runs());
    let mut limits = Limits::new(&plan.threads);
    limits.measure()?;
    let mut report = Report::new(source.name());
    let mut interrupted = None;
    for &threads in &plan.threads {
        let bench = Bench::load(&plan, args, env, &source, threads)?;
        report.kernels.push(bench.chosen());
        report.shape = bench.shape();
        if let Err(error) = bench.run_all(&plan, &cooperative, &bar, &mut report) {
            if error.class != Exit::Interrupted {
                return Err(error);
            }
            interrupted = Some(error);
            break;
        }
    }
    // Shared machines have better and worse minutes: the limit is the best of both ends of the run.
    limits.measure()?;
    report.hold_against(&limits);
    drop(bar);
    let mut out = Out::stdout();
    match args.format {
        BenchFormat::Json => out.json(&report)?,
        BenchFormat::Text => out.text(&report::text(&report))?,
        BenchFormat::Md => out.text(&report::markdown(&report))?,
    }
    out.flush()?;
    if let (Some(pending), None) = (plot, &interrupted) {
        plot::write(&report, pending)?;
        if let Some(path) = &args.plot {
            notice(&format!("the plot is in {}", path.display()));
        }
    }
    interrupted.map_or(Ok(Exit::Ok), Err)
}

/// What is measured: the options with their defaults filled in.
struct Plan {
    prompts: Vec<usize>,
    tokens: Vec<usize>,
    batches: Vec<usize>,
    depths: Vec<usize>,
    threads: Vec<usize>,
    repetitions: usize,
    profile: bool,
}

impl Plan {
    fn of(args: &BenchArgs, env: &Environment) -> Result<Plan, CliError> {
        let sizes = |list: &[u32]| -> Vec<usize> { list.iter().map(|&n| n as usize).collect() };
        // 0 leaves a phase out.
        let nonzero = |list: &[u32]| sizes(list).into_iter().filter(|&n| n > 0).collect();
        let plan = Plan {
            prompts: nonzero(&args.prompts),
            tokens: nonzero(&args.tokens),
            batches: match (args.batches.as_slice(), &args.plot) {
                ([], None) => vec![1],
                ([], Some(_)) => sizes(&PLOT_BATCHES),
                (list, _) => sizes(list),
            },
            depths: sizes(&args.depths),
            threads: match (args.threads.as_slice(), env.threads) {
                ([], Some(n)) => vec![n],
                ([], None) => vec![cpu_features().cores],
                (list, _) => list.to_vec(),
            },
            repetitions: args.repetitions as usize,
            profile: args.profile,
        };
        if plan.tokens.contains(&1) {
            return Err(CliError::usage(
                "decoding 1 token has no rate: it comes out of the prompt's pass",
                "give -n 0 (no decoding) or at least 2",
            ));
        }
        if plan.prompts.is_empty() && plan.tokens.is_empty() {
            return Err(CliError::usage(
                "-p 0 and -n 0 leave nothing to measure",
                "give one of them a number",
            ));
        }
        Ok(plan)
    }

    /// Tokens in the passes that are measured.
    fn pass_sizes(&self) -> Vec<usize> {
        let batches: &[usize] = match self.tokens.is_empty() {
            true => &[],
            false => &self.batches,
        };
        [&self.prompts, batches].concat()
    }

    /// Runs that count, of all measurements.
    fn n_runs(&self) -> u64 {
        let decodes = self.tokens.len() * self.batches.len() * self.depths.len();
        let measurements = self.threads.len() * (self.prompts.len() + decodes);
        (measurements * self.repetitions) as u64
    }

    /// Positions that the longest measurement needs.
    fn context(&self) -> usize {
        let largest = |list: &[usize]| list.iter().copied().max().unwrap_or(0);
        let decode = match largest(&self.tokens) {
            0 => 0,
            tokens => tokens + largest(&self.depths),
        };
        largest(&self.prompts).max(decode) + 1
    }
}
