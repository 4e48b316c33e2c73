//! Any bytes as a safetensors file: what is accepted tiles the file exactly.
#![no_main]

use bitnet_models::tensor_files::{TensorContainer, TensorFiles};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match TensorFiles::from_bytes(TensorContainer::Safetensors, "fuzz", Bytes::copy_from_slice(data)) {
        Ok(file) => {
            let header = 8 + u64::from_le_bytes(data[..8].try_into().unwrap());
            let total: u64 = file.tensors().iter().map(|tensor| tensor.bytes()).sum();
            assert_eq!(header + total, data.len() as u64);
            for tensor in file.tensors() {
                assert_eq!(file.slice(tensor).len() as u64, tensor.bytes());
                assert_eq!(file.tensor(tensor.name()), Some(tensor));
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }
});
