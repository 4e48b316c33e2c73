//! What loading tells its caller, and what a loaded model refuses.

use crate::cases::CASES;
use crate::session::two_threads;
use bitnet_kernels::{CpuBackend, KvType};
use bitnet_models::{Batch, BatchError, LoadProgress, LogitRows, Model, ModelError};

#[test]
fn loading_reports_every_layer() {
    for case in CASES {
        let checkpoint = case.checkpoint();
        let n_layers = checkpoint.config().n_layers;
        let mut reports = Vec::new();
        let backend = CpuBackend::new(two_threads()).expect("a backend");
        Model::load(backend, &checkpoint, 16, &mut |report| reports.push(report)).expect("a model");
        let expected = (0..=n_layers).map(|layers_done| LoadProgress {
            layers_done,
            n_layers,
        });
        assert_eq!(reports, Vec::from_iter(expected), "{}", case.path);
    }
}

#[test]
fn a_batch_beyond_the_loaded_context_is_refused() {
    let backend = CpuBackend::new(two_threads()).expect("a backend");
    let model = Model::load(backend, &CASES[0].checkpoint(), 20, &mut |_| {}).expect("a model");
    assert_eq!(model.context_length(), 20);
    let mut cache = model.new_kv_cache(2, KvType::F32).expect("memory");
    let mut activations = model.activations(4, 1).expect("memory");
    let mut batch = Batch::new();
    batch.push_sequence(&[1, 2], 19, &[0, 1], LogitRows::Last);
    let result = model.forward(&batch, &mut cache, &mut activations, None);
    let expected = BatchError::Position {
        sequence: 0,
        position: 20,
        context_length: 20,
    };
    assert!(matches!(result, Err(ModelError::Batch(error)) if error == expected));
}
