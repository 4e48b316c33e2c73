//! Leaving out weights of channels that are exactly 0 changes no byte, whatever the kernel, the threads and the share.

mod support;

use bitnet_kernels::{
    Activation, Backend, CpuBackend, CpuOptions, TernaryUse, Traffic, available_kernels,
};
use bitnet_quantization::ScaleLayout;
use support::{Random, Trits, bits, buffer};

/// Rows and columns with whole and partial strips, vectors and blocks.
const SHAPES: [[usize; 2]; 5] = [[16, 256], [200, 640], [331, 1000], [700, 1999], [513, 203]];

/// For every kernel and 1 to 3 threads: a backend that leaves out zeros and one that does not. Making one tests its
/// kernels first: a test makes them once.
fn pairs() -> Vec<[CpuBackend; 2]> {
    available_kernels()
        .into_iter()
        .flat_map(|kernel| {
            (1..=3).map(move |threads| {
                [false, true].map(|dense| {
                    CpuBackend::new(CpuOptions {
                        threads: Some(threads),
                        kernel: Some(kernel.into()),
                        dense,
                    })
                    .unwrap()
                })
            })
        })
        .collect()
}

fn bitlinear(
    backend: &CpuBackend,
    weight: &Trits,
    usage: TernaryUse,
    x: &[f32],
    n: usize,
) -> Vec<u32> {
    let packed = backend.upload_ternary(weight, usage).unwrap();
    let mut out = backend.buffer(n * weight.rows).unwrap();
    backend.bitlinear(&buffer(backend, x), n, &[&packed], &mut [&mut out]);
    bits(&out)
}

#[test]
fn row_and_column_layouts_give_the_bytes_of_tiles_for_any_batch() {
    let pairs = pairs();
    let mut random = Random::new(1);
    for [rows, cols] in SHAPES {
        let weight = Trits::random(rows, cols, None, &mut random);
        let x = random.floats(19 * cols);
        for [sparse, dense] in &pairs {
            for n in [1, 2, 3, 19] {
                let x = &x[..n * cols];
                let expected = bitlinear(dense, &weight, TernaryUse::Dense, x, n);
                for usage in [TernaryUse::GatedUp, TernaryUse::SparseInput] {
                    let found = bitlinear(sparse, &weight, usage, x, n);
                    assert!(
                        found == expected,
                        "{} {rows} x {cols}, {n} tokens, {usage:?}",
                        sparse.kernel_name()
                    );
                }
            }
        }
    }
}

#[test]
fn columns_of_zeros_are_left_out_and_change_nothing() {
    let pairs = pairs();
    let mut random = Random::new(2);
    for [rows, cols] in SHAPES {
        let weight = Trits::random(rows, cols, None, &mut random);
        for percent in [0, 1, 5, 20, 40, 80, 100] {
            let mut x = random.floats(cols);
            // Too small to survive the rounding, of both signs.
            for v in &mut x {
                if random.below(100) >= percent {
                    *v *= 1e-3;
                }
            }
            x[cols / 2] = if percent == 0 { 0.0 } else { 1.0 };
            if percent == 0 {
                x.fill(-0.0);
            }
            for [sparse, dense] in &pairs {
                let expected = bitlinear(dense, &weight, TernaryUse::Dense, &x, 1);
                let before = sparse.traffic();
                let found = bitlinear(sparse, &weight, TernaryUse::SparseInput, &x, 1);
                let name = sparse.kernel_name();
                assert!(found == expected, "{name} {rows} x {cols}, {percent} %");
                let read = sparse.traffic().since(&before);
                let q = sparse.quantize_rows(&x, cols).unwrap().row(0);
                let nonzero = q.iter().filter(|&&q| q != 0).count() as u64;
                assert_eq!(read.down_columns % cols as u64, 0);
                if percent <= 20 && read.down_columns > 0 {
                    assert_eq!(read.down_columns_read, nonzero, "{name}, {percent} %");
                }
            }
        }
    }
}

/// One feed-forward part without its norms: what leaves the gate and what leaves the down projection.
struct FeedForward {
    gate: Trits,
    up: Trits,
    down: Trits,
}

impl FeedForward {
    /// A gate that is open for about `percent` of the rows when it sees `x`.
    fn new(inner: usize, x: &[f32], percent: u64, random: &mut Random) -> FeedForward {
        let cols = x.len();
        let mut gate = Trits::random(inner, cols, None, random);
        for row in gate.trits.chunks_mut(cols) {
            let open = if random.below(100) < percent { 1 } else { -1 };
            for (trit, x) in row.iter_mut().zip(x) {
                *trit = if *x > 0.0 { open } else { -open };
            }
        }
        FeedForward {
            gate,
            up: Trits::random(inner, cols, None, random),
            down: Trits::random(cols, inner, None, random),
        }
    }

    fn run(&self, backend: &CpuBackend, x: &[f32]) -> (Vec<f32>, Vec<u32>, Traffic) {
        let upload = |weight, usage| backend.upload_ternary(weight, usage).unwrap();
        let gate = upload(&self.gate, TernaryUse::Dense);
        let up = upload(&self.up, TernaryUse::GatedUp);
        let down = upload(&self.down, TernaryUse::SparseInput);
        let room = |len| backend.buffer(len).unwrap();
        let (inner, n) = (self.gate.rows, x.len() / self.gate.cols);
        let (mut a, mut b, mut gated) = (room(n * inner), room(n * inner), room(n * inner));
        let before = backend.traffic();
        backend.gated(
            Activation::Relu2,
            &buffer(backend, x),
            n,
            [&gate, &up],
            [&mut a, &mut b],
            &mut gated,
        );
        let read = backend.traffic().since(&before);
        let mut y = room(n * self.down.rows);
        backend.bitlinear(&gated, n, &[&down], &mut [&mut y]);
        (gated.to_vec(), bits(&y), read)
    }
}

/// Equal but for the sign of zero; NaN equals NaN.
fn same_numbers(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a == b || a.is_nan() && b.is_nan())
}

#[test]
fn rows_behind_a_closed_gate_are_left_out_and_change_nothing() {
    let pairs = pairs();
    let mut random = Random::new(3);
    for [inner, cols] in [[300, 256], [777, 640], [100, 1021]] {
        for percent in [0, 10, 35, 90, 100] {
            let x = random.floats(cols);
            let layer = FeedForward::new(inner, &x, percent, &mut random);
            for [sparse, dense] in &pairs {
                let (gated, y, read) = layer.run(sparse, &x);
                let (expected, y_expected, all) = layer.run(dense, &x);
                let what = format!("{} {inner} x {cols}, {percent} %", sparse.kernel_name());
                assert!(same_numbers(&gated, &expected), "{what}");
                assert!(y == y_expected, "{what}");
                let open = gated.iter().filter(|v| **v != 0.0).count() as u64;
                assert_eq!(all.up_rows, 0, "a dense backend leaves nothing out");
                assert_eq!(read.up_rows, inner as u64, "{what}");
                match percent {
                    0..=10 => assert!(
                        (open..inner as u64 / 4).contains(&read.up_rows_read),
                        "{what}: {read:?}"
                    ),
                    90.. => assert_eq!(read.up_rows_read, inner as u64, "{what}"),
                    _ => {}
                }
                assert_eq!(
                    read.ternary_bytes + read.skipped_bytes,
                    all.ternary_bytes,
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn whichever_way_is_raced_for_and_wins_the_bytes_stay() {
    let mut random = Random::new(7);
    // Above a MiB, so that both ways take turns: 32 of each.
    let (inner, cols) = (2304, 2560);
    let x = random.floats(cols);
    let layer = FeedForward::new(inner, &x, 30, &mut random);
    for kernel in available_kernels() {
        if kernel.starts_with("scalar") {
            continue; // it reads everything
        }
        let backends = [false, true].map(|dense| {
            CpuBackend::new(CpuOptions {
                threads: Some(2),
                kernel: Some(kernel.into()),
                dense,
            })
            .unwrap()
        });
        let [sparse, dense] = &backends;
        let (expected, y_expected, _) = layer.run(dense, &x);
        let upload = |weight, usage| sparse.upload_ternary(weight, usage).unwrap();
        let gate = upload(&layer.gate, TernaryUse::Dense);
        let up = upload(&layer.up, TernaryUse::GatedUp);
        let down = upload(&layer.down, TernaryUse::SparseInput);
        let room = |len| sparse.buffer(len).unwrap();
        let (mut a, mut b, mut gated, mut y) = (room(inner), room(inner), room(inner), room(cols));
        let x = buffer(sparse, &x);
        // Products that read everything, and that read a part: of rows, of columns.
        let mut ways = [[0; 2]; 2];
        for _ in 0..70 {
            let before = sparse.traffic();
            let products = [&mut a, &mut b];
            sparse.gated(Activation::Relu2, &x, 1, [&gate, &up], products, &mut gated);
            sparse.bitlinear(&gated, 1, &[&down], &mut [&mut y]);
            assert!(same_numbers(&gated, &expected), "{kernel}");
            assert!(bits(&y) == y_expected, "{kernel}");
            let read = sparse.traffic().since(&before);
            ways[0][usize::from(read.up_rows_read < read.up_rows)] += 1;
            ways[1][usize::from(read.down_columns_read < read.down_columns)] += 1;
        }
        assert!(
            ways.as_flattened().iter().all(|n| *n >= 32),
            "{kernel}: {ways:?}"
        );
    }
}

#[test]
fn extreme_values_do_not_overflow_in_chosen_rows_and_columns() {
    let pairs = pairs();
    let same = |rows: usize, cols: usize, trit: &dyn Fn(usize) -> i8| Trits {
        rows,
        cols,
        trits: (0..rows * cols).map(|i| trit(i / cols)).collect(),
        scale: ScaleLayout::PerTensor(1.0),
        scales: vec![],
    };
    let before: Vec<Traffic> = pairs.iter().map(|[sparse, _]| sparse.traffic()).collect();
    let (inner, cols) = (600, 4096);
    // Activations of absmax 127 quantise to themselves.
    for (trit, q) in [(1, 127.0), (1, -127.0), (-1, 127.0), (-1, -127.0)] {
        let x = vec![q; cols];
        let opens = if q > 0.0 { 1 } else { -1 };
        let layer = FeedForward {
            gate: same(inner, cols, &|row| match row % 8 {
                0 => opens,
                _ => -opens,
            }),
            up: same(inner, cols, &|_| trit),
            down: same(cols, inner, &|_| trit),
        };
        let every_fifth = [q, 0.0, 0.0, 0.0, 0.0].repeat(820);
        let weight = same(331, every_fifth.len(), &|_| trit);
        for [sparse, dense] in &pairs {
            let name = sparse.kernel_name();
            let (gated, y, read) = layer.run(sparse, &x);
            let (expected, y_expected, _) = layer.run(dense, &x);
            assert_eq!(read.up_rows_read, inner as u64 / 8, "{name}");
            assert!(same_numbers(&gated, &expected), "{name}: {trit} {q}");
            assert!(y == y_expected, "{name}: {trit} {q}");
            let found = bitlinear(sparse, &weight, TernaryUse::SparseInput, &every_fifth, 1);
            let expected = bitlinear(dense, &weight, TernaryUse::Dense, &every_fifth, 1);
            assert!(found == expected, "{name}: columns, {trit} {q}");
        }
    }
    for ([sparse, _], before) in pairs.iter().zip(&before) {
        let read = sparse.traffic().since(before);
        assert!(read.down_columns_read > 0, "{}", sparse.kernel_name());
    }
}

#[test]
fn batches_read_everything_and_give_the_bytes_of_single_tokens() {
    let pairs = pairs();
    let mut random = Random::new(4);
    let (inner, cols) = (300, 320);
    let first = random.floats(cols);
    let layer = FeedForward::new(inner, &first, 20, &mut random);
    let x: Vec<f32> = first.into_iter().chain(random.floats(4 * cols)).collect();
    for [sparse, _] in &pairs {
        let (gated, y, read) = layer.run(sparse, &x);
        assert_eq!(read, Traffic::default());
        for (t, x) in x.chunks(cols).enumerate() {
            let (gated_alone, y_alone, _) = layer.run(sparse, x);
            assert!(same_numbers(&gated[t * inner..][..inner], &gated_alone));
            assert!(y[t * cols..][..cols] == y_alone, "{}", sparse.kernel_name());
        }
    }
}

#[test]
fn sums_that_overflow_to_infinity_meet_closed_gates_as_in_the_dense_product() {
    let pairs = pairs();
    let mut random = Random::new(5);
    let mut x = random.floats(256);
    let mut layer = FeedForward::new(100, &x, 10, &mut random);
    for (scale, largest) in [
        (f32::INFINITY, 1.0),
        (f32::NAN, 1.0),
        (f32::MAX, 1.0),
        (1.0, f32::INFINITY),
        (-2e38, 1.0),
        (1.0, 3e38),
    ] {
        layer.up.scale = ScaleLayout::PerTensor(scale);
        x[17] = largest;
        for [sparse, dense] in &pairs {
            let (gated, y, _) = layer.run(sparse, &x);
            let (expected, y_expected, _) = layer.run(dense, &x);
            let what = format!("{} scale {scale}, {largest}", sparse.kernel_name());
            assert!(same_numbers(&gated, &expected), "{what}");
            assert!(
                same_numbers(
                    &y.iter().map(|y| f32::from_bits(*y)).collect::<Vec<_>>(),
                    &y_expected
                        .iter()
                        .map(|y| f32::from_bits(*y))
                        .collect::<Vec<_>>()
                ),
                "{what}"
            );
        }
    }
}
