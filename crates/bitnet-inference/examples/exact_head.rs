//! Checks on a model that searching the head draws exactly the tokens of the full head, and tells what it saves.
//!
//! ```console
//! $ cargo run --release -p bitnet-inference --example exact_head -- model.gguf 10000
//! ```
//!
//! Random tokens run as prompts; at every position each sampler draws once from all logits and once from the candidates
//! of a search, with the same seed. The process fails with the first token that differs. Arguments: a GGUF file or a
//! model directory, positions (10000), threads (all).

use std::process::ExitCode;

use bitnet_inference::block_manager::BlockManager;
use bitnet_inference::logits::{Penalties, Row};
use bitnet_inference::sampler::{Sampler, SamplingParams};
use bitnet_kernels::{CpuBackend, CpuOptions, HeadWork, KvType};
use bitnet_models::{Batch, Checkpoint, CheckpointOptions, LogitRows, Model, RowLogits};

/// Positions of a prompt, all in one pass.
const CHUNK: usize = 64;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(path) = arguments.next() else {
        eprintln!("usage: exact_head MODEL [POSITIONS] [THREADS]");
        return ExitCode::from(2);
    };
    let mut number = || arguments.next().and_then(|text| text.parse::<usize>().ok());
    let (positions, threads) = (number().unwrap_or(10_000), number());
    match check(&path, positions, threads) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is drawn by, with a name.
fn samplers() -> Vec<(&'static str, SamplingParams)> {
    let all = SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        penalties: Penalties::OFF,
        penalty_window: 64,
        logit_bias: Vec::new(),
        seed: 0,
    };
    let greedy = SamplingParams {
        temperature: 0.0,
        ..all.clone()
    };
    let defaults = SamplingParams {
        top_k: 40,
        top_p: 0.95,
        min_p: 0.05,
        ..all.clone()
    };
    let changed = SamplingParams {
        penalties: Penalties {
            repetition: 1.3,
            frequency: 0.2,
            presence: 0.1,
        },
        logit_bias: vec![(3, 2.5), (17, f32::NEG_INFINITY), (101, -1.0)],
        ..defaults.clone()
    };
    let min_p = SamplingParams { min_p: 0.05, ..all };
    vec![
        ("greedy", greedy),
        ("top-k 40, top-p 0.95, min-p 0.05", defaults),
        ("the same, penalties and biases", changed),
        ("min-p 0.05", min_p),
    ]
}

/// One sampler's figures.
struct Tally {
    name: &'static str,
    params: SamplingParams,
    shares: Vec<f64>, // of the rows multiplied exactly, per position
    work: HeadWork,
}

fn check(
    path: &str,
    positions: usize,
    threads: Option<usize>,
) -> Result<(), Box<dyn std::error::Error>> {
    let checkpoint = Checkpoint::open(path.as_ref(), &CheckpointOptions::default())?;
    let backend = CpuBackend::new(CpuOptions {
        threads,
        ..CpuOptions::default()
    })?;
    let mut model = Model::load(backend, &checkpoint, CHUNK, &mut |_| {})?;
    let started = std::time::Instant::now();
    model.copy_head(0)?;
    let (vocab_size, bytes) = (model.config().vocab_size, model.weight_bytes());
    println!(
        "{vocab_size} rows; head {:.1} MB; copy {:.1} MB, made in {:.2} s; a scan reads {:.1} MB",
        bytes.head as f64 / 1e6,
        bytes.head_copy as f64 / 1e6,
        started.elapsed().as_secs_f64(),
        bytes.head_scan as f64 / 1e6
    );
    let n_blocks = BlockManager::blocks_for(CHUNK);
    let table: Vec<u32> = (0..n_blocks as u32).collect();
    let mut cache = model.new_kv_cache(n_blocks, KvType::F32)?;
    let mut full = model.activations(CHUNK, CHUNK)?;
    let mut tallies: Vec<Tally> = samplers()
        .into_iter()
        .map(|(name, params)| Tally {
            name,
            params,
            shares: Vec::new(),
            work: HeadWork::default(),
        })
        .collect();
    let mut rows = vec![0.0; CHUNK * vocab_size];
    let mut batch = Batch::new();
    let mut random = 1;
    let mut done = 0;
    while done < positions {
        let n = CHUNK.min(positions - done);
        let tokens: Vec<u32> = (0..n)
            .map(|_| (next(&mut random) % vocab_size as u64) as u32)
            .collect();
        batch.clear();
        batch.push_sequence(&tokens, 0, &table, LogitRows::All);
        model.forward(&batch, &mut cache, &mut full, None)?;
        for (row, out) in rows.chunks_exact_mut(vocab_size).take(n).enumerate() {
            model.read_logits(&full, row, out);
        }
        for tally in &mut tallies {
            tally.chunk(&model, &mut batch, &cache, &mut full, &tokens, &rows, done)?;
        }
        done += n;
        eprint!("\r{done} of {positions} positions");
    }
    eprintln!();
    for tally in &mut tallies {
        tally.report(vocab_size);
    }
    println!("every token is the full head's");
    Ok(())
}

impl Tally {
    /// Draws at every position of a chunk from all logits and from candidates.
    #[expect(clippy::too_many_arguments, reason = "everything of one chunk")]
    fn chunk(
        &mut self,
        model: &Model<CpuBackend>,
        batch: &mut Batch,
        cache: &bitnet_models::KvCache<CpuBackend>,
        activations: &mut bitnet_models::Activations<CpuBackend>,
        tokens: &[u32],
        rows: &[f32],
        done: usize,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let vocab_size = model.config().vocab_size;
        let sampler = |position: usize| {
            Sampler::new(SamplingParams {
                seed: position as u64,
                ..self.params.clone()
            })
        };
        let keep = sampler(0).keep().ok_or("the sampler needs all logits")?;
        for i in 0..tokens.len() {
            batch.keep(i, keep, sampler(0).named(&tokens[..=i]));
        }
        let before = activations.head.work();
        model.head_again(batch, cache, activations)?;
        let work = activations.head.work().since(&before);
        self.work += work;
        for (i, row) in rows.chunks_exact(vocab_size).take(tokens.len()).enumerate() {
            let history = &tokens[..=i];
            let expected = sampler(done + i).sample(row, history)?;
            let RowLogits::Candidates(candidates) = activations.head.row(i) else {
                self.shares.push(1.0);
                continue;
            };
            self.shares
                .push(candidates.len() as f64 / vocab_size as f64);
            let found = sampler(done + i).sample(Row::Candidates(candidates), history)?;
            if found != expected {
                let what = format!(
                    "{}, position {}: token {found}, the full head's is {expected}",
                    self.name,
                    done + i
                );
                return Err(what.into());
            }
        }
        Ok(())
    }

    fn report(&mut self, vocab_size: usize) {
        self.shares.sort_by(f64::total_cmp);
        let n = self.shares.len();
        let at = |share: f64| 100.0 * self.shares[((n - 1) as f64 * share) as usize];
        let searched = self.work.searched as f64;
        println!(
            "{:34} exact {:.3} % of rows (median), {:.3} % (95 %); refined {:.2} %; {} of {n} left to the full head",
            self.name,
            at(0.5),
            at(0.95),
            100.0 * self.work.refined as f64 / searched / vocab_size as f64,
            self.work.full
        );
    }
}

/// Marsaglia's xorshift64.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 16
}
