//! Reading chosen rows and columns against reading everything, on the feed-forward shapes of BitNet b1.58 2B-4T.
//!
//! ```text
//! cargo bench -p bitnet-kernels --bench sparse [-- THREADS...]
//! ```
//!
//! For each share of channels that are not 0: the time of the dense product over that of the sparse one, the median of
//! interleaved runs. It stays at 1 above the share from which on everything is read.

use std::time::Instant;

use bitnet_kernels::{Activation, Backend, CpuBackend, CpuOptions, TernaryUse};
use bitnet_quantization::{QuantError, ScaleLayout, TernaryRows};

const HIDDEN: usize = 2560;
const INTERMEDIATE: usize = 6912;

/// Copies of each weight: a third of their columns together is far beyond the last-level cache. No multiple of 8, or each side,
/// which has four copies in turn, came to half of them.
const COPIES: usize = 60;

/// Runs of each figure.
const RUNS: usize = 31;

fn main() {
    let mut threads: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    if threads.is_empty() {
        threads = vec![1, 2];
    }
    for threads in threads {
        let [sparse, dense] = [false, true].map(|dense| {
            CpuBackend::new(CpuOptions {
                threads: Some(threads),
                dense,
                ..CpuOptions::default()
            })
            .expect("a kernel")
        });
        println!("{}, {threads} threads", sparse.kernel_name());
        let bench = Bench::new(sparse, dense);
        // The first products with rows and with columns are races that find out what share pays.
        bench.down(30);
        bench.gate_up(30);
        for percent in [5, 10, 20, 30, 40, 50, 60, 70] {
            println!(
                "{percent:3} % not 0: down {:.2}, gate and up {:.2}",
                bench.down(percent),
                bench.gate_up(percent)
            );
        }
    }
}

/// Median of the ratios of interleaved runs.
fn ratio(mut sparse: impl FnMut(usize), mut dense: impl FnMut(usize)) -> f64 {
    let mut copy = 0;
    let mut time = |run: &mut dyn FnMut(usize)| {
        let start = Instant::now();
        for _ in 0..4 {
            copy = (copy + 1) % COPIES;
            run(copy);
        }
        start.elapsed().as_secs_f64()
    };
    let mut ratios: Vec<f64> = (0..RUNS)
        .map(|_| {
            let dense = time(&mut dense);
            dense / time(&mut sparse)
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios[RUNS / 2]
}

type Weights = Vec<<CpuBackend as Backend>::Ternary>;

/// The same weights on a backend that leaves out and one that does not.
struct Bench {
    backends: [CpuBackend; 2],
    gates: [Weights; 2],
    ups: [Weights; 2],
    downs: [Weights; 2],
}

impl Bench {
    fn new(sparse: CpuBackend, dense: CpuBackend) -> Bench {
        let backends = [sparse, dense];
        let upload = |rows, cols, gate, usage| {
            backends.each_ref().map(|backend| {
                let copy = |_| backend.upload_ternary(&Rows { rows, cols, gate }, usage);
                (0..COPIES).map(copy).map(|w| w.expect("memory")).collect()
            })
        };
        Bench {
            gates: upload(INTERMEDIATE, HIDDEN, true, TernaryUse::Dense),
            ups: upload(INTERMEDIATE, HIDDEN, false, TernaryUse::GatedUp),
            downs: upload(HIDDEN, INTERMEDIATE, false, TernaryUse::SparseInput),
            backends,
        }
    }

    fn down(&self, percent: u32) -> f64 {
        let [sparse, dense] = &self.backends;
        let mut x = sparse.buffer(INTERMEDIATE).expect("memory");
        for (i, v) in x.iter_mut().enumerate() {
            *v = f32::from(u8::from(hash(i as u32) % 100 < percent));
        }
        let mut outs = [0, 1].map(|_| sparse.buffer(HIDDEN).expect("memory"));
        let [a, b] = &mut outs;
        ratio(
            |copy| sparse.bitlinear(&x, 1, &[&self.downs[0][copy]], &mut [&mut *a]),
            |copy| dense.bitlinear(&x, 1, &[&self.downs[1][copy]], &mut [&mut *b]),
        )
    }

    fn gate_up(&self, percent: u32) -> f64 {
        let sparse = &self.backends[0];
        // Each gate looks at one column: the share of columns that are above 0 is the share that is open.
        let mut x = sparse.buffer(HIDDEN).expect("memory");
        for (i, v) in x.iter_mut().enumerate() {
            *v = if (i as u32) < HIDDEN as u32 * percent / 100 {
                1.0
            } else {
                -1.0
            };
        }
        let room = || sparse.buffer(INTERMEDIATE).expect("memory");
        let (mut a, mut b) = ([room(), room(), room()], [room(), room(), room()]);
        let run = |backend: usize, copy: usize, [gate, up, out]: &mut [_; 3]| {
            let weights = [&self.gates[backend][copy], &self.ups[backend][copy]];
            let products = [gate, up];
            self.backends[backend].gated(Activation::Relu2, &x, 1, weights, products, out);
        };
        ratio(|copy| run(0, copy, &mut a), |copy| run(1, copy, &mut b))
    }
}

/// A ternary matrix computed from its indices; as a gate its row i looks at one column, drawn by hash.
struct Rows {
    rows: usize,
    cols: usize,
    gate: bool,
}

impl TernaryRows for Rows {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn scale(&self) -> ScaleLayout {
        ScaleLayout::PerTensor(0.01)
    }

    fn read_row(&self, row: usize, trits: &mut [i8], _: &mut [f32]) -> Result<(), QuantError> {
        for (i, trit) in trits.iter_mut().enumerate() {
            *trit = if self.gate {
                0
            } else {
                (hash((row * self.cols + i) as u32) % 3) as i8 - 1
            };
        }
        if self.gate {
            trits[hash(row as u32) as usize % self.cols] = 1;
        }
        Ok(())
    }
}

/// Mixes the bits of an index.
fn hash(i: u32) -> u32 {
    let mut x = i.wrapping_add(0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}
