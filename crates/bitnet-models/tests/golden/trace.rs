//! Rule 1: single operations, and every step of a whole forward pass, against the trace of prompt `p7`.

use crate::cases::{CASES, Case, Scales};
use crate::reference::Golden;
use crate::session::two_threads;
use bitnet_kernels::{Backend, CpuBackend, KvType, RopeParams, RopeTable};
use bitnet_models::{
    Batch, Checkpoint, LogitRows, Model, ModelConfig, NormPlace, Projection, Site, TensorRole,
};
use std::collections::BTreeSet;

#[test]
fn each_linear_matches_the_trace_from_its_own_input() {
    for case in CASES {
        let (golden, checkpoint, backend) = (case.golden(), case.checkpoint(), backend());
        let config = checkpoint.config();
        for (layer, projection) in
            traced_layers(config).flat_map(|layer| Projection::ALL.map(|p| (layer, p)))
        {
            let role = TensorRole::Projection(layer, projection);
            let what = format!("{}, {role}", case.path);
            let name = |part: &str| format!("p7.L{layer}.{}.{part}", projection.hf_name());
            let (rows, cols) = role.shape(config);
            let x = golden.f32(&name("x"));
            let n = x.len() / cols;

            let quantized = backend.quantize_rows(&x, cols);
            assert_eq!(
                quantized.values(),
                golden.i8(&name("xq")),
                "{what}: int8 activations"
            );

            let weights = checkpoint.ternary(role).expect("a ternary matrix");
            let weights = backend
                .upload_ternary(&*weights)
                .expect("room for a matrix");
            let mut acc = vec![0; n * rows];
            backend.bitlinear_acc(&weights, &quantized, &mut acc);
            let hf_order =
                |row: usize| row / rows * rows + case.hf_row(config, projection, row % rows);
            let expected = golden.i32(&name("acc"));
            let expected: Vec<i32> = (0..n * rows).map(|i| expected[hf_order(i)]).collect();
            assert_eq!(acc, expected, "{what}: integer sums");

            let mut y = backend.buffer(n * rows).expect("a buffer");
            backend.bitlinear(&upload(&backend, &x), n, &[&weights], &mut [&mut y]);
            let expected = golden.f32(&name("y"));
            let expected: Vec<f32> = (0..n * rows).map(|i| expected[hf_order(i)]).collect();
            let tolerance = match case.scales {
                Scales::Exact => 1e-5,
                Scales::RoundedInverse => 4.1e-4,
            };
            assert_close(
                &download(&backend, &y, n * rows),
                &expected,
                rows,
                tolerance,
                &what,
            );
        }
    }
}

#[test]
fn each_norm_matches_the_trace_from_its_own_input() {
    for case in CASES {
        let (golden, checkpoint, backend) = (case.golden(), case.checkpoint(), backend());
        let config = checkpoint.config();
        let last = config.n_layers - 1;
        let output = |layer: usize| format!("p7.L{layer}.out");
        let norm = |layer| TensorRole::Norm(layer, NormPlace::Attention);
        for (role, input, output) in [
            (
                norm(0),
                "p7.embed".to_string(),
                "p7.L0.input_layernorm".to_string(),
            ),
            (
                norm(last),
                output(last - 1),
                format!("p7.L{last}.input_layernorm"),
            ),
            (
                TensorRole::FinalNorm,
                output(last),
                "p7.final_norm".to_string(),
            ),
        ] {
            let (x, expected) = (golden.f32(&input), golden.f32(&output));
            let weight = upload(&backend, &checkpoint.vector(role).expect("a norm"));
            let mut out = backend.buffer(x.len()).expect("a buffer");
            let n = x.len() / config.hidden_size;
            backend.rms_norm(
                &upload(&backend, &x),
                &weight,
                config.rms_norm_eps,
                n,
                &mut out,
            );
            let found = download(&backend, &out, x.len());
            assert_close(
                &found,
                &expected,
                config.hidden_size,
                1e-5,
                &format!("{}, {role}", case.path),
            );
        }
    }
}

#[test]
fn rotation_matches_the_trace_from_its_own_input() {
    for case in CASES {
        let (golden, checkpoint, backend) = (case.golden(), case.checkpoint(), backend());
        let config = checkpoint.config();
        for layer in traced_layers(config) {
            for (projection, n_heads, rope) in [
                (Projection::Query, config.n_heads, "q_rope"),
                (Projection::Key, config.n_kv_heads, "k_rope"),
            ] {
                let y = golden.f32(&format!("p7.L{layer}.{}.y", projection.hf_name()));
                let row_len = n_heads * config.head_dim;
                let in_file_order = |values: &[f32]| reorder(values, case, config, projection);
                let mut x = upload(&backend, &in_file_order(&y));
                let positions: Vec<u32> = (0..(y.len() / row_len) as u32).collect();
                backend.rope(
                    &mut x,
                    n_heads,
                    config.head_dim,
                    &positions,
                    &rope_table(config, positions.len()),
                );
                let expected = golden.f32(&format!("p7.L{layer}.{rope}"));
                let expected = in_file_order(&token_major(&expected, n_heads, config.head_dim));
                let what = format!("{}, {rope} of layer {layer}", case.path);
                assert_close(
                    &download(&backend, &x, y.len()),
                    &expected,
                    row_len,
                    1e-5,
                    &what,
                );
            }
        }
    }
}

/// No activation of `p7` is near a rounding tie, so every step of the whole pass agrees to float noise.
#[test]
fn every_step_of_a_whole_pass_matches_the_trace() {
    for case in CASES.iter().filter(|case| case.scales == Scales::Exact) {
        let (golden, checkpoint) = (case.golden(), case.checkpoint());
        let config = checkpoint.config();
        let mut missing: BTreeSet<String> = golden
            .names("p7.")
            .into_iter()
            .filter(|name| is_a_step(name))
            .collect();
        observe(
            &checkpoint,
            &golden.prompt("p7").ids,
            |site, values, n_rows| {
                let Some(name) = trace_name(site) else { return };
                if !missing.remove(&name) {
                    return;
                }
                let expected = golden.f32(&name);
                let expected = match site {
                    Site::QueryRope(_) => token_major(&expected, config.n_heads, config.head_dim),
                    Site::KeyRope(_) => token_major(&expected, config.n_kv_heads, config.head_dim),
                    _ => expected,
                };
                // 2e-5 of the row's largest value: a few dozen roundings of 6e-8 that a layer adds to the last one's.
                assert_close(
                    values,
                    &expected,
                    values.len() / n_rows,
                    2e-5,
                    &format!("{}, {name}", case.path),
                );
            },
        );
        assert!(
            missing.is_empty(),
            "{}: steps that the pass did not show: {missing:?}",
            case.path
        );
    }
}

/// Whether a golden tensor is the output (or input) of a step; the others are parts of a linear or the logits.
fn is_a_step(name: &str) -> bool {
    ![".xq", ".xscale", ".acc", ".logits"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

/// What the trace calls a step.
fn trace_name(site: Site) -> Option<String> {
    Some(match site {
        Site::Embed => "p7.embed".into(),
        Site::Norm(layer, place) => format!("p7.L{layer}.{}", place.hf_name()),
        Site::LinearInput(layer, projection) => format!("p7.L{layer}.{}.x", projection.hf_name()),
        Site::LinearOutput(layer, projection) => format!("p7.L{layer}.{}.y", projection.hf_name()),
        Site::QueryRope(layer) => format!("p7.L{layer}.q_rope"),
        Site::KeyRope(layer) => format!("p7.L{layer}.k_rope"),
        Site::Layer(layer) => format!("p7.L{layer}.out"),
        Site::FinalNorm => "p7.final_norm".into(),
    })
}

fn observe(checkpoint: &Checkpoint, ids: &[u32], mut observer: impl FnMut(Site, &[f32], usize)) {
    let model = Model::load(backend(), checkpoint, 64, &mut |_| {}).expect("a model");
    let mut cache = model.new_kv_cache(1, KvType::F32).expect("a cache");
    let mut activations = model.activations(ids.len(), 1).expect("buffers");
    let mut batch = Batch::new();
    batch.push_sequence(ids, 0, &[0], LogitRows::Last);
    model
        .forward(&batch, &mut cache, &mut activations, Some(&mut observer))
        .expect("a valid batch");
}

fn backend() -> CpuBackend {
    CpuBackend::new(two_threads()).expect("a backend")
}

/// The layers whose steps the trace has: the first and the last.
fn traced_layers(config: &ModelConfig) -> impl Iterator<Item = usize> {
    [0, config.n_layers - 1].into_iter()
}

fn rope_table(config: &ModelConfig, max_positions: usize) -> RopeTable {
    RopeTable::new(RopeParams {
        base: config.rope.base,
        n_rot: config.rope.n_rot,
        style: config.rope.style,
        freq_factors: config.rope.freq_factors.as_deref(),
        max_positions,
    })
}

/// `[n_heads, n, head_dim]`, as the trace keeps rotated heads, to `[n, n_heads, head_dim]`.
fn token_major(values: &[f32], n_heads: usize, head_dim: usize) -> Vec<f32> {
    let n = values.len() / (n_heads * head_dim);
    let rows = (0..n).flat_map(|token| (0..n_heads).map(move |head| (head * n + token) * head_dim));
    rows.flat_map(|start| values[start..start + head_dim].iter().copied())
        .collect()
}

/// Rows of queries or keys in the order of the case's file.
fn reorder(values: &[f32], case: &Case, config: &ModelConfig, projection: Projection) -> Vec<f32> {
    let (len, _) = TensorRole::Projection(0, projection).shape(config);
    (0..values.len())
        .map(|i| values[i / len * len + case.hf_row(config, projection, i % len)])
        .collect()
}

fn upload(backend: &CpuBackend, values: &[f32]) -> <CpuBackend as Backend>::Buffer {
    let mut buffer = backend.buffer(values.len()).expect("a buffer");
    backend.write(&mut buffer, 0, values);
    buffer
}

fn download(
    backend: &CpuBackend,
    buffer: &<CpuBackend as Backend>::Buffer,
    len: usize,
) -> Vec<f32> {
    let mut values = vec![0.0; len];
    backend.read(buffer, 0, &mut values);
    values
}

/// Every value within `tolerance` times the largest of its row.
fn assert_close(found: &[f32], expected: &[f32], row_len: usize, tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (row, (found, expected)) in found
        .chunks_exact(row_len)
        .zip(expected.chunks_exact(row_len))
        .enumerate()
    {
        let scale = expected
            .iter()
            .fold(0.0, |max: f32, value| max.max(value.abs()));
        for (col, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!(
                (a - b).abs() <= tolerance * scale,
                "{what}: [{row}, {col}] is {a}, expected {b}"
            );
        }
    }
}

/// The golden data name every layer that the tests above ask for.
#[test]
fn the_trace_covers_the_first_and_the_last_layer() {
    for case in CASES {
        let golden: Golden = case.golden();
        for layer in traced_layers(case.checkpoint().config()) {
            assert!(
                !golden
                    .names(&format!("p7.L{layer}.self_attn.q_proj."))
                    .is_empty(),
                "{}",
                case.golden
            );
        }
    }
}
