//! Where a generation's time went, as a table and for JSON.

use std::time::Duration;

use bitnet_inference::{FinishReason, Generation};
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
    /// Threads in use.
    pub threads: usize,
    /// `f32` or `f16`.
    pub kv_type: &'static str,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens drawn, the one that ended the text included.
    pub generated_tokens: usize,
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
    /// Weight bytes read for each generated token.
    pub bytes_per_token: usize,
    /// Bandwidth achieved while decoding, GB/s.
    pub read_gb_s: f64,
}

impl RunMetrics {
    /// The figures of a generation, finished or not.
    pub fn of(loaded: &Loaded, generation: &Generation<'_>) -> RunMetrics {
        let (info, timings) = (loaded.engine.info(), generation.timings());
        let decode_tok_s = timings.decode_tok_s().unwrap_or(0.0);
        RunMetrics {
            device: loaded.device,
            kernel: info.kernel.clone(),
            threads: info.threads,
            kv_type: info.kv_type,
            prompt_tokens: generation.prompt_ids().len(),
            generated_tokens: timings.n_generated,
            load_s: timings.load.as_secs_f64(),
            tokenize_s: timings.tokenize.as_secs_f64(),
            prefill_s: timings.prefill.as_secs_f64(),
            decode_s: timings.decode.as_secs_f64(),
            sample_s: timings.sample.as_secs_f64(),
            prefill_tok_s: timings.prefill_tok_s().unwrap_or(0.0),
            decode_tok_s,
            bytes_per_token: info.bytes_per_token,
            read_gb_s: decode_tok_s * info.bytes_per_token as f64 / 1e9,
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
        let end = finish.map_or_else(|| "interrupted".to_string(), |reason| reason.to_string());
        format!(
            "{}{} a token, {} GB/s while decoding; {}, {} threads, {} cache\nend: {end}; seed {seed}",
            table.text(),
            units::bytes(self.bytes_per_token as u64),
            units::three_digits(self.read_gb_s),
            self.kernel,
            self.threads,
            self.kv_type,
        )
    }
}
