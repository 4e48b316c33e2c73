//! The same bytes with 1, 2 and 3 threads and with every kernel that this machine can run.

use crate::batching::assert_same_bytes;
use crate::cases::CASES;
use crate::session::{MAX_CHUNK, Session, two_threads};
use bitnet_kernels::{CpuOptions, KvType, available_kernels};

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let with_threads = |threads| CpuOptions {
        threads: Some(threads),
        ..CpuOptions::default()
    };
    same_bytes([1, 2, 3].map(with_threads).to_vec());
}

#[test]
fn every_kernel_gives_the_same_bytes() {
    let kernels = available_kernels();
    assert!(kernels.contains(&"scalar-i2s"), "{kernels:?}");
    let with_kernel = |kernel: &&str| CpuOptions {
        kernel: Some(kernel.to_string()),
        ..two_threads()
    };
    same_bytes(kernels.iter().map(with_kernel).collect());
}

/// All of `options` give every case the same logits, for a prompt at once and for decoding.
fn same_bytes(options: Vec<CpuOptions>) {
    for case in CASES {
        let (golden, checkpoint) = (case.golden(), case.checkpoint());
        let logits = |options: &CpuOptions| {
            let mut session = Session::with(&checkpoint, options.clone(), KvType::F32);
            let mut logits = session.all_logits(&golden.prompt("p200").ids, MAX_CHUNK);
            logits.extend(session.all_logits(&golden.prompt("r32").ids, 1));
            logits
        };
        let expected = logits(&options[0]);
        for other in &options[1..] {
            assert_same_bytes(
                &expected,
                &logits(other),
                &format!("{} with {other:?}", case.path),
            );
        }
    }
}
