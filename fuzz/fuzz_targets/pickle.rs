//! Any bytes as one of PyTorch's files, and as the pickle in a sound one: what is accepted lies in the file.
#![no_main]

use bitnet_models::tensor_files::{TensorContainer, TensorFiles};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

/// Bytes of the storages 0 to 16 of the seeds `types-*.pkl`.
const STORAGES: [usize; 17] = [48, 12, 12, 48, 24, 12, 6, 6, 12, 24, 48, 3, 48, 4, 0, 48, 8];

fuzz_target!(|data: &[u8]| {
    judge(Bytes::copy_from_slice(data));
    // A change to a bare archive mostly breaks the archive: this way the machine sees every pickle.
    judge(archive(data));
});

fn judge(bytes: Bytes) {
    let len = bytes.len() as u64;
    match TensorFiles::from_bytes(TensorContainer::Pickle, "fuzz", bytes) {
        Ok(file) => {
            for tensor in file.tensors() {
                assert!(tensor.offset() + tensor.bytes() <= len);
                assert_eq!(file.slice(tensor).len() as u64, tensor.bytes());
                assert_eq!(file.tensor(tensor.name()), Some(tensor));
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }
}

/// A sound archive with this pickle.
fn archive(pickle: &[u8]) -> Bytes {
    let storages = STORAGES.iter().enumerate();
    let storages = storages.map(|(key, len)| (format!("m/data/{key}"), vec![0x3C; *len]));
    let entries: Vec<_> = [("m/data.pkl".to_owned(), pickle.to_vec())].into_iter().chain(storages).collect();
    let (mut out, mut central) = (Vec::new(), Vec::new());
    for (name, data) in &entries {
        let (at, size) = ((out.len() as u32).to_le_bytes(), (data.len() as u32).to_le_bytes());
        let name_len = (name.len() as u16).to_le_bytes();
        out.extend([&b"PK\x03\x04"[..], &[0; 14], &size, &size, &name_len, &[0; 2], name.as_bytes(), data.as_slice()].concat());
        central.extend(
            [&b"PK\x01\x02"[..], &[0; 16], &size, &size, &name_len, &[0; 12], &at, name.as_bytes()].concat(),
        );
    }
    let start = (out.len() as u32).to_le_bytes();
    out.extend(&central);
    let (count, size) = ((entries.len() as u16).to_le_bytes(), (central.len() as u32).to_le_bytes());
    out.extend([&b"PK\x05\x06"[..], &[0; 4], &count, &count, &size, &start, &[0; 2]].concat());
    out.into()
}
