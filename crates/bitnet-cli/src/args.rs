//! Options that several commands share, and the rule flag > environment > default applied to them.

use std::path::PathBuf;
use std::str::FromStr;

use bitnet_inference::speculative::MAX_DRAFT;
use bitnet_inference::{GenerateOptions, KvType};
use bitnet_quantization::Dialects;
use bitnet_server::config::settings::{CONTEXTS, MAX_THREADS};
use clap::Args;

use crate::env::Environment;

/// The argument of commands that take the model as their first one too.
pub const NAMED_MODEL: &str = "named_model";

/// Where the arithmetic runs. GPUs come with a later version; naming one is refused, never ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The best there is; in this version the CPU.
    Auto,
    /// The CPU.
    Cpu,
}

impl Device {
    /// What runs when this is asked for, as results report it.
    pub fn used(self) -> &'static str {
        match self {
            Device::Auto | Device::Cpu => "cpu",
        }
    }
}

/// Which model, and how to run it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A .gguf file (also the first of a split), a Hugging Face directory, or a model that `bitnet pull` has
    /// downloaded, as OWNER/NAME, with :FILE or @REVISION behind it where needed [default: BITNET_GGUF, else the story
    /// model inside this program]
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<String>,

    /// Tokenizer to use instead of the model's: a tokenizer.json, a .gguf or a Hugging Face directory
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,

    /// What no file tells, or tells wrongly: the byte layout of I2_S tensors (i2s-128, i2s-64 or i2s-4row), the format
    /// of type numbers that several projects use (tl1, tl2, q2_0, pq2_0 or stq1_0); several with commas [default:
    /// i2s-128, and the format whose size the tensors have]
    #[arg(long, value_name = "NAMES", value_parser = parse_dialects)]
    pub dialect: Option<Dialects>,
}

/// How to run a model.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Threads to compute with [default: every CPU that this process may use]
    #[arg(short, long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,

    /// Positions of context to keep [default: the model's, at most 4096]
    #[arg(long, short_alias = 'c', value_name = "N", value_parser = parse_ctx)]
    pub ctx: Option<usize>,

    /// Type of the KV cache: f32 (the reference's numbers), f16 (half the memory) or i8 (a quarter) [default: f32]
    #[arg(long, value_name = "TYPE", value_parser = parse_kv_type)]
    pub kv_type: Option<KvType>,

    /// Compute every logit for every token, with no small copy of the head to search (tokens are the same)
    #[arg(long)]
    pub full_head: bool,

    /// Device: auto or cpu [default: auto]
    #[arg(long, value_name = "DEVICE", value_parser = parse_device)]
    pub device: Option<Device>,

    /// Kernel to use, by name; `bitnet --version` lists them [default: the fastest]
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,

    /// Read every weight, also those of channels that are exactly 0: for comparison, the output is the same
    #[arg(long)]
    pub dense: bool,

    /// Pack the weights anew, and do not keep them for the next start
    #[arg(long)]
    pub no_cache: bool,
}

/// How a prompt becomes a chat.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Chat")]
pub struct TemplateArgs {
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Chat template: `model` (the model's own), `plain` (the texts, one after the other) or a Jinja file
    #[arg(long, value_name = "TEMPLATE")]
    pub template: Option<String>,
}

/// How tokens are chosen. What no flag gives comes from the model's generation_config, then the defaults in brackets.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Most tokens to generate [default: 256 for run, no limit for chat]
    #[arg(short = 'n', long, value_name = "N")]
    pub max_tokens: Option<usize>,

    /// Temperature; 0 always takes the likeliest token [default: 0.8]
    #[arg(long, alias = "temp", value_name = "T", allow_negative_numbers = true, value_parser = parse_temperature)]
    pub temperature: Option<f32>,

    /// Same as --temperature 0
    #[arg(long, conflicts_with = "temperature")]
    pub greedy: bool,

    /// Keep the K likeliest tokens; 0 keeps all [default: 40]
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Keep the likeliest tokens that together have this probability [default: 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = parse_probability)]
    pub top_p: Option<f32>,

    /// Drop tokens less likely than this share of the likeliest one's probability [default: 0.05]
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = parse_probability)]
    pub min_p: Option<f32>,

    /// Divide the positive, multiply the negative logits of tokens seen lately by this [default: 1]
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = parse_repetition)]
    pub repetition_penalty: Option<f32>,

    /// Subtract this for each time a token was drawn lately; the prompt does not count [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = parse_finite)]
    pub frequency_penalty: Option<f32>,

    /// Subtract this once if a token was drawn lately; the prompt does not count [default: 0]
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = parse_finite)]
    pub presence_penalty: Option<f32>,

    /// How many tokens "lately" is [default: 64]
    #[arg(long, value_name = "N")]
    pub penalty_window: Option<usize>,

    /// Add B to the logit of token ID (repeatable)
    #[arg(long, value_name = "ID:B", allow_hyphen_values = true, value_parser = parse_logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,

    /// Seed of sampling [default: random, and told by --metrics]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Stop before this text (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,

    /// Do not stop at the model's end-of-text tokens
    #[arg(long)]
    pub ignore_eos: bool,

    /// Guess up to N tokens ahead where the text repeats itself and check them in one pass: faster, and never another
    /// text [default: 0; without N: 7]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = DEFAULT_DRAFT_TEXT,
          value_parser = parse_speculate)]
    pub speculate: Option<usize>,
}

/// [`DEFAULT_DRAFT`](bitnet_inference::speculative::DEFAULT_DRAFT) as an option's value.
const DEFAULT_DRAFT_TEXT: &str = "7";

impl SamplingArgs {
    /// The options as the engine takes them; what nobody gave stays open.
    pub fn options(&self, env: &Environment) -> GenerateOptions {
        GenerateOptions {
            max_tokens: self.max_tokens,
            temperature: if self.greedy {
                Some(0.0)
            } else {
                self.temperature
            },
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            penalty_window: self.penalty_window,
            logit_bias: self.logit_bias.clone(),
            seed: env.seed(self.seed),
            stop: self.stop.clone(),
            stop_token_ids: Vec::new(),
            ignore_eos: self.ignore_eos,
            speculate: self.speculate.unwrap_or(0),
            logprobs: false,
            top_logprobs: 0,
            prompt_logprobs: false,
        }
    }
}

impl EngineArgs {
    /// What a command runs with that has none of these options but the number of threads.
    pub fn with_threads(threads: Option<usize>) -> Self {
        Self {
            threads,
            ctx: None,
            kv_type: None,
            full_head: false,
            device: None,
            kernel: None,
            dense: false,
            no_cache: false,
        }
    }

    /// Threads by flag, environment or the engine's default (`None`).
    pub fn threads(&self, env: &Environment) -> Option<usize> {
        self.threads.or(env.threads)
    }

    /// Kernel name by flag, environment or the engine's choice (`None`).
    pub fn kernel(&self, env: &Environment) -> Option<String> {
        self.kernel.clone().or_else(|| env.kernel.clone())
    }

    /// Whether every weight is read, by flag or environment.
    pub fn dense(&self, env: &Environment) -> bool {
        self.dense || env.dense
    }

    /// Device by flag, environment or default.
    pub fn device(&self, env: &Environment) -> Device {
        self.device.or(env.device).unwrap_or(Device::Auto)
    }
}

impl ModelArgs {
    /// These, with the model that a command's first argument names, where one does; both cannot be given.
    pub fn or_named(&self, named: Option<&str>) -> ModelArgs {
        let mut args = self.clone();
        if let Some(named) = named {
            args.model = Some(named.to_owned());
        }
        args
    }

    /// Tokenizer path by flag, environment or the model's own (`None`).
    pub fn tokenizer(&self, env: &Environment) -> Option<PathBuf> {
        self.tokenizer.clone().or_else(|| env.tokenizer.clone())
    }
}

/// Parses a number of threads.
///
/// # Errors
/// What is expected instead.
pub fn parse_threads(value: &str) -> Result<usize, String> {
    match value.trim().parse() {
        Ok(n) if (1..=MAX_THREADS).contains(&n) => Ok(n),
        _ => Err(format!("expected a number from 1 to {MAX_THREADS}")),
    }
}

/// Parses a device.
///
/// # Errors
/// What is expected instead.
pub fn parse_device(value: &str) -> Result<Device, String> {
    match value {
        "auto" => Ok(Device::Auto),
        "cpu" => Ok(Device::Cpu),
        gpu if gpu == "gpu" || gpu == "wgpu" || gpu.starts_with("cuda") => {
            Err("this version runs on the CPU only; use auto or cpu".into())
        }
        _ => Err("expected auto or cpu".into()),
    }
}

fn parse_ctx(value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(n) if CONTEXTS.contains(&n) => Ok(n),
        _ => Err("expected a number of positions, at least 2".into()),
    }
}

/// Parses a type of the KV cache.
///
/// # Errors
/// What is expected instead.
pub fn parse_kv_type(value: &str) -> Result<KvType, String> {
    KvType::ALL
        .into_iter()
        .find(|kv_type| kv_type.name() == value)
        .ok_or_else(|| "expected f32, f16 or i8".into())
}

fn parse_speculate(value: &str) -> Result<usize, String> {
    match value.parse() {
        Ok(n) if (0..=MAX_DRAFT).contains(&n) => Ok(n),
        _ => Err(format!("expected a number of tokens, at most {MAX_DRAFT}")),
    }
}

/// Parses what `--dialect` says.
///
/// # Errors
/// What is expected instead.
pub fn parse_dialects(value: &str) -> Result<Dialects, String> {
    Dialects::from_str(value).map_err(|error| error.to_string())
}

fn parse_finite(value: &str) -> Result<f32, String> {
    match value.parse::<f32>() {
        Ok(x) if x.is_finite() => Ok(x),
        _ => Err("expected a number".into()),
    }
}

fn parse_temperature(value: &str) -> Result<f32, String> {
    parse_finite(value)
        .ok()
        .filter(|t| *t >= 0.0)
        .ok_or_else(|| "expected a number, 0 or more".into())
}

fn parse_probability(value: &str) -> Result<f32, String> {
    parse_finite(value)
        .ok()
        .filter(|p| (0.0..=1.0).contains(p))
        .ok_or_else(|| "expected a number from 0 to 1".into())
}

fn parse_repetition(value: &str) -> Result<f32, String> {
    parse_finite(value)
        .ok()
        .filter(|r| *r > 0.0)
        .ok_or_else(|| "expected a number above 0".into())
}

fn parse_logit_bias(value: &str) -> Result<(u32, f32), String> {
    let parsed = value
        .split_once(':')
        .and_then(|(id, bias)| Some((id.parse().ok()?, parse_finite(bias).ok()?)));
    parsed.ok_or_else(|| "expected ID:BIAS, for example 42:-5".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_later_versions_are_refused_by_name() {
        for gpu in ["gpu", "cuda:0", "cuda", "wgpu"] {
            assert!(parse_device(gpu).unwrap_err().contains("CPU only"), "{gpu}");
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        assert!(
            parse_threads("0").is_err()
                && parse_threads("1025").is_err()
                && parse_threads("1").is_ok()
        );
        assert!(parse_ctx("1").is_err() && parse_ctx("2").is_ok());
        assert!(
            parse_temperature("-0.1").is_err()
                && parse_temperature("nan").is_err()
                && parse_temperature("0").is_ok()
        );
        assert!(parse_probability("1.1").is_err() && parse_probability("1").is_ok());
        assert!(parse_repetition("0").is_err() && parse_repetition("1.1").is_ok());
        assert_eq!(parse_logit_bias("42:-5"), Ok((42, -5.0)));
        assert!(parse_logit_bias("42").is_err() && parse_logit_bias("x:1").is_err());
    }

    #[test]
    fn guesses_have_a_default_and_a_limit() {
        use bitnet_inference::speculative::DEFAULT_DRAFT;
        assert_eq!(parse_speculate(DEFAULT_DRAFT_TEXT), Ok(DEFAULT_DRAFT));
        assert_eq!(parse_speculate("0"), Ok(0));
        assert!(parse_speculate("16").is_err() && parse_speculate("x").is_err());
    }

    #[test]
    fn a_flag_wins_over_the_environment() {
        let env = Environment {
            threads: Some(3),
            kernel: Some("a".into()),
            device: Some(Device::Cpu),
            ..Environment::default()
        };
        let mut args = EngineArgs::with_threads(None);
        assert_eq!(
            (args.threads(&env), args.kernel(&env), args.device(&env)),
            (Some(3), Some("a".into()), Device::Cpu)
        );
        args = EngineArgs {
            threads: Some(1),
            kernel: Some("b".into()),
            device: Some(Device::Auto),
            ..args
        };
        assert_eq!(
            (args.threads(&env), args.kernel(&env), args.device(&env)),
            (Some(1), Some("b".into()), Device::Auto)
        );
    }
}
