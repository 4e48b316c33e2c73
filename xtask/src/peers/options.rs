//! The command line of `peers`.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

use crate::arguments::{self, is_json};

/// How it is called.
pub const USAGE: &str = "\
  peers  measure bitnet against llama.cpp (and bitnet.cpp), interleaved; needs cmake, a C++ compiler and libclang
         --shape LIST        of 2b-4t, bonsai-1.7b, falcon-e-1b [default: all]
         --rows TEXT         only rows whose name contains the text
         --rounds N          runs of each measurement [default: 5]
         --threads LIST      [default: 1,2]
         --quick             small models and short phases: whether it works, not how fast
         --models FOLDER     where the models are made and found again [default: target/peers]
         --bitnet-cpp PATH   a build of bitnet.cpp (its llama-bench) to measure too
         --format FORMAT     text or json [default: text]
         --out FILE          write the JSON document there, whatever the format";

/// The models that rows are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelShape {
    /// BitNet-b1.58-2B-4T.
    B2b4t,
    /// Ternary-Bonsai-1.7B.
    Bonsai17b,
    /// Falcon-E-1B.
    FalconE1b,
}

impl ModelShape {
    /// All, in the order of the report.
    pub const ALL: [ModelShape; 3] = [
        ModelShape::B2b4t,
        ModelShape::Bonsai17b,
        ModelShape::FalconE1b,
    ];

    /// As `bitnet synth --shape` names it.
    pub fn name(self) -> &'static str {
        match self {
            ModelShape::B2b4t => "2b-4t",
            ModelShape::Bonsai17b => "bonsai-1.7b",
            ModelShape::FalconE1b => "falcon-e-1b",
        }
    }
}

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeersOptions {
    /// In the order of the report.
    pub shapes: Vec<ModelShape>,
    /// What a row's name has to contain.
    pub rows: String,
    /// Runs of each measurement.
    pub rounds: usize,
    /// Numbers of threads.
    pub threads: Vec<usize>,
    /// Small models and short phases.
    pub quick: bool,
    /// Where models are kept, when not in the target folder.
    pub models: Option<PathBuf>,
    /// A folder that holds bitnet.cpp's `llama-bench`, or the program itself.
    pub bitnet_cpp: Option<PathBuf>,
    /// JSON instead of the table on standard output.
    pub json: bool,
    /// Where the JSON document goes too.
    pub out: Option<PathBuf>,
}

impl PeersOptions {
    /// Reads the arguments after `peers`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(args: &[&str]) -> Result<PeersOptions> {
        let mut options = PeersOptions {
            shapes: ModelShape::ALL.to_vec(),
            rows: String::new(),
            rounds: 5,
            threads: vec![1, 2],
            quick: false,
            models: None,
            bitnet_cpp: None,
            json: false,
            out: None,
        };
        let mut rounds = None;
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            if arg == "--quick" {
                options.quick = true;
                continue;
            }
            let value = *args
                .next()
                .with_context(|| format!("{arg}: unknown, or needs a value"))?;
            match arg {
                "--shape" => options.shapes = list(value, shape)?,
                "--rows" => options.rows = value.into(),
                "--rounds" => rounds = Some(number(value)?),
                "--threads" => options.threads = list(value, number)?,
                "--models" => options.models = Some(value.into()),
                "--bitnet-cpp" => options.bitnet_cpp = Some(value.into()),
                "--out" => options.out = Some(value.into()),
                "--format" => options.json = is_json(value)?,
                _ => bail!("unknown option {arg}"),
            }
        }
        options.rounds = rounds.unwrap_or(if options.quick { 1 } else { options.rounds });
        Ok(options)
    }
}

fn list<T>(text: &str, item: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    text.split(',').map(item).collect()
}

fn number(text: &str) -> Result<usize> {
    arguments::number(text, 1)
}

fn shape(text: &str) -> Result<ModelShape> {
    ModelShape::ALL
        .into_iter()
        .find(|shape| shape.name() == text)
        .with_context(|| format!("{text}: expected 2b-4t, bonsai-1.7b or falcon-e-1b"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<PeersOptions> {
        PeersOptions::parse(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn defaults_are_the_full_measurement() {
        let options = parse("").unwrap();
        assert_eq!((options.rounds, options.threads), (5, vec![1, 2]));
        assert_eq!(options.shapes, ModelShape::ALL);
    }

    #[test]
    fn quick_is_one_round_unless_told_otherwise() {
        assert_eq!(parse("--quick").unwrap().rounds, 1);
        assert_eq!(parse("--rounds 3 --quick").unwrap().rounds, 3);
    }

    #[test]
    fn options_are_read() {
        let options = parse("--shape falcon-e-1b,2b-4t --threads 4 --format json --out x.json");
        let options = options.unwrap();
        assert_eq!(options.shapes, [ModelShape::FalconE1b, ModelShape::B2b4t]);
        assert_eq!(options.threads, [4]);
        assert!(options.json && options.out.is_some());
    }

    #[test]
    fn mistakes_are_named() {
        for (line, what) in [
            ("--shape 7b", "7b"),
            ("--threads 0", "1 or more"),
            ("--format xml", "xml"),
            ("--rounds", "needs a value"),
            ("--frobnicate 3", "unknown"),
        ] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(what), "{line}: {error}");
        }
    }
}
