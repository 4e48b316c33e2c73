//! Any bytes as a GGUF file to be written again: what is read is merged into a file that reads back the same.
#![no_main]

use bitnet_models::export::split::{SplitLimit, compare, merge, split};
use bitnet_models::gguf::Gguf;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes("fuzz", Bytes::copy_from_slice(data)) else {
        return;
    };
    for limit in [SplitLimit::Tensors(1), SplitLimit::Bytes(4096)] {
        if let Ok(parts) = split(&gguf, limit) {
            let n_tensors: usize = parts.iter().map(|part| part.n_tensors()).sum();
            assert_eq!(n_tensors, gguf.tensors().len());
        }
    }
    let Ok(part) = merge(&gguf) else {
        return;
    };
    let written = part.write(&gguf, Vec::new(), &mut |_| true).expect("memory takes everything");
    let again = Gguf::from_bytes("again", written.into()).expect("what was written is read");
    compare(&gguf, &again, &mut |_| true).expect("the same keys and tensors");
});
