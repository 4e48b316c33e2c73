//! Where the time of a forward pass goes: every op of a layer of BitNet b1.58 2B-4T, timed one after the other.
//!
//! ```text
//! cargo bench -p bitnet-kernels --bench layer -- [threads=N] [rows=N] [depth=N] [sequences=N] [kv=f32|f16|i8] [kernel=NAME]
//! ```
//!
//! `rows` token rows of `sequences` sequences, each with `depth` positions in the cache before: `rows=512` is a prefill
//! pass, `rows=1 depth=4096` a token of a long context. Several layers take turns, so that weights and cache come from
//! memory. Each figure is the best of several runs, in milliseconds for all 30 layers; products are also given as int8
//! operations a second, attention as bytes of the cache.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use bitnet_kernels::{
    Activation, Backend, BatchView, CpuBackend, CpuOptions, KV_BLOCK, KvShape, KvType, RopeParams,
    RopeStyle, RopeTable, TernaryUse, measure,
};
use support::{Random, Trits};

const LAYERS: usize = 30;
const HIDDEN: usize = 2560;
const INTERMEDIATE: usize = 6912;
const N_HEADS: usize = 20;
const N_KV_HEADS: usize = 5;
const HEAD_DIM: usize = 128;
const KV: usize = N_KV_HEADS * HEAD_DIM;

/// Layers that take turns: their weights are 17 MB each, more than the caches together.
const TURNS: usize = 4;

/// Runs of all layers.
const RUNS: usize = 7;

/// The ternary weights of a layer: q, k, v; o; gate, up; down.
const PROJECTIONS: [(&str, &[usize], usize); 4] = [
    ("q, k, v", &[HIDDEN, KV, KV], HIDDEN),
    ("o", &[HIDDEN], HIDDEN),
    ("gate, up", &[INTERMEDIATE, INTERMEDIATE], HIDDEN),
    ("down", &[HIDDEN], INTERMEDIATE),
];

fn main() {
    let option = |name: &str| {
        std::env::args().find_map(|a| a.strip_prefix(&format!("{name}=")).map(str::to_owned))
    };
    let number = |name, default| option(name).map_or(default, |v| v.parse().expect("a number"));
    let (rows, depth, sequences) = (
        number("rows", 512),
        number("depth", 0),
        number("sequences", 1),
    );
    let kv_type = option("kv").map_or(KvType::F32, |name| {
        KvType::ALL
            .into_iter()
            .find(|kv| kv.name() == name)
            .expect("f32, f16 or i8")
    });
    let backend = CpuBackend::new(CpuOptions {
        threads: option("threads").map(|v| v.parse().expect("a number")),
        kernel: option("kernel"),
        ..CpuOptions::default()
    })
    .expect("a kernel of this CPU");
    let threads = backend.threads();
    let (read, int8) = (
        measure::read_bandwidth(threads).expect("1 GiB of memory"),
        measure::int8_peak(threads).expect("threads"),
    );
    println!(
        "{}, {threads} threads, {rows} rows of {sequences} sequences at {depth}, {} cache; reads {read:.1} GB/s, int8 {int8:.0} GOPS",
        backend.kernel_name(),
        kv_type.name()
    );
    Bench::new(backend, rows, depth, sequences, kv_type).run(read, int8);
}

/// Fastest time of each op, in the order of a layer.
struct Times {
    names: Vec<&'static str>,
    seconds: Vec<f64>,
    next: usize,
}

impl Times {
    fn time(&mut self, name: &'static str, op: impl FnOnce()) {
        let start = Instant::now();
        op();
        let seconds = start.elapsed().as_secs_f64();
        if self.next == self.names.len() {
            self.names.push(name);
            self.seconds.push(0.0);
        }
        self.seconds[self.next] += seconds;
        self.next += 1;
    }
}

/// Weights, cache and the batch.
struct Bench {
    backend: CpuBackend,
    rows: usize,
    depth: usize,
    cache: <CpuBackend as Backend>::KvCache,
    weights: Vec<Vec<Vec<<CpuBackend as Backend>::Ternary>>>, // [TURNS][PROJECTIONS][]
    positions: Vec<u32>,
    sequences: Vec<u32>,
    offsets: Vec<u32>,
    tables: Vec<u32>,
}

impl Bench {
    fn new(
        backend: CpuBackend,
        rows: usize,
        depth: usize,
        n_sequences: usize,
        kv_type: KvType,
    ) -> Bench {
        let each = rows / n_sequences;
        let blocks = (depth + each).div_ceil(KV_BLOCK);
        let cache = backend
            .new_kv_cache(KvShape {
                n_layers: TURNS,
                n_blocks: blocks * n_sequences,
                n_kv_heads: N_KV_HEADS,
                head_dim: HEAD_DIM,
                kv_type,
            })
            .expect("memory");
        let mut random = Random::new(1);
        let weights = (0..TURNS)
            .map(|_| {
                PROJECTIONS
                    .iter()
                    .map(|(_, rows, cols)| {
                        rows.iter()
                            .map(|&rows| {
                                backend
                                    .upload_ternary(
                                        &Trits::random(rows, *cols, None, &mut random),
                                        TernaryUse::Dense,
                                    )
                                    .expect("memory")
                            })
                            .collect()
                    })
                    .collect()
            })
            .collect();
        let ids = 0..n_sequences as u32;
        Bench {
            rows: each * n_sequences,
            depth,
            cache,
            weights,
            positions: ids
                .clone()
                .flat_map(|_| depth as u32..(depth + each) as u32)
                .collect(),
            sequences: ids.flat_map(|s| vec![s; each]).collect(),
            offsets: (0..=n_sequences).map(|s| (s * blocks) as u32).collect(),
            tables: (0..(blocks * n_sequences) as u32).collect(),
            backend,
        }
    }

    /// Fills the cache, runs the layers, prints.
    fn run(&mut self, read: f64, int8: f64) {
        self.fill();
        let mut best: Vec<f64> = vec![];
        let mut names = vec![];
        for _ in 0..RUNS {
            let mut times = Times {
                names: vec![],
                seconds: vec![],
                next: 0,
            };
            self.layers(&mut times);
            if best.is_empty() {
                (best, names) = (times.seconds, times.names);
            } else {
                for (best, seconds) in best.iter_mut().zip(times.seconds) {
                    *best = best.min(seconds);
                }
            }
        }
        let scale = LAYERS as f64 / TURNS as f64;
        let total: f64 = best.iter().sum::<f64>() * scale;
        for (name, seconds) in names.iter().zip(&best) {
            let seconds = seconds * scale;
            print!(
                "  {name:26} {:9.2} ms {:5.1} %",
                1e3 * seconds,
                100.0 * seconds / total
            );
            if let Some((_, rows, cols)) = PROJECTIONS.iter().find(|(op, ..)| op == name) {
                let weights = (rows.iter().sum::<usize>() * cols * LAYERS) as f64;
                let gops = 2.0 * weights * self.rows as f64 / seconds / 1e9;
                let gb_s = weights / 4.0 / seconds / 1e9;
                print!(
                    "   {gops:5.0} GOPS ({:3.0} %)  {gb_s:5.1} GB/s ({:3.0} %)",
                    100.0 * gops / int8,
                    100.0 * gb_s / read
                );
            }
            if *name == "attention" {
                let context = self.cache.bytes() as f64 * scale;
                print!("   {:5.1} GB/s once through", context / seconds / 1e9);
            }
            println!();
        }
        println!(
            "  {:26} {:9.2} ms: {:.1} tok/s without head",
            "sum",
            1e3 * total,
            self.rows as f64 / total
        );
    }

    /// Keys and values of the positions before the batch.
    fn fill(&mut self) {
        let mut random = Random::new(2);
        let kv = support::buffer(&self.backend, &random.floats(KV));
        for (sequence, &_) in self.offsets[1..].iter().enumerate() {
            for position in 0..self.depth as u32 {
                let batch = BatchView {
                    positions: &[position],
                    sequences: &[sequence as u32],
                    table_offsets: &self.offsets,
                    block_tables: &self.tables,
                };
                for layer in 0..TURNS {
                    self.backend
                        .kv_write(&mut self.cache, layer, &kv, &kv, &batch);
                }
            }
        }
    }

    fn layers(&mut self, times: &mut Times) {
        let Bench {
            backend,
            rows,
            cache,
            weights,
            positions,
            sequences,
            offsets,
            tables,
            ..
        } = self;
        let rows = *rows;
        let batch = BatchView {
            positions,
            sequences,
            table_offsets: offsets,
            block_tables: tables,
        };
        let table = RopeTable::new(RopeParams {
            base: 500_000.0,
            n_rot: HEAD_DIM,
            style: RopeStyle::Neox,
            freq_factors: None,
            attention_factor: 1.0,
            max_positions: positions.iter().max().map_or(1, |&p| p as usize + 1),
        })
        .expect("angles");
        let buffer = |len: usize| backend.buffer(rows * len).expect("memory");
        let gain = |len: usize| support::buffer(backend, &vec![1.0; len]);
        let mut residual = support::buffer(backend, &Random::new(3).floats(rows * HIDDEN));
        let (mut normed, mut update, mut context) =
            (buffer(HIDDEN), buffer(HIDDEN), buffer(HIDDEN));
        let (mut q, mut k, mut v) = (buffer(HIDDEN), buffer(KV), buffer(KV));
        let (mut gate, mut up, mut gated) = (
            buffer(INTERMEDIATE),
            buffer(INTERMEDIATE),
            buffer(INTERMEDIATE),
        );
        let (hidden_gain, wide_gain) = (gain(HIDDEN), gain(INTERMEDIATE));
        for (layer, w) in weights.iter().enumerate() {
            times.next = 0;
            times.time("norm", || {
                backend.rms_norm(&residual, &hidden_gain, 1e-5, rows, &mut normed);
            });
            times.time(PROJECTIONS[0].0, || {
                let weights: Vec<_> = w[0].iter().collect();
                backend.bitlinear(&normed, rows, &weights, &mut [&mut q, &mut k, &mut v]);
            });
            times.time("rope", || {
                backend.rope(&mut q, N_HEADS, HEAD_DIM, positions, &table);
                backend.rope(&mut k, N_KV_HEADS, HEAD_DIM, positions, &table);
            });
            times.time("kv_write", || {
                backend.kv_write(cache, layer, &k, &v, &batch);
            });
            times.time("attention", || {
                backend.attention(&q, cache, layer, N_HEADS, &batch, &mut context);
            });
            times.time("sub-norm", || {
                backend.rms_norm_in_place(&mut context, &hidden_gain, 1e-5, rows);
            });
            times.time(PROJECTIONS[1].0, || {
                backend.bitlinear(&context, rows, &[&w[1][0]], &mut [&mut update]);
            });
            times.time("add", || backend.add(&mut residual, &update, rows * HIDDEN));
            times.time("norm", || {
                backend.rms_norm(&residual, &hidden_gain, 1e-5, rows, &mut normed);
            });
            times.time(PROJECTIONS[2].0, || {
                let weights: Vec<_> = w[2].iter().collect();
                backend.bitlinear(&normed, rows, &weights, &mut [&mut gate, &mut up]);
            });
            times.time("gate", || {
                let n = rows * INTERMEDIATE;
                backend.gate(Activation::Relu2, &gate, &up, n, &mut gated);
            });
            times.time("sub-norm", || {
                backend.rms_norm_in_place(&mut gated, &wide_gain, 1e-5, rows);
            });
            times.time(PROJECTIONS[3].0, || {
                backend.bitlinear(&gated, rows, &[&w[3][0]], &mut [&mut update]);
            });
            times.time("add", || backend.add(&mut residual, &update, rows * HIDDEN));
        }
    }
}
