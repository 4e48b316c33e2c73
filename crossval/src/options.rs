//! The command line. Written by hand: this program's only user is `xtask`.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use crate::isa::Wanted;
use crate::phase::Phase;

const USAGE: &str = "\
usage: bitnet-crossval MODEL --phases LIST [--threads N] [--repetitions N]
                       [--isa native|avx2] [--states FOLDER] [--quiet]
       bitnet-crossval MODEL --logits IDS.json --out OUT.safetensors [--trace]
       bitnet-crossval MODEL --tokenize TEXT
       bitnet-crossval MODEL --score TEXT [--ctx N]
       bitnet-crossval MODEL --dequantize OUT.gguf
       bitnet-crossval --info [--isa native|avx2]

phases: prefill:TOKENS  decode:TOKENS  decode:TOKENSxSEQUENCES  decode:TOKENS@DEPTH  first:TOKENS";

/// llama-perplexity's default chunk.
const DEFAULT_CHUNK: usize = 512;

/// What is computed instead of timed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Logits of every position, and hidden states where `trace` says so.
    Logits {
        /// A JSON array of token ids.
        ids: PathBuf,
        /// The safetensors file to write.
        out: PathBuf,
        /// Whether the hidden states are wanted too.
        trace: bool,
    },
    /// The ids of a text.
    Tokenize(PathBuf),
    /// Perplexity of a text.
    Score {
        /// The text.
        text: PathBuf,
        /// Tokens of a chunk.
        ctx: usize,
    },
    /// The model with F32 weights.
    Dequantize(PathBuf),
}

/// What to run.
#[derive(Debug)]
pub struct Options {
    /// A GGUF file.
    pub model: PathBuf,
    /// Threads of prefill and decode alike.
    pub threads: usize,
    /// In this order.
    pub phases: Vec<Phase>,
    /// Instead of phases.
    pub task: Option<Task>,
    /// Runs of each phase, after a short one that is not counted.
    pub repetitions: usize,
    /// Which build this has to be.
    pub isa: Wanted,
    /// Print what was built and nothing else.
    pub info: bool,
    /// Print the phases only.
    pub quiet: bool,
    /// Where filled KV caches are kept, so that a depth is prefilled once and not in every round.
    pub states: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// What is wrong with them, with the usage.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Options> {
        Options::read(args).with_context(|| USAGE.to_owned())
    }

    fn read(mut args: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options {
            model: PathBuf::new(),
            threads: 1,
            phases: Vec::new(),
            task: None,
            repetitions: 1,
            isa: Wanted::Native,
            info: false,
            quiet: false,
            states: None,
        };
        let (mut out, mut trace, mut ctx) = (None, false, DEFAULT_CHUNK);
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--threads" => options.threads = number(&value()?)?,
                "--repetitions" => options.repetitions = number(&value()?)?,
                "--isa" => options.isa = value()?.parse()?,
                "--info" => options.info = true,
                "--quiet" => options.quiet = true,
                "--trace" => trace = true,
                "--ctx" => ctx = number::<usize>(&value()?)?,
                "--out" => out = Some(PathBuf::from(value()?)),
                "--logits" => {
                    options.task = Some(Task::Logits {
                        ids: value()?.into(),
                        out: PathBuf::new(),
                        trace: false,
                    });
                }
                "--tokenize" => options.task = Some(Task::Tokenize(value()?.into())),
                "--score" => {
                    let text = value()?.into();
                    options.task = Some(Task::Score { text, ctx });
                }
                "--dequantize" => options.task = Some(Task::Dequantize(value()?.into())),
                "--states" => options.states = Some(value()?.into()),
                "--phases" => {
                    for phase in value()?.split(',') {
                        options.phases.push(phase.parse()?);
                    }
                }
                _ if arg.starts_with('-') => bail!("unknown option {arg}"),
                _ => options.model = arg.into(),
            }
        }
        if options.info {
            return Ok(options);
        }
        ensure!(!options.model.as_os_str().is_empty(), "no model");
        match &mut options.task {
            Some(Task::Logits {
                out: file,
                trace: traced,
                ..
            }) => {
                *file = out.context("--logits needs --out")?;
                *traced = trace;
            }
            Some(Task::Score { ctx: tokens, .. }) => *tokens = ctx,
            Some(_) => {}
            None => ensure!(!options.phases.is_empty(), "no phases"),
        }
        Ok(options)
    }
}

/// A number of at least 1.
pub fn number<T: FromStr + PartialOrd + From<u8>>(text: &str) -> Result<T> {
    match text.parse() {
        Ok(n) if n >= T::from(1) => Ok(n),
        _ => bail!("{text}: expected a number, 1 or more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read() {
        assert!(parse("--info").unwrap().info);
        let options =
            parse("m.gguf --threads 2 --phases prefill:512,decode:128x4 --isa avx2").unwrap();
        assert_eq!((options.threads, options.repetitions), (2, 1));
        assert_eq!(options.isa, Wanted::Avx2);
        assert_eq!(
            options.phases,
            [
                Phase::Prefill { prompt: 512 },
                Phase::Decode {
                    generate: 128,
                    batch: 4,
                    depth: 0
                }
            ]
        );
    }

    #[test]
    fn tasks_are_read_in_any_order() {
        let task = |line| parse(line).unwrap().task.unwrap();
        assert_eq!(
            task("m.gguf --trace --out o --logits i"),
            Task::Logits {
                ids: "i".into(),
                out: "o".into(),
                trace: true
            }
        );
        let score = |ctx| Task::Score {
            text: "t".into(),
            ctx,
        };
        assert_eq!(task("--ctx 64 m.gguf --score t"), score(64));
        assert_eq!(task("m.gguf --score t"), score(512));
        assert_eq!(task("m.gguf --tokenize t"), Task::Tokenize("t".into()));
        assert_eq!(task("m.gguf --dequantize o"), Task::Dequantize("o".into()));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, what) in [
            ("", "no model"),
            ("m.gguf", "no phases"),
            ("m.gguf --threads", "needs a value"),
            ("m.gguf --threads 0", "1 or more"),
            ("m.gguf --frobnicate", "unknown option"),
            ("m.gguf --logits i", "needs --out"),
            ("m.gguf --phases nap:3", "nap"),
        ] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(what), "{line}: {error}");
        }
    }
}
