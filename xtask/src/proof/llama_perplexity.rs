//! The program `llama-perplexity` of somebody's build: the figure that it prints, and which positions it scores.
//!
//! Its output is read as people read it. What it does not print, the tokens and the positions, stands in the file that
//! it saves for `--kl-divergence`: the tokens of all chunks, then for each scored position the logarithms of all
//! probabilities in 16 bits, of which the smallest stands for everything below.
//!
//! Source: llama.cpp's `tools/perplexity/perplexity.cpp`, where bitnet.cpp has `examples/perplexity/perplexity.cpp`.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::find_program;

/// Programs of 2026 print from a thread that nobody waits for at the end (llama.cpp, issue 22142), so the last lines
/// are missing now and then: half of the runs on short texts, and nearly all while other work keeps the machine busy.
const MOST_RUNS: usize = 32;

/// How the file of logits begins.
const MAGIC: &[u8] = b"_logits_";

/// Where a row's probabilities begin, in words of 16 bits: behind the step and the smallest logarithm, an f32 each.
const ROW_HEADER: usize = 4;

/// A program to run.
pub struct LlamaPerplexity {
    program: PathBuf,
    threads: usize,
    ctx: usize,
}

/// What it prints of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct PrintedFigure {
    /// Tokens of a chunk.
    pub ctx: usize,
    /// Perplexity after each chunk, to four places.
    pub running: Vec<f64>,
    /// Perplexity of all.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

/// What it saves of a text's first chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedLogits {
    /// Tokens of a chunk.
    pub ctx: usize,
    /// Of all chunks, one after the other.
    pub tokens: Vec<usize>,
    /// Log probabilities of each scored position, `[n_scored, vocab_size]`; `None` where all that is known is that it
    /// is less likely than any other.
    rows: Vec<Vec<Option<f32>>>,
}

impl LlamaPerplexity {
    /// Finds it at `path`: the program itself, its folder, or the root of a build.
    ///
    /// # Errors
    /// When it is in none of these places.
    pub fn find(path: &Path, ctx: usize, threads: usize) -> Result<LlamaPerplexity> {
        let program = find_program(path, "llama-perplexity").with_context(|| {
            format!(
                "found no llama-perplexity at {}: name the program, or the build with it in `build/bin`",
                path.display()
            )
        })?;
        Ok(LlamaPerplexity {
            program,
            threads,
            ctx,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.program
    }

    /// The figure of a text.
    ///
    /// # Errors
    /// When the program fails, or prints no estimate however often it is run.
    pub fn figure(&self, model: &Path, text: &Path) -> Result<PrintedFigure> {
        let mut printed = String::new();
        for _ in 0..MOST_RUNS {
            printed = self.run(model, text, &[])?;
            if let Some(figure) = PrintedFigure::read(&printed) {
                return Ok(figure);
            }
        }
        let last = printed.trim().lines().last().unwrap_or_default();
        bail!(
            "{} printed no final estimate in {MOST_RUNS} runs (newer builds lose their last lines on a busy machine: try \
             again when it is idle); its last line: {last}",
            self.program.display()
        )
    }

    /// The tokens and logits of the first `chunks` of a text, by way of `file`, which is gone at the end.
    ///
    /// # Errors
    /// When the program fails or writes something else.
    pub fn saved(
        &self,
        model: &Path,
        text: &Path,
        chunks: usize,
        file: &Path,
    ) -> Result<SavedLogits> {
        let (chunks, out) = (chunks.to_string(), file.display().to_string());
        self.run(
            model,
            text,
            &["--chunks", &chunks, "--save-all-logits", &out],
        )?;
        let bytes = fs::read(file).with_context(|| format!("could not read {out}"))?;
        fs::remove_file(file)?;
        SavedLogits::read(&bytes).with_context(|| format!("what {out} holds is no file of logits"))
    }

    /// Versions differ in which of the two outputs they print to: first one, then the other.
    fn run(&self, model: &Path, text: &Path, more: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(model).arg("-f").arg(text);
        command.args(["-c", &self.ctx.to_string()]);
        command.args(["-t", &self.threads.to_string()]).args(more);
        let done = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("could not start {}", self.program.display()))?;
        let [out, errors] =
            [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        ensure!(
            done.status.success(),
            "{}: {}: {}",
            done.status,
            self.program.display(),
            errors.trim().lines().last().unwrap_or_default()
        );
        Ok(format!("{out}\n{errors}"))
    }
}

impl PrintedFigure {
    /// Reads what the program printed; `None` where a part of it is missing.
    fn read(printed: &str) -> Option<PrintedFigure> {
        let (_, figures) = printed.split_once("Final estimate: PPL = ")?;
        let (value, rest) = figures.split_once(" +/- ")?;
        let error = rest.split_whitespace().next()?;
        let (_, work) = printed.split_once("calculating perplexity over ")?;
        let (chunks, rest) = work.split_once(" chunks, n_ctx=")?;
        let (ctx, _) = rest.split_once(',')?;
        let chunks: usize = chunks.parse().ok()?;
        let running = |chunk: usize| -> Option<f64> {
            let (_, rest) = printed.split_once(&format!("[{chunk}]"))?;
            rest.split_once(',')?.0.parse().ok()
        };
        Some(PrintedFigure {
            ctx: ctx.parse().ok()?,
            running: (1..=chunks).map(running).collect::<Option<_>>()?,
            value: value.trim().parse().ok()?,
            error: error.parse().ok()?,
        })
    }
}

impl SavedLogits {
    fn read(bytes: &[u8]) -> Option<SavedLogits> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut number = || -> Option<usize> {
            let (four, behind) = rest.split_first_chunk::<4>()?;
            rest = behind;
            i32::from_le_bytes(*four).try_into().ok()
        };
        let [ctx, vocab_size, n_chunks] = [number()?, number()?, number()?];
        // No more tokens than the file has bytes for.
        let n_tokens = n_chunks.checked_mul(ctx).filter(|&n| n <= bytes.len())?;
        let tokens: Vec<usize> = (0..n_tokens).map(|_| number()).collect::<Option<_>>()?;
        if tokens.iter().any(|&id| id >= vocab_size) {
            return None;
        }
        // Rows are an even number of words long.
        let words = ROW_HEADER + vocab_size.next_multiple_of(2);
        if !rest.len().is_multiple_of(2 * words) {
            return None;
        }
        let rows = rest.chunks_exact(2 * words);
        Some(SavedLogits {
            ctx,
            tokens,
            rows: rows.map(|row| log_probabilities(row, vocab_size)).collect(),
        })
    }

    /// Chunks in the file.
    pub fn n_chunks(&self) -> usize {
        self.tokens.len().checked_div(self.ctx).unwrap_or(0)
    }

    /// Positions scored in all of them.
    pub fn n_scored(&self) -> usize {
        self.rows.len()
    }

    /// The perplexity of the tokens that we take to be predicted, from the middle of each chunk to its end, by these
    /// logits: another one than the program prints unless it scores these very positions. `None` where one of these
    /// tokens is so unlikely that the file does not tell how unlikely.
    ///
    /// # Errors
    /// Where a chunk has another number of scored positions.
    pub fn perplexity_of_second_halves(&self) -> Result<Option<f64>> {
        let scored = self.ctx.saturating_sub(self.ctx / 2 + 1);
        ensure!(
            scored > 0 && !self.rows.is_empty() && self.rows.len() == self.n_chunks() * scored,
            "{} positions of {} chunks are scored, expected {scored} of each",
            self.rows.len(),
            self.n_chunks()
        );
        let chunks = self.tokens.chunks_exact(self.ctx);
        let targets = chunks.flat_map(|chunk| &chunk[self.ctx / 2 + 1..]);
        let nll = targets.zip(&self.rows);
        let nll: Option<f64> = nll.map(|(&id, row)| Some(-f64::from(row[id]?))).sum();
        Ok(nll.map(|nll| (nll / self.rows.len() as f64).exp()))
    }
}

fn log_probabilities(row: &[u8], vocab_size: usize) -> Vec<Option<f32>> {
    let words = row.as_chunks::<2>().0;
    let float = |at: usize| {
        let [[a, b], [c, d]] = [words[at], words[at + 1]];
        f32::from_le_bytes([a, b, c, d])
    };
    let (step, smallest) = (float(0), float(2));
    let values = words[ROW_HEADER..].iter().take(vocab_size);
    let value = |word: &[u8; 2]| match u16::from_le_bytes(*word) {
        0 => None,
        steps => Some(smallest + step * f32::from(steps)),
    };
    values.map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: &str = "0.05 minutes\n[1]1.3002,[2]1.3042,[3]1.3864,\n";
    const ERRORS: &str = "\
0.00.533.728 I perplexity: calculating perplexity over 3 chunks, n_ctx=512, batch_size=2048, n_seq=4
0.03.321.455 I perplexity: 2.79 seconds per pass - ETA 0.04.392.758 I Final estimate: PPL = 1.3864 +/- 0.02918

";

    #[test]
    fn what_is_printed_is_read_whichever_output_has_it() {
        let expected = PrintedFigure {
            ctx: 512,
            running: vec![1.3002, 1.3042, 1.3864],
            value: 1.3864,
            error: 0.02918,
        };
        for printed in [format!("{OUT}\n{ERRORS}"), format!("{ERRORS}\n{OUT}")] {
            assert_eq!(PrintedFigure::read(&printed).as_ref(), Some(&expected));
        }
        // As bitnet.cpp of 2024 prints it.
        let older = "perplexity: calculating perplexity over 1 chunks, n_ctx=64, batch_size=2048, n_seq=32\n\
            perplexity: 0.10 seconds per pass - ETA 0.00 minutes\n[1]17.1090,\n\
            Final estimate: PPL = 17.1090 +/- 0.12800\n\nllama_perf_context_print: x\n";
        let figure = PrintedFigure::read(older).unwrap();
        assert_eq!((figure.ctx, figure.running.len()), (64, 1));
        assert_eq!((figure.value, figure.error), (17.109, 0.128));
    }

    #[test]
    fn output_that_was_cut_off_is_no_figure() {
        let whole = format!("{OUT}\n{ERRORS}");
        assert!(PrintedFigure::read(&whole).is_some());
        for printed in [
            String::new(),
            whole.replace("Final estimate", ""),
            whole.replace("[3]1.3864,", ""),
            whole.replace("PPL = 1.3864", "PPL = nine"),
            format!("{OUT}\nFinal estimate: PPL = nan"),
        ] {
            assert_eq!(PrintedFigure::read(&printed), None, "{printed}");
        }
    }

    /// Chunks of 4 tokens of a vocabulary of 3, the likeliness of token `i` of each row its `i`th number.
    fn file(tokens: &[i32], rows: &[[u16; 3]]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let header = [4, 3, i32::try_from(tokens.len() / 4).unwrap()];
        bytes.extend(header.iter().chain(tokens).flat_map(|n| n.to_le_bytes()));
        for row in rows {
            bytes.extend([0.5f32, -4.0].iter().flat_map(|x| x.to_le_bytes()));
            bytes.extend(row.iter().chain(&[0]).flat_map(|x| x.to_le_bytes()));
        }
        bytes
    }

    #[test]
    fn saved_logits_are_of_the_second_half_of_each_chunk() {
        let tokens = [0, 1, 2, 1, 2, 0, 1, 0];
        let saved = SavedLogits::read(&file(&tokens, &[[0, 4, 0], [6, 0, 0]])).unwrap();
        assert_eq!((saved.ctx, saved.n_chunks(), saved.n_scored()), (4, 2, 2));
        assert_eq!(saved.tokens, [0, 1, 2, 1, 2, 0, 1, 0]);
        // Token 1 ends the first chunk, by -4 + 4 / 2, token 0 the second, by -4 + 6 / 2.
        let perplexity = saved.perplexity_of_second_halves().unwrap().unwrap();
        assert!((perplexity - 1.5f64.exp()).abs() < 1e-6, "{perplexity}");
        let more = SavedLogits::read(&file(&tokens, &[[1; 3]; 4])).unwrap();
        assert!(more.perplexity_of_second_halves().is_err());
        // At the bottom of what the file tells.
        let unlikely = SavedLogits::read(&file(&tokens, &[[0, 4, 0], [0, 6, 0]])).unwrap();
        assert_eq!(unlikely.perplexity_of_second_halves().unwrap(), None);
    }

    #[test]
    fn a_file_that_is_cut_or_names_tokens_that_are_not_there_is_refused() {
        let whole = file(&[0, 1, 2, 1], &[[0; 3]]);
        assert!(SavedLogits::read(&whole).is_some());
        for cut in 0..whole.len() - 1 {
            // Without its rows a file is whole, and scores nothing.
            let rows = whole.len() - 16;
            match SavedLogits::read(&whole[..cut]) {
                Some(saved) => assert_eq!((cut, saved.n_scored()), (rows, 0)),
                None => assert_ne!(cut, rows),
            }
        }
        assert_eq!(SavedLogits::read(&file(&[0, 1, 3, 1], &[])), None);
        assert_eq!(SavedLogits::read(&file(&[0, 1, -1, 1], &[])), None);
    }
}
