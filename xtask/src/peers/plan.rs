//! The rows of the comparison: which model, phase and build stand on each side.
//!
//! llama.cpp runs the 2B-4T shape under its own architecture `bitnet` (SiLU), this engine the real model's
//! `bitnet-b1.58` (squared ReLU) in I2_S; the ternary work is the same. A row of its own has both on the same file.
//! Where llama.cpp has several ternary types for a shape, all are measured and the fastest counts; those that are far
//! behind in the first round are left out of the next ones.

use super::options::{ModelShape, PeersOptions};

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// Ours, with the best kernel of the CPU.
    Bitnet,
    /// Ours, held to AVX2.
    BitnetAvx2,
    /// llama.cpp, built for this CPU.
    LlamaCpp,
    /// llama.cpp, built for AVX2.
    LlamaCppAvx2,
    /// bitnet.cpp, as the user built it.
    BitnetCpp,
}

impl Contender {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Bitnet => "bitnet",
            Contender::BitnetAvx2 => "bitnet (avx2)",
            Contender::LlamaCpp => "llama.cpp",
            Contender::LlamaCppAvx2 => "llama.cpp (avx2)",
            Contender::BitnetCpp => "bitnet.cpp",
        }
    }
}

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timed {
    /// A prompt of so many tokens.
    Prefill(usize),
    /// Token after token.
    Decode {
        /// Tokens of each sequence.
        generate: usize,
        /// Sequences at once.
        batch: usize,
        /// Tokens in the cache before.
        depth: usize,
    },
    /// From the start of the process to the first token after a prompt of so many.
    First(usize),
}

/// A random model: what `bitnet synth` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RandomModel {
    /// Whose shape.
    pub shape: ModelShape,
    /// Architecture.
    pub arch: &'static str,
    /// Type of the ternary tensors.
    pub ternary: &'static str,
    /// Type of embedding and head.
    pub head: &'static str,
}

/// One thing to run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerJob {
    /// Who.
    pub engine: Contender,
    /// On what.
    pub model: RandomModel,
    /// What.
    pub phase: Timed,
    /// With how many threads.
    pub threads: usize,
    /// Type of the KV cache, when it is not the engine's own choice (f32 here, f16 in llama.cpp).
    pub kv_type: Option<&'static str>,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// What it is about.
    pub name: String,
    /// Our side.
    pub ours: PeerJob,
    /// The other side; the fastest counts.
    pub peers: Vec<PeerJob>,
}

/// Lengths of the phases.
struct Sizes {
    prompt: usize,
    decode: usize,
    batched: usize,
    depth: usize,
}

/// As in llama-bench: pp512 and tg128. 4,096 positions are all that the 2B-4T shape has: the last tokens of them.
const FULL: Sizes = Sizes {
    prompt: 512,
    decode: 128,
    batched: 32,
    depth: 4096 - 64 - 2,
};

/// Enough to go through every phase.
const QUICK: Sizes = Sizes {
    prompt: 64,
    decode: 16,
    batched: 8,
    depth: 256,
};

/// Prompt of the first-token row.
const FIRST_PROMPT: usize = 16;

/// The rows that the options ask for, threads inside shapes.
pub fn rows(options: &PeersOptions) -> Vec<Comparison> {
    let sizes = if options.quick { QUICK } else { FULL };
    let mut rows = Vec::new();
    for &shape in &options.shapes {
        for &threads in &options.threads {
            match shape {
                ModelShape::B2b4t => {
                    b2b4t(&sizes, threads, options.bitnet_cpp.is_some(), &mut rows)
                }
                ModelShape::Bonsai17b => bonsai(&sizes, threads, &mut rows),
                ModelShape::FalconE1b => falcon(&sizes, threads, &mut rows),
            }
        }
    }
    rows.retain(|row| row.name.contains(&options.rows));
    rows
}

impl Sizes {
    fn decode(&self) -> Timed {
        self.batch_of(self.decode, 1)
    }

    fn batch(&self, batch: usize) -> Timed {
        self.batch_of(self.batched, batch)
    }

    fn batch_of(&self, generate: usize, batch: usize) -> Timed {
        Timed::Decode {
            generate,
            batch,
            depth: 0,
        }
    }

    fn deep(&self) -> Timed {
        Timed::Decode {
            generate: 2 * self.batched,
            batch: 1,
            depth: self.depth,
        }
    }
}

fn b2b4t(sizes: &Sizes, threads: usize, bitnet_cpp: bool, rows: &mut Vec<Comparison>) {
    let model = |arch, ternary, head| RandomModel {
        shape: ModelShape::B2b4t,
        arch,
        ternary,
        head,
    };
    let (q6, f16) = (
        model("bitnet-b1.58", "i2_s", "q6_k"),
        model("bitnet-b1.58", "i2_s", "f16"),
    );
    let (llama_q6, llama_f16) = (
        model("bitnet", "tq2_0", "q6_k"),
        model("bitnet", "tq2_0", "f16"),
    );
    let job = |engine, model, phase| PeerJob {
        engine,
        model,
        phase,
        threads,
        kv_type: None,
    };
    let mut add = |name: &str, phase: Timed, ours: RandomModel, peer: RandomModel| {
        rows.push(Comparison {
            name: name.into(),
            ours: job(Contender::Bitnet, ours, phase),
            peers: vec![job(Contender::LlamaCpp, peer, phase)],
        });
    };
    add("2b-4t decode, q6_k head", sizes.decode(), q6, llama_q6);
    add("2b-4t decode, f16 head", sizes.decode(), f16, llama_f16);
    add(
        "2b-4t decode, same file",
        sizes.decode(),
        llama_q6,
        llama_q6,
    );
    let prefill = Timed::Prefill(sizes.prompt);
    add("2b-4t prefill", prefill, q6, llama_q6);
    add("2b-4t prefill, same file", prefill, llama_q6, llama_q6);
    add("2b-4t batch of 4", sizes.batch(4), q6, llama_q6);
    add("2b-4t batch of 16", sizes.batch(16), q6, llama_q6);
    add("2b-4t deep in context", sizes.deep(), q6, llama_q6);
    add(
        "2b-4t first token",
        Timed::First(FIRST_PROMPT),
        q6,
        llama_q6,
    );
    let deep = rows
        .iter()
        .rev()
        .find(|row| row.ours.phase == sizes.deep() && row.ours.threads == threads)
        .cloned();
    for kv_type in ["f16", "i8"] {
        rows.extend(deep.clone().map(|mut row| {
            row.name = format!("2b-4t deep, {kv_type} cache");
            row.ours.kv_type = Some(kv_type);
            row
        }));
    }
    if cfg!(target_arch = "x86_64") {
        for (name, phase) in [
            ("2b-4t decode, avx2", sizes.decode()),
            ("2b-4t prefill, avx2", prefill),
        ] {
            rows.push(Comparison {
                name: name.into(),
                ours: job(Contender::BitnetAvx2, q6, phase),
                peers: vec![job(Contender::LlamaCppAvx2, llama_q6, phase)],
            });
        }
    }
    if bitnet_cpp {
        for (name, phase, model) in [
            ("2b-4t decode, stock file", sizes.decode(), f16),
            ("2b-4t decode, q6_k bitnet.cpp", sizes.decode(), q6),
            ("2b-4t prefill, stock file", prefill, f16),
        ] {
            rows.push(Comparison {
                name: name.into(),
                ours: job(Contender::Bitnet, model, phase),
                peers: vec![job(Contender::BitnetCpp, model, phase)],
            });
        }
    }
}

fn bonsai(sizes: &Sizes, threads: usize, rows: &mut Vec<Comparison>) {
    let model = |ternary, head| RandomModel {
        shape: ModelShape::Bonsai17b,
        arch: "qwen3",
        ternary,
        head,
    };
    // The published files have Q2_0 throughout, the embedding included.
    let peers = [model("q2_0", "q2_0"), model("tq2_0", "q2_0")];
    others(sizes, threads, model("q2_0", "q2_0"), &peers, rows);
}

fn falcon(sizes: &Sizes, threads: usize, rows: &mut Vec<Comparison>) {
    let model = |ternary| RandomModel {
        shape: ModelShape::FalconE1b,
        arch: "llama",
        ternary,
        head: "q6_k",
    };
    let peers = [model("tq2_0"), model("q2_0")];
    others(sizes, threads, model("i2_s"), &peers, rows);
}

/// Decode and prefill of a shape that llama.cpp runs in several types.
fn others(
    sizes: &Sizes,
    threads: usize,
    ours: RandomModel,
    peers: &[RandomModel],
    rows: &mut Vec<Comparison>,
) {
    for (what, phase) in [
        ("decode", sizes.decode()),
        ("prefill", Timed::Prefill(sizes.prompt)),
    ] {
        let job = |engine, model| PeerJob {
            engine,
            model,
            phase,
            threads,
            kv_type: None,
        };
        rows.push(Comparison {
            name: format!("{} {what}", ours.shape.name()),
            ours: job(Contender::Bitnet, ours),
            peers: peers.iter().map(|&m| job(Contender::LlamaCpp, m)).collect(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Comparison> {
        rows(&PeersOptions::parse(&["--bitnet-cpp", "x"]).unwrap())
    }

    #[test]
    fn both_sides_of_a_row_do_the_same() {
        for row in all() {
            assert!(!row.peers.is_empty(), "{}", row.name);
            for peer in &row.peers {
                assert_eq!(peer.phase, row.ours.phase, "{}", row.name);
                assert_eq!(peer.threads, row.ours.threads, "{}", row.name);
                assert_eq!(peer.model.shape, row.ours.model.shape, "{}", row.name);
                assert_eq!(peer.model.head, row.ours.model.head, "{}", row.name);
            }
        }
    }

    #[test]
    fn rows_have_names_of_their_own_and_fit_the_table() {
        let rows = all();
        for (i, row) in rows.iter().enumerate() {
            assert!(
                row.name.len() <= super::super::report::NAME_WIDTH,
                "{}",
                row.name
            );
            let same = |other: &Comparison| {
                other.name == row.name && other.ours.threads == row.ours.threads
            };
            assert!(!rows[..i].iter().any(same), "{}", row.name);
        }
    }

    #[test]
    fn rows_are_chosen_by_name() {
        let rows = rows(&PeersOptions::parse(&["--rows", "prefill"]).unwrap());
        assert!(!rows.is_empty() && rows.iter().all(|row| row.name.contains("prefill")));
    }
}
