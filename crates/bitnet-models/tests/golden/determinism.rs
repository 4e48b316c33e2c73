//! The same bytes with 1, 2 and 3 threads and with every kernel that this machine can run.

use crate::batching::assert_same_bytes;
use crate::cases::{CASES, Case, Scales};
use crate::session::{MAX_CHUNK, Session, two_threads};
use bitnet_kernels::{Activation, Backend, CpuOptions, KvType, available_kernels};

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

#[test]
fn leaving_out_zeros_gives_the_same_bytes() {
    for kernel in available_kernels() {
        for threads in 1..=3 {
            for case in CASES
                .iter()
                .chain(&[STORIES])
                .filter(|case| leaves_zeros(case))
            {
                let checkpoint = case.checkpoint();
                let options = |dense| CpuOptions {
                    threads: Some(threads),
                    kernel: Some(kernel.into()),
                    dense,
                };
                let [sparse, dense] = [false, true].map(|dense| {
                    let mut session = Session::with(&checkpoint, options(dense), KvType::F32);
                    let mut logits = session.all_logits(&PROMPT, 1);
                    logits.extend(session.all_logits(&PROMPT, MAX_CHUNK));
                    let read = session.model.backend().traffic();
                    (logits, read)
                });
                let what = format!("{} with {kernel}, {threads} threads", case.path);
                assert_same_bytes(&dense.0, &sparse.0, &what);
                assert_eq!((dense.1.skipped_bytes, dense.1.up_rows), (0, 0));
                assert_eq!(sparse.1.passes, PROMPT.len() as u64);
                let (up, down) = (sparse.1.up_share(), sparse.1.down_share());
                assert!(up.is_some() && down.is_some(), "{what}: {:?}", sparse.1);
                assert!(sparse.1.skipped_bytes > 0, "{what}: {:?}", sparse.1);
            }
        }
    }
}

/// Tokens of every vocabulary.
const PROMPT: [u32; 12] = [1, 7, 42, 99, 200, 3, 150, 151, 152, 17, 64, 5];

/// The model inside the program, the only one here whose weights were trained.
const STORIES: Case = Case {
    path: "stories-5m",
    golden: "stories-5m/golden",
    scales: Scales::Exact,
};

fn leaves_zeros(case: &Case) -> bool {
    case.checkpoint().config().family.activation == Activation::Relu2
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
