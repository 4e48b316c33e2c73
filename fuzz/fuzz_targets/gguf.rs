//! Any bytes as a GGUF model: opened, listed, every weight decoded, the vocabulary read; and as a stream of one.
#![no_main]

use bitnet_models::gguf::{Gguf, Value};
use bitnet_models::{Checkpoint, CheckpointOptions, Dialects, TensorRole};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    match Gguf::from_bytes("fuzz", bytes.clone()) {
        Ok(gguf) => list(&gguf),
        Err(error) => one_line(&error.to_string()),
    }
    let stream = Box::new(std::io::Cursor::new(data.to_vec()));
    if let Ok(gguf) = Gguf::from_stream("fuzz", stream, Dialects::default()) {
        for tensor in gguf.tensors() {
            if let Err(error) = gguf.data(tensor) {
                one_line(&error.to_string());
            }
        }
    }
    match Checkpoint::from_gguf_bytes("fuzz", bytes, &CheckpointOptions::default()) {
        Ok(checkpoint) => load(&checkpoint),
        Err(error) => one_line(&format!(
            "{error} {} {} {}",
            error.hint(),
            error.code(),
            error.place()
        )),
    }
});

fn list(gguf: &Gguf) {
    for (_, value) in gguf.metadata().iter() {
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len());
        }
    }
    for tensor in gguf.tensors() {
        if let Some(len) = tensor.bytes() {
            assert_eq!(gguf.data(tensor).unwrap().len() as u64, len);
        }
    }
}

fn load(checkpoint: &Checkpoint) {
    checkpoint.describe();
    for role in TensorRole::required(checkpoint.config()) {
        match role {
            TensorRole::Embedding | TensorRole::Head => drop(checkpoint.matrix(role)),
            TensorRole::FinalNorm | TensorRole::RopeFactors | TensorRole::Norm(..) => {
                drop(checkpoint.vector(role))
            }
            TensorRole::Projection(..) => {
                let Ok(rows) = checkpoint.ternary(role) else {
                    continue;
                };
                let mut trits = vec![0; rows.cols()];
                let mut scales = vec![0.0; rows.scale().scales_per_row(rows.cols())];
                for row in 0..rows.rows() {
                    if rows.read_row(row, &mut trits, &mut scales).is_ok() {
                        assert!(trits.iter().all(|trit| (-1..=1).contains(trit)));
                    }
                }
            }
        }
    }
    drop(checkpoint.tokenizer_source());
}

/// Nothing from a file may break a message's line or reach a terminal as a control character.
fn one_line(message: &str) {
    assert!(!message.contains(char::is_control), "{message:?}");
}
