//! Real files with bytes changed, taken away or doubled: read or refused, never worse.

use bitnet_models::tensor_files::{TensorContainer, TensorFiles};
use proptest::prelude::*;

/// Reads; what is accepted lies in the file, what is refused says so in one line.
fn judge(bytes: Vec<u8>) {
    let len = bytes.len() as u64;
    match TensorFiles::from_bytes(TensorContainer::Pickle, "FILE", bytes.into()) {
        Ok(files) => {
            for tensor in files.tensors() {
                assert!(tensor.offset() + tensor.bytes() <= len);
                assert_eq!(files.slice(tensor).len() as u64, tensor.bytes());
                let elements: u64 = tensor.shape().iter().product();
                assert!(elements <= tensor.bytes() || tensor.bytes() == 0);
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(char::is_control), "{message:?}");
        }
    }
}

fn file(protocol: u8) -> Vec<u8> {
    std::fs::read(crate::data(&format!("pickle/types-{protocol}.bin"))).unwrap()
}

#[test]
fn no_changed_byte_and_no_prefix_panics() {
    let original = file(4);
    for at in 0..original.len() {
        for change in [0x01, 0x80, 0xFF] {
            let mut bytes = original.clone();
            bytes[at] ^= change;
            judge(bytes);
        }
        judge(original[..at].to_vec());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn files_with_several_changes_are_read_or_refused(
        protocol in 2u8..=5,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in proptest::option::of((any::<prop::sample::Index>(), 0usize..40)),
    ) {
        let mut bytes = file(protocol);
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some((index, len)) = cut {
            let at = index.index(bytes.len());
            let end = bytes.len().min(at + len);
            bytes.drain(at..end);
        }
        judge(bytes);
    }

    #[test]
    fn pickles_of_any_opcodes_are_read_or_refused(
        steps in proptest::collection::vec(prop::sample::select(STEPS), 0..80),
    ) {
        let code: Vec<u8> = steps.concat();
        let numbers = [0; 32];
        judge(crate::archive::zip(&[("m/data.pkl", &code), ("m/data/0", &numbers)]));
    }
}

/// Opcodes with arguments, and the parts of a tensor, so that some random orders get far.
const STEPS: &[&[u8]] = &[
    b"\x80\x02",
    b"(",
    b")",
    b"}",
    b"]",
    b"N",
    b"\x88",
    b"K\x01",
    b"K\x08",
    b"J\xff\xff\xff\xff",
    b"X\x01\0\0\0w",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"R",
    b"b",
    b"s",
    b"u",
    b"a",
    b"e",
    b"Q",
    b".",
    b"q\x00",
    b"h\x00",
    b"\x94",
    b"\x93",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nuint16\n",
    b"ctorch.storage\nUntypedStorage\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x01\0\0\0cK\x08tQ",
    b"K\x00(K\x08t(K\x01t\x89}",
    b"tR",
];
