//! Speed of the ops that a token spends its time in, on the shapes of BitNet b1.58 2B-4T, next to the machine's limits.
//!
//! ```text
//! cargo bench -p bitnet-kernels [-- THREADS... PART_OF_A_KERNEL_OR_OP...]
//! cargo bench -p bitnet-kernels -- layouts 1 2
//! ```
//!
//! Decode is given as GB/s of weights read (the limit is the read bandwidth), prefill as int8 GOPS (two operations a
//! multiply-add). All layers of a kind are allocated, so that weights come from memory and not from a cache. Each
//! figure is the best of several runs: on a machine that does other things the rest only makes it lower.

use std::time::Instant;

use bitnet_kernels::{
    Backend, CandidateRequest, Candidates, CpuBackend, CpuOptions, Keep, MatrixData, TernaryUse,
    measure,
};
use bitnet_quantization::{
    I2sDialect, I2sRows, QuantError, ScaleLayout, TensorType, TernaryRows, encode_i2s,
};

const HIDDEN: usize = 2560;
const INTERMEDIATE: usize = 6912;
const VOCAB: usize = 128_256;

/// Bytes of all copies of a weight together: far beyond the last-level cache.
const STREAM_BYTES: usize = 192 << 20;

/// Runs of each figure.
const RUNS: usize = 5;

/// Tokens of a prefill chunk.
const PREFILL: usize = 128;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let mut threads: Vec<usize> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
    let names: Vec<&String> = arguments
        .iter()
        .filter(|a| a.parse::<usize>().is_err())
        .collect();
    if threads.is_empty() {
        threads = vec![
            1,
            CpuBackend::new(CpuOptions::default())
                .expect("a kernel")
                .threads(),
        ];
    }
    let kernels = bitnet_kernels::available_kernels();
    let chosen = |kernel: &str| names.iter().any(|name| kernel.contains(name.as_str()));
    let any_kernel = kernels.iter().any(|kernel| chosen(kernel));
    let ops: Vec<&String> = names
        .iter()
        .copied()
        .filter(|name| !kernels.iter().any(|k| k.contains(name.as_str())))
        .collect();
    if ops.is_empty() || ops.iter().any(|op| "layouts".contains(op.as_str())) {
        threads.iter().for_each(|&threads| layouts(threads));
        if ops.len() == 1 {
            return;
        }
    }
    for threads in threads {
        let read = measure::read_bandwidth(threads).expect("1 GiB of memory");
        let int8 = measure::int8_peak(threads).expect("threads");
        for kernel in &kernels {
            if any_kernel && !chosen(kernel) || !any_kernel && kernel.starts_with("scalar") {
                continue;
            }
            let options = CpuOptions {
                threads: Some(threads),
                kernel: Some((*kernel).to_owned()),
                ..CpuOptions::default()
            };
            let bench = Bench {
                backend: CpuBackend::new(options).expect("a right kernel"),
                read,
                int8,
                ops: &ops,
            };
            println!("{kernel}, {threads} threads; reads {read:.1} GB/s, int8 {int8:.0} GOPS");
            bench.ternary();
            bench.head();
            bench.candidates();
        }
    }
}

/// One kernel with the machine's limits.
struct Bench<'a> {
    backend: CpuBackend,
    read: f64,             // GB/s
    int8: f64,             // GOPS
    ops: &'a [&'a String], // parts of the names of the ops to run; none: all
}

impl Bench<'_> {
    fn runs(&self, op: &str) -> bool {
        self.ops.is_empty() || self.ops.iter().any(|name| op.contains(name.as_str()))
    }

    /// BitLinear for one token and for a chunk.
    fn ternary(&self) {
        let Bench {
            backend,
            read,
            int8,
            ..
        } = self;
        let shapes: [(&str, &[usize], usize, Option<usize>); 5] = [
            ("q, k, v", &[2560, 640, 640], HIDDEN, None),
            ("o", &[HIDDEN], HIDDEN, None),
            ("gate, up", &[INTERMEDIATE, INTERMEDIATE], HIDDEN, None),
            ("down", &[HIDDEN], INTERMEDIATE, None),
            (
                "gate, up in blocks of 64",
                &[INTERMEDIATE, INTERMEDIATE],
                HIDDEN,
                Some(64),
            ),
        ];
        for (name, rows, cols, block_len) in shapes {
            if !self.runs(name) {
                continue;
            }
            let weights: usize = rows.iter().sum::<usize>() * cols;
            let copies = STREAM_BYTES / (weights / 4);
            let layers: Vec<Vec<_>> = (0..copies)
                .map(|_| {
                    rows.iter()
                        .map(|&rows| {
                            backend
                                .upload_ternary(
                                    &Rows {
                                        rows,
                                        cols,
                                        block_len,
                                    },
                                    TernaryUse::Dense,
                                )
                                .expect("memory")
                        })
                        .collect()
                })
                .collect();
            let bytes: usize = layers[0].iter().map(|w| w.bytes()).sum();
            let run = |n_tokens: usize| {
                let mut x = backend.buffer(n_tokens * cols).expect("memory");
                x.iter_mut()
                    .enumerate()
                    .for_each(|(i, v)| *v = (i % 19) as f32 - 9.0);
                let mut outs: Vec<_> = rows
                    .iter()
                    .map(|rows| backend.buffer(n_tokens * rows).expect("memory"))
                    .collect();
                best(|| {
                    for layer in &layers {
                        let layer: Vec<_> = layer.iter().collect();
                        backend.bitlinear(
                            &x,
                            n_tokens,
                            &layer,
                            &mut outs.iter_mut().collect::<Vec<_>>(),
                        );
                    }
                }) / copies as f64
            };
            let decode = run(1);
            let prefill = run(PREFILL);
            let gb_s = bytes as f64 / decode / 1e9;
            let gops = 2.0 * weights as f64 * PREFILL as f64 / prefill / 1e9;
            println!(
                "  {name:26} decode {gb_s:5.1} GB/s ({:3.0} %)   {PREFILL} tokens {gops:5.0} GOPS ({:3.0} %)",
                100.0 * gb_s / read,
                100.0 * gops / int8
            );
        }
    }

    /// The head, in the types that files have.
    fn head(&self) {
        let Bench { backend, read, .. } = self;
        for ty in [
            TensorType::F16,
            TensorType::Q8_0,
            TensorType::Q6K,
            TensorType::Q4_0,
            TensorType::Q2_0,
        ] {
            let bytes = ty
                .storage_bytes((VOCAB * HIDDEN) as u64)
                .expect("whole blocks") as usize;
            if !self.runs(&format!("head {}", ty.name())) {
                continue;
            }
            // 0x31 makes small positive f16 scales and values.
            let matrix = MatrixData {
                ty,
                rows: VOCAB,
                cols: HIDDEN,
                bytes: vec![0x31; bytes].into(),
            };
            let matrix = backend.upload_matrix(matrix).expect("a matrix");
            let x = backend.buffer(HIDDEN).expect("memory");
            let mut out = backend.buffer(VOCAB).expect("memory");
            let seconds = best(|| backend.matmul(&matrix, &x, &[0], &mut out));
            let gb_s = bytes as f64 / seconds / 1e9;
            println!(
                "  head {:21} decode {gb_s:5.1} GB/s ({:3.0} %)   {:5.1} ms",
                ty.name(),
                100.0 * gb_s / read,
                1e3 * seconds
            );
        }
    }
}

/// Token rows that the layouts are compared with: decoding, a small batch, a panel.
const LAYOUT_ROWS: [usize; 3] = [1, 4, 16];

/// Runs of each layout in turn, so that what else the machine does disturbs both alike.
const LAYOUT_RUNS: usize = 20;

/// Both run layouts on the same weights, in turns.
fn layouts(threads: usize) {
    let kernels = ["x86-i2s-avx512vnni", "x86-t5-avx512vbmi"];
    if kernels
        .map(|name| bitnet_kernels::available_kernels().contains(&name))
        .contains(&false)
    {
        return;
    }
    let (rows, cols) = (INTERMEDIATE, HIDDEN);
    let copies = STREAM_BYTES / (rows * cols / 4);
    let sides = kernels.map(|kernel| {
        let options = CpuOptions {
            threads: Some(threads),
            kernel: Some(kernel.to_owned()),
            ..CpuOptions::default()
        };
        let backend = CpuBackend::new(options).expect("a right kernel");
        let weight = Rows {
            rows,
            cols,
            block_len: None,
        };
        let layers: Vec<_> = (0..copies)
            .map(|_| {
                backend
                    .upload_ternary(&weight, TernaryUse::Dense)
                    .expect("memory")
            })
            .collect();
        (backend, layers)
    });
    println!("layouts, {threads} threads; [{rows}, {cols}] from memory");
    let trits: Vec<i8> = (0..rows * cols)
        .map(|i| (i * 7 / 5 % 3) as i8 - 1)
        .collect();
    let mut file = Vec::new();
    encode_i2s(I2sDialect::Block128, rows, cols, &trits, 0.5, &mut file).expect("trits");
    let stored = I2sRows::new(I2sDialect::Block128, rows, cols, &file).expect("a weight");
    for ((backend, _), kernel) in sides.iter().zip(kernels) {
        let seconds = best(|| {
            drop(
                backend
                    .upload_ternary(&stored, TernaryUse::Dense)
                    .expect("memory"),
            )
        });
        let rate = (rows * cols) as f64 / seconds / 1e9;
        println!("  packing   {kernel:18} best {rate:5.2} G weights/s from I2_S");
    }
    for n_tokens in LAYOUT_ROWS {
        let mut seconds = [const { Vec::new() }; 2];
        for _ in 0..LAYOUT_RUNS {
            for ((backend, layers), seconds) in sides.iter().zip(&mut seconds) {
                let mut x = backend.buffer(n_tokens * cols).expect("memory");
                let values = x.iter_mut().enumerate();
                values.for_each(|(i, v)| *v = (i % 19) as f32 - 9.0);
                let mut out = backend.buffer(n_tokens * rows).expect("memory");
                for layer in layers {
                    let start = Instant::now();
                    backend.bitlinear(&x, n_tokens, &[layer], &mut [&mut out]);
                    seconds.push(start.elapsed().as_secs_f64());
                }
            }
        }
        let mut rates = Vec::new();
        for (seconds, ((_, layers), kernel)) in seconds.iter_mut().zip(sides.iter().zip(kernels)) {
            seconds.sort_by(f64::total_cmp);
            let gb_s = |seconds: f64| layers[0].bytes() as f64 / seconds / 1e9;
            let weights = |seconds: f64| (rows * cols) as f64 / seconds / 1e9;
            let (best, median) = (seconds[0], seconds[seconds.len() / 2]);
            println!(
                "  {n_tokens:2} tokens {kernel:18} best {:5.1} GB/s {:4.0} G weights/s, median {:5.1} GB/s {:4.0}",
                gb_s(best),
                weights(best),
                gb_s(median),
                weights(median)
            );
            rates.push([weights(best), weights(median)]);
        }
        println!(
            "            1.6 bits against 2: best {:.2}, median {:.2}",
            rates[1][0] / rates[0][0],
            rates[1][1] / rates[0][1]
        );
    }
}

impl Bench<'_> {
    /// Candidates of random heads, the hardest case there is: nothing stands out.
    fn candidates(&self) {
        let Bench { backend, read, .. } = self;
        for ty in [TensorType::F16, TensorType::Q6K] {
            let name = format!("candidates {}", ty.name());
            if !self.runs(&name) {
                continue;
            }
            let matrix = backend
                .upload_matrix(random_head(ty))
                .expect("a matrix of this shape");
            let start = Instant::now();
            let copy = backend
                .upload_head_copy(&matrix, 0)
                .expect("memory")
                .expect("a large head");
            println!(
                "  {name}: copy of {:.0} MB made in {:.2} s",
                backend.head_copy_bytes(&copy) as f64 / 1e6,
                start.elapsed().as_secs_f64()
            );
            let mut random = 1;
            let hidden: Vec<f32> = (0..16 * HIDDEN).map(|_| normal(&mut random)).collect();
            let mut x = backend.buffer(hidden.len()).expect("memory");
            backend.write(&mut x, 0, &hidden);
            for n in [1u32, 2, 4, 8, 16] {
                for (what, keep) in [("best", Keep::Best(1)), ("best 40", Keep::Best(40))] {
                    let (x_rows, keeps): (Vec<u32>, Vec<Keep>) = (0..n).map(|i| (i, keep)).unzip();
                    let request = CandidateRequest {
                        x_rows: &x_rows,
                        keeps: &keeps,
                        named_offsets: &[0; 17][..n as usize + 1],
                        named: &[],
                    };
                    let mut out = Candidates::default();
                    let seconds =
                        best(|| backend.head_candidates(&matrix, &copy, &x, &request, &mut out));
                    let gb_s = out.work.bytes as f64 / seconds / 1e9;
                    let share =
                        |rows: u64| 100.0 * rows as f64 / (u64::from(n) * VOCAB as u64) as f64;
                    println!(
                        "  {name} {what:8} {n:2} rows  {:5.2} ms  {gb_s:5.1} GB/s ({:3.0} %)   refined {:5.2} %, exact {:6.3} %",
                        1e3 * seconds,
                        100.0 * gb_s / read,
                        share(out.work.refined),
                        share(out.work.rescored)
                    );
                }
            }
        }
    }
}

/// A head of random weights.
fn random_head(ty: TensorType) -> MatrixData {
    let n = ty
        .storage_bytes((VOCAB * HIDDEN) as u64)
        .expect("whole blocks") as usize;
    let mut random = 7;
    let mut bytes = Vec::with_capacity(n);
    if ty == TensorType::F16 {
        // A normal weight without the cost of one for each: pieces of a long table from random places.
        let table: Vec<u8> = (0..1 << 20)
            .flat_map(|_| {
                let weight = 0.02 * normal(&mut random);
                half::f16::from_f32(weight).to_le_bytes()
            })
            .collect();
        while bytes.len() < n {
            let at = 2 * (next(&mut random) as usize % ((1 << 20) - 1024));
            let len = 2048.min(n - bytes.len());
            bytes.extend_from_slice(&table[at..][..len]);
        }
    } else {
        while bytes.len() < n {
            bytes.extend_from_slice(&next(&mut random).to_le_bytes()[..4]);
        }
        bytes.truncate(n);
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            block[208..210].copy_from_slice(&[0x31, 0x11]);
        }
    }
    MatrixData {
        ty,
        rows: VOCAB,
        cols: HIDDEN,
        bytes: bytes.into(),
    }
}

/// Marsaglia's xorshift64.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 16
}

/// Roughly normal, standard deviation 1.
fn normal(state: &mut u64) -> f32 {
    let sum: u64 = (0..12).map(|_| next(state) & 0xffff).sum();
    (sum as f32 / 65536.0) - 6.0
}

/// Seconds of the fastest run.
fn best(mut run: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(time).fold(f64::INFINITY, f64::min)
}

/// Trits of some pattern.
struct Rows {
    rows: usize,
    cols: usize,
    block_len: Option<usize>,
}

impl TernaryRows for Rows {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn scale(&self) -> ScaleLayout {
        self.block_len
            .map_or(ScaleLayout::PerTensor(0.5), |block_len| {
                ScaleLayout::PerBlock { block_len }
            })
    }

    fn read_row(&self, row: usize, trits: &mut [i8], scales: &mut [f32]) -> Result<(), QuantError> {
        trits
            .iter_mut()
            .enumerate()
            .for_each(|(i, trit)| *trit = ((i * 7 + row * 5) % 11 % 3) as i8 - 1);
        scales.fill(0.5);
        Ok(())
    }
}
