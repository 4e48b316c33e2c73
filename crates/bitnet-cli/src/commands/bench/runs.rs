//! The measurements themselves, on one loaded model.

use std::time::{Duration, Instant};

use bitnet_inference::{Engine, GenerateOptions, Profile, Prompt, Traffic};

use crate::args::EngineArgs;
use crate::env::Environment;
use crate::exit::CliError;
use crate::interrupt::Cooperative;
use crate::model_source::{self, LoadExtras, ModelSource};
use crate::progress::Progress;
use crate::synth::weights::Random;
use crate::units;

use super::report::{self, Chosen, Measured, Report};
use super::{BenchArgs, Plan, profile};

/// A model loaded for a number of threads.
pub struct Bench {
    engine: Engine,
    threads: usize,
    prefill_chunk: usize,
}

/// One measurement of a plan.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Prefill {
        prompt: usize,
    },
    Decode {
        depth: usize,
        generate: usize,
        batch: usize,
    },
}

impl Phase {
    /// What runs first and is not counted, to fault pages in: every weight is read in one pass, so a few tokens after
    /// one do as well as a long decoding deep in a context.
    fn warm_up(self) -> Phase {
        match self {
            Phase::Prefill { .. } => self,
            Phase::Decode { batch, .. } => Phase::Decode {
                depth: 1,
                generate: 3,
                batch,
            },
        }
    }
}

/// One run of it.
struct Run {
    tokens: usize,
    time: Duration,
    /// When it was asked for.
    profile: Option<Profile>,
}

impl Bench {
    /// Loads the model with room for everything in the plan.
    ///
    /// # Errors
    /// An unusable model, lengths beyond its context.
    pub fn load(
        plan: &Plan,
        args: &BenchArgs,
        env: &Environment,
        source: &ModelSource,
        threads: usize,
    ) -> Result<Bench, CliError> {
        let engine_args = EngineArgs {
            threads: Some(threads),
            ctx: Some(plan.context()),
            kv_type: args.kv_type,
            full_head: args.full_head,
            device: None,
            kernel: args.kernel.clone(),
            dense: args.dense,
            no_cache: true,
        };
        let extras = LoadExtras {
            max_sequences: plan.batches.iter().copied().max().unwrap_or(1),
            ..LoadExtras::default()
        };
        let options = model_source::load_options(&args.model, &engine_args, env, extras);
        Ok(Bench {
            engine: model_source::load_source(source, &options)?,
            threads,
            prefill_chunk: options.prefill_chunk,
        })
    }

    /// Measures everything in the plan.
    ///
    /// # Errors
    /// What a run reports; Ctrl-C, with what was measured until then in the report.
    pub fn run_all(
        &self,
        plan: &Plan,
        stop: &Cooperative,
        bar: &Progress,
        report: &mut Report,
    ) -> Result<(), CliError> {
        for phase in plan.phases() {
            self.run(phase.warm_up(), false)?;
            let (mut rates, before) = (Vec::new(), self.engine.traffic());
            for _ in 0..plan.repetitions {
                if stop.requested() {
                    return Err(stop.error("what was measured until then is above"));
                }
                let run = self.run(phase, false)?;
                rates.push(units::rate(run.tokens as f64, run.time));
                bar.add(1);
            }
            rates.sort_by(f64::total_cmp);
            let read = self.engine.traffic().since(&before);
            let mut measured = self.measured(phase, &rates, &read);
            if plan.profile {
                let run = self.run(phase, true)?;
                let parts = run.profile.map(|p| profile::parts(&p, run.time));
                measured.profile = parts;
            }
            report.results.push(measured);
        }
        Ok(())
    }

    fn run(&self, phase: Phase, profiled: bool) -> Result<Run, CliError> {
        match phase {
            Phase::Prefill { prompt } => self.prefill(prompt, profiled),
            Phase::Decode {
                depth,
                generate,
                batch,
            } => self.decode(depth, generate, batch, profiled),
        }
    }

    fn prefill(&self, prompt: usize, profiled: bool) -> Result<Run, CliError> {
        let ids = self.random_ids(prompt, 0);
        if profiled {
            self.engine.start_profile();
        }
        let mut generation = self.engine.generate(Prompt::Ids(ids), &options(1))?;
        generation.by_ref().try_for_each(|token| token.map(drop))?;
        Ok(Run {
            tokens: prompt,
            time: generation.timings().prefill,
            profile: self.engine.take_profile(),
        })
    }

    /// All sequences together, from the first token of the last to start until the end.
    fn decode(
        &self,
        depth: usize,
        generate: usize,
        batch: usize,
        profiled: bool,
    ) -> Result<Run, CliError> {
        let requests = (0..batch)
            .map(|i| {
                let ids = self.random_ids(depth, i as u64);
                (Prompt::Ids(ids), options(generate))
            })
            .collect();
        let mut waiting = vec![true; batch];
        let mut started: Option<Instant> = None;
        let mut run = Run {
            tokens: 0,
            time: Duration::ZERO,
            profile: None,
        };
        for item in self.engine.batch(requests)? {
            item.token?;
            waiting[item.index] = false;
            match started {
                None if !waiting.contains(&true) => {
                    if profiled {
                        self.engine.start_profile();
                    }
                    started = Some(Instant::now());
                }
                None => {}
                Some(start) => {
                    run.tokens += 1;
                    run.time = start.elapsed();
                }
            }
        }
        run.profile = self.engine.take_profile();
        Ok(run)
    }

    /// Random ordinary tokens: real text would make no difference to the work.
    fn random_ids(&self, n: usize, stream: u64) -> Vec<u32> {
        let mut random = Random::for_row(0, stream, n as u64);
        let vocab_size = self.engine.config().vocab_size as u64;
        (0..n)
            .map(|_| (random.next_u64() % vocab_size) as u32)
            .collect()
    }

    /// The model's shape in words: `30 layers of 2560 and 6912, 128256 tokens`.
    pub fn shape(&self) -> String {
        let config = self.engine.config();
        format!(
            "{} layers of {} and {}, {} tokens",
            config.n_layers, config.hidden_size, config.intermediate_size, config.vocab_size
        )
    }

    /// The kernel that runs.
    pub fn chosen(&self) -> Chosen {
        let info = self.engine.info();
        Chosen {
            threads: self.threads,
            kernel: info.kernel.clone(),
            layouts: info.layouts,
        }
    }

    fn measured(&self, phase: Phase, rates: &[f64], read: &Traffic) -> Measured {
        let (name, prompt, generate, batch) = match phase {
            Phase::Prefill { prompt } => ("prefill", prompt, 0, 1),
            Phase::Decode {
                depth,
                generate,
                batch,
            } => ("decode", depth, generate, batch),
        };
        Measured {
            phase: name,
            prompt,
            generate,
            batch,
            threads: self.threads,
            tok_s: report::median(rates),
            tok_s_min: rates.first().copied().unwrap_or(0.0),
            tok_s_max: rates.last().copied().unwrap_or(0.0),
            bytes_per_token: self.bytes_per_token(phase, read),
            bandwidth_share: 0.0,
            compute_share: 0.0,
            operations_per_token: 2.0 * self.engine.config().n_ternary_weights() as f64,
            profile: None,
        }
    }

    /// What has to be read for a token: a pass reads the layers once for all its rows, the head once if it draws a
    /// token, and the keys and values of every position that its sequences have. Passes of one row may leave out what
    /// is exactly 0: they have counted what they `read`. Rows of the head that a search looks at singly are not
    /// counted.
    fn bytes_per_token(&self, phase: Phase, read: &Traffic) -> f64 {
        let info = self.engine.info();
        let kv = info.kv_position_bytes as f64;
        let head = info.bytes_per_token - info.layer_bytes;
        match phase {
            Phase::Prefill { prompt } => {
                let passes = prompt.div_ceil(self.prefill_chunk);
                let positions: usize = (1..=passes)
                    .map(|pass| prompt.min(pass * self.prefill_chunk))
                    .sum();
                let weights = passes * info.layer_bytes + head;
                (weights as f64 + positions as f64 * kv) / prompt as f64
            }
            Phase::Decode {
                depth,
                generate,
                batch,
            } => {
                // The passes that are timed run at positions `depth` to `depth + generate - 2`, each attends to its
                // own.
                let positions = depth as f64 + generate as f64 / 2.0;
                let counted = read.ternary_bytes_per_pass().filter(|_| batch == 1);
                let layers = counted.unwrap_or(info.layer_bytes as f64);
                (layers + head as f64) / batch as f64 + positions * kv
            }
        }
    }
}

impl Plan {
    /// In the order that they are measured and reported.
    fn phases(&self) -> Vec<Phase> {
        let mut phases: Vec<Phase> = self
            .prompts
            .iter()
            .map(|&prompt| Phase::Prefill { prompt })
            .collect();
        for &generate in &self.tokens {
            for &depth in &self.depths {
                phases.extend(self.batches.iter().map(|&batch| Phase::Decode {
                    depth,
                    generate,
                    batch,
                }));
            }
        }
        phases
    }
}

/// Greedy, so that sampling costs next to nothing, and never ending early.
fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        ..GenerateOptions::greedy()
    }
}
