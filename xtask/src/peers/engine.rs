//! Building the engines, running one phase on one of them, and reading what it prints.
//!
//! `bitnet bench` and the `crossval` package (llama.cpp's C API) print JSON; bitnet.cpp has `llama-bench`. The first
//! token is timed from outside, alike for both: from the start of the process to its first byte of output.

use super::models;
use super::options::PeersOptions;
use super::plan::{Comparison, Contender, PeerJob, Timed};
use super::statistics::Sample;
use crate::llama_cpp::{self, AVX2_FLAGS, NATIVE_FLAGS};
use crate::process::{cargo, find_program, output, run, target_folder};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Our kernel for AVX2.
const AVX2_KERNEL: &str = "x86-i2s-avx2";

/// What the prompt of the first-token phase is made of; how many of them make its tokens is asked of the tokenizer.
const PROMPT_WORD: &str = "a ";

/// The programs.
pub struct Engines {
    target: PathBuf,
    bitnet: PathBuf,
    llama_cpp: PathBuf,
    llama_cpp_avx2: PathBuf,
    bitnet_cpp: Option<PathBuf>,
    /// What llama.cpp says it was built with, for each build that is used.
    pub system_info: Vec<(Contender, String)>,
}

impl Engines {
    /// Builds what the rows need and makes sure that llama.cpp uses the CPU's instructions.
    ///
    /// # Errors
    /// A failed build; a build of llama.cpp without AVX2, or without AVX-512 where the CPU has it.
    pub fn build(root: &Path, options: &PeersOptions, rows: &[Comparison]) -> Result<Engines> {
        ensure!(!rows.is_empty(), "no row has that name");
        let target = target_folder(root)?;
        run(cargo().current_dir(root).args([
            "build",
            "--release",
            "--locked",
            "-p",
            "bitnet-cli",
        ]))?;
        let exe = std::env::consts::EXE_SUFFIX;
        let mut engines = Engines {
            bitnet: target.join("release").join(format!("bitnet{exe}")),
            llama_cpp: llama_cpp::program(&target, "native"),
            llama_cpp_avx2: llama_cpp::program(&target, "avx2"),
            bitnet_cpp: options.bitnet_cpp.as_deref().map(llama_bench).transpose()?,
            system_info: Vec::new(),
            target,
        };
        for (engine, build, flags) in [
            (Contender::LlamaCpp, "native", NATIVE_FLAGS),
            (Contender::LlamaCppAvx2, "avx2", AVX2_FLAGS),
        ] {
            let used = |row: &Comparison| row.peers.iter().any(|job| job.engine == engine);
            if rows.iter().any(used) {
                llama_cpp::build(root, &engines.target, build, flags)?;
                let info = output(engines.program(engine)?.args(["--isa", build, "--info"]))?;
                eprintln!("{}: {}", engine.name(), info.trim());
                engines.system_info.push((engine, info.trim().to_owned()));
            }
        }
        Ok(engines)
    }

    /// Cargo's target folder.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Our command line.
    pub fn bitnet(&self) -> Command {
        Command::new(&self.bitnet)
    }

    /// Runs a job once.
    ///
    /// # Errors
    /// When the program fails or prints something else than it should.
    pub fn measure(&self, folder: &Path, job: &PeerJob) -> Result<Sample> {
        let model = folder.join(models::file_name(job.model));
        let mut command = self.program(job.engine)?;
        match job.engine {
            Contender::Bitnet | Contender::BitnetAvx2 => {
                if let Timed::First(prompt) = job.phase {
                    let text = self.prompt_of(&model, prompt)?;
                    command.args(["run", "--greedy", "--max-tokens", "1", "--ignore-eos"]);
                    command.arg("--threads").arg(job.threads.to_string());
                    command.arg("--model").arg(&model).arg("--prompt").arg(text);
                    return first_byte(&mut command);
                }
                command.args(bench_args(job)).arg("--model").arg(&model);
                bench_sample(&output(&mut command)?)
            }
            Contender::LlamaCpp | Contender::LlamaCppAvx2 => {
                command.arg(&model).args(crossval_args(job));
                command.arg("--states").arg(folder);
                if let Timed::First(_) = job.phase {
                    return first_byte(command.arg("--quiet"));
                }
                crossval_sample(&output(&mut command)?)
            }
            Contender::BitnetCpp => {
                command.args(llama_bench_args(job)?).arg("-m").arg(&model);
                llama_bench_sample(&output(&mut command)?)
            }
        }
    }

    fn program(&self, engine: Contender) -> Result<Command> {
        Ok(match engine {
            Contender::Bitnet => self.bitnet(),
            Contender::BitnetAvx2 => {
                let mut command = self.bitnet();
                command.env("BITNET_KERNEL", AVX2_KERNEL);
                command
            }
            Contender::LlamaCpp => Command::new(&self.llama_cpp),
            Contender::LlamaCppAvx2 => Command::new(&self.llama_cpp_avx2),
            Contender::BitnetCpp => {
                Command::new(self.bitnet_cpp.as_deref().context("no --bitnet-cpp")?)
            }
        })
    }

    /// A text of `n` tokens. Generated vocabularies cut as they like, so it is looked for.
    fn prompt_of(&self, model: &Path, n: usize) -> Result<String> {
        let texts: Vec<String> = (1..=4 * n).map(|words| PROMPT_WORD.repeat(words)).collect();
        let mut tokenize = self.bitnet();
        tokenize.args(["tokenize", "--jsonl", "--bos", "--model"]);
        let lines = output_of_lines(tokenize.arg(model), &texts)?;
        let of_length =
            |ids: &str| serde_json::from_str::<Vec<u32>>(ids).is_ok_and(|ids| ids.len() == n);
        let found = texts
            .into_iter()
            .zip(lines.lines())
            .find(|(_, ids)| of_length(ids));
        let (text, _) = found
            .with_context(|| format!("found no prompt of {n} tokens for {}", model.display()))?;
        Ok(text)
    }
}

/// What a program prints that reads the texts as JSON strings, one a line.
fn output_of_lines(command: &mut Command, texts: &[String]) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("the input is piped")?;
    // Few enough lines to fit into a pipe, whoever reads first.
    for text in texts {
        writeln!(stdin, "{}", Value::from(text.as_str()))?;
    }
    drop(stdin);
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "{}: bitnet tokenize", done.status);
    Ok(String::from_utf8(done.stdout)?)
}

/// The `llama-bench` of a build of bitnet.cpp.
fn llama_bench(path: &Path) -> Result<PathBuf> {
    find_program(path, "llama-bench")
        .with_context(|| format!("found no llama-bench in {}", path.display()))
}

fn bench_args(job: &PeerJob) -> Vec<String> {
    let mut args = vec!["bench".to_owned(), "--format".into(), "json".into()];
    let mut option = |name: &str, value: usize| args.extend([name.to_owned(), value.to_string()]);
    option("--repetitions", 1);
    option("-t", job.threads);
    match job.phase {
        Timed::Prefill(prompt) | Timed::First(prompt) => {
            option("-p", prompt);
            option("-n", 0);
        }
        Timed::Decode {
            generate,
            batch,
            depth,
        } => {
            option("-p", 0);
            // The first token comes out of the prompt's pass: one more, so that as many passes are timed.
            option("-n", generate + 1);
            option("-b", batch);
            option("-d", depth.max(1));
        }
    }
    if let Some(kv_type) = job.kv_type {
        args.extend(["--kv-type".to_owned(), kv_type.to_owned()]);
    }
    args
}

/// Reads the one result of `bitnet bench --format json`.
fn bench_sample(text: &str) -> Result<Sample> {
    let report: Value = serde_json::from_str(text)?;
    let result = &report["results"][0];
    Ok(Sample {
        value: positive(&result["tok_s"])?,
        bandwidth_share: result["bandwidth_share"].as_f64(),
        compute_share: result["compute_share"].as_f64(),
    })
}

fn crossval_args(job: &PeerJob) -> Vec<String> {
    let isa = match job.engine {
        Contender::LlamaCppAvx2 => "avx2",
        _ => "native",
    };
    let phase = match job.phase {
        Timed::Prefill(prompt) => format!("prefill:{prompt}"),
        Timed::First(prompt) => format!("first:{prompt}"),
        Timed::Decode {
            generate,
            batch: 1,
            depth: 0,
        } => format!("decode:{generate}"),
        Timed::Decode {
            generate,
            batch,
            depth: 0,
        } => format!("decode:{generate}x{batch}"),
        Timed::Decode {
            generate, depth, ..
        } => format!("decode:{generate}@{depth}"),
    };
    let threads = job.threads.to_string();
    ["--isa", isa, "--threads", &threads, "--phases", &phase]
        .map(str::to_owned)
        .to_vec()
}

/// Reads the last line of what `bitnet-crossval` prints.
fn crossval_sample(text: &str) -> Result<Sample> {
    let line = text.lines().last().context("llama.cpp printed nothing")?;
    let result: Value = serde_json::from_str(line)?;
    Ok(Sample {
        value: positive(&result["tok_s"])?,
        ..Sample::default()
    })
}

fn llama_bench_args(job: &PeerJob) -> Result<Vec<String>> {
    let (prompt, generate) = match job.phase {
        Timed::Prefill(prompt) => (prompt, 0),
        Timed::Decode {
            generate,
            batch: 1,
            depth: 0,
        } => (0, generate),
        _ => bail!("llama-bench of bitnet.cpp has neither batches nor depths"),
    };
    let args = format!("-o json -r 1 -t {} -p {prompt} -n {generate}", job.threads);
    Ok(args.split(' ').map(str::to_owned).collect())
}

/// Reads the one result of `llama-bench -o json`.
fn llama_bench_sample(text: &str) -> Result<Sample> {
    // The program says what it loads before the document.
    let start = text.find('[').context("llama-bench printed no JSON")?;
    let results: Value = serde_json::from_str(&text[start..])?;
    Ok(Sample {
        value: positive(&results[0]["avg_ts"])?,
        ..Sample::default()
    })
}

fn positive(value: &Value) -> Result<f64> {
    match value.as_f64() {
        Some(number) if number > 0.0 => Ok(number),
        _ => bail!("expected a speed above 0, found {value}"),
    }
}

/// Seconds from the start of a process to its first byte of output.
fn first_byte(command: &mut Command) -> Result<Sample> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut byte = [0];
    let mut stdout = child.stdout.take().context("the output is piped")?;
    let n = stdout.read(&mut byte)?;
    let seconds = start.elapsed().as_secs_f64();
    // The rest is drained so that the process can end.
    std::io::copy(&mut stdout, &mut std::io::sink())?;
    let ended = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&ended.stderr);
    ensure!(
        n == 1 && ended.status.success(),
        "no first token: {}",
        errors.trim()
    );
    Ok(Sample {
        value: seconds,
        ..Sample::default()
    })
}

#[cfg(test)]
mod tests;
