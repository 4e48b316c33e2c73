//! BitLinear of every kernel equals the readable reference bit for bit, whatever the shape, the batch or the threads.

mod support;

use bitnet_kernels::{Backend, CpuBackend, TernaryUse};
use bitnet_quantization::ScaleLayout;
use bitnet_quantization::activation::quantize_activations;
use bitnet_quantization::bitlinear::bitlinear_reference;
use support::{Random, Trits, backends, bits, buffer};

fn run(backend: &CpuBackend, weights: &[&Trits], x: &[f32], n: usize) -> Vec<Vec<f32>> {
    let packed: Vec<_> = weights
        .iter()
        .map(|w| backend.upload_ternary(*w, TernaryUse::Dense).unwrap())
        .collect();
    let x = buffer(backend, x);
    let mut outs: Vec<_> = weights
        .iter()
        .map(|w| backend.buffer(n * w.rows).unwrap())
        .collect();
    backend.bitlinear(
        &x,
        n,
        &packed.iter().collect::<Vec<_>>(),
        &mut outs.iter_mut().collect::<Vec<_>>(),
    );
    outs.iter().map(|out| out.to_vec()).collect()
}

fn check(backends: &[CpuBackend], weight: &Trits, x: &[f32], n: usize) {
    let expected = bits(&bitlinear_reference(weight, x, n).unwrap());
    for backend in backends {
        let found = bits(&run(backend, &[weight], x, n)[0]);
        let name = backend.kernel_name();
        assert_eq!(
            found, expected,
            "{name} at [{}, {}], {n} token rows, {:?}",
            weight.rows, weight.cols, weight.scale
        );
    }
}

#[test]
fn bitlinear_matches_the_reference_at_odd_shapes() {
    let backends = backends(2);
    let mut random = Random::new(1);
    for rows in 1..=40 {
        let cols = 1 + random.below(300) as usize;
        let n = 1 + rows % 9;
        let weight = Trits::random(rows, cols, None, &mut random);
        check(&backends, &weight, &random.floats(n * cols), n);
    }
    for cols in (1..=300)
        .step_by(7)
        .chain([15, 16, 17, 31, 32, 33, 127, 128, 129, 255, 256, 257])
    {
        let rows = 1 + random.below(40) as usize;
        let n = 1 + cols % 9;
        let weight = Trits::random(rows, cols, None, &mut random);
        check(&backends, &weight, &random.floats(n * cols), n);
    }
}

#[test]
fn bitlinear_with_block_scales_matches_the_reference() {
    let backends = backends(2);
    let mut random = Random::new(2);
    for block_len in [64, 128, 256] {
        for (rows, blocks, n) in [
            (1, 1, 1),
            (15, 2, 2),
            (16, 3, 3),
            (17, 5, 7),
            (40, 2, 33),
            (33, 9, 1),
        ] {
            let weight = Trits::random(rows, blocks * block_len, Some(block_len), &mut random);
            check(&backends, &weight, &random.floats(n * weight.cols), n);
        }
    }
}

#[test]
fn bitlinear_matches_the_reference_for_every_batch_size_up_to_two_panels() {
    let backends = backends(1);
    let mut random = Random::new(3);
    let weight = Trits::random(20, 150, None, &mut random);
    for n in 1..=34 {
        check(&backends, &weight, &random.floats(n * weight.cols), n);
    }
}

#[test]
fn the_longest_rows_of_extreme_values_do_not_overflow() {
    const COLS: usize = 16384;
    let backends = backends(1);
    // Activations of absmax 127 quantise to themselves.
    for (trit, q) in [(1, 127.0), (1, -127.0), (-1, 127.0), (-1, -127.0)] {
        let weight = Trits {
            rows: 17,
            cols: COLS,
            trits: vec![trit; 17 * COLS],
            scale: ScaleLayout::PerTensor(1.0),
            scales: vec![],
        };
        for n in [1, 2, 5, 16] {
            let x = vec![q; n * COLS];
            for backend in &backends {
                let rows = backend.quantize_rows(&x, COLS).unwrap();
                let packed = backend.upload_ternary(&weight, TernaryUse::Dense).unwrap();
                let mut acc = vec![0; n * 17];
                backend.bitlinear_acc(&packed, &rows, &mut acc);
                let expected = i32::from(trit) * q as i32 * COLS as i32;
                assert!(
                    acc.iter().all(|&acc| acc == expected),
                    "{}: {trit} {q} {n}",
                    backend.kernel_name()
                );
            }
        }
    }
}

#[test]
fn quantised_rows_are_those_of_the_reference() {
    let mut random = Random::new(4);
    for backend in backends(2) {
        for (n, cols) in [(1, 1), (3, 15), (19, 16), (40, 77), (2, 6912)] {
            let mut x = random.floats(n * cols);
            x[0] = 0.5; // a tie when its row's largest is 127
            x[cols - 1] = 127.0;
            let rows = backend.quantize_rows(&x, cols).unwrap();
            for (row, x) in x.chunks(cols).enumerate() {
                let mut q = vec![0; cols];
                let a = quantize_activations(x, &mut q);
                assert_eq!(rows.scales()[row].to_bits(), a.to_bits());
                assert_eq!(
                    rows.row(row),
                    q,
                    "{} [{n}, {cols}] row {row}",
                    backend.kernel_name()
                );
            }
        }
    }
}

#[test]
fn activations_that_are_not_finite_quantise_as_in_the_reference() {
    for backend in backends(1) {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 20];
            (x[3], x[18]) = (bad, -0.25);
            let rows = backend.quantize_rows(&x, 20).unwrap();
            let mut q = vec![0; 20];
            assert_eq!(rows.scales()[0], quantize_activations(&x, &mut q));
            assert_eq!(rows.row(0), q, "{} with {bad}", backend.kernel_name());
        }
    }
}

#[test]
fn integer_products_are_exact() {
    let mut random = Random::new(5);
    let weight = Trits::random(35, 211, None, &mut random);
    let x = random.floats(6 * 211);
    for backend in backends(2) {
        let rows = backend.quantize_rows(&x, 211).unwrap();
        let mut acc = vec![0; 6 * 35];
        backend.bitlinear_acc(
            &backend.upload_ternary(&weight, TernaryUse::Dense).unwrap(),
            &rows,
            &mut acc,
        );
        for (t, acc) in acc.chunks(35).enumerate() {
            for (acc, trits) in acc.iter().zip(weight.trits.chunks(211)) {
                let expected: i32 = trits
                    .iter()
                    .zip(rows.row(t))
                    .map(|(&w, q)| i32::from(w) * i32::from(q))
                    .sum();
                assert_eq!(*acc, expected, "{}", backend.kernel_name());
            }
        }
    }
}

#[test]
fn weights_together_equal_weights_alone_and_threads_change_nothing() {
    let mut random = Random::new(6);
    let shapes = [
        (48, None),
        (7, None),
        (100, Some(64)),
        (16, Some(128)),
        (33, None),
    ];
    let weights: Vec<Trits> = shapes
        .iter()
        .map(|&(rows, block_len)| Trits::random(rows, 256, block_len, &mut random))
        .collect();
    let refs: Vec<&Trits> = weights.iter().collect();
    let x = random.floats(5 * 256);
    let expected: Vec<_> = weights
        .iter()
        .map(|w| bits(&bitlinear_reference(w, &x, 5).unwrap()))
        .collect();
    for threads in 1..=3 {
        for backend in backends(threads) {
            for n_weights in 1..=weights.len() {
                let found = run(&backend, &refs[..n_weights], &x, 5);
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(
                        &bits(found),
                        expected,
                        "{} {threads} threads",
                        backend.kernel_name()
                    );
                }
            }
        }
    }
}

#[test]
fn a_token_alone_equals_the_token_in_a_batch() {
    let mut random = Random::new(7);
    let weight = Trits::random(50, 384, Some(64), &mut random);
    let x = random.floats(37 * 384);
    for backend in backends(2) {
        let batched = run(&backend, &[&weight], &x, 37);
        for (row, x) in x.chunks(384).enumerate() {
            let alone = run(&backend, &[&weight], x, 1);
            assert_eq!(
                bits(&alone[0]),
                bits(&batched[0][row * 50..][..50]),
                "{}",
                backend.kernel_name()
            );
        }
    }
}

#[test]
fn weights_that_are_no_trits_are_refused_with_their_place() {
    let mut random = Random::new(8);
    let mut weight = Trits::random(40, 30, None, &mut random);
    weight.trits[33 * 30 + 7] = 2;
    weight.trits[39 * 30] = -2;
    for backend in backends(2) {
        let error = backend
            .upload_ternary(&weight, TernaryUse::Dense)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "ternary weight row 33 has the value 2 at column 7, expected -1, 0 or +1"
        );
    }
}

#[test]
fn block_lengths_that_do_not_fit_are_refused() {
    let mut random = Random::new(9);
    let backend = &backends(1)[0];
    for (cols, block_len) in [(64, 8), (96, 64), (64, 0)] {
        let mut weight = Trits::random(2, cols, None, &mut random);
        weight.scale = ScaleLayout::PerBlock { block_len };
        let error = backend
            .upload_ternary(&weight, TernaryUse::Dense)
            .unwrap_err()
            .to_string();
        assert!(error.contains("block length"), "{error}");
    }
}
