//! Every step of a whole forward pass against the trace of prompt `p7`.
//!
//! `p7` was drawn so that no activation is near a rounding tie: every step agrees to float noise.

use crate::cases::{CASES, Case, Scales};
use crate::session::{SHORT_CONTEXT, two_threads};
use bitnet_kernels::{CpuBackend, KvType};
use bitnet_models::{Batch, LogitRows, Model, Projection, Site};
use std::collections::BTreeSet;

#[test]
fn every_step_of_a_pass_matches_the_trace() {
    for case in CASES
        .iter()
        .filter(|case| case.scales != Scales::RoundedInverse)
    {
        let golden = case.golden();
        let mut missing = BTreeSet::from_iter(golden.names("p7."));
        missing.retain(|name| is_a_step(name));
        watch(
            case,
            &golden.prompt("p7").ids,
            |model, site, values, n_rows| {
                let name = trace_name(site);
                if !missing.remove(&name) {
                    return;
                }
                let (config, recorded) = (model.config(), golden.f32(&name));
                let heads_first = |n_heads| token_major(&recorded, n_heads, config.head_dim);
                let expected = match site {
                    Site::QueryRope(_) => heads_first(config.n_heads),
                    Site::KeyRope(_) => heads_first(config.n_kv_heads),
                    _ => recorded.clone(),
                };
                let expected = match projection_of(site) {
                    Some(projection) => case.in_file_order(&expected, projection, config),
                    None => expected,
                };
                // 5e-5 of the row's largest value: the roundings, 6e-8 each, that a dozen steps of every layer leave,
                // and for `llama-rope-tiny` in F16 the 4e-6 by which each matrix's scale is off.
                let what = format!("{}, {name}", case.path);
                assert_close(values, &expected, values.len() / n_rows, 5e-5, &what);
            },
        );
        assert!(
            missing.is_empty(),
            "{}: not computed: {missing:?}",
            case.path
        );
    }
}

/// Whether a golden tensor is the input or output of a step; the others are inside a linear, or the logits.
fn is_a_step(name: &str) -> bool {
    let others = [".xq", ".xscale", ".acc", ".logits"];
    !others.iter().any(|suffix| name.ends_with(suffix))
}

/// What the trace calls a step.
fn trace_name(site: Site) -> String {
    match site {
        Site::Embed => "p7.embed".into(),
        Site::Norm(layer, place) => format!("p7.L{layer}.{}", place.hf_name()),
        Site::LinearInput(layer, projection) => format!("p7.L{layer}.{}.x", projection.hf_name()),
        Site::LinearOutput(layer, projection) => format!("p7.L{layer}.{}.y", projection.hf_name()),
        Site::QueryRope(layer) => format!("p7.L{layer}.q_rope"),
        Site::KeyRope(layer) => format!("p7.L{layer}.k_rope"),
        Site::Layer(layer) => format!("p7.L{layer}.out"),
        Site::FinalNorm => "p7.final_norm".into(),
    }
}

/// The projection whose rows a step's values are.
fn projection_of(site: Site) -> Option<Projection> {
    match site {
        Site::LinearOutput(_, projection) => Some(projection),
        Site::QueryRope(_) => Some(Projection::Query),
        Site::KeyRope(_) => Some(Projection::Key),
        _ => None,
    }
}

/// Runs `ids` through the case's model and shows every step.
fn watch(case: &Case, ids: &[u32], mut step: impl FnMut(&Model<CpuBackend>, Site, &[f32], usize)) {
    let backend = CpuBackend::new(two_threads()).expect("a backend");
    let model = Model::load(backend, &case.checkpoint(), SHORT_CONTEXT, &mut |_| {});
    let model = model.expect("a model");
    let mut cache = model.new_kv_cache(1, KvType::F32).expect("memory");
    let mut activations = model.activations(ids.len(), 1).expect("memory");
    let mut batch = Batch::new();
    batch.push_sequence(ids, 0, &[0], LogitRows::Last);
    let mut observer =
        |site: Site, values: &[f32], n_rows: usize| step(&model, site, values, n_rows);
    model
        .forward(&batch, &mut cache, &mut activations, Some(&mut observer))
        .expect("a valid batch");
}

/// `[n_heads, n, head_dim]`, as the trace keeps rotated heads, to `[n, n_heads, head_dim]`.
pub fn token_major(values: &[f32], n_heads: usize, head_dim: usize) -> Vec<f32> {
    let n = values.len() / (n_heads * head_dim);
    let rows = (0..n).flat_map(|token| (0..n_heads).map(move |head| (head * n + token) * head_dim));
    rows.flat_map(|start| &values[start..start + head_dim])
        .copied()
        .collect()
}

/// Every value within `tolerance` times the largest of its row.
pub fn assert_close(found: &[f32], expected: &[f32], row_len: usize, tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let rows = found
        .chunks_exact(row_len)
        .zip(expected.chunks_exact(row_len));
    for (row, (found, expected)) in rows.enumerate() {
        let largest = expected
            .iter()
            .fold(0.0, |max: f32, value| max.max(value.abs()));
        for (col, (a, b)) in found.iter().zip(expected).enumerate() {
            let close = (a - b).abs() <= tolerance * largest;
            assert!(close, "{what}: [{row}, {col}] is {a}, expected {b}");
        }
    }
}
