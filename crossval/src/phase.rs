//! What is timed: prefill, decode (alone, batched, deep in a context) and the first token.
//!
//! Tokens are random, as in llama-bench: the work does not depend on them. Nothing is sampled, which favours
//! llama.cpp a little, for `bitnet bench` times the whole engine.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::llama::{Context, KV_PADDING, LlamaBatch, LlamaModel};
use crate::options::{Options, number};

/// One thing to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A prompt, whole.
    Prefill {
        /// Its tokens.
        prompt: usize,
    },
    /// Token after token.
    Decode {
        /// Tokens of each sequence.
        generate: usize,
        /// Sequences in one batch.
        batch: usize,
        /// Tokens in the cache before the first.
        depth: usize,
    },
    /// From the program's start to the first token of an answer.
    First {
        /// Tokens of the prompt.
        prompt: usize,
    },
}

impl FromStr for Phase {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Phase> {
        let (name, size) = text
            .split_once(':')
            .with_context(|| format!("{text}: expected PHASE:TOKENS"))?;
        let decode = |generate: &str, batch, depth| {
            Ok(Phase::Decode {
                generate: number(generate)?,
                batch,
                depth,
            })
        };
        match (name, size.split_once('x'), size.split_once('@')) {
            ("prefill", None, None) => Ok(Phase::Prefill {
                prompt: number(size)?,
            }),
            ("first", None, None) => Ok(Phase::First {
                prompt: number(size)?,
            }),
            ("decode", None, None) => decode(size, 1, 0),
            ("decode", Some((generate, batch)), None) => decode(generate, number(batch)?, 0),
            ("decode", None, Some((generate, depth))) => decode(generate, 1, number(depth)?),
            _ => bail!("{text}: no such phase"),
        }
    }
}

/// What came of one run.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Of all sequences together.
    pub tokens: usize,
    /// How long they took.
    pub seconds: f64,
}

/// Most tokens of one pass: llama.cpp's default micro-batch.
pub const PASS: usize = 512;

/// Runs a phase as often as asked, after a short run that is not counted: it faults the mapped weights in.
///
/// # Errors
/// When llama.cpp refuses the context or fails in a pass.
pub fn rates(model: &LlamaModel, options: &Options, phase: Phase) -> Result<Vec<Outcome>> {
    let (n_ctx, n_seq) = match phase {
        Phase::Prefill { prompt } | Phase::First { prompt } => (prompt, 1),
        Phase::Decode {
            generate,
            batch,
            depth,
        } => (
            (depth.max(1) + generate + 1).next_multiple_of(KV_PADDING) * batch,
            batch,
        ),
    };
    let mut bench = Bench {
        context: model.context(n_ctx, n_seq, options.threads)?,
        tokens: Tokens::new(model.n_vocab()),
    };
    bench.decode(2, 1)?;
    bench.context.clear();
    (0..options.repetitions)
        .map(|_| {
            bench.context.clear();
            match phase {
                Phase::Prefill { prompt } | Phase::First { prompt } => {
                    let start = Instant::now();
                    bench.prefill(0, prompt)?;
                    Ok(Outcome {
                        tokens: prompt,
                        seconds: start.elapsed().as_secs_f64(),
                    })
                }
                Phase::Decode {
                    generate,
                    batch,
                    depth,
                } => {
                    if depth > 0 {
                        bench.fill(depth, options)?;
                    }
                    bench.decode_from(depth, generate, batch)
                }
            }
        })
        .collect()
}

/// Prompt to first token on a model that was just loaded, nothing warmed up. The clock of `xtask peers` runs from the
/// start of the process; this one only from the loaded model.
///
/// # Errors
/// When llama.cpp refuses the context or fails in the pass.
pub fn first(model: &LlamaModel, threads: usize, prompt: usize) -> Result<Outcome> {
    let start = Instant::now();
    let mut bench = Bench {
        // What a chat program makes room for, as `bitnet run` does.
        context: model.context(4096, 1, threads)?,
        tokens: Tokens::new(model.n_vocab()),
    };
    bench.prefill(0, prompt)?;
    let logits = bench.context.last_logits(model.n_vocab())?;
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    ensure!(best.is_finite(), "the logits are no numbers");
    Ok(Outcome {
        tokens: 1,
        seconds: start.elapsed().as_secs_f64(),
    })
}

struct Bench<'m> {
    context: Context<'m>,
    tokens: Tokens,
}

impl Bench<'_> {
    /// `n` tokens of sequence 0 from position `from` on, logits for the last.
    fn prefill(&mut self, from: usize, n: usize) -> Result<()> {
        let mut batch = LlamaBatch::new(PASS.min(n));
        for first in (0..n).step_by(PASS) {
            batch.clear();
            for i in first..n.min(first + PASS) {
                batch.push(self.tokens.next(), from + i, 0, i + 1 == n);
            }
            self.context.decode(&batch)?;
        }
        Ok(())
    }

    fn decode(&mut self, generate: usize, batch: usize) -> Result<Outcome> {
        self.decode_from(0, generate, batch)
    }

    /// `generate` passes of one token for each sequence, after `depth` tokens (a first one when there are none).
    fn decode_from(&mut self, depth: usize, generate: usize, n_seq: usize) -> Result<Outcome> {
        let mut batch = LlamaBatch::new(n_seq);
        let mut seconds = 0.0;
        let first = usize::from(depth == 0);
        for step in 0..generate + first {
            batch.clear();
            for sequence in 0..n_seq {
                batch.push(self.tokens.next(), depth + step, sequence, true);
            }
            let start = Instant::now();
            self.context.decode(&batch)?;
            if step >= first {
                seconds += start.elapsed().as_secs_f64();
            }
        }
        Ok(Outcome {
            tokens: generate * n_seq,
            seconds,
        })
    }

    /// `depth` tokens in the cache: read back from a file where an earlier round has left them.
    fn fill(&mut self, depth: usize, options: &Options) -> Result<()> {
        let stem = options.model.file_stem().unwrap_or_default();
        let file: Option<PathBuf> = options
            .states
            .as_ref()
            .map(|folder| folder.join(format!("{}-{depth}.state", stem.to_string_lossy())));
        if let Some(file) = file.as_deref().filter(|file| file.is_file()) {
            return self.context.load_sequence(file, depth);
        }
        self.prefill(0, depth)?;
        match file {
            Some(file) => self.context.save_sequence(&file),
            None => Ok(()),
        }
    }
}

/// Random ordinary tokens (xorshift), the same in every run.
struct Tokens {
    state: u64,
    n_vocab: usize,
}

impl Tokens {
    fn new(n_vocab: usize) -> Tokens {
        Tokens {
            state: 0x9E37_79B9_7F4A_7C15,
            n_vocab,
        }
    }

    fn next(&mut self) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % self.n_vocab as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read() {
        let decode = |generate, batch, depth| Phase::Decode {
            generate,
            batch,
            depth,
        };
        for (text, phase) in [
            ("prefill:512", Phase::Prefill { prompt: 512 }),
            ("first:16", Phase::First { prompt: 16 }),
            ("decode:128", decode(128, 1, 0)),
            ("decode:32x16", decode(32, 16, 0)),
            ("decode:64@4096", decode(64, 1, 4096)),
        ] {
            assert_eq!(text.parse::<Phase>().unwrap(), phase, "{text}");
        }
        for text in [
            "prefill",
            "prefill:0",
            "prefill:8x2",
            "decode:8x2@3",
            "decode:x",
        ] {
            assert!(text.parse::<Phase>().is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_are_of_the_vocabulary() {
        let mut tokens = Tokens::new(7);
        assert!((0..100).all(|_| tokens.next() < 7));
    }
}
