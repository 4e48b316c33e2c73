//! After the first batches a decode step allocates nothing, on any thread: buffers are made once and reused.
//!
//! Alone in its file, because the counting allocator sees every thread of the process.

use bitnet_kernels::{CpuBackend, CpuOptions, KV_BLOCK, Keep, KvType};
use bitnet_models::{Batch, Checkpoint, CheckpointOptions, LogitRows, Model, RowLogits};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_decode_step_allocates_nothing_after_warm_up() {
    for path in ["reference/tiny-bitnet", "reference/tiny-falcon3-158"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data")
            .join(path);
        let checkpoint =
            Checkpoint::open(&path, &CheckpointOptions::default()).expect("a checkpoint");
        let options = CpuOptions {
            threads: Some(2),
            ..CpuOptions::default()
        };
        let backend = CpuBackend::new(options).expect("a backend");
        let mut model =
            Model::load(backend, &checkpoint, 4 * KV_BLOCK, &mut |_| {}).expect("a model");
        model.copy_head(0).expect("memory");
        let mut cache = model.new_kv_cache(4, KvType::F32).expect("memory");
        let mut activations = model.activations(8, 1).expect("memory");
        let mut logits = vec![0.0; model.config().vocab_size];
        let mut batch = Batch::new();
        let mut step = |tokens: &[u32], position: usize| {
            batch.clear();
            batch.push_sequence(tokens, position, &[3, 1, 2, 0], LogitRows::Last);
            // Candidates and all logits in turns.
            if position.is_multiple_of(2) {
                batch.keep(0, Keep::Best(2), [1, 2]);
            }
            model
                .forward(&batch, &mut cache, &mut activations, None)
                .expect("a valid batch");
            if let RowLogits::Full(row) = activations.head.row(0) {
                model.read_logits(&activations, row, &mut logits);
            }
        };

        step(&[1, 2, 3, 4, 5, 6, 7, 8], 0);
        step(&[9], 8);
        step(&[9], 9);
        let region = Region::new(ALLOCATOR);
        // To the end of the context, over three borders of blocks.
        for position in 10..4 * KV_BLOCK {
            step(&[position as u32], position);
        }
        let change = region.change();
        assert_eq!(
            (change.allocations, change.reallocations),
            (0, 0),
            "{}",
            path.display()
        );
    }
}
