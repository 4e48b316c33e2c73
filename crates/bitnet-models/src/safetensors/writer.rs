//! Writing safetensors files: an 8-byte length, a JSON header with every tensor's type, shape and place, then the data.
//!
//! Declared first and streamed after, as the GGUF writer does, so that a model of any size is written in little memory.
//! Source: the format description in huggingface/safetensors.

use serde_json::{Map, Value, json};

use super::StoredType;

/// One tensor as the header declares it.
#[derive(Debug, Clone)]
pub struct DeclaredTensor {
    /// Its name.
    pub name: String,
    /// How its values are stored.
    pub stored_type: StoredType,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
}

impl DeclaredTensor {
    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        let values: u64 = self.shape.iter().map(|n| *n as u64).product();
        values * self.stored_type.bytes().unwrap_or_default()
    }
}

/// Everything before the data of `tensors`, which follow in this order without gaps.
pub fn file_head<'a>(tensors: impl IntoIterator<Item = &'a DeclaredTensor>) -> Vec<u8> {
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes();
        let entry = json!({ "dtype": tensor.stored_type.to_string(), "shape": tensor.shape, "data_offsets": [offset, end] });
        map.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = Value::Object(map).to_string();
    // The data begin at a multiple of 8, so that a mapped file can be read in place.
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_follow_each_other_and_data_is_aligned() {
        let tensors = [
            DeclaredTensor {
                name: "a".into(),
                stored_type: StoredType::U8,
                shape: vec![3, 5],
            },
            DeclaredTensor {
                name: "b".into(),
                stored_type: StoredType::F32,
                shape: vec![2],
            },
        ];
        let head = file_head(&tensors);
        assert_eq!(head.len() % 8, 0);
        let header: Value = serde_json::from_slice(&head[8..]).unwrap();
        assert_eq!(header["a"]["data_offsets"], json!([0, 15]));
        assert_eq!(
            header["b"],
            json!({ "dtype": "F32", "shape": [2], "data_offsets": [15, 23] })
        );
    }
}
