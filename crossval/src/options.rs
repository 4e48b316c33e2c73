//! The command line. Written by hand: this program's only user is `xtask peers`.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use crate::isa::Wanted;
use crate::phase::Phase;

const USAGE: &str = "\
usage: bitnet-crossval MODEL --phases LIST [--threads N] [--repetitions N]
                       [--isa native|avx2] [--states FOLDER] [--quiet]
       bitnet-crossval --info [--isa native|avx2]

phases: prefill:TOKENS  decode:TOKENS  decode:TOKENSxSEQUENCES  decode:TOKENS@DEPTH  first:TOKENS";

/// What to run.
#[derive(Debug)]
pub struct Options {
    /// A GGUF file.
    pub model: PathBuf,
    /// Threads of prefill and decode alike.
    pub threads: usize,
    /// In this order.
    pub phases: Vec<Phase>,
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
            repetitions: 1,
            isa: Wanted::Native,
            info: false,
            quiet: false,
            states: None,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--threads" => options.threads = number(&value()?)?,
                "--repetitions" => options.repetitions = number(&value()?)?,
                "--isa" => options.isa = value()?.parse()?,
                "--info" => options.info = true,
                "--quiet" => options.quiet = true,
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
        ensure!(!options.phases.is_empty(), "no phases");
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
    fn mistakes_are_named() {
        for (line, what) in [
            ("", "no model"),
            ("m.gguf", "no phases"),
            ("m.gguf --threads", "needs a value"),
            ("m.gguf --threads 0", "1 or more"),
            ("m.gguf --frobnicate", "unknown option"),
            ("m.gguf --phases nap:3", "nap"),
        ] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(what), "{line}: {error}");
        }
    }
}
