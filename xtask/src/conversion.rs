//! `cargo run -p xtask -- conversion`: how fast a model's size of master weights becomes a GGUF file, and in how much
//! memory.
//!
//! `bitnet synth` writes a directory of random bf16 weights once, which is then copied by `cp` and converted by
//! `bitnet` in turns: a disk that others use is faster in one minute than in the next, so what counts is the ratio
//! within a round. Both begin with the directory in the page cache, as far as the memory holds it, and `bitnet convert`
//! ends only when the disk has its file, which `cp` does not wait for.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::arguments::number;
use crate::peers::statistics::{ratios, spread};
use crate::process::{run as run_tool, target_folder};
use crate::served::release_program;

/// How it is called.
pub const USAGE: &str = "\
  conversion     bitnet convert beside cp: a directory of 5 GB of master weights, speed and memory; 7 GB of disk
         --rounds N          [default: 3]
         --shape SHAPE       of bitnet synth [default: 2b-4t]
         --folder PATH       where files go, and stay [default: below cargo's target folder]
         --bitnet PROGRAM    this bitnet instead of one built from the tree";

/// Converting reads what `cp` reads, computes, and writes a quarter: a machine whose disk is not the limit shows what
/// the computing costs, and half the rate is what it may.
const LEAST_RATIO: f64 = 0.5;

/// Bytes that the process may have in memory at most, mapped pages of the source and all: a third of the directory.
const MOST_MEMORY: u64 = 1_500_000_000;

/// How often the memory is looked at: the kernel keeps the peak of the whole, not of its parts.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, PartialEq)]
struct ConversionOptions {
    rounds: usize,
    shape: String,
    folder: Option<PathBuf>,
    bitnet: Option<PathBuf>,
}

impl ConversionOptions {
    fn parse(args: &[&str]) -> Result<ConversionOptions> {
        let mut options = ConversionOptions {
            rounds: 3,
            shape: "2b-4t".into(),
            folder: None,
            bitnet: None,
        };
        for pair in args.chunks(2) {
            let &[name, value] = pair else {
                bail!("{}: unknown, or needs a value", pair[0]);
            };
            match name {
                "--rounds" => options.rounds = number(value, 1)?,
                "--shape" => options.shape = value.into(),
                "--folder" => options.folder = Some(value.into()),
                "--bitnet" => options.bitnet = Some(value.into()),
                _ => bail!("unknown option {name}"),
            }
        }
        Ok(options)
    }
}

/// Measures and prints; the directory stays for the next time.
///
/// # Errors
/// Wrong arguments, a tool that fails, a ratio or a peak beyond the limits.
pub fn run(root: &Path, args: &[&str]) -> Result<()> {
    let options = ConversionOptions::parse(args)?;
    let bitnet = match &options.bitnet {
        Some(program) => program.clone(),
        None => release_program(root)?,
    };
    let folder = match &options.folder {
        Some(folder) => folder.clone(),
        None => target_folder(root)?.join("conversion"),
    };
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let source = folder.join(format!("{}-masters", options.shape));
    if !source.is_dir() {
        let mut synth = Command::new(&bitnet);
        synth.args(["synth", "--hf", "--masters", "--shape", &options.shape]);
        run_tool(synth.arg(&source))?;
    }
    let (copy, converted) = (folder.join("copy"), folder.join("converted.gguf"));
    let mut copying = Command::new("cp");
    copying.arg("-r").args([&source, &copy]);
    let mut converting = Command::new(&bitnet);
    converting.arg("convert").args([&source, &converted]);
    converting.arg("--force");
    if copy.is_dir() {
        // Of a run that was ended: cp would write into it.
        fs::remove_dir_all(&copy)?;
    }

    let (mut theirs, mut ours, mut peaks) = (Vec::new(), Vec::new(), Peaks::default());
    for round in 0..options.rounds {
        let gigabytes = read_all(&source)? as f64 / 1e9;
        let mut times = [0.0; 2];
        // The one that begins changes, for the first leaves the disk something to write behind the second.
        for step in [round % 2, (round + 1) % 2] {
            read_all(&source)?;
            if step == 0 {
                times[0] = measure(&mut copying, &mut Peaks::default())?;
                fs::remove_dir_all(&copy)?;
            } else {
                times[1] = measure(&mut converting, &mut peaks)?;
                fs::remove_file(&converted)?;
            }
        }
        println!(
            "round {}: cp {:.1} s ({:.2} GB/s), bitnet convert {:.1} s ({:.2} GB/s)",
            round + 1,
            times[0],
            gigabytes / times[0],
            times[1],
            gigabytes / times[1],
        );
        theirs.push(times[0]);
        ours.push(times[1]);
    }
    conclude(&ratios(&ours, &theirs, true), &peaks)
}

/// Prints the verdict.
fn conclude(ratios: &[f64], peaks: &Peaks) -> Result<()> {
    let ratio = spread(ratios).context("no round was run")?;
    println!(
        "bitnet convert reads at {:.2} times the rate of cp ({:.2} to {:.2})",
        ratio.median, ratio.min, ratio.max
    );
    println!("memory of bitnet convert at most: {}", peaks.text());
    ensure!(
        ratio.median >= LEAST_RATIO,
        "at least {LEAST_RATIO} times the rate of cp is required"
    );
    ensure!(
        peaks.whole.is_none_or(|whole| whole <= MOST_MEMORY),
        "at most {} MB are allowed",
        MOST_MEMORY / 1_000_000
    );
    Ok(())
}

/// Reads every file of a folder and returns how many bytes they have.
fn read_all(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        bytes += io::copy(&mut File::open(entry?.path())?, &mut io::sink())?;
    }
    Ok(bytes)
}

/// Seconds until the command has ended.
fn measure(command: &mut Command, peaks: &mut Peaks) -> Result<f64> {
    let start = Instant::now();
    let program = command.get_program().to_owned();
    let mut child: Child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("could not start {program:?}"))?;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "{program:?}: {status}");
            return Ok(start.elapsed().as_secs_f64());
        }
        // Other systems have no such file; then nothing is told of memory.
        if let Ok(status) = fs::read_to_string(format!("/proc/{}/status", child.id())) {
            peaks.add(&status);
        }
        thread::sleep(LOOK);
    }
}

/// The most memory that a process was seen to have, in bytes; `None` where the system does not tell.
#[derive(Debug, Default, PartialEq)]
struct Peaks {
    /// Everything, as the kernel keeps it.
    whole: Option<u64>,
    /// Its own pages.
    private: Option<u64>,
    /// Pages of files.
    mapped: Option<u64>,
}

impl Peaks {
    /// Takes in the lines of a process's status.
    fn add(&mut self, status: &str) {
        for (name, peak) in [
            ("VmHWM:", &mut self.whole),
            ("RssAnon:", &mut self.private),
            ("RssFile:", &mut self.mapped),
        ] {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            // An unknown peak is below every known one.
            *peak = (*peak).max(kilobytes.map(|kilobytes: u64| 1024 * kilobytes));
        }
    }

    fn text(&self) -> String {
        let megabytes = |peak: Option<u64>| match peak {
            Some(bytes) => format!("{} MB", bytes / 1_000_000),
            None => "not told".into(),
        };
        format!(
            "{}; private {}, of files {}",
            megabytes(self.whole),
            megabytes(self.private),
            megabytes(self.mapped)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_in_pairs() {
        let options = ConversionOptions::parse(&["--rounds", "2", "--folder", "x"]).unwrap();
        assert_eq!((options.rounds, options.shape.as_str()), (2, "2b-4t"));
        assert_eq!(options.folder, Some("x".into()));
        for (args, what) in [
            (&["--rounds"][..], "needs a value"),
            (&["--rounds", "0"], "1 or more"),
            (&["--speed", "1"], "unknown"),
        ] {
            let error = ConversionOptions::parse(args).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn peaks_are_the_most_that_was_seen() {
        let mut peaks = Peaks::default();
        assert!(peaks.text().starts_with("not told"));
        peaks.add("Name:\tbitnet\nVmHWM:\t  9000 kB\nRssAnon:\t 5000 kB\nRssFile:\t 4000 kB\n");
        peaks.add("Name:\tbitnet\nVmHWM:\t  9500 kB\nRssAnon:\t 2000 kB\nRssFile:\t 7000 kB\n");
        // A process that has ended and was not waited for has none of the lines.
        peaks.add("Name:\tbitnet\nState:\tZ (zombie)\n");
        assert_eq!(peaks.whole, Some(9500 * 1024));
        assert_eq!(peaks.text(), "9 MB; private 5 MB, of files 7 MB");
    }

    #[test]
    fn slow_or_large_is_an_error() {
        let of = |bytes| Peaks {
            whole: Some(bytes),
            ..Peaks::default()
        };
        assert!(conclude(&[0.4, 0.6, 2.0], &of(MOST_MEMORY)).is_ok());
        assert!(conclude(&[0.4, 0.45, 2.0], &of(1)).is_err());
        assert!(conclude(&[0.6], &of(MOST_MEMORY + 1)).is_err());
        assert!(conclude(&[], &of(1)).is_err());
    }
}
