//! The command lines of `crossval`, `full-crossval`, `verify` and `compare`.

use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

use crate::arguments::{is_json, number};

/// How they are called.
pub const USAGE: &str = "\
  crossval       our logits against llama.cpp's on the first chunks of a text; needs cmake, a C++ compiler, libclang
  full-crossval  the same on the whole text, with hidden states and perplexity
  verify         our logits against recorded ones of Hugging Face transformers; needs no Python
  compare A B    two files of one model against each other: agreement with its bounds, a paired test
                 exit code 4: a check disagrees
         --model PATH        a GGUF file (verify: or a directory) [default: the models of the tests]
         --tolerance T       largest mean KL divergence, nats [default: verify 1e-4, llama.cpp 2e-3]
         --text FILE         what is run [default: two texts of the tests]
         --ctx N             tokens of a chunk [default: 512]
         --samples N         crossval, compare: at most so many chunks [default: crossval 2, compare all]
         --target SHARE      full-crossval, compare: what the lower bound of top-1 agreement has to reach
                             [default: 0.99]
         --golden STEM       verify: STEM.json and STEM.safetensors [default: found near the model]
         --llama-perplexity PATH  full-crossval: this program of a build of llama.cpp is run too
         --bitnet-cpp PATH   full-crossval: the same program of a build of bitnet.cpp, which runs I2_S
         --bitnet PROGRAM    this bitnet instead of one built from the tree
         --threads N         [default: 2]
         --format FORMAT     text or json [default: text]
         --out FILE          write the JSON document there, whatever the format";

/// llama-perplexity's chunk.
const DEFAULT_CHUNK: usize = 512;

/// A mean KL divergence that a different rounding of activations stays under: llama.cpp rounds them by blocks of 32 or
/// 256 values, or to f16, we by rows, as the models were trained. Four times the largest of `docs/accuracy.md`.
const OTHER_ROUNDING: f64 = 2e-3;

/// One that the same rounding stays under, though a value on a tie may fall to either side.
const SAME_ROUNDING: f64 = 1e-4;

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofKind {
    /// Some chunks against llama.cpp.
    Crossval,
    /// Everything against llama.cpp.
    FullCrossval,
    /// Against recorded data.
    Verify,
    /// Two files of one model.
    Compare,
}

/// What to prove.
#[derive(Debug, Clone, PartialEq)]
pub struct ProofOptions {
    /// The command.
    pub kind: ProofKind,
    /// Models; empty: those of the tests.
    pub models: Vec<PathBuf>,
    /// Largest mean KL divergence.
    pub tolerance: f64,
    /// What is run; `None`: the texts of the tests.
    pub text: Option<PathBuf>,
    /// Tokens of a chunk.
    pub ctx: usize,
    /// Most chunks.
    pub samples: usize,
    /// Lowest bound of the agreement of two files.
    pub target: f64,
    /// Recorded data, without extension.
    pub golden: Option<PathBuf>,
    /// The program, or a build of llama.cpp that has it.
    pub llama_perplexity: Option<PathBuf>,
    /// A build of bitnet.cpp.
    pub bitnet_cpp: Option<PathBuf>,
    /// Our program; `None`: built from the tree.
    pub bitnet: Option<PathBuf>,
    /// Of every engine.
    pub threads: usize,
    /// JSON instead of text on standard output.
    pub json: bool,
    /// Where the JSON document goes too.
    pub out: Option<PathBuf>,
}

impl ProofOptions {
    /// Reads the arguments after the command's name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(kind: ProofKind, args: &[&str]) -> Result<ProofOptions> {
        let mut options = ProofOptions {
            kind,
            models: Vec::new(),
            tolerance: match kind {
                ProofKind::Verify => SAME_ROUNDING,
                _ => OTHER_ROUNDING,
            },
            text: None,
            ctx: DEFAULT_CHUNK,
            samples: match kind {
                ProofKind::Crossval => 2,
                _ => usize::MAX,
            },
            target: 0.99,
            golden: None,
            llama_perplexity: None,
            bitnet_cpp: None,
            bitnet: None,
            threads: 2,
            json: false,
            out: None,
        };
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            if !arg.starts_with('-') && kind == ProofKind::Compare {
                options.models.push(arg.into());
                continue;
            }
            let value = *args
                .next()
                .with_context(|| format!("{arg}: unknown, or needs a value"))?;
            match arg {
                "--model" => options.models.push(value.into()),
                "--tolerance" => options.tolerance = share(value, f64::INFINITY)?,
                "--text" => options.text = Some(value.into()),
                "--ctx" => options.ctx = number(value, 4)?,
                "--samples" => options.samples = number(value, 1)?,
                "--target" => options.target = share(value, 1.0)?,
                "--golden" => options.golden = Some(value.into()),
                "--llama-perplexity" => options.llama_perplexity = Some(value.into()),
                "--bitnet-cpp" => options.bitnet_cpp = Some(value.into()),
                "--bitnet" => options.bitnet = Some(value.into()),
                "--threads" => options.threads = number(value, 1)?,
                "--out" => options.out = Some(value.into()),
                "--format" => options.json = is_json(value)?,
                _ => bail!("unknown option {arg}"),
            }
        }
        ensure!(
            kind != ProofKind::Compare || options.models.len() == 2,
            "compare takes two models, found {}",
            options.models.len()
        );
        ensure!(
            kind == ProofKind::FullCrossval
                || (options.llama_perplexity.is_none() && options.bitnet_cpp.is_none()),
            "--llama-perplexity and --bitnet-cpp are about full-crossval"
        );
        ensure!(
            options.golden.is_none() || options.models.len() == 1,
            "--golden is about one --model"
        );
        Ok(options)
    }
}

fn share(text: &str, most: f64) -> Result<f64> {
    match text.parse() {
        Ok(x) if (0.0..=most).contains(&x) && f64::is_finite(x) => Ok(x),
        _ => bail!("{text}: expected a number from 0 to {most}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: ProofKind, line: &str) -> Result<ProofOptions> {
        ProofOptions::parse(kind, &line.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn each_command_has_its_defaults() {
        let of = |kind| parse(kind, "--model m.gguf").unwrap();
        assert_eq!(of(ProofKind::Crossval).samples, 2);
        assert_eq!(of(ProofKind::FullCrossval).samples, usize::MAX);
        assert_eq!(of(ProofKind::FullCrossval).tolerance, OTHER_ROUNDING);
        assert_eq!(of(ProofKind::Verify).tolerance, SAME_ROUNDING);
        assert_eq!(of(ProofKind::Verify).ctx, 512);
    }

    #[test]
    fn options_are_read() {
        let line = "a.gguf b.gguf --ctx 64 --target 0.98 --format json --out o.json --threads 1";
        let options = parse(ProofKind::Compare, line).unwrap();
        assert_eq!(options.models, ["a.gguf", "b.gguf"].map(PathBuf::from));
        assert_eq!((options.ctx, options.threads), (64, 1));
        assert!(options.json && options.out.is_some() && options.target == 0.98);
        let line = "--tolerance 0.5 --bitnet-cpp x --llama-perplexity y";
        let options = parse(ProofKind::FullCrossval, line).unwrap();
        assert_eq!(options.tolerance, 0.5);
        assert!(options.bitnet_cpp.is_some() && options.llama_perplexity.is_some());
        assert!(options.models.is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        for (kind, line, what) in [
            (ProofKind::Compare, "a.gguf", "two models, found 1"),
            (ProofKind::Verify, "--golden g", "one --model"),
            (ProofKind::Verify, "--tolerance -1", "from 0"),
            (ProofKind::Verify, "--tolerance inf", "from 0"),
            (ProofKind::Compare, "a b --target 2", "from 0 to 1"),
            (ProofKind::Verify, "--bitnet-cpp x", "full-crossval"),
            (
                ProofKind::Compare,
                "a b --llama-perplexity x",
                "full-crossval",
            ),
            (ProofKind::Crossval, "--ctx 3", "4 or more"),
            (ProofKind::Crossval, "--samples 0", "1 or more"),
            (ProofKind::Crossval, "--format xml", "xml"),
            (ProofKind::Crossval, "--frobnicate 1", "unknown"),
            (ProofKind::Crossval, "--model", "needs a value"),
        ] {
            let error = format!("{:#}", parse(kind, line).unwrap_err());
            assert!(error.contains(what), "{line}: {error}");
        }
    }
}
