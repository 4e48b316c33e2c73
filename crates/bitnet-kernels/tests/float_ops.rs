//! Norms, rotations, gates and sums: right to a few ulp, and the same bits on every kernel and thread count.

mod support;

use bitnet_kernels::{Activation, Backend, CpuBackend, RopeParams, RopeStyle, RopeTable};
use support::{Random, backends, bits, buffer};

/// Lengths around vectors, and one that is shared among threads.
const LENGTHS: [usize; 12] = [1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 2560, 40_000];

/// Every kernel with 1, 2 and 3 threads.
struct Everywhere(Vec<CpuBackend>);

impl Everywhere {
    fn new() -> Everywhere {
        Everywhere((1..=3).flat_map(backends).collect())
    }

    /// Runs `op` on all of them; the results are the same bits, and are returned.
    fn run(&self, op: impl Fn(&CpuBackend) -> Vec<f32>) -> Vec<f32> {
        let expected = op(&self.0[0]);
        for backend in &self.0[1..] {
            let (name, threads) = (backend.kernel_name(), backend.threads());
            assert_eq!(
                bits(&op(backend)),
                bits(&expected),
                "{name} {threads} threads"
            );
        }
        expected
    }
}

fn assert_close(found: &[f32], expected: &[f64], relative: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(
            error <= relative * expected.abs() + 1e-36,
            "index {i}: {found} for {expected}"
        );
    }
}

#[test]
fn rms_norm_is_right_and_the_same_everywhere() {
    let mut random = Random::new(1);
    let everywhere = Everywhere::new();
    for len in LENGTHS {
        for n_rows in [1, 3] {
            let (x, weight) = (random.floats(n_rows * len), random.floats(len));
            let found = everywhere.run(|backend| {
                let (mut x, weight) = (buffer(backend, &x), buffer(backend, &weight));
                let mut out = backend.buffer(x.len()).unwrap();
                backend.rms_norm(&x, &weight, 1e-5, n_rows, &mut out);
                backend.rms_norm_in_place(&mut x, &weight, 1e-5, n_rows);
                assert_eq!(bits(&x), bits(&out), "in place");
                out.to_vec()
            });
            let expected: Vec<f64> = x
                .chunks(len)
                .flat_map(|x| {
                    let mean =
                        x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / len as f64;
                    let factor = 1.0 / (mean + 1e-5).sqrt();
                    x.iter()
                        .zip(&weight)
                        .map(move |(&x, &w)| f64::from(x) * f64::from(w) * factor)
                })
                .collect();
            // The sum of squares is rounded once per addition in a lane; the rest adds a few roundings.
            assert_close(&found, &expected, 1e-5);
        }
    }
}

#[test]
fn gates_are_right_and_the_same_everywhere() {
    let mut random = Random::new(2);
    let everywhere = Everywhere::new();
    for len in LENGTHS {
        let gate: Vec<f32> = (0..len)
            .map(|i| random.float() * [0.01, 1.0, 20.0, 80.0][i % 4])
            .collect();
        let up = random.floats(len);
        for activation in [Activation::Silu, Activation::Relu2, Activation::GeluTanh] {
            let found = everywhere.run(|backend| {
                let mut out = backend.buffer(len).unwrap();
                backend.gate(
                    activation,
                    &buffer(backend, &gate),
                    &buffer(backend, &up),
                    len,
                    &mut out,
                );
                out.to_vec()
            });
            let expected: Vec<f64> = gate
                .iter()
                .zip(&up)
                .map(|(&gate, &up)| {
                    let (gate, up) = (f64::from(gate), f64::from(up));
                    match activation {
                        Activation::Silu => gate / (1.0 + (-gate).exp()) * up,
                        Activation::Relu2 => gate.max(0.0).powi(2) * up,
                        Activation::GeluTanh => {
                            // tanh(u) = 1 - 2 / (exp(2 u) + 1), which does not cancel where u is very negative.
                            let u = (2.0 / std::f64::consts::PI).sqrt()
                                * (gate + 0.044715 * gate.powi(3));
                            gate / (1.0 + (-2.0 * u).exp()) * up
                        }
                    }
                })
                .collect();
            // exp is within 2 ulp, and a few roundings follow. Of an argument of GELU's that is large, the rounding is the
            // error of the exponential: 87 times 2^-23 until it is 0.
            let tolerance = match activation {
                Activation::GeluTanh => 3e-5,
                _ => 6e-7,
            };
            assert_close(&found, &expected, tolerance);
        }
    }
}

#[test]
fn scaling_scales_only_the_first_elements() {
    let mut random = Random::new(4);
    let everywhere = Everywhere::new();
    for len in LENGTHS {
        let x = random.floats(len + 3);
        let found = everywhere.run(|backend| {
            let mut scaled = buffer(backend, &x);
            backend.scale(&mut scaled, 25.298_22, len);
            scaled.to_vec()
        });
        let scaled = |(i, x): (usize, &f32)| if i < len { x * 25.298_22 } else { *x };
        let expected: Vec<f32> = x.iter().enumerate().map(scaled).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn addition_adds_only_the_first_elements() {
    let mut random = Random::new(3);
    let everywhere = Everywhere::new();
    for len in LENGTHS {
        let (x, y) = (random.floats(len + 3), random.floats(len + 5));
        let found = everywhere.run(|backend| {
            let mut sum = buffer(backend, &x);
            backend.add(&mut sum, &buffer(backend, &y), len);
            sum.to_vec()
        });
        let expected: Vec<f32> = x
            .iter()
            .zip(&y)
            .enumerate()
            .map(|(i, (x, y))| if i < len { x + y } else { *x })
            .collect();
        assert_eq!(bits(&found), bits(&expected));
    }
}

#[test]
fn rotations_are_right_and_the_same_everywhere() {
    let mut random = Random::new(4);
    let everywhere = Everywhere::new();
    let positions = [0, 1, 2, 77, 499];
    for (n_heads, head_dim, n_rot) in [
        (1, 2, 2),
        (3, 20, 20),
        (2, 48, 32),
        (4, 128, 128),
        (5, 80, 34),
    ] {
        for style in [RopeStyle::Neox, RopeStyle::Norm] {
            let params = RopeParams {
                base: 500_000.0,
                n_rot,
                style,
                freq_factors: None,
                attention_factor: 1.0,
                max_positions: 500,
            };
            let table = RopeTable::new(params).expect("memory");
            let x = random.floats(positions.len() * n_heads * head_dim);
            let found = everywhere.run(|backend| {
                let mut x = buffer(backend, &x);
                backend.rope(&mut x, n_heads, head_dim, &positions, &table);
                x.to_vec()
            });
            for (i, (found, x)) in found.chunks(head_dim).zip(x.chunks(head_dim)).enumerate() {
                let (cos, sin) = table.at(positions[i / n_heads] as usize);
                for j in 0..n_rot / 2 {
                    let (a, b) = match style {
                        RopeStyle::Neox => (j, j + n_rot / 2),
                        RopeStyle::Norm => (2 * j, 2 * j + 1),
                    };
                    assert_eq!(found[a], x[a] * cos[j] - x[b] * sin[j]);
                    assert_eq!(found[b], x[b] * cos[j] + x[a] * sin[j]);
                }
                assert_eq!(found[n_rot..], x[n_rot..], "beyond n_rot");
            }
        }
    }
}
