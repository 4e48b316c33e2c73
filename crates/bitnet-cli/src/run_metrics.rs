//! Where a generation's time went, as a table and for JSON.

use std::time::Duration;

use bitnet_inference::{FinishReason, Generation, LayoutSpeeds, Traffic};
use serde::Serialize;

use crate::model_source::Loaded;
use crate::table::{Align, Table};
use crate::units;

/// The figures of `--metrics`. Times in seconds, rates in tokens per second, 0 when no time was measured.
#[derive(Debug, Clone, Serialize)]
pub struct RunMetrics {
    /// What the model ran on.
    pub device: &'static str,
    /// Kernel in use.
    pub kernel: String,
    /// The race of the two layouts of weights that chose the kernel, in 10^9 weights a second; null without a choice.
    pub layouts: Option<LayoutSpeeds>,
    /// Threads in use.
    pub threads: usize,
    /// `f32` or `f16`.
    pub kv_type: &'static str,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens drawn, the one that ended the text included.
    pub generated_tokens: usize,
    /// Tokens guessed ahead (`--speculate`).
    pub drafted_tokens: usize,
    /// Those of them that were then drawn.
    pub accepted_tokens: usize,
    /// Loading the model.
    pub load_s: f64,
    /// Text to ids.
    pub tokenize_s: f64,
    /// Forward passes over the prompt.
    pub prefill_s: f64,
    /// Forward passes over generated tokens.
    pub decode_s: f64,
    /// Choosing tokens and decoding their text.
    pub sample_s: f64,
    /// Prompt tokens per second.
    pub prefill_tok_s: f64,
    /// Generated tokens per second of forward passes.
    pub decode_tok_s: f64,
    /// Weight bytes read for each generated token; those of channels left out because they are exactly 0 do not count.
    pub bytes_per_token: usize,
    /// Share of the up projections' rows that were read; `None` where none can be left out.
    pub up_rows_read: Option<f64>,
    /// Share of the down projections' columns that were read; `None` where none can be left out.
    pub down_columns_read: Option<f64>,
    /// Bandwidth achieved while decoding, GB/s.
    pub read_gb_s: f64,
    /// What all of it takes.
    pub memory: MemoryUse,
}

/// Where the memory is, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MemoryUse {
    /// Ternary matrices in the layout that they run in.
    pub layer_bytes: usize,
    /// Second copies of some of them, which leave out zeros.
    pub layer_copy_bytes: usize,
    /// The matrix that turns hidden states into logits.
    pub head_bytes: usize,
    /// Its small copy, which is searched for candidates; 0 without one.
    pub head_copy_bytes: usize,
    /// Set aside for keys and values; the system hands it out as it fills.
    pub kv_cache_bytes: usize,
    /// The most that this process has had in memory, the model file's mapped pages included; `null` where the system
    /// does not tell.
    pub peak_bytes: Option<u64>,
}

/// The high-water mark of the resident set, as Linux tells it.
fn peak_bytes() -> Option<u64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    peak_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmHWM:   123456 kB` among the lines of a process's status.
fn peak_of(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

impl RunMetrics {
    /// The figures of a generation, finished or not, that began when the engine had read `before`.
    pub fn of(loaded: &Loaded, generation: &Generation<'_>, before: &Traffic) -> RunMetrics {
        let (info, timings) = (loaded.engine.info(), generation.timings());
        let decode_tok_s = timings.decode_tok_s().unwrap_or(0.0);
        let traffic = loaded.engine.traffic().since(before);
        let bytes_per_token = traffic
            .ternary_bytes_per_pass()
            .map_or(info.bytes_per_token, |ternary| {
                info.head_bytes + ternary as usize
            });
        RunMetrics {
            device: loaded.device,
            kernel: info.kernel.clone(),
            layouts: info.layouts,
            threads: info.threads,
            kv_type: info.kv_type,
            prompt_tokens: generation.prompt_ids().len(),
            generated_tokens: timings.n_generated,
            drafted_tokens: timings.n_drafted,
            accepted_tokens: timings.n_accepted,
            load_s: timings.load.as_secs_f64(),
            tokenize_s: timings.tokenize.as_secs_f64(),
            prefill_s: timings.prefill.as_secs_f64(),
            decode_s: timings.decode.as_secs_f64(),
            sample_s: timings.sample.as_secs_f64(),
            prefill_tok_s: timings.prefill_tok_s().unwrap_or(0.0),
            decode_tok_s,
            bytes_per_token,
            up_rows_read: traffic.up_share(),
            down_columns_read: traffic.down_share(),
            read_gb_s: decode_tok_s * bytes_per_token as f64 / 1e9,
            memory: MemoryUse {
                layer_bytes: info.layer_bytes,
                layer_copy_bytes: info.layer_copy_bytes,
                head_bytes: info.head_bytes,
                head_copy_bytes: info.head_copy_bytes,
                kv_cache_bytes: info.kv_cache_bytes,
                peak_bytes: peak_bytes(),
            },
        }
    }

    /// The figures as a table; `finish` is `None` after Ctrl-C.
    pub fn table(&self, seed: u64, finish: Option<FinishReason>) -> String {
        let mut table = Table::new(&[
            ("phase", Align::Left),
            ("tokens", Align::Right),
            ("time", Align::Right),
            ("tok/s", Align::Right),
        ]);
        let rows = [
            ("load", None, self.load_s, 0.0),
            ("tokenise", Some(self.prompt_tokens), self.tokenize_s, 0.0),
            (
                "prefill",
                Some(self.prompt_tokens),
                self.prefill_s,
                self.prefill_tok_s,
            ),
            (
                "decode",
                Some(self.generated_tokens),
                self.decode_s,
                self.decode_tok_s,
            ),
            ("sample", Some(self.generated_tokens), self.sample_s, 0.0),
        ];
        for (phase, tokens, seconds, rate) in rows {
            table.row(vec![
                phase.into(),
                tokens.map(|n| n.to_string()).unwrap_or_default(),
                units::duration(Duration::from_secs_f64(seconds)),
                if rate > 0.0 {
                    units::three_digits(rate)
                } else {
                    String::new()
                },
            ]);
        }
        let layouts = self.layouts.map_or_else(String::new, |speeds| {
            format!(
                "layouts: {} G weights/s at 2 bits, {} at 1.6, in pairs {} times as fast\n",
                units::three_digits(speeds.i2s),
                units::three_digits(speeds.t5),
                units::three_digits(speeds.gain)
            )
        });
        let guesses = match self.drafted_tokens {
            0 => String::new(),
            drafted => format!(
                "{} of {drafted} guessed tokens were right\n",
                self.accepted_tokens
            ),
        };
        let end = finish.map_or_else(|| "interrupted".to_string(), |reason| reason.to_string());
        let sparsity = match (self.up_rows_read, self.down_columns_read) {
            (None, None) => String::new(),
            (up, down) => format!(
                "read {} of the up rows and {} of the down columns, the others are 0\n",
                units::percent(up.unwrap_or(1.0)),
                units::percent(down.unwrap_or(1.0))
            ),
        };
        let memory = &self.memory;
        let peak = memory.peak_bytes.map_or(String::new(), |peak| {
            format!("; peak {}", units::bytes(peak))
        });
        format!(
            "{}{} a token, {} GB/s while decoding; {}, {} threads, {} cache\n\
             memory: {} layers, {} head, {} set aside for the cache{peak}\n{layouts}{sparsity}{guesses}end: {end}; seed {seed}",
            table.text(),
            units::bytes(self.bytes_per_token as u64),
            units::three_digits(self.read_gb_s),
            self.kernel,
            self.threads,
            self.kv_type,
            units::bytes((memory.layer_bytes + memory.layer_copy_bytes) as u64),
            units::bytes((memory.head_bytes + memory.head_copy_bytes) as u64),
            units::bytes(memory.kv_cache_bytes as u64),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_a_status() {
        let status = "Name:\tbitnet\nVmPeak:\t 2000 kB\nVmHWM:\t   12 kB\nVmRSS:\t 11 kB\n";
        assert_eq!(peak_of(status), Some(12 * 1024));
        assert_eq!(peak_of("Name:\tbitnet\n"), None);
        assert_eq!(peak_of("VmHWM:\t lots kB\n"), None);
    }
}
