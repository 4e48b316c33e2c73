//! Rule 1: single operations of prompt `p7`, each fed with the reference's own input.

use crate::cases::{CASES, Scales};
use crate::session::{SHORT_CONTEXT, two_threads};
use crate::trace::{assert_close, token_major};
use bitnet_kernels::{Backend, CpuBackend, RopeTable, TernaryUse};
use bitnet_models::{Model, ModelConfig, NormPlace, Projection, TensorRole};

#[test]
fn int8_activations_and_integer_sums_are_exact() {
    for case in CASES {
        let (golden, checkpoint, backend) = (case.golden(), case.checkpoint(), backend());
        let config = checkpoint.config();
        for (layer, projection) in traced_linears(config) {
            let role = TensorRole::Projection(layer, projection);
            let what = format!("{}, {role}", case.path);
            let name = |part: &str| format!("p7.L{layer}.{}.{part}", projection.hf_name());
            let (_, cols) = role.shape(config);

            let quantized = backend.quantize_rows(&golden.f32(&name("x")), cols);
            let quantized = quantized.expect("memory");
            for (row, expected) in golden.i8(&name("xq")).chunks_exact(cols).enumerate() {
                assert_eq!(quantized.row(row), expected, "{what}: token {row}");
            }
            // A scale per block makes the result a sum of floats: there is no one integer to compare.
            if case.scales != Scales::ExactPerBlock {
                let weights = checkpoint.ternary(role).expect("a ternary matrix");
                let weights = backend
                    .upload_ternary(&*weights, TernaryUse::Dense)
                    .expect("memory");
                let expected = golden.i32(&name("acc"));
                let mut acc = vec![0; expected.len()];
                backend.bitlinear_acc(&weights, &quantized, &mut acc);
                let expected = case.in_file_order(&expected, projection, config);
                assert!(acc == expected, "{what}: integer sums");
            }
        }
    }
}

#[test]
fn linears_match_to_1e_5() {
    for case in CASES {
        let (golden, checkpoint, backend) = (case.golden(), case.checkpoint(), backend());
        let config = checkpoint.config();
        let tolerance = match case.scales {
            Scales::Exact | Scales::ExactPerBlock => 1e-5,
            Scales::RoundedInverse => 4.1e-4,
        };
        for (layer, projection) in traced_linears(config) {
            let role = TensorRole::Projection(layer, projection);
            let name = |part: &str| format!("p7.L{layer}.{}.{part}", projection.hf_name());
            let (rows, cols) = role.shape(config);
            let x = golden.f32(&name("x"));
            let n = x.len() / cols;
            let expected = case.in_file_order(&golden.f32(&name("y")), projection, config);

            let weights = checkpoint.ternary(role).expect("a ternary matrix");
            let weights = backend
                .upload_ternary(&*weights, TernaryUse::Dense)
                .expect("memory");
            let mut y = backend.buffer(n * rows).expect("memory");
            backend.bitlinear(&upload(&backend, &x), n, &[&weights], &mut [&mut y]);
            let found = download(&backend, &y, n * rows);
            let what = format!("{}, {role}", case.path);
            assert_close(&found, &expected, rows, tolerance, &what);
        }
    }
}

#[test]
fn norms_match_to_1e_5() {
    for case in CASES {
        let (golden, checkpoint, backend) = (case.golden(), case.checkpoint(), backend());
        let config = checkpoint.config();
        let last = config.n_layers - 1;
        let norm = |layer| TensorRole::Norm(layer, NormPlace::Attention);
        for (role, input, output) in [
            (norm(0), "embed".into(), "L0.input_layernorm".into()),
            (
                norm(last),
                format!("L{}.out", last - 1),
                format!("L{last}.input_layernorm"),
            ),
            (
                TensorRole::FinalNorm,
                format!("L{last}.out"),
                "final_norm".to_string(),
            ),
        ] {
            let (_, len) = role.shape(config);
            let x = golden.f32(&format!("p7.{input}"));
            let weight = upload(&backend, &checkpoint.vector(role).expect("a norm"));
            let mut out = backend.buffer(x.len()).expect("memory");
            let (x, n) = (upload(&backend, &x), x.len() / len);
            backend.rms_norm(&x, &weight, config.rms_norm_eps, n, &mut out);
            let found = download(&backend, &out, n * len);
            let what = format!("{}, {role}", case.path);
            assert_close(
                &found,
                &golden.f32(&format!("p7.{output}")),
                len,
                1e-5,
                &what,
            );
        }
    }
}

#[test]
fn rotations_match_to_1e_5() {
    for case in CASES {
        let (golden, backend) = (case.golden(), backend());
        let model = Model::load(backend, &case.checkpoint(), SHORT_CONTEXT, &mut |_| {});
        let model = model.expect("a model");
        let (backend, config) = (model.backend(), model.config());
        for (layer, projection) in traced_linears(config) {
            let (n_heads, short) = match projection {
                Projection::Query => (config.n_heads, "q"),
                Projection::Key => (config.n_kv_heads, "k"),
                _ => continue,
            };
            let input = match config.family.qk_norms {
                true => golden.f32(&format!("p7.L{layer}.self_attn.{short}_norm")),
                false => golden.f32(&format!("p7.L{layer}.{}.y", projection.hf_name())),
            };
            let output = golden.f32(&format!("p7.L{layer}.{short}_rope"));
            let expected = token_major(&output, n_heads, config.head_dim);
            let expected = case.in_file_order(&expected, projection, config);

            let row_len = n_heads * config.head_dim;
            let positions: Vec<u32> = (0..(input.len() / row_len) as u32).collect();
            let mut x = upload(backend, &case.in_file_order(&input, projection, config));
            backend.rope(
                &mut x,
                n_heads,
                config.head_dim,
                &positions,
                &rope_table(config),
            );
            let found = download(backend, &x, input.len());
            let what = format!("{}, {short}_rope of layer {layer}", case.path);
            assert_close(&found, &expected, row_len, 1e-5, &what);
        }
    }
}

/// The linears whose inputs and outputs are recorded: those of the first and the last layer.
fn traced_linears(config: &ModelConfig) -> impl Iterator<Item = (usize, Projection)> {
    let layers = [0, config.n_layers - 1];
    layers
        .into_iter()
        .flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)))
}

fn rope_table(config: &ModelConfig) -> RopeTable {
    config.rope.table(SHORT_CONTEXT).expect("memory")
}

fn backend() -> CpuBackend {
    CpuBackend::new(two_threads()).expect("a backend")
}

type Buffer = <CpuBackend as Backend>::Buffer;

fn upload(backend: &CpuBackend, values: &[f32]) -> Buffer {
    let mut buffer = backend.buffer(values.len()).expect("memory");
    backend.write(&mut buffer, 0, values);
    buffer
}

fn download(backend: &CpuBackend, buffer: &Buffer, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    backend.read(buffer, 0, &mut values);
    values
}
